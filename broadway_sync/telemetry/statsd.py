"""
Metrics to a statsd daemon, with the client library of that name; needs ``pip install 'broadway_sync[statsd]'``.
"""

from __future__ import annotations

import os
import socket
from functools import partial
from time import monotonic
from typing import Any, Dict, Mapping, Optional, Set

from ..extras import load
from ..rules import is_int
from .metrics import HISTOGRAM, SECONDS, Labels, Metric
from .reporting.aggregates import MOST_SERIES, Key, Samples
from .reporting.listener import Values
from .reporting.names import clean
from .reporting.push import PushReporter, check

# Style of tags: what stands before them, between name and value, and between two of them.
_TAGS = {"datadog": ("|#", ":", ","), "influx": (",", "=", ","), "graphite": (";", "=", ";")}

RESOLVE_INTERVAL = 60.0
"""Seconds after which the host's name is looked up again: servers move."""

RETRY_INTERVAL = 5.0
"""Seconds between two attempts to look up a name that is not known."""


class StatsdReporter(PushReporter):
    """
    Reports the metrics of all pipelines of this process to statsd, by UDP.

    Names are dotted, ``broadway.<pipeline>.<stage>.<metric>.<other labels>``, or short with tags. Times are timers in
    milliseconds, sizes and ratios are timers too: the server makes percentiles of them. Names of counters and gauges in
    seconds end in ``_seconds``. All names are made of ASCII letters, digits, ``_`` and ``-``.

    A server that is down, or a name that cannot be resolved, costs the pipelines nothing and loses what is reported
    meanwhile. Thread-safe.

    Args:
        host: Name or address; it is resolved on the reporter's thread, again every minute.
        port: UDP port.
        prefix: First part of every name; may have dots; ``""`` for none. ``{host}`` and ``{pid}`` in it stand for the
            name of the machine and the id of the process: the server keeps one gauge of a name, so processes that run
            the same pipeline should differ.
        tags: None for dotted names, or how to write tags: ``"datadog"``, ``"influx"`` or ``"graphite"``.
        constant_tags: Tags of every metric, such as ``{"env": "production", "worker": "{pid}"}``; with *tags* only.
        interval: Seconds between two reports of gauges.
        flush_interval: Seconds between two reports of counters and times.
        max_packet: Bytes of one UDP packet. 1432 fits into a packet of most networks; 512 into any.
        per_message: Whether to listen to the events of each message too, for ``message_duration``; they cost more than
            all the others.
        per_thread: Whether each thread is a stage of its own: ``processor_default_0``.

    Raises:
        ConfigurationError: An argument is wrong, or the package ``statsd`` is missing.
    """

    name = "statsd"

    def __init__(
        self,
        host: str = "localhost",
        port: int = 8125,
        prefix: str = "broadway",
        *,
        tags: Optional[str] = None,
        constant_tags: Optional[Mapping[str, str]] = None,
        interval: float = 10.0,
        flush_interval: float = 1.0,
        max_packet: int = 1432,
        per_message: bool = False,
        per_thread: bool = False,
    ) -> None:
        styles, none = ", ".join(map(repr, _TAGS)), constant_tags is None
        check("host", host, isinstance(host, str) and bool(host), "a non-empty str")
        check("port", port, is_int(port, 1) and port < 65536, "an int from 1 to 65535")
        check("prefix", prefix, isinstance(prefix, str), "a str")
        check("tags", tags, tags is None or tags in list(_TAGS), f"None, or one of {styles}")
        check("constant_tags", constant_tags, none or isinstance(constant_tags, Mapping), "None or a mapping")
        check("constant_tags", constant_tags, none or tags is not None, "None, as there is no style of tags")
        check("max_packet", max_packet, is_int(max_packet, 64) and max_packet <= 65507, "an int from 64 to 65507")
        super().__init__(
            flush_interval=flush_interval, interval=interval, per_message=per_message, per_thread=per_thread
        )
        self._make_client = _client_class()
        self._host, self._port, self._max_packet = host, port, max_packet
        self._prefix = prefix
        self._style = tags
        self._constant_tags = dict(constant_tags or {})
        self._names: Dict[Key, str] = {}
        self.dropped = 0
        """Counts and times that were not sent because the name of the server could not be resolved."""
        # Of the reporter's thread:
        self._client: Any = None
        self._renew_at = 0.0
        self._reason = ""  # why the last look-up of the name failed
        self._told: Set[Key] = set()  # the gauges of the last report

    # On the reporter's thread.

    def _send(self, counters: Dict[Key, float], samples: Dict[Key, Samples]) -> None:
        try:
            packets = self._packets()
        except OSError:
            self.dropped += len(counters) + sum(each.seen for each in samples.values())
            raise
        for key, amount in counters.items():
            packets.incr(self._name(key), _Plain(amount))
        for key, each in samples.items():
            factor = 1000.0 if key[0].unit == SECONDS else 1.0
            for value in each.values:
                packets.timing(self._name(key), value * factor)
        packets.send()

    def _send_gauges(self, values: Values) -> None:
        packets = self._packets()
        present: Set[Key] = set()
        for metric, labels, value in values:
            present.add((metric, labels))
            packets.gauge(self._name((metric, labels)), _Plain(value))
        for key in self._told - present:  # else the server would go on with the last value
            packets.gauge(self._name(key), 0)
        self._told = present
        packets.send()

    def _close(self) -> None:
        client, self._client = self._client, None
        self._renew_at, self._told = 0.0, set()
        if client is not None:
            client.close()

    def after_fork_in_child(self) -> None:
        """
        Also leave the parent's socket to the parent.
        """
        super().after_fork_in_child()
        self.dropped = 0
        self._names = {}
        self._close()

    def _packets(self) -> Any:
        """
        Return what collects lines into packets.

        Raises:
            OSError: The server's name has not been resolved yet.
        """
        if monotonic() >= self._renew_at:
            self._renew()
        if self._client is None:
            raise OSError(f"the statsd server {self._host!r} cannot be resolved: {self._reason}")
        return self._client.pipeline()

    def _renew(self) -> None:
        """
        Make a client: it resolves the name once, when it is made. Without success the one that is there goes on.
        """
        try:
            client = self._resolve()
        except (OSError, UnicodeError) as error:  # UnicodeError: no name at all
            self._renew_at, self._reason = monotonic() + RETRY_INTERVAL, str(error)
            return
        if self._client is not None:
            self._client.close()
        self._client, self._renew_at = client, monotonic() + RESOLVE_INTERVAL

    def _resolve(self) -> Any:
        make = partial(self._make_client, self._host, self._port, maxudpsize=self._max_packet)
        try:
            return make(ipv6=":" in self._host)
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:  # no server of names: asking for something else takes as long again
                raise
        return make(ipv6=True)  # the library does not look for one address or the other

    # Names.

    def _name(self, key: Key) -> str:
        name = self._names.get(key)
        if name is None:
            if len(self._names) > MOST_SERIES:
                self._names.clear()
            name = self._names[key] = self._make_name(*key)
        return name

    def _make_name(self, metric: Metric, values: Labels) -> str:
        name = metric.name if metric.unit != SECONDS or metric.kind == HISTOGRAM else f"{metric.name}_seconds"
        prefix = [clean(_expand(part)) for part in self._prefix.split(".") if part]
        if self._style is None:
            cleaned = [clean(value) for value in values]
            place = cleaned[: 2 if "stage" in metric.labels else 1]
            return ".".join([*prefix, *place, name, *cleaned[len(place) :]])
        constant = {str(name): _expand(str(value)) for name, value in self._constant_tags.items()}
        tags = {**constant, **dict(zip(metric.labels, values))}
        first, between, separator = _TAGS[self._style]
        listed = separator.join(f"{clean(tag)}{between}{clean(value)}" for tag, value in tags.items())
        return ".".join([*prefix, name]) + first + listed


def _expand(text: str) -> str:
    return text.replace("{host}", socket.gethostname()).replace("{pid}", str(os.getpid()))


class _Plain(float):
    """
    A number that is written without an exponent, which not every server reads.
    """

    def __str__(self) -> str:
        return f"{float(self):.6f}".rstrip("0").rstrip(".")


def _client_class() -> Any:
    """
    Return the library's client, taught to write tags behind the value, as DogStatsD has them.

    Raises:
        ConfigurationError: It is not installed.
    """
    library = load("statsd.client.udp", "statsd", "StatsdReporter")

    class Packets(library.Pipeline):  # type: ignore[misc, name-defined]
        def _prepare(self, stat: str, value: str, rate: float) -> str:
            name, mark, tags = stat.partition("|#")
            return f"{super()._prepare(name, value, rate)}{mark}{tags}"

    class Client(library.StatsClient):  # type: ignore[misc, name-defined]
        def pipeline(self) -> Any:
            return Packets(self)

    return Client
