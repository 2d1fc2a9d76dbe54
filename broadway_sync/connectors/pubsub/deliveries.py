"""
What a pull returns, as messages of this library. Pure.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any, Optional

from ..common.polling_client import Delivery

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def to_delivery(received: Any, is_ordered: bool) -> Delivery:
    """
    Return a received message.

    Data that is missing is ``b""``: in gRPC's encoding the two are the same. (Broadway, which speaks JSON, gives nil.)
    """
    message = received.message
    attributes, key, published = message.attributes, message.ordering_key, message.publish_time
    metadata = {
        # Most messages have none. dict() is slower for protobuf's maps.
        "attributes": {name: attributes[name] for name in attributes} if attributes else {},
        "delivery_attempt": received.delivery_attempt or None,  # 0 without a dead letter policy
        "message_id": message.message_id,
        "ordering_key": key,
        "publish_time": _to_datetime(published.seconds, published.nanos),
    }
    return Delivery(received.ack_id, message.data, metadata, key if key and is_ordered else None)


@lru_cache(maxsize=64)  # messages that were published in one request have the same time
def _to_datetime(seconds: int, nanos: int) -> Optional[datetime]:
    """
    Return the time, None for a field that is not set.
    """
    if not seconds and not nanos:
        return None
    try:
        return _EPOCH + timedelta(0, seconds, nanos // 1000)
    except OverflowError:  # no date: one message must not cost the others of the pull
        return None
