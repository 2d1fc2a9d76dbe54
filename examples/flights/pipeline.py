"""
The pipeline: lines of a file in, rows of a database out. This is what one writes; all else here is the job itself.
"""

from __future__ import annotations

import math
from typing import Dict, List, Optional, Tuple

from broadway_sync import BatchInfo, Handler, IterableProducer, Message, NoopAcknowledger, Pipeline

from .records import Line, RejectedLineError, Rejection, parse_flight
from .source import FlightFile
from .store import NOT_STORED, NotStoredError, Store


class FlightImporter(Handler):
    """
    Each message is one line of the file; the context is the store.

    A flight has to be stored, and to be counted if it is late, but a message goes to exactly one batcher. So a late
    flight goes to the batcher ``delays``, which stores it just as ``flights`` does and counts it in the same
    transaction. The other way, pushing a second message for the count, would have two messages that are acknowledged
    apart from each other: after a crash between the two a flight would be stored and never counted. One row, one
    message, one transaction, one acknowledgement: whatever is delivered again is done again as a whole.
    """

    def __init__(self, columns: Tuple[str, ...]) -> None:
        self.columns = columns

    def handle_message(self, processor: str, message: Message, context: Store) -> Message:
        try:
            flight = parse_flight(message.data, self.columns)
        except RejectedLineError as error:
            return message.fail(error.rejection)
        if flight.is_late:
            return message.put_data(flight).put_batcher("delays")
        return message.put_data(flight).put_batcher("flights").put_batch_key(flight.carrier)

    def handle_batch(
        self, batcher: str, messages: List[Message], batch_info: BatchInfo, context: Store
    ) -> List[Message]:
        save = context.save_late_flights if batcher == "delays" else context.save_flights
        try:
            save([(message.metadata["line"].number, message.data) for message in messages])
        except NotStoredError as error:
            return [message.fail(error.rejection) for message in messages]
        return messages

    def handle_failed(self, messages: List[Message], context: Store) -> List[Message]:
        try:
            context.save_rejected([(message.metadata["line"], rejection_of(message)) for message in messages])
        except NotStoredError as error:
            return [message.fail(error.rejection) for message in messages]
        return messages


def rejection_of(message: Message) -> Rejection:
    """
    Return why a failed message failed; an exception that nobody foresaw is a reason as well.
    """
    if isinstance(message.reason, Rejection):
        return message.reason
    return Rejection(f"{NOT_STORED}unexpected {type(message.reason).__name__}", str(message.reason))


def line_to_message(line: Line) -> Message:
    """
    Nobody waits for an acknowledgement of a line. The line stays with its message until the end, for ``rejected``.
    """
    return Message(line, NoopAcknowledger.init(), metadata={"line": line})


def rate_limit(rate: int) -> Dict[str, float]:
    """
    Return how many rows may pass in which time: a tenth of a second's, or one.
    """
    allowed = math.ceil(rate / 10)
    return {"allowed_messages": allowed, "interval": allowed / rate}


def build_pipeline(file: FlightFile, store: Store, *, name: str, rate: Optional[int] = None) -> Pipeline:
    """
    Build the pipeline that imports one file; *rate* is the most rows a second.
    """
    return Pipeline(
        FlightImporter(file.columns),
        name=name,
        context=store,
        producer={
            "module": (IterableProducer, {"iterable": file.lines()}),
            "transformer": line_to_message,
            "rate_limiting": rate_limit(rate) if rate else None,
        },
        # With a rate, what is demanded at once would also have to leave at that rate when the import is interrupted.
        processors={"default": {"concurrency": 2, "max_demand": min(100, rate or 100)}},
        batchers={
            "flights": {"concurrency": 2, "batch_size": 200, "batch_timeout": 0.5},
            "delays": {"concurrency": 1, "batch_size": 100, "batch_timeout": 0.5},
        },
    )
