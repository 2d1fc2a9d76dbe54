"""
Every event of a pipeline.

A stage's events are spans: ``start`` with the measurements ``system_time`` and ``monotonic_time``, then ``stop`` or
``exception`` with ``duration`` and ``monotonic_time``, all integer nanoseconds. The metadata of an ``exception`` event
is that of ``start`` with ``kind`` (``"error"``, or ``"exit"`` for what is no ``Exception``), ``reason`` (the exception)
and ``stacktrace``. All events of one span carry the same ``telemetry_span_context``. ``producer`` is
``(module, options)`` with credentials masked.

Follows Broadway 1.3, ``lib/broadway.ex``, section Telemetry.
"""

from __future__ import annotations

from typing import Dict, Tuple

TOPOLOGY_INIT = ("broadway", "topology", "init")
PROCESSOR = ("broadway", "processor")
MESSAGE = ("broadway", "processor", "message")
BATCHER = ("broadway", "batcher")
# Not of the batcher's span: who hears this alone shall not make every chunk's span be built.
BATCHER_REJECT = ("broadway", "rejected", "batcher")
BATCH_PROCESSOR = ("broadway", "batch_processor")
HANDLE_FAILED = ("broadway", "handle_failed")
PRODUCER_RESTART = ("broadway", "producer", "restart")
TOPOLOGY_RESTART = ("broadway", "topology", "restart")
RETRY = ("broadway", "retry")
DEAD_LETTER = ("broadway", "dead_letter")

METADATA: Dict[Tuple[str, ...], str] = {
    TOPOLOGY_INIT: "config (the PipelineOptions), name; once per start, with the measurement system_time",
    PROCESSOR + ("start",): "topology_name, name, index, processor_key, messages, context, producer",
    PROCESSOR + ("stop",): "topology_name, name, index, processor_key, successful_messages_to_ack, "
    "successful_messages_to_forward, failed_messages, context, producer",
    PROCESSOR + ("exception",): "a crash of the stage itself; what callbacks raise is in the message events",
    MESSAGE + ("start",): "topology_name, name, index, processor_key, message, context, producer",
    MESSAGE + ("stop",): "the same, with the message that handle_message returned, failed by Message.fail or not",
    MESSAGE + ("exception",): "handle_message raised, or returned what it must not",
    BATCHER + ("start",): "topology_name, name, batcher_key, messages, context",
    BATCHER + ("stop",): "topology_name, name, batcher_key, context",
    BATCHER + ("exception",): "a crash of the stage itself",
    BATCHER_REJECT: "topology_name, name, batcher_key, failed_messages, context: they have no batch, as the batch_size "
    "function or their key raised, and were acknowledged as failed; with the measurement system_time",
    BATCH_PROCESSOR + ("start",): "topology_name, name, index, messages, batch_info, context, producer",
    BATCH_PROCESSOR + ("stop",): "topology_name, name, index, successful_messages, failed_messages, "
    "batch_info, context, producer",
    BATCH_PROCESSOR
    + ("exception",): "a crash of the stage itself; what handle_batch raises is in the messages' reason",
    HANDLE_FAILED + ("start",): "topology_name, name, module (the handler), messages, context",
    HANDLE_FAILED + ("stop",): "the same, with the messages that handle_failed returned",
    HANDLE_FAILED + ("exception",): "handle_failed raised",
    PRODUCER_RESTART: "topology_name, name, reason (the exception); a producer crashed and is made again, with the "
    "measurement system_time",
    RETRY + ("attempt",): "topology_name, name, callback, messages, reason; an attempt failed and another one follows, "
    "with the measurements attempt (1 is the first) and delay (ns until the next one)",
    RETRY + ("gave_up",): "the same, after the last attempt, with the measurement attempt",
    DEAD_LETTER + ("start",): "topology_name, name, messages",
    DEAD_LETTER + ("stop",): "the same, and written (their number): all were accepted",
    DEAD_LETTER + ("exception",): "the same, with the messages that were not accepted; written are the others",
    TOPOLOGY_RESTART: "topology_name, name, reason; all stages were restarted, with the measurement system_time",
}
"""Event -> its metadata."""
