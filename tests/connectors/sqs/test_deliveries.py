"""
How messages of SQS are read.
"""

from __future__ import annotations

from typing import Any

import pytest

from broadway_sync.connectors.sqs.deliveries import to_attributes, to_delivery, to_message_attributes

RAW: dict[str, Any] = {
    "MessageId": "m-1",
    "ReceiptHandle": "h-1",
    "MD5OfBody": "5d41402abc4b2a76b9719d911017c592",
    "Body": "hello",
    "Attributes": {"ApproximateReceiveCount": "3", "MessageGroupId": "007", "SentTimestamp": "1700000000000"},
    "MessageAttributes": {"colour": {"DataType": "String", "StringValue": "red"}},
}


def test_message_becomes_a_delivery() -> None:
    """
    Body, handle and metadata as in the original; the delivery count also beside the attributes.
    """
    delivery = to_delivery(RAW, is_fifo=True)
    assert (delivery.handle, delivery.data, delivery.group, delivery.identity) == ("h-1", "hello", "007", "m-1")
    assert delivery.metadata == {
        "message_id": "m-1",
        "receipt_handle": "h-1",
        "md5_of_body": "5d41402abc4b2a76b9719d911017c592",
        "attributes": {
            "approximate_receive_count": 3,
            "message_group_id": "007",
            "sent_timestamp": 1700000000000,
        },
        "message_attributes": {"colour": {"data_type": "String", "value": "red"}},
        "approximate_receive_count": 3,
    }


def test_group_of_a_standard_queue_means_no_order() -> None:
    """
    Standard queues take group ids too, to share the load fairly.
    """
    assert to_delivery(RAW, is_fifo=False).group is None


def test_message_with_nothing_but_a_handle() -> None:
    """
    Whatever a server leaves out is empty.
    """
    delivery = to_delivery({"ReceiptHandle": "h"}, is_fifo=True)
    assert (delivery.data, delivery.group, delivery.identity) == ("", None, None)
    assert delivery.metadata == {
        "message_id": None,
        "receipt_handle": "h",
        "md5_of_body": None,
        "attributes": {},
        "message_attributes": {},
        "approximate_receive_count": None,
    }


def test_system_attributes_get_names_and_numbers() -> None:
    """
    Numbers only where the service means one; unknown attributes stay as they are.
    """
    raw = {
        "ApproximateFirstReceiveTimestamp": "1",
        "ApproximateReceiveCount": "2",
        "AWSTraceHeader": "Root=1",
        "DeadLetterQueueSourceArn": "arn:aws:sqs:us-east-1:1:q",
        "MessageDeduplicationId": "5",
        "SenderId": "6",
        "SentTimestamp": "not a number",
        "SequenceNumber": "18870993770622463232",
        "Tomorrow": "8",
    }
    assert to_attributes(raw) == {
        "approximate_first_receive_timestamp": 1,
        "approximate_receive_count": 2,
        "aws_trace_header": "Root=1",
        "dead_letter_queue_source_arn": "arn:aws:sqs:us-east-1:1:q",
        "message_deduplication_id": "5",
        "sender_id": "6",
        "sent_timestamp": "not a number",
        "sequence_number": "18870993770622463232",
        "Tomorrow": "8",
    }


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ({"DataType": "String", "StringValue": "5"}, "5"),
        ({"DataType": "Number", "StringValue": "5"}, 5),
        ({"DataType": "Number.price", "StringValue": "-2.5"}, -2.5),
        ({"DataType": "Number", "StringValue": "9" * 38}, int("9" * 38)),
        ({"DataType": "Number", "StringValue": "five"}, "five"),
        ({"DataType": "Number"}, None),
        ({"DataType": "Binary", "BinaryValue": b"\x00\xff"}, b"\x00\xff"),
        ({"DataType": "Binary.gif", "BinaryValue": b""}, b""),
        ({"DataType": "String.csv", "StringValue": "a,b"}, "a,b"),
        ({"StringValue": "untyped"}, "untyped"),
    ],
)
def test_message_attributes_are_typed(raw: dict[str, Any], value: Any) -> None:
    """
    Numbers, bytes or text, by the part of the data type before the dot.
    """
    read = to_message_attributes({"name": raw})["name"]
    assert read == {"data_type": raw.get("DataType", "String"), "value": value}
    assert type(read["value"]) is type(value)
