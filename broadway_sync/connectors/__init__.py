"""
Connectors: producers for message brokers, and how those of other packages are found.

Four come with the library: ``broadway_sync.connectors.rabbitmq``, ``.kafka``, ``.sqs`` and ``.pubsub``. Packages of
others, by convention named ``off_broadway_<broker>``, announce theirs in the entry-point group
``broadway_sync.connectors``::

    [options.entry_points]
    broadway_sync.connectors =
        spool = off_broadway_spool:SpoolProducer

Importing this package imports neither a connector nor a client library.
"""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any, Dict, Iterator, List, Tuple, Type

import attrs

from ..errors import BroadwayError, ConfigurationError, ConnectorError
from ..producer import Producer

__all__ = ["available", "load"]

GROUP = "broadway_sync.connectors"
"""The entry-point group."""

_OWN = {
    "rabbitmq": "broadway_sync.connectors.rabbitmq:RabbitMQProducer",
    "kafka": "broadway_sync.connectors.kafka:KafkaProducer",
    "sqs": "broadway_sync.connectors.sqs:SQSProducer",
    "pubsub": "broadway_sync.connectors.pubsub:PubSubProducer",
}


@attrs.frozen
class _Entry:
    """
    One connector that a distribution announces; ``value`` is ``module:class``.
    """

    name: str
    value: str
    distribution: str

    @property
    def source(self) -> str:
        return f"{self.value} ({self.distribution})"


def available() -> Dict[str, str]:
    """
    Return the names of all connectors that are installed, sorted, and where each comes from.

    Nothing is imported: whether a connector's client library is there shows when it is loaded. A name that several
    packages give has all of them, joined by ``" and "``.

    Returns:
        For example ``"spool"`` to ``"off_broadway_spool:SpoolProducer (off_broadway_spool 1.0)"``.
    """
    return {name: " and ".join(entry.source for entry in entries) for name, entries in sorted(_find().items())}


def load(name: str) -> Type[Producer]:
    """
    Import a connector and return its producer, for ``producer={"module": (load("spool"), {...})}``.

    Raises:
        ConfigurationError: No package gives that name (the text lists the valid ones), or several do.
        ConnectorError: The package cannot be imported, ``__cause__`` says why, or what it announces is no Producer.
    """
    entries = _find()
    if name not in entries:
        raise ConfigurationError(f"unknown connector {name!r}, installed are: {', '.join(sorted(entries))}")
    if len(entries[name]) > 1:
        sources = " and ".join(entry.source for entry in entries[name])
        raise ConfigurationError(f"connector {name!r} is given by several packages, uninstall all but one: {sources}")
    return _import(entries[name][0])


def _import(entry: _Entry) -> Type[Producer]:
    module, _, attribute = entry.value.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except BroadwayError:  # a connector that says itself what is missing
        raise
    except Exception as error:  # code of others, at import: anything may come
        what = f"connector {entry.name!r} cannot be imported from {entry.source}"
        raise ConnectorError(f"{what}: {type(error).__name__}: {error}") from error
    if not (inspect.isclass(found) and issubclass(found, Producer)):
        what = f"connector {entry.name!r} from {entry.source}"
        raise ConnectorError(f"{what}: expected a subclass of broadway_sync.Producer, got: {found!r}")
    return found


def _find() -> Dict[str, List[_Entry]]:
    """
    Return the entries by name: one, or those that contradict each other.
    """
    found: Dict[str, List[_Entry]] = {}
    # The library's own are known without metadata: it also works from a source tree.
    own = [_Entry(name, value, "broadway_sync") for name, value in _OWN.items()]
    for entry in [*own, *_announced()]:
        entries = found.setdefault(entry.name, [])
        # The same class twice is no contradiction: a distribution that is found in two folders of sys.path.
        if all(known.value != entry.value for known in entries):
            entries.append(entry)
    return found


def _announced() -> Iterator[_Entry]:
    """
    Yield what the installed distributions announce, in the order of ``sys.path``.

    By way of the distributions: ``entry_points()`` takes a group from Python 3.10 on only, returns a dict before 3.12
    and none since, and an entry point knows its distribution from 3.10 on.
    """
    from importlib import metadata  # late: the one costly import here

    seen = set()
    for distribution in metadata.distributions():
        points = [(point.name, point.value) for point in distribution.entry_points if point.group == GROUP]
        if not points:
            continue
        name, version = _identify(distribution)
        if _normalize(name) in seen:  # another version of it stands earlier in sys.path: that is what is imported
            continue
        if name:
            seen.add(_normalize(name))
        for point_name, value in points:
            # "module:class [extra]": which extras it needs is for its installation, not for its import
            yield _Entry(point_name, value.split("[")[0].replace(" ", ""), f"{name or 'unnamed'} {version}".strip())


def _identify(distribution: Any) -> Tuple[str, str]:
    """
    Return name and version, empty for a distribution that was removed by halves.
    """
    fields = distribution.metadata or {}
    return fields.get("Name") or "", fields.get("Version") or ""


def _normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
