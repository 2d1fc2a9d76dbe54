"""
The options of all connectors: what is of a wrong type is refused by the constructor of the pipeline, by name.
"""

from __future__ import annotations

import importlib
from typing import Any, Dict, Iterator, Tuple

import attrs
import pytest

from broadway_sync import ConfigurationError, Pipeline
from broadway_sync.connectors import load
from broadway_sync.connectors.common.options import BackoffOptions, build
from tests.helpers import make_handler, unique_name

REQUIRED: Dict[str, Dict[str, Any]] = {
    "rabbitmq": {"queue": "q", "on_failure": "reject"},
    "kafka": {"hosts": "localhost:9092", "group_id": "group", "topics": ["topic"]},
    "sqs": {"queue_url": "https://sqs.eu-west-1.amazonaws.com/123456789012/invoices"},
    "pubsub": {"subscription": "projects/acme/subscriptions/invoices"},
}
GROUPS = {
    "rabbitmq": {
        "qos": "options.QosOptions",
        "declare": "options.DeclareOptions",
        "consume_options": "options.ConsumeOptions",
        "connection": "address.ConnectionOptions",
    },
    "kafka": {
        "group_config": "options.GroupConfig",
        "fetch_config": "options.FetchConfig",
        "client_config": "options.ClientConfig",
    },
    "sqs": {"config": "options.SQSConfig"},
    "pubsub": {},
}
CLASSES = {"rabbitmq": "RabbitMQOptions", "kafka": "KafkaOptions", "sqs": "SQSOptions", "pubsub": "PubSubOptions"}


def options_of() -> Iterator[Tuple[str, str]]:
    """
    Yield each connector and each of its options, by path.
    """
    for connector, cls in CLASSES.items():
        for name in _names(connector, f"options.{cls}"):
            yield connector, name
        for group, where in GROUPS[connector].items():
            for name in _names(connector, where):
                yield connector, f"{group}.{name}"


def _names(connector: str, where: str) -> Iterator[str]:
    module, _, cls = where.partition(".")
    found = importlib.import_module(f"broadway_sync.connectors.{connector}.{module}")
    return (field.name for field in attrs.fields(getattr(found, cls)))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (1.0, 30.0)),
        ({"backoff_min": 60}, (60, 60)),
        ({"backoff_min": 0}, (0, 30.0)),
        ({"backoff_max": 0.5}, (0.5, 0.5)),
        ({"backoff_max": 20}, (1.0, 20)),
        ({"backoff_min": 2, "backoff_max": 3}, (2, 3)),
    ],
)
def test_backoff(given: Dict[str, Any], expected: Any) -> None:
    """
    One bound moves the default of the other.
    """
    options = build(BackoffOptions, given)
    assert (options.backoff_min, options.backoff_max) == expected


def refusal(connector: str, given: Dict[str, Any]) -> str:
    """
    Return what the constructor of a pipeline says.
    """
    module = (load(connector), {**REQUIRED[connector], **given})
    with pytest.raises(ConfigurationError) as caught:
        Pipeline(make_handler(), name=unique_name(), producer={"module": module}, processors={"default": {}})
    return str(caught.value)


@pytest.mark.parametrize("value", [object(), [[]], b"bytes", float("nan")], ids=["object", "list", "bytes", "nan"])
@pytest.mark.parametrize(("connector", "path"), list(options_of()))
def test_wrong_types(connector: str, path: str, value: Any) -> None:
    """
    Each option says so itself, before anything is opened.
    """
    group, _, name = path.rpartition(".")
    said = refusal(connector, {group: {name: value}} if group else {path: value})
    assert said.startswith(f"producer.module.{path}")
