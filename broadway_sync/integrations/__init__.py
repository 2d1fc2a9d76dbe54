"""
Pipelines inside of web frameworks: ``broadway_sync.integrations.django`` and ``broadway_sync.integrations.flask``.

Importing this package imports neither.
"""
