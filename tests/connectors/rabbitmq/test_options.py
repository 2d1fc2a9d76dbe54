"""
Options: what the constructor of the pipeline says about mistakes, and what the others become.
"""

from __future__ import annotations

import ssl
import sys
from typing import Any

import pika
import pytest

from broadway_sync import ConfigurationError, ConnectorError
from broadway_sync.connectors.rabbitmq import RabbitMQProducer
from broadway_sync.connectors.rabbitmq import parameters as parameters_module
from broadway_sync.connectors.rabbitmq.address import ConnectionOptions, to_connection
from broadway_sync.connectors.rabbitmq.client import PikaClient
from broadway_sync.connectors.rabbitmq.options import RabbitMQOptions, merge
from broadway_sync.rules import construct

GOOD = {"queue": "q", "on_failure": "reject"}
CHOICES = "'ack', 'reject', 'reject_and_requeue', 'reject_and_requeue_once'"


def options(**given: Any) -> RabbitMQOptions:
    """
    Return valid options with these changes.
    """
    return construct(RabbitMQOptions, {**GOOD, **given}, "producer.module")


def to_parameters(address: Any, name: str) -> Any:
    """
    Return the parameters of pika.
    """
    return parameters_module.to_parameters(pika, address, name)


def refusal(make_pipeline: Any, module: Any) -> str:
    """
    Return what the constructor of a pipeline says about the producer's options.
    """
    with pytest.raises(ConfigurationError) as caught:
        make_pipeline(producer={"module": (RabbitMQProducer, module)})
    return str(caught.value)


@pytest.mark.parametrize(
    "module, text",
    [
        ({"on_failure": "ack"}, 'queue: required, the queue; "" for one that the broker names, which needs declare'),
        ({"queue": "q"}, f"on_failure: required, what becomes of failed messages, one of {CHOICES}"),
        ({**GOOD, "on_failure": "nack"}, f"on_failure: expected one of {CHOICES}, got: 'nack'"),
        ({**GOOD, "on_success": None}, f"on_success: expected one of {CHOICES}, got: None"),
        ({**GOOD, "queue": 1}, "queue: expected a str, got: 1"),
        (
            {**GOOD, "queue": ""},
            "queue: expected a name, \"\" (named by the broker) only together with declare, got: ''",
        ),
        (
            {**GOOD, "qos": {"prefetch": 1}},
            "qos.prefetch: unknown option, valid options are: prefetch_count, prefetch_size",
        ),
        ({**GOOD, "qos": {"prefetch_count": -1}}, "qos.prefetch_count: expected an int from 0 to 65535, got: -1"),
        ({**GOOD, "qos": {"prefetch_count": 65536}}, "qos.prefetch_count: expected an int from 0 to 65535, got: 65536"),
        ({**GOOD, "qos": 50}, "qos: expected a mapping or QosOptions, got: 50"),
        (
            {**GOOD, "qos": {"prefetch_count": 0}},
            "buffer_size: required, an int > 0, when qos.prefetch_count is 0",
        ),
        ({**GOOD, "buffer_size": 0}, "buffer_size: expected an int > 0, got: 0"),
        (
            {**GOOD, "declare": {"nowait": True}},
            "declare.nowait: unknown option, valid options are: passive, durable, exclusive, auto_delete, arguments",
        ),
        ({**GOOD, "declare": {"durable": 1}}, "declare.durable: expected True or False, got: 1"),
        ({**GOOD, "bindings": "logs"}, "bindings: expected a list of (exchange, {options}), got: 'logs'"),
        (
            {**GOOD, "bindings": [("logs", {}), ("", {})]},
            "bindings[1]: expected (exchange, {options}) with the name of an exchange, got: ('', {})",
        ),
        (
            {**GOOD, "bindings": [("logs", {"key": "k"})]},
            "bindings[0].key: unknown option, valid options are: routing_key, arguments",
        ),
        (
            {**GOOD, "consume_options": {"no_local": True}},
            "consume_options.no_local: unknown option, valid options are: consumer_tag, no_ack, exclusive, arguments",
        ),
        (
            {**GOOD, "after_connect": lambda: None},
            None,
        ),
        ({**GOOD, "merge_options": {"queue": "x"}}, None),
        ({**GOOD, "metadata": ["routing_key", "amqp_channel"]}, None),
        ({**GOOD, "metadata": "routing_key"}, None),
        ({**GOOD, "backoff_min": -1}, "backoff_min: expected a finite number of seconds >= 0, got: -1"),
        (
            {**GOOD, "backoff_min": 5, "backoff_max": 1},
            "backoff_max: expected seconds >= backoff_min, which is 5, got: 1",
        ),
        ({**GOOD, "backoff_type": "none"}, None),
        ({**GOOD, "name": ""}, "name: expected a non-empty str, got: ''"),
    ],
)
def test_mistakes(make_pipeline: Any, module: Any, text: Any) -> None:
    """
    The text names the option by its path, the value and the rule.
    """
    said = refusal(make_pipeline, module)
    assert said.startswith("producer.module.")
    if text is not None:
        assert said == f"producer.module.{text}"


def test_unknown_option_lists_the_valid_ones(make_pipeline: Any) -> None:
    """
    A name that is not there is answered with all that are.
    """
    said = refusal(make_pipeline, {**GOOD, "queues": ["q"]})
    assert said.startswith("producer.module.queues: unknown option, valid options are: ")
    for name in ("queue", "connection", "qos", "on_failure", "backoff_type", "merge_options"):
        assert name in said


@pytest.mark.parametrize(
    "connection",
    [
        "localhost",
        "http://guest:swordfish@host",
        "amqp://guest:swordfish@host:port",
        "http://guest:sword fish@host",
        "amqp://guest:sword/fish#swordfish@host",
        5672,
        None,
        [],
        [{"host": "a"}, 5],
        {"host": "a", "passwort": "swordfish"},
        {"host": "", "password": "swordfish"},
        {"ssl": 1, "password": "swordfish"},
        {"ssl": {"ca": "x"}, "password": "swordfish"},
        {"ssl": {"keyfile": "key.pem"}, "password": "swordfish"},
        {"heartbeat": 0.5, "password": "swordfish"},
        {"connection_timeout": 0, "password": "swordfish"},
        {"channel_max": 65536, "password": "swordfish"},
        {"frame_max": 4095, "password": "swordfish"},
        {"frame_max": 131073, "password": "swordfish"},
    ],
    ids=repr,
)
def test_connections_that_cannot_be(make_pipeline: Any, connection: Any) -> None:
    """
    A wrong address is named as such, without the password in it.
    """
    said = refusal(make_pipeline, {**GOOD, "connection": connection})
    assert said.startswith("producer.module.connection")
    assert "swordfish" not in said and "fish" not in said


def test_defaults() -> None:
    """
    What is not given is as documented.
    """
    default = options()
    assert (default.on_success, default.metadata, default.prefetch_count) == ("ack", (), 50)
    assert (default.backoff_min, default.backoff_max, default.backoff_type) == (1.0, 30.0, "rand_exp")
    assert default.connection == (ConnectionOptions(),)
    assert default.declare is None and default.bindings == () and not default.is_no_ack


def test_prefetch_is_never_without_limit() -> None:
    """
    With prefetch_count 0 the limit is buffer_size; the protocol has its own.
    """
    assert options(qos={"prefetch_count": 0}, buffer_size=9).prefetch_count == 9
    assert options(qos={"prefetch_count": 0}, buffer_size=10**6).prefetch_count == 65535
    no_ack = options(qos={"prefetch_count": 0}, consume_options={"no_ack": True})
    assert (no_ack.prefetch_count, no_ack.intake_limit) == (0, 1000)


def test_nothing_shows_the_password() -> None:
    """
    The repr of options has no credentials.
    """
    for connection in ("amqp://me:swordfish@host", {"password": "swordfish", "ssl": {"password": "swordfish"}}):
        assert "swordfish" not in repr(options(connection=connection))
        assert "swordfish" not in repr(options(connection=connection).connection[0]) or isinstance(connection, str)


def test_typed_twins_are_taken() -> None:
    """
    A typed value is taken as it is.
    """
    assert options(connection=ConnectionOptions(host="h")).connection[0].host == "h"
    assert options(connection=pika.ConnectionParameters("h")).connection[0].host == "h"


def test_url() -> None:
    """
    A URL becomes what pika reads in it, with the name of the connection.
    """
    parameters = to_parameters("amqps://me:pw@broker:1234/vhost?heartbeat=7", "name")
    assert (parameters.host, parameters.port, parameters.virtual_host) == ("broker", 1234, "vhost")
    assert (parameters.credentials.username, parameters.credentials.password) == ("me", "pw")
    assert parameters.heartbeat == 7 and parameters.ssl_options is not None
    assert parameters.client_properties == {"connection_name": "name"}


def test_mapping() -> None:
    """
    A mapping becomes parameters, and leaves to pika what is not given.
    """
    given = {
        "host": "h", "virtual_host": "v", "username": "u", "password": "p", "heartbeat": 5, "connection_timeout": 3.0,
        "blocked_connection_timeout": 60, "channel_max": 8, "frame_max": 9000, "client_properties": {"a": "b"},
    }  # fmt: skip
    parameters = to_parameters(to_connection(given), "name")
    assert (parameters.host, parameters.port, parameters.virtual_host) == ("h", 5672, "v")
    assert (parameters.credentials.username, parameters.credentials.password) == ("u", "p")
    assert (parameters.heartbeat, parameters.socket_timeout, parameters.stack_timeout) == (5, 3.0, 3.0)
    assert (parameters.blocked_connection_timeout, parameters.channel_max, parameters.frame_max) == (60, 8, 9000)
    assert parameters.client_properties == {"connection_name": "name", "a": "b"}


def test_parameters_of_pika_are_not_changed() -> None:
    """
    The user's object stays as it is; a connection name of its own wins.
    """
    plain = pika.ConnectionParameters("h")
    assert to_parameters(plain, "name").client_properties == {"connection_name": "name"}
    assert plain.client_properties is None
    named = pika.ConnectionParameters("h", client_properties={"connection_name": "mine"})
    assert to_parameters(named, "name").client_properties == {"connection_name": "mine"}


def test_tls() -> None:
    """
    TLS is True, files, or a context; the port and the name that is checked follow.
    """
    assert to_parameters(to_connection({"host": "h"}), "n").ssl_options is None
    parameters = to_parameters(to_connection({"host": "h", "ssl": True}), "n")
    assert (parameters.port, parameters.ssl_options.server_hostname) == (5671, "h")
    assert parameters.ssl_options.context.verify_mode is ssl.CERT_REQUIRED
    files = {"server_hostname": "other", "check_hostname": False}
    parameters = to_parameters(to_connection({"host": "h", "ssl": files}), "n")
    assert parameters.ssl_options.server_hostname == "other"
    assert parameters.ssl_options.context.check_hostname is False
    context = ssl.create_default_context()
    parameters = to_parameters(to_connection({"host": "h", "port": 1, "ssl": context}), "n")
    assert parameters.port == 1 and parameters.ssl_options.context is context


def test_tls_files_are_read_at_connect() -> None:
    """
    Files that are not there are no mistake of the configuration: they may be by the time of the next attempt.
    """
    connection = to_connection({"host": "h", "ssl": {"cafile": "/nowhere/ca.pem"}})
    with pytest.raises(ConnectorError, match="cannot use /nowhere/ca.pem"):
        to_parameters(connection, "n")


def test_merge() -> None:
    """
    merge_options replaces what concerns the connection, for one producer, at each connect.
    """
    given = {**GOOD, "merge_options": lambda index: {"queue": f"q{index}", "qos": {"prefetch_count": 7}}}
    merged = merge(options(**given), given, 3)
    assert (merged.queue, merged.prefetch_count, merged.on_failure) == ("q3", 7, "reject")


@pytest.mark.parametrize(
    "returned, text",
    [
        (None, "expected it to return a mapping, got: None"),
        ({"on_failure": "ack"}, "returned 'on_failure', it may return: queue, connection, name, "),
    ],
)
def test_merge_with_a_mistake(returned: Any, text: str) -> None:
    """
    What merge_options must not return is said.
    """
    given = {**GOOD, "merge_options": lambda index: returned}
    with pytest.raises(ConfigurationError) as caught:
        merge(options(**given), given, 0)
    assert text in str(caught.value)


def test_merged_options_are_checked() -> None:
    """
    A mistake in what merge_options returns is found as any other.
    """
    given = {**GOOD, "merge_options": lambda index: {"queue": 5}}
    with pytest.raises(ConfigurationError, match="producer.module.queue: expected a str, got: 5"):
        merge(options(**given), given, 0)


def test_without_pika(make_pipeline: Any, monkeypatch: Any) -> None:
    """
    A missing client library is a mistake of the configuration, and the text says how to get it.
    """
    monkeypatch.setitem(sys.modules, "pika", None)
    expected = (
        "producer.module: RabbitMQProducer needs pika, which is not installed: pip install broadway_sync[rabbitmq]"
    )
    assert refusal(make_pipeline, GOOD) == expected
    assert refusal(make_pipeline, {**GOOD, "connection": "amqp://host"}) == expected


def test_nothing_is_opened(make_pipeline: Any) -> None:
    """
    The constructor connects to nothing.
    """
    make_pipeline(producer={"module": (RabbitMQProducer, {**GOOD, "connection": {"host": "no.such.host.invalid"}})})
    PikaClient().check(options(connection="amqp://no.such.host.invalid"))
