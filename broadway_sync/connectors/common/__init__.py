"""
What several connectors need: options, telemetry, and the machinery of connectors that poll.
"""
