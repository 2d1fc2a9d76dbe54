"""
The benchmark: ``python -m bench`` measures the pipeline against a bare loop that does the same work on one thread.

``limit`` is that loop, ``scenarios`` says what is measured, ``targets`` what it should reach, ``jobs`` and
``peers`` are what runs in a fresh process each (``child``), ``runner`` starts those processes in turn, ``report``
and ``compare`` show the figures. Nothing here is part of the library.
"""
