"""
What SQS answers, as deliveries: pure.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping

from ..common.polling_client import Delivery

# Name of a system attribute -> its name in the API.
ATTRIBUTES: Dict[str, str] = {
    "approximate_first_receive_timestamp": "ApproximateFirstReceiveTimestamp",
    "approximate_receive_count": "ApproximateReceiveCount",
    "aws_trace_header": "AWSTraceHeader",
    "dead_letter_queue_source_arn": "DeadLetterQueueSourceArn",
    "message_deduplication_id": "MessageDeduplicationId",
    "message_group_id": "MessageGroupId",
    "sender_id": "SenderId",
    "sent_timestamp": "SentTimestamp",
    "sequence_number": "SequenceNumber",
}
_NAMES = {name: ours for ours, name in ATTRIBUTES.items()}

# Numbers. Not what only may look like one: a group id "007" is a str, as is a sequence number, which the API gives and
# takes as text.
_NUMBERS = {"approximate_first_receive_timestamp", "approximate_receive_count", "sent_timestamp"}


def to_delivery(raw: Mapping[str, Any], is_fifo: bool) -> Delivery:
    """
    Return one message of an answer; whatever the service left out is None or empty.

    Args:
        is_fifo: Whether the queue keeps groups in order. On other queues a group only spreads the load.
    """
    attributes = to_attributes(raw.get("Attributes") or {})
    handle = raw["ReceiptHandle"]
    metadata = {
        "message_id": raw.get("MessageId"),
        "receipt_handle": handle,
        "md5_of_body": raw.get("MD5OfBody"),
        "attributes": attributes,
        "message_attributes": to_message_attributes(raw.get("MessageAttributes") or {}),
        "approximate_receive_count": attributes.get("approximate_receive_count"),
    }
    group = attributes.get("message_group_id") if is_fifo else None
    return Delivery(
        handle=handle, data=raw.get("Body", ""), metadata=metadata, group=group, identity=metadata["message_id"]
    )


def to_attributes(raw: Mapping[str, str]) -> Dict[str, Any]:
    """
    Return system attributes with this library's names; those that it does not know keep theirs.
    """
    named = {_NAMES.get(name, name): value for name, value in raw.items()}
    return {name: _to_number(value) if name in _NUMBERS else value for name, value in named.items()}


def to_message_attributes(raw: Mapping[str, Mapping[str, Any]]) -> Dict[str, Dict[str, Any]]:
    """
    Return what the sender attached: name -> ``{"data_type", "value"}``.

    The value of a ``Number`` is an int or a float, of a ``Binary`` it is bytes, of anything else a str; a data type may
    go on after a dot (``"Number.price"``).
    """
    return {name: _to_message_attribute(attribute) for name, attribute in raw.items()}


def _to_message_attribute(raw: Mapping[str, Any]) -> Dict[str, Any]:
    data_type = raw.get("DataType", "String")
    kind = data_type.split(".")[0]
    if kind == "Binary":
        return {"data_type": data_type, "value": raw.get("BinaryValue")}
    value = raw.get("StringValue")
    return {"data_type": data_type, "value": _to_number(value) if kind == "Number" else value}


def _to_number(text: Any) -> Any:
    """
    Return the number that *text* says; *text* itself if it says none.
    """
    for number in (int, float):
        try:
            return number(text)
        except (TypeError, ValueError):
            pass
    return text
