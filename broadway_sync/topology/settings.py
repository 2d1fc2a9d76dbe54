"""
What all stages of a running pipeline share.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextvars import Context
from types import GeneratorType
from typing import Any, Dict, Optional

import attrs

from ..around import everywhere, surround
from ..handler import Callback, find_callback
from ..masking import mask_module
from ..options import PipelineOptions
from ..retry import policy_for

# Callbacks that may return any iterable of messages.
_MANY = ("prepare_messages", "handle_batch")


class Settings:
    """
    Options, callbacks and common metadata of one run. Immutable.
    """

    def __init__(self, options: PipelineOptions, handler: Any) -> None:
        self.options = options
        self.name = options.name
        self.context = options.context
        self.handler = handler
        self.hooks = (*everywhere(), *options.around)
        """Around callbacks, the outermost first."""
        self.prepare_messages = self._callback("prepare_messages")
        self.handle_message: Any = self._callback("handle_message")
        self.handle_batch = self._callback("handle_batch")
        self.handle_failed = self._callback("handle_failed")
        module = mask_module(options.producer.module)
        self.masked_producer = module if isinstance(module, tuple) else (module, {})
        self.masked_options = attrs.evolve(options, producer=attrs.evolve(options.producer, module=module))
        """What telemetry may see of the options."""

    def _callback(self, name: str) -> Optional[Callback]:
        """
        Return a callback of the handler as stages call it: inside the hooks, each attempt of a retry in all of them.
        """
        callback = find_callback(self.handler, name)
        if callback is None:
            return None
        if self.hooks or inspect.isgeneratorfunction(callback):
            callback = _run_to_the_end(callback, Iterator if name in _MANY else GeneratorType)
        callback = surround(callback, name, self.hooks, self.name)
        policy = policy_for(self.handler, name)
        return callback if policy is None else policy.wrap(_in_fresh_context(callback), name, self.name)

    def metadata(self, name: str) -> Dict[str, Any]:
        """
        Return the telemetry metadata that every event of the stage *name* carries.
        """
        return {"topology_name": self.name, "name": name, "context": self.context}


def _run_to_the_end(callback: Callback, lazy: Any) -> Callback:
    """
    Return *callback* without its laziness: the body of a generator belongs inside the hooks and the context, too, and
    so does what is mapped. *lazy* is the class of what is run.
    """

    def run(*arguments: Any) -> Any:
        returned = callback(*arguments)
        return list(returned) if isinstance(returned, lazy) else returned

    return run


def _in_fresh_context(callback: Callback) -> Callback:
    return lambda *arguments: Context().run(callback, *arguments)
