"""
The message of a record.
"""

from __future__ import annotations

from typing import Any, Dict, Hashable, Tuple

from ...message import DEFAULT, Message


class RecordMessage(Message):
    """
    A message whose metadata are made from its record at the first look.

    Made for each record, and so made quickly: the generated ``__init__`` of :class:`Message`, and a dict that many
    handlers never look at, would take as long as handling the message.
    """

    __slots__ = ("_record",)

    def __init__(self, record: Any, acknowledger: Tuple[Any, Any, Any], batch_key: Hashable) -> None:
        self.data = record.value
        self.acknowledger = acknowledger
        self.batch_key = batch_key
        self.batcher = DEFAULT
        self.batch_mode = "bulk"
        self.status = "ok"
        self.reason = None
        self._metadata = None
        self._claim = None
        self._record = record

    @property
    def metadata(self) -> Dict[Any, Any]:
        """
        Where the record is, and what came with its value.
        """
        if self._metadata is None:
            record = self._record
            self._metadata = {
                "topic": record.topic,
                "partition": record.partition,
                "offset": record.offset,
                "key": record.key,
                "ts": record.timestamp,
                "headers": record.headers,
            }
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: Dict[Any, Any]) -> None:
        self._metadata = metadata

    def __getstate__(self) -> Dict[str, Any]:
        """
        For copies and pickles, which have the metadata and no record.
        """
        assert self.metadata is not None
        return super().__getstate__()

    def __repr__(self) -> str:
        assert self.metadata is not None
        return super().__repr__()
