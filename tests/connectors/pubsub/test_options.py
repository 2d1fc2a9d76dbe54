"""
The options of PubSubProducer.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from broadway_sync import ConfigurationError, Pipeline
from broadway_sync.connectors.pubsub import PubSubProducer
from broadway_sync.connectors.pubsub.options import PubSubOptions
from broadway_sync.masking import mask_module
from tests.helpers import make_handler, unique_name

NAME = "projects/acme/subscriptions/orders"
SUBSCRIPTION = '"projects/<project>/subscriptions/<subscription>"'
OUTCOME = '"ack", "noop", "nack" or ("nack", seconds), an int from 0 to 600'


def check(**options: Any) -> Any:
    """
    Have the constructor of a pipeline check *options*.
    """
    module = (PubSubProducer, {"subscription": NAME, **options})
    return Pipeline(make_handler(), name=unique_name(), producer={"module": module}, processors={"default": {}})


def test_defaults() -> None:
    """
    Broadway's, in seconds.
    """
    options = PubSubOptions(subscription=NAME)
    assert (options.max_number_of_messages, options.receive_interval, options.receive_timeout) == (10, 5.0, None)
    assert (options.on_success, options.on_failure, options.max_lease) == ("ack", "noop", 3600.0)
    assert (options.credentials, options.base_url, options.client_options) == (None, None, {})


@pytest.mark.parametrize(
    "options",
    [
        {"subscription": "projects/example.com:acme/subscriptions/a-b_c.d~e+f%g"},
        {"max_number_of_messages": 1},
        {"max_number_of_messages": 1000},
        {"on_success": "noop", "on_failure": ("nack", 0)},
        {"on_success": "nack", "on_failure": ("nack", 600)},
        {"receive_timeout": math.inf},
        {"receive_timeout": 12.5},
        {"credentials": "/run/secrets/account.json"},
        {"base_url": "https://europe-west1-pubsub.googleapis.com"},
        {"base_url": "europe-west1-pubsub.googleapis.com:443"},
        {"client_options": {"quota_project_id": "acme"}},
    ],
)
def test_valid(options: Any) -> None:
    """
    The constructor takes it, and connects to nothing.
    """
    check(**options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"subscription": "orders"},
            "subscription: expected \"projects/<project>/subscriptions/<subscription>\", got: 'orders'",
        ),
        (
            {"subscription": "projects/acme/topics/orders"},
            "subscription: expected {SUBSCRIPTION}, got: 'projects/acme/topics/orders'",
        ),
        (
            {"subscription": NAME + "\n"},
            "subscription: expected {SUBSCRIPTION}, got: 'projects/acme/subscriptions/orders\\n'",
        ),
        (
            {"subscription": "projects/acme/subscriptions/ab"},
            "subscription: expected {SUBSCRIPTION}, got: 'projects/acme/subscriptions/ab'",
        ),
        ({"max_number_of_messages": 0}, "max_number_of_messages: expected an int from 1 to 1000, got: 0"),
        ({"max_number_of_messages": 1001}, "max_number_of_messages: expected an int from 1 to 1000, got: 1001"),
        (
            {"on_failure": ("nack", 601)},
            "on_failure: expected {OUTCOME}, got: ('nack', 601)",
        ),
        (
            {"on_success": "reject"},
            "on_success: expected {OUTCOME}, got: 'reject'",
        ),
        ({"receive_timeout": 0}, "receive_timeout: expected a number of seconds > 0, or None, got: 0"),
        ({"receive_timeout": True}, "receive_timeout: expected a number of seconds > 0, or None, got: True"),
        ({"receive_interval": -1}, "receive_interval: expected a finite number of seconds >= 0, got: -1"),
        ({"max_lease": 0}, "max_lease: expected a finite number of seconds > 0, got: 0"),
        (
            {"credentials": ""},
            "credentials: expected credentials of google.auth, or the path of a service account file, got: '******'",
        ),
        (
            {"credentials": 5},
            "credentials: expected credentials of google.auth, or the path of a service account file, got: '******'",
        ),
        (
            {"base_url": "http://localhost:8085"},
            "base_url: expected https://<host> or <host>:<port>, got: 'http://localhost:8085'",
        ),
        ({"base_url": "https://"}, "base_url: expected https://<host> or <host>:<port>, got: 'https://'"),
        ({"client_options": {1: 2}}, "client_options: expected a mapping of str, got: {1: 2}"),
        (
            {"base_url": "a.b", "client_options": {"api_endpoint": "c.d"}},
            "base_url: client_options has an api_endpoint already, give one of them",
        ),
        (
            {"credentials": "a.json", "client_options": {"credentials_file": "b.json"}},
            "credentials: client_options has a credentials_file or an api_key already, give one of them",
        ),
    ],
)
def test_invalid(options: Any, text: str) -> None:
    """
    The constructor of the pipeline says which option is wrong, and how it should be.
    """
    with pytest.raises(ConfigurationError) as caught:
        check(**options)
    expected = text.replace("{SUBSCRIPTION}", SUBSCRIPTION).replace("{OUTCOME}", OUTCOME)
    assert str(caught.value) == f"producer.module.{expected}"


def test_client_options_that_the_library_does_not_know() -> None:
    """
    The constructor says so, and shows no value.
    """
    pytest.importorskip("google.cloud.pubsub_v1")
    with pytest.raises(ConfigurationError) as caught:
        check(client_options={"quota_project": "hunter2"})
    assert str(caught.value) == (
        "producer.module.client_options: the client library refuses it: "
        "ClientOptions does not accept an option 'quota_project'"
    )


def test_subscription_is_required() -> None:
    """
    There is no default for it.
    """
    with pytest.raises(ConfigurationError) as caught:
        Pipeline(make_handler(), name=unique_name(), producer={"module": (PubSubProducer, {})}, processors={"a": {}})
    assert str(caught.value) == (
        'producer.module.subscription: required, the subscription, as "projects/<project>/subscriptions/<subscription>"'
    )


def test_unknown_option() -> None:
    """
    The text lists the valid ones.
    """
    with pytest.raises(ConfigurationError, match=r"max_messages: unknown option, valid options are: .*subscription"):
        check(max_messages=5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {}),
        ({"base_url": "https://a.b/"}, {"api_endpoint": "a.b"}),
        ({"base_url": "a.b:443", "client_options": {"scopes": ["x"]}}, {"api_endpoint": "a.b:443", "scopes": ["x"]}),
    ],
)
def test_endpoint(options: Any, expected: Any) -> None:
    """
    gRPC wants a host, not a URL.
    """
    assert PubSubOptions(subscription=NAME, **options).endpoint_options == expected


def test_credentials_are_not_shown() -> None:
    """
    The masked options, which telemetry shows, have them neither as an object nor in the options of the client.
    """
    credentials = type("Credentials", (), {"before_request": len, "__repr__": lambda self: "hunter2"})()
    module = (PubSubProducer, {"subscription": NAME, "credentials": credentials})
    assert "hunter2" not in repr(mask_module(module))
    module = (PubSubProducer, {"subscription": NAME, "client_options": {"api_key": "hunter2"}})
    assert "hunter2" not in repr(mask_module(module))


@pytest.mark.parametrize(
    "options",
    [
        {"client_options": {"api_key": "hunter2"}},
        {"credentials": type("Credentials", (), {"before_request": len, "__repr__": lambda self: "hunter2"})()},
    ],
    ids=["api_key", "credentials"],
)
def test_repr_of_the_options_has_no_credentials(options: Any) -> None:
    """
    Tools that report errors show the variables of each frame.
    """
    text = repr(PubSubOptions(subscription=NAME, **options))
    assert NAME in text
    assert "hunter2" not in text


def test_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    The error names the extra.
    """
    monkeypatch.setattr("broadway_sync.connectors.pubsub.producer.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError) as caught:
        check()
    assert str(caught.value) == (
        "PubSubProducer needs google-cloud-pubsub, which is not installed: pip install 'broadway_sync[pubsub]'"
    )
