"""
What the sender of a message wrote beside its data, whatever the connector calls it.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple

from ...message import Message

# Where connectors put it: RabbitMQ and Kafka, SQS, Pub/Sub.
_PLACES = ("headers", "message_attributes", "attributes")

# Google's own clients write the context of the publisher with a prefix.
_PREFIX = "googclient_"


def headers_of(message: Message) -> Dict[str, str]:
    """
    Return the headers of a message: names in lower case, values as text; those that are no text are left out.

    Reads the metadata ``headers`` (a mapping, or pairs; RabbitMQ, Kafka), ``message_attributes`` (SQS) and
    ``attributes`` (Pub/Sub), as the connectors give them. An X-Ray header of SQS is ``x-amzn-trace-id``, a name with
    the prefix of Google's clients is also there without it.
    """
    found: Dict[str, str] = {}
    for place in _PLACES:
        for name, value in _pairs(message.metadata.get(place)):
            text = _text(value)
            if isinstance(name, str) and text is not None:
                found.setdefault(name.lower(), text)
    for name in [name for name in found if name.startswith(_PREFIX)]:
        found.setdefault(name[len(_PREFIX) :], found[name])
    if "aws_trace_header" in found:
        found.setdefault("x-amzn-trace-id", found["aws_trace_header"])
    return found


def _pairs(headers: Any) -> Iterable[Tuple[Any, Any]]:
    if isinstance(headers, Mapping):
        return headers.items()
    if isinstance(headers, (list, tuple)):
        return [pair for pair in headers if isinstance(pair, tuple) and len(pair) == 2]
    return ()


def _text(value: Any) -> Optional[str]:
    if isinstance(value, Mapping):  # of SQS: {"data_type", "value"}
        value = value.get("value")
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "replace")
    return value if isinstance(value, str) else None


class Getter:
    """
    How a propagator of OpenTelemetry reads what :func:`headers_of` returns, whatever the case of its names.
    """

    def get(self, carrier: Mapping[str, str], key: str) -> Optional[List[str]]:
        """
        Return the value of a header in a list, None if it is not there.
        """
        value = carrier.get(key.lower())
        return None if value is None else [value]

    def keys(self, carrier: Mapping[str, str]) -> List[str]:
        """
        Return the names.
        """
        return list(carrier)
