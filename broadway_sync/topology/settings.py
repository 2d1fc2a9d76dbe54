"""
What all stages of a running pipeline share.
"""

from __future__ import annotations

from typing import Any, Dict, Optional

import attrs

from ..handler import Callback, find_callback
from ..masking import mask_module
from ..options import PipelineOptions


class Settings:
    """
    Options, callbacks and common metadata of one run. Immutable.
    """

    def __init__(self, options: PipelineOptions, handler: Any) -> None:
        self.options = options
        self.name = options.name
        self.context = options.context
        self.handler = handler
        self.prepare_messages: Optional[Callback] = find_callback(handler, "prepare_messages")
        self.handle_message: Callback = handler.handle_message
        self.handle_batch: Optional[Callback] = find_callback(handler, "handle_batch")
        self.handle_failed: Optional[Callback] = find_callback(handler, "handle_failed")
        module = mask_module(options.producer.module)
        self.masked_producer = module if isinstance(module, tuple) else (module, {})
        self.masked_options = attrs.evolve(options, producer=attrs.evolve(options.producer, module=module))
        """What telemetry may see of the options."""

    def metadata(self, name: str) -> Dict[str, Any]:
        """
        Return the telemetry metadata that every event of the stage *name* carries.
        """
        return {"topology_name": self.name, "name": name, "context": self.context}
