"""
The options of SQSProducer, checked by the constructor of Pipeline.
"""

from __future__ import annotations

from typing import Any

import pytest

from broadway_sync import ConfigurationError
from broadway_sync.connectors.common.options import build
from broadway_sync.connectors.sqs import SQSProducer
from broadway_sync.connectors.sqs.options import SQSConfig, SQSOptions

URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/invoices"

ATTRIBUTES = (
    "'approximate_first_receive_timestamp', 'approximate_receive_count', 'aws_trace_header', "
    "'dead_letter_queue_source_arn', 'message_deduplication_id', 'message_group_id', 'sender_id', 'sent_timestamp', "
    "'sequence_number'"
)
ATTRIBUTE_NAMES = f'attribute_names: expected "all" or a list of {ATTRIBUTES}, got: '
MESSAGE_ATTRIBUTE_NAMES = 'message_attribute_names: expected "all" or a list of non-empty str, got: '
OUTCOMES = '"ack", "noop", "nack" or ("nack", seconds), an int from 0 to 43200'


def test_defaults() -> None:
    """
    Those of the original: what is absent is the queue's business.
    """
    options = build(SQSOptions, {"queue_url": URL})
    assert options.queue_url == URL
    assert options.max_number_of_messages == 10
    assert (options.wait_time_seconds, options.visibility_timeout) == (None, None)
    assert (options.attribute_names, options.message_attribute_names) == (None, None)
    assert (options.on_success, options.on_failure) == ("ack", "noop")
    assert (options.receive_interval, options.max_lease) == (5.0, 3600.0)
    assert options.config == SQSConfig()


@pytest.mark.parametrize(
    "given",
    [
        {"max_number_of_messages": 1},
        {"wait_time_seconds": 0},
        {"wait_time_seconds": 20},
        {"visibility_timeout": 0},
        {"visibility_timeout": 43200},
        {"attribute_names": "all"},
        {"attribute_names": []},
        {"attribute_names": ["sender_id", "sequence_number"]},
        {"message_attribute_names": "all"},
        {"message_attribute_names": ("a", "b.*")},
        {"on_failure": "ack"},
        {"on_failure": "nack"},
        {"on_failure": ("nack", 0)},
        {"on_failure": ["nack", 43200]},
        {"on_success": "noop"},
        {"receive_interval": 0},
        {"config": {"session": lambda: None}},
        {"config": {"aws_access_key_id": "a", "aws_secret_access_key": "b", "aws_session_token": "c"}},
        {"config": {"verify": False}},
        {"config": {"verify": "/etc/ca.pem"}},
        {"config": {"endpoint_url": "http://localhost:9324"}},
        {"config": {"read_timeout": 1}},
        {"wait_time_seconds": 20, "config": {"read_timeout": 21}},
        {"wait_time_seconds": 20, "config": {"read_timeout": 20, "client_config": {"read_timeout": 21}}},
        {"config": SQSConfig(region_name="eu-west-1")},
    ],
    ids=repr,
)
def test_accepted(given: dict[str, Any]) -> None:
    """
    What the rules allow, ends of ranges included.
    """
    options = build(SQSOptions, {"queue_url": URL, **given})
    for name, value in given.items():
        if name != "config":
            assert getattr(options, name) == value


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "queue_url: required, address of the queue; one that ends in .fifo keeps order"),
        ({"queue_url": ""}, "queue_url: expected a non-empty str, got: ''"),
        ({"queue_url": None}, "queue_url: expected a non-empty str, got: None"),
        ({"max_number_of_messages": 0}, "max_number_of_messages: expected an int from 1 to 10, got: 0"),
        ({"max_number_of_messages": 11}, "max_number_of_messages: expected an int from 1 to 10, got: 11"),
        ({"max_number_of_messages": True}, "max_number_of_messages: expected an int from 1 to 10, got: True"),
        ({"wait_time_seconds": 21}, "wait_time_seconds: expected an int from 0 to 20, got: 21"),
        ({"wait_time_seconds": -1}, "wait_time_seconds: expected an int from 0 to 20, got: -1"),
        ({"wait_time_seconds": 1.5}, "wait_time_seconds: expected an int from 0 to 20, got: 1.5"),
        ({"visibility_timeout": 43201}, "visibility_timeout: expected an int from 0 to 43200, got: 43201"),
        ({"visibility_timeout": "30"}, "visibility_timeout: expected an int from 0 to 43200, got: '30'"),
        ({"attribute_names": "sender_id"}, ATTRIBUTE_NAMES + "'sender_id'"),
        ({"attribute_names": ["SenderId"]}, ATTRIBUTE_NAMES + "['SenderId']"),
        ({"attribute_names": [[]]}, ATTRIBUTE_NAMES + "[[]]"),
        ({"message_attribute_names": [""]}, MESSAGE_ATTRIBUTE_NAMES + "['']"),
        ({"message_attribute_names": 5}, MESSAGE_ATTRIBUTE_NAMES + "5"),
        ({"on_failure": "reject"}, f"on_failure: expected {OUTCOMES}, got: 'reject'"),
        ({"on_failure": ("nack", 43201)}, f"on_failure: expected {OUTCOMES}, got: ('nack', 43201)"),
        ({"on_failure": ("nack", 1.5)}, f"on_failure: expected {OUTCOMES}, got: ('nack', 1.5)"),
        ({"on_success": None}, f"on_success: expected {OUTCOMES}, got: None"),
        ({"receive_interval": -1}, "receive_interval: expected a finite number of seconds >= 0, got: -1"),
        ({"config": []}, "config: expected a mapping or SQSConfig, got: []"),
        ({"config": {"region": "x"}}, "config.region: unknown option, valid options are: region_name, endpoint_url, "
         "aws_access_key_id, aws_secret_access_key, aws_session_token, profile_name, session, verify, connect_timeout, "
         "read_timeout, max_attempts, client_config"),
        ({"config": {"aws_access_key_id": "AKIA"}},
         "config.aws_access_key_id: aws_access_key_id and aws_secret_access_key go together, one is missing"),
        ({"config": {"session": lambda: None, "profile_name": "p"}},
         "config.profile_name: not together with session, which brings credentials of its own"),
        ({"config": {"session": 5}},
         "config.session: expected a callable without arguments that returns a boto3 Session, got: 5"),
        ({"config": {"verify": 5}}, "config.verify: expected True, False or the path of a CA bundle, got: 5"),
        ({"config": {"verify": ""}}, "config.verify: expected True, False or the path of a CA bundle, got: ''"),
        (
            {"config": {"endpoint_url": "localhost:9324"}},
            "config.endpoint_url: expected an address that begins with http:// or https://, got: 'localhost:9324'",
        ),
        (
            {"wait_time_seconds": 20, "config": {"read_timeout": 20}},
            "config.read_timeout: expected seconds > wait_time_seconds, which is 20, got: 20; every receive that finds "
            "nothing would end as an error",
        ),
        (
            {"wait_time_seconds": 20, "config": {"read_timeout": 30, "client_config": {"read_timeout": 20}}},
            "config.client_config.read_timeout: expected seconds > wait_time_seconds, which is 20, got: 20; every "
            "receive that finds nothing would end as an error",
        ),
        ({"config": {"max_attempts": 0}}, "config.max_attempts: expected an int > 0, got: 0"),
    ],
)  # fmt: skip
def test_refused(given: dict[str, Any], text: str) -> None:
    """
    The text names the option by its path, the value and the rule.
    """
    full = given if not given or "queue_url" in given else {"queue_url": URL, **given}
    with pytest.raises(ConfigurationError) as caught:
        build(SQSOptions, full)
    assert str(caught.value) == f"producer.module.{text}"


def test_pipeline_constructor_checks(make_pipeline: Any) -> None:
    """
    Before anything is opened; a misspelt option too.
    """
    pytest.importorskip("boto3")
    with pytest.raises(ConfigurationError, match=r"producer\.module\.queue_name: unknown option, valid options are: "):
        make_pipeline(producer={"module": (SQSProducer, {"queue_name": "invoices"})})
    with pytest.raises(
        ConfigurationError, match=r"producer\.module\.config\.client_config: botocore refuses it: .*colour"
    ):
        options = {"queue_url": URL, "config": {"client_config": {"colour": "red"}}}
        make_pipeline(producer={"module": (SQSProducer, options)})


def test_missing_boto3_is_said_by_the_constructor(make_pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    With the extra that brings it.
    """
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    with pytest.raises(ConfigurationError, match=r"SQSProducer needs boto3, .*: pip install broadway_sync\[sqs\]"):
        make_pipeline(producer={"module": (SQSProducer, {"queue_url": URL})})


def test_credentials_are_not_shown() -> None:
    """
    Not by the repr of the options, wherever they stand in it.
    """
    config = {
        "aws_access_key_id": "AKIAEXAMPLE",
        "aws_secret_access_key": "wJalr",
        "aws_session_token": "FwoGZX",
        "client_config": {"proxies": {"https": "http://user:pa55@proxy:3128"}},
    }
    text = repr(build(SQSOptions, {"queue_url": URL, "config": config}))
    for secret in ("AKIAEXAMPLE", "wJalr", "FwoGZX", "pa55"):
        assert secret not in text
    assert URL in text
