"""
The message of a record.
"""

from __future__ import annotations

from typing import Any, Dict, Hashable, Iterable, List, Optional, Tuple

from ...message import DEFAULT, Message
from .offsets import Lot


class RecordMessage(Message):
    """
    A message whose acknowledger and metadata are made at the first look.

    Made for each record, and so made quickly: the generated ``__init__`` of :class:`Message` would take as long as
    handling the message, and so would the garbage collector. That looks at every object that refers to others and lives
    for a while; here that is the message alone, without its record, a tuple and a dict.
    """

    __slots__ = ("_given", "_headers", "_key", "_lot", "_offset", "_timestamp")

    def __init__(self, record: Any, lot: Lot, batch_key: Hashable) -> None:
        self.data = record.value
        self.batch_key = batch_key
        self.batcher = DEFAULT
        self.batch_mode = "bulk"
        self.status = "ok"
        self.reason = None
        self._metadata = None
        self._claim = None
        self._given: Optional[Tuple[Any, Any, Any]] = None  # the acknowledger, if somebody has put another one
        self._lot = lot
        self._offset = record.offset
        self._key = record.key
        self._timestamp = record.timestamp
        self._headers = record.headers or None

    @property
    def acknowledger(self) -> Tuple[Any, Any, Any]:
        """
        The consumer's acknowledger, the lot, the offset.
        """
        if self._given is not None:
            return self._given
        lot = self._lot
        return lot.acknowledger, lot, self._offset

    @acknowledger.setter
    def acknowledger(self, acknowledger: Tuple[Any, Any, Any]) -> None:
        self._given = acknowledger

    @property
    def metadata(self) -> Dict[Any, Any]:
        """
        Where the record is, and what came with its value.
        """
        if self._metadata is None:
            topic, partition = self._lot.tracker.key
            self._metadata = {
                "topic": topic,
                "partition": partition,
                "offset": self._offset,
                "key": self._key,
                "ts": self._timestamp,
                "headers": [] if self._headers is None else self._headers,
            }
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: Dict[Any, Any]) -> None:
        self._metadata = metadata

    def __getstate__(self) -> Dict[str, Any]:
        """
        For copies and pickles, which have the metadata and the acknowledger themselves.
        """
        assert self.metadata is not None
        return super().__getstate__()

    def __repr__(self) -> str:
        assert self.metadata is not None
        return super().__repr__()


def lot_of(message: Message) -> Any:
    """
    Return the ``ack_ref`` of *message*, which is a :class:`Lot` if it came from Kafka.
    """
    if isinstance(message, RecordMessage) and message._given is None:
        return message._lot
    return message.acknowledger[1]


def offsets_of(messages: Iterable[Message]) -> List[int]:
    """
    Return the ``ack_data`` of *messages*.
    """
    return [
        message._offset if isinstance(message, RecordMessage) and message._given is None else message.acknowledger[2]
        for message in messages
    ]
