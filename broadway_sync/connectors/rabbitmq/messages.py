"""
Messages out of deliveries.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Sequence, Tuple

from ...message import DEFAULT, Message
from .options import FROM_METHOD

if TYPE_CHECKING:
    from .session import Session

Read = Callable[[Any, Any], Optional[Dict[str, Any]]]
"""``read(method, properties)`` -> the metadata of one message, None for none."""

DELIVERY_COUNT = "x-delivery-count"
"""The header in which quorum queues say how often a message came back."""


class DeliveryMessage(Message):
    """
    A message whose acknowledger is made at the first look.

    Made for each delivery, and so made quickly, with as few objects as possible: what refers to others and lives for a
    while is work for the garbage collector.
    """

    __slots__ = ("_given", "_redelivered", "_session", "_tag")

    def __init__(
        self, session: Session, tag: int, redelivered: bool, body: bytes, metadata: Optional[Dict[str, Any]]
    ) -> None:
        self.data = body
        self.batch_key = self.batcher = DEFAULT
        self.batch_mode = "bulk"
        self.status = "ok"
        self.reason = None
        self._metadata = metadata
        self._claim = None
        self._given: Optional[Tuple[Any, Any, Any]] = None  # the acknowledger, if somebody has put another one
        self._session = session
        self._tag = tag
        self._redelivered = redelivered

    @property
    def acknowledger(self) -> Tuple[Any, Any, Any]:
        """
        The connector's acknowledger, the session, ``(tag, redelivered, choice)``.
        """
        if self._given is not None:
            return self._given
        session = self._session
        return session.acknowledger, session, (self._tag, self._redelivered, session.choice)

    @acknowledger.setter
    def acknowledger(self, acknowledger: Tuple[Any, Any, Any]) -> None:
        self._given = acknowledger


def ack_data_of(message: Message) -> Any:
    """
    Return ``(tag, redelivered, choice)`` of *message*.
    """
    if isinstance(message, DeliveryMessage) and message._given is None:
        return message._tag, message._redelivered, message._session.choice
    return message.acknowledger[2]


def metadata_reader(keys: Sequence[str]) -> Read:
    """
    Return the function that reads *keys*, and ``delivery_count`` where the broker counts.
    """
    if not keys:
        return _delivery_count
    getters = [(key, _getter(key)) for key in keys]

    def read(method: Any, properties: Any) -> Dict[str, Any]:
        metadata = {key: getter(method, properties) for key, getter in getters}
        headers = properties.headers
        if headers and DELIVERY_COUNT in headers:
            metadata["delivery_count"] = headers[DELIVERY_COUNT]
        return metadata

    return read


def _delivery_count(method: Any, properties: Any) -> Optional[Dict[str, Any]]:
    headers = properties.headers
    if headers and DELIVERY_COUNT in headers:
        return {"delivery_count": headers[DELIVERY_COUNT]}
    return None


def _getter(key: str) -> Callable[[Any, Any], Any]:
    if key == "persistent":
        return lambda method, properties: properties.delivery_mode == 2
    get = attrgetter(key)
    if key in FROM_METHOD:
        return lambda method, properties: get(method)
    return lambda method, properties: get(properties)
