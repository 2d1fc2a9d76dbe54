"""
The options of the Kafka producer, and what is said about wrong ones.
"""

from __future__ import annotations

import re
import ssl
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from broadway_sync import ConfigurationError
from broadway_sync.connectors.common.options import build
from broadway_sync.connectors.kafka import KafkaProducer, options
from broadway_sync.connectors.kafka.options import KafkaOptions

REQUIRED = {"hosts": "localhost:9092", "group_id": "group", "topics": ["topic"]}


def make(**given: Any) -> KafkaOptions:
    """
    Return the options of a producer.
    """
    return build(KafkaOptions, {**REQUIRED, **given})


@pytest.mark.parametrize(
    ("given", "hosts"),
    [
        ("a:1", ("a:1",)),
        ("a:1, b:2", ("a:1", "b:2")),
        ("a", ("a:9092",)),
        (["a:1", ("b", 2)], ("a:1", "b:2")),
        ([("::1", 3), "[::1]:4", "[::1]"], ("[::1]:3", "[::1]:4", "[::1]:9092")),
    ],
)
def test_hosts(given: Any, hosts: Any) -> None:
    """
    Hosts come in several shapes.
    """
    assert make(hosts=given).hosts == hosts


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            {"hosts": []},
            'hosts: expected a list of "host:port" or (host, port), or one str "host:port,host:port", got: []',
        ),
        ({"hosts": ""}, "hosts: expected a list"),
        ({"hosts": "a:b"}, "hosts: expected a list"),
        ({"hosts": [("a", "1")]}, "hosts: expected a list"),
        ({"hosts": 9092}, "hosts: expected a list"),
        ({"hosts": "a:65536"}, "hosts: expected a list"),
        ({"hosts": "a:²"}, "hosts: expected a list"),
        ({"hosts": [("a", 65536)]}, "hosts: expected a list"),
        ({"group_id": ""}, "group_id: expected a non-empty str, got: ''"),
        ({"topics": []}, "topics: expected a list of names, at least one, of letters, "),
        ({"topics": "topic"}, "topics: expected a list of names, at least one, of letters, "),
        ({"topics": [1]}, "topics: expected a list of names"),
        (
            {"topics": ["a b"]},
            'topics: expected a list of names, at least one, of letters, digits, ".", "_" and "-", got: [\'a b\']',
        ),
        ({"topics": [".."]}, "topics: expected a list of names"),
        ({"topics": ["topic\n"]}, "topics: expected a list of names"),
        ({"topics": ["t" * 250]}, "topics: expected a list of names"),
        ({"offset_reset_policy": "newest"}, 'offset_reset_policy: expected "earliest", "latest" or ("timestamp", '),
        ({"offset_reset_policy": ("timestamp", -1)}, "offset_reset_policy: expected"),
        ({"offset_reset_policy": ("timestamp", True)}, "offset_reset_policy: expected"),
        ({"offset_reset_policy": ("timestamp", 2**63)}, "offset_reset_policy: expected"),
        ({"begin_offset": "now"}, "begin_offset: expected one of 'assigned', 'reset', got: 'now'"),
        ({"offset_commit_on_ack": 1}, "offset_commit_on_ack: expected True or False, got: 1"),
        ({"offset_commit_interval": 0}, "offset_commit_interval: expected a finite number of seconds > 0, got: 0"),
        ({"receive_interval": 0}, "receive_interval: expected a finite number of seconds > 0, got: 0"),
        ({"shared_client": True}, "shared_client: unknown option, valid options are: backoff_min, "),
        (
            {"group_config": {"foo": 1}},
            "group_config.foo: unknown option, valid options are: offset_commit_",
        ),
        ({"group_config": 1}, "group_config: expected a mapping or GroupConfig, got: 1"),
        (
            {"group_config": {"heartbeat_rate_seconds": 30}},
            "group_config.heartbeat_rate_seconds: expected less than session_timeout_seconds, which is 30.0, got: 30",
        ),
        (
            {"group_config": {"revoke_timeout_seconds": 31}},
            "group_config.revoke_timeout_seconds: expected less than rebalance_timeout_seconds, which is 30.0, got: 31",
        ),
        (
            {"group_config": {"session_timeout_seconds": 60}},
            "group_config.session_timeout_seconds: expected less than client_config.request_timeout, which ",
        ),
        (
            {"fetch_config": {"max_wait_time": 40}},
            "fetch_config.max_wait_time: expected less than client_config.request_timeout, which is 40.0, got: 40",
        ),
        (
            {"group_config": {"rebalance_timeout_seconds": 2147484}},
            "group_config.rebalance_timeout_seconds: expected a number of seconds > 0 and <= 2147483, got: 2147484",
        ),
        (
            {"group_config": {"group_instance_id": "host 1"}},
            'group_config.group_instance_id: expected at most 240 letters, digits, ".", "_" and "-", got: \'host 1\'',
        ),
        ({"fetch_config": {"min_bytes": 0}}, "fetch_config.min_bytes: expected an int from 1 to 2147483647, got: 0"),
        ({"fetch_config": {"max_bytes": 2**31}}, "fetch_config.max_bytes: expected an int from 1 to 2147483647, got: "),
        (
            {"fetch_config": {"isolation_level": "none"}},
            "fetch_config.isolation_level: expected one of 'read_",
        ),
        (
            {"client_config": {"ssl": "yes"}},
            "client_config.ssl: expected True, False, an ssl.SSLContext or a mapping ",
        ),
        ({"client_config": {"ssl": {"ca": "x"}}}, "client_config.ssl: expected True, False"),
        (
            {"client_config": {"ssl": {"check_hostname": "no"}}},
            "client_config.ssl.check_hostname: expected True or False, got: 'no'",
        ),
        ({"client_config": {"ssl": {"cafile": 5}}}, "client_config.ssl.cafile: expected a non-empty str, got: 5"),
        (
            {"client_config": {"extra_config": {"no_such_thing": 1}}},
            "client_config.extra_config: this version of kafka-python does not know 'no_such_thing'",
        ),
        (
            {"client_config": {"sasl": {"mechanism": "PLAIN", "plain_pasword": "secret"}}},
            "client_config.sasl: this version of kafka-python does not know 'plain_pasword'",
        ),
        (
            {"client_config": {"extra_config": {"enable_auto_commit": True}}},
            "client_config.extra_config: expected none of the names that the connector sets itself: bootstrap_",
        ),
        ({"backoff_type": "never"}, "backoff_type: expected one of "),
        ({"client": 1}, "client: expected a function of the options, got: 1"),
    ],
)
def test_mistakes(given: Any, text: str) -> None:
    """
    A wrong option is named by its path, with the value and the rule.
    """
    with pytest.raises(ConfigurationError) as caught:
        KafkaProducer.validate_options({**REQUIRED, **given})
    assert str(caught.value).startswith(f"producer.module.{text}")


@pytest.mark.parametrize("name", ["hosts", "group_id", "topics"])
def test_required(name: str) -> None:
    """
    Hosts, group and topics have no default.
    """
    with pytest.raises(ConfigurationError, match=rf"^producer\.module\.{name}: required, "):
        KafkaProducer.validate_options({key: value for key, value in REQUIRED.items() if key != name})


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("earliest", "earliest"),
        ("latest", "latest"),
        (("timestamp", 0), 0),
        (["timestamp", 1_700_000_000_000], 1_700_000_000_000),
        (("timestamp", datetime(2020, 1, 1, tzinfo=timezone.utc)), 1_577_836_800_000),
        (("timestamp", datetime(2020, 1, 1)), 1_577_836_800_000),
    ],
)
def test_policy(policy: Any, expected: Any) -> None:
    """
    A time is milliseconds, or a datetime (UTC, unless it says otherwise).
    """
    assert make(offset_reset_policy=policy).offset_reset_policy == expected


def test_commit_interval() -> None:
    """
    The interval counts without ``offset_commit_on_ack``; the original's name wins.
    """
    assert make(offset_commit_interval=7).commit_interval < 1
    assert make(offset_commit_interval=7, offset_commit_on_ack=False).commit_interval == 7
    both = {"offset_commit_interval": 7, "group_config": {"offset_commit_interval_seconds": 3}}
    assert make(offset_commit_on_ack=False, **both).commit_interval == 3


@pytest.mark.parametrize(
    ("sasl", "expected"),
    [
        (("plain", "user", "pass"), {"mechanism": "PLAIN", "plain_username": "user", "plain_password": "pass"}),
        (("scram_sha_256", "u", "p"), {"mechanism": "SCRAM-SHA-256", "plain_username": "u", "plain_password": "p"}),
        (["PLAIN", "/path"], {"mechanism": "PLAIN", "path": "/path"}),
        ({"mechanism": "GSSAPI", "kerberos_name": "k"}, {"mechanism": "GSSAPI", "kerberos_name": "k"}),
        (None, None),
    ],
)
def test_sasl(sasl: Any, expected: Any) -> None:
    """
    Credentials are given as in the original, or with the client's own options.
    """
    assert make(client_config={"sasl": sasl}).client_config.sasl == expected


@pytest.mark.parametrize(
    "sasl",
    [
        ("md5", "user", "pass"),
        ("plain",),
        "plain",
        {"username": "user"},
        ("plain", "u", 1),
        {"mechanism": "plain", "path": 5},
    ],
)
def test_sasl_mistakes(sasl: Any) -> None:
    """
    What is wrong with credentials is said without showing them.
    """
    with pytest.raises(ConfigurationError) as caught:
        make(client_config={"sasl": sasl})
    assert str(caught.value).startswith(
        "producer.module.client_config.sasl: expected (mechanism, username, password), "
    )
    assert "pass" not in str(caught.value).replace("password", "")


def test_passwords_are_not_shown() -> None:
    """
    No repr of the options has a password in it.
    """
    client_config = {"sasl": ("plain", "user", "secret1"), "extra_config": {"ssl_password": "secret2"}}
    shown = repr(make(client_config={**client_config, "ssl": {"password": "secret3"}}))
    assert "secret" not in shown


@pytest.mark.parametrize(
    "hosts", ["SASL_SSL://user:hunter2@host:9092", ["user:hunter2@host:port"], [("user:hunter2@host", "9092")]]
)
def test_hosts_that_are_wrong_show_no_password(hosts: Any) -> None:
    """
    Somebody who gives an address of another kind gives a password with it.
    """
    with pytest.raises(ConfigurationError) as caught:
        make(hosts=hosts)
    assert "hunter2" not in str(caught.value)


def test_ssl_context() -> None:
    """
    A context is taken as it is.
    """
    context = ssl.create_default_context()
    assert make(client_config={"ssl": context}).client_config.ssl is context


def test_tables_of_the_manual() -> None:
    """
    The how-to shows every class of options there is.
    """
    page = (Path(__file__).resolve().parents[3] / "docs" / "howto" / "kafka.rst").read_text(encoding="utf-8")
    shown = re.findall(r"^\.\. options-table:: broadway_sync\.connectors\.kafka\.options (\w+)", page, re.MULTILINE)
    own = [cls for cls in vars(options).values() if isinstance(cls, type) and cls.__module__ == options.__name__]
    assert sorted(shown) == sorted(cls.__name__ for cls in own)
