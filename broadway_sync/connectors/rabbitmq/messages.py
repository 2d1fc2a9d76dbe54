"""
Messages out of deliveries.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, Callable, Dict, Optional, Sequence

from .options import FROM_METHOD

Read = Callable[[Any, Any], Optional[Dict[str, Any]]]
"""``read(method, properties)`` -> the metadata of one message, None for none."""

DELIVERY_COUNT = "x-delivery-count"
"""The header in which quorum queues say how often a message came back."""


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
