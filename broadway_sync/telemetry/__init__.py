"""
Telemetry: who wants to know attaches a function to an event.

With no handler attached an event costs next to nothing: nothing is built for it.
Follows the Erlang library ``telemetry``.
"""

from __future__ import annotations

from .registry import Event, EventHandler, Function, attach, attach_many, detach, execute, list_handlers, span

__all__ = ["Event", "EventHandler", "Function", "attach", "attach_many", "detach", "execute", "list_handlers", "span"]
