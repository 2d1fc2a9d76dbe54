"""
From events to sums. Everything here runs on the thread that emits: it looks at lengths and adds.
"""

from __future__ import annotations

from time import monotonic
from typing import Any, Callable, Dict, Iterable, List, Mapping, Set, Tuple

from ...connectors.common import events as connectors
from ...message import Message
from .. import events, metrics
from ..metrics import Labels, Metric
from ..registry import Event
from .aggregates import Aggregates

Data = Mapping[str, Any]
Values = List[Tuple[Metric, Labels, float]]

MOST_REASONS = 50
"""Different reasons of failures of one pipeline; the rest of them is ``"other"``."""

OTHER = "other"

LAG_SECONDS = 60.0
"""How long a lag holds that is not told again: a consumer that was expelled hears nothing more of its partitions."""


class Listener:
    """
    What is attached to the events, and what the last ones said about connections and lags. Thread-safe.

    Args:
        per_message: Whether to listen to the events of each message.
        per_thread: Whether each thread of a stage is a stage of its own.
    """

    def __init__(self, aggregates: Aggregates, *, per_message: bool, per_thread: bool) -> None:
        self._aggregates = aggregates
        self._per_thread = per_thread
        self._on: Dict[Event, Callable[[Data, Data], None]] = {
            events.TOPOLOGY_INIT: self._topology_init,
            (*events.PROCESSOR, "start"): self._processor_start,
            (*events.PROCESSOR, "stop"): self._processor_stop,
            events.BATCHER_REJECT: self._batcher_reject,
            (*events.BATCH_PROCESSOR, "stop"): self._batch_processor_stop,
            (*events.HANDLE_FAILED, "exception"): self._counter(metrics.HANDLE_FAILED_ERRORS),
            (*events.RETRY, "attempt"): self._counter(metrics.RETRIES, "callback"),
            (*events.RETRY, "gave_up"): self._counter(metrics.RETRIES_GAVE_UP, "callback"),
            (*events.DEAD_LETTER, "stop"): self._dead_letters,
            (*events.DEAD_LETTER, "exception"): self._dead_letters_left,
            events.PRODUCER_RESTART: self._counter(metrics.PRODUCER_RESTARTS),
            events.TOPOLOGY_RESTART: self._counter(metrics.TOPOLOGY_RESTARTS),
            (*connectors.RECEIVE, "stop"): self._received,
            (*connectors.RECEIVE, "exception"): self._counter(metrics.RECEIVE_ERRORS, "connector"),
            (*connectors.CONNECT, "exception"): self._counter(metrics.CONNECT_ERRORS, "connector"),
            (*connectors.ACKNOWLEDGE, "stop"): self._broker_acknowledged,
            (*connectors.ACKNOWLEDGE, "exception"): self._broker_refused,
            (*connectors.ASSIGNMENTS_REVOKED, "stop"): self._revoked,
            (*connectors.ASSIGNMENTS_REVOKED, "exception"): self._revoked,
            connectors.LEASE_LOST: self._lease_lost,
            connectors.CONNECTION_UP: self._connection_up,
            connectors.CONNECTION_DOWN: self._connection_down,
            connectors.CONSUMER_LAG: self._consumer_lag,
        }
        if per_message:
            self._on[(*events.MESSAGE, "stop")] = self._on[(*events.MESSAGE, "exception")] = self._message_stop
        self._batch_sizes: Dict[Tuple[str, str], float] = {}
        self._reasons: Dict[str, Set[str]] = {}
        # When processors began what they have in hand, by pipeline and thread; of one thread each.
        self._begun: Dict[Tuple[str, str], float] = {}
        # Changed one item at a time, and read as copies: no lock. The producer's thread name is the last part of
        # the key, so that one that is made again is the same one.
        self._connections: Dict[Tuple[str, str, str], bool] = {}
        self._lags: Dict[Tuple[str, str, str], Tuple[float, float]] = {}  # and when it was told

    @property
    def events(self) -> List[Event]:
        """
        What to attach to.
        """
        return list(self._on)

    def __call__(self, event: Event, measurements: Data, metadata: Data, config: Any) -> None:
        """
        Hear an event.
        """
        self._on[event](measurements, metadata)

    def stage(self, kind: str, key: Any, index: Any) -> str:
        """
        Return the label of a stage: its kind and key, such as ``"processor_default"``.
        """
        parts = [kind, key, index if self._per_thread else None]
        return "_".join(str(part) for part in parts if part is not None)

    def knows(self, name: str, options: Any) -> None:
        """
        Take note of what a pipeline's options say about its batches.
        """
        for key, batcher in options.batchers.items():
            if isinstance(batcher.batch_size, int):
                self._batch_sizes[name, key] = batcher.batch_size
            else:
                self._batch_sizes.pop((name, key), None)

    def gauges(self, running: Iterable[str]) -> Values:
        """
        Return what the last events said about the pipelines that are *running*; forget the others.
        """
        oldest = monotonic() - LAG_SECONDS
        self._forget_ended({key[0] for key in [*self._connections, *self._lags]}.difference(running))
        lags = [(key, lag) for key, (lag, told_at) in list(self._lags.items()) if told_at >= oldest]
        values: Values = [(metrics.CONSUMER_LAG, key, lag) for key, lag in lags]
        counts: Dict[Tuple[str, str], List[int]] = {}
        for (pipeline, connector, _), is_up in list(self._connections.items()):
            counts.setdefault((pipeline, connector), [0, 0])[is_up] += 1
        for labels, (down, up) in counts.items():
            values += [(metrics.CONNECTIONS_UP, labels, up), (metrics.CONNECTIONS_DOWN, labels, down)]
        return values

    def busy_for(self, pipeline: str, processor: str) -> float:
        """
        Return for how many seconds a processor has worked on what it has in hand.

        Unlike its statistics without the time for which it waits until a batcher has room: then it has nothing to do.
        """
        begun = self._begun.get((pipeline, processor))
        return 0.0 if begun is None else max(0.0, monotonic() - begun)

    def forget(self) -> None:
        """
        In a forked child: what was heard is the parent's.
        """
        self._connections, self._lags, self._reasons, self._begun = {}, {}, {}, {}

    # What stages say.

    def _topology_init(self, measurements: Data, metadata: Data) -> None:
        self._forget_ended([metadata["name"]])  # it may have fewer producers than the last time
        self.knows(metadata["name"], metadata["config"])

    def _forget_ended(self, pipelines: Iterable[str]) -> None:
        for known in (self._connections, self._lags):
            for key in list(known):
                if key[0] in pipelines:
                    known.pop(key, None)

    def _processor_start(self, measurements: Data, metadata: Data) -> None:
        labels = self._processor(metadata)
        self._begun[labels[0], metadata["name"]] = measurements["monotonic_time"] / 1e9
        self._aggregates.add([(metrics.INGESTED, labels, len(metadata["messages"]))], [])

    def _processor_stop(self, measurements: Data, metadata: Data) -> None:
        labels = self._processor(metadata)
        self._begun.pop((labels[0], metadata["name"]), None)
        seconds = measurements["duration"] / 1e9
        counts: Values = [(metrics.BUSY_TIME, labels, seconds)]
        self._outcome(counts, labels, metadata["successful_messages_to_ack"], metadata["failed_messages"])
        self._aggregates.add(counts, [(metrics.PROCESSOR_DURATION, labels, seconds)])

    def _message_stop(self, measurements: Data, metadata: Data) -> None:
        seconds = measurements["duration"] / 1e9
        self._aggregates.add([], [(metrics.MESSAGE_DURATION, self._processor(metadata), seconds)])

    def _batcher_reject(self, measurements: Data, metadata: Data) -> None:
        labels = (metadata["topology_name"], self.stage("batcher", metadata["batcher_key"], None))
        counts: Values = []
        self._outcome(counts, labels, [], metadata["failed_messages"])
        self._aggregates.add(counts, [])

    def _batch_processor_stop(self, measurements: Data, metadata: Data) -> None:
        info, pipeline = metadata["batch_info"], metadata["topology_name"]
        labels = (pipeline, self.stage("batch_processor", info.batcher, metadata["index"]))
        seconds = measurements["duration"] / 1e9
        counts: Values = [
            (metrics.BATCHES, (*labels, info.trigger), 1),
            (metrics.BUSY_TIME, labels, seconds),
        ]
        values: Values = [(metrics.BATCH_DURATION, labels, seconds), (metrics.BATCH_SIZE, labels, info.size)]
        limit = self._batch_sizes.get((pipeline, info.batcher))
        if limit is not None:
            values.append((metrics.BATCH_FILL, labels, min(1.0, info.size / limit)))
        self._outcome(counts, labels, metadata["successful_messages"], metadata["failed_messages"])
        self._aggregates.add(counts, values)

    def _processor(self, metadata: Data) -> Labels:
        stage = self.stage("processor", metadata["processor_key"], metadata["index"])
        return metadata["topology_name"], stage

    def _outcome(self, counts: Values, labels: Labels, successful: List[Message], failed: List[Message]) -> None:
        if successful:
            counts.append((metrics.ACKNOWLEDGED, (*labels, "successful"), len(successful)))
        if failed:
            counts.append((metrics.ACKNOWLEDGED, (*labels, "failed"), len(failed)))
            for message in failed:
                counts.append((metrics.FAILED, (*labels, self._reason(labels[0], message)), 1))

    def _reason(self, pipeline: str, message: Message) -> str:
        """
        Return why a message failed, in few words of which there are few: never a text.
        """
        kind = type(message.reason)  # not isinstance(): that may run code of a reason that is anything
        reason = kind.__name__ if issubclass(kind, BaseException) else "failed"
        known = self._reasons.setdefault(pipeline, set())
        if reason not in known:
            if len(known) >= MOST_REASONS:
                return OTHER
            known.add(reason)
        return reason

    def _counter(self, metric: Metric, *labels: str) -> Callable[[Data, Data], None]:
        """
        Return a function that counts events.
        """

        def count(measurements: Data, metadata: Data) -> None:
            self._aggregates.add([(metric, _labels(metadata, *labels), 1)], [])

        return count

    def _dead_letters(self, measurements: Data, metadata: Data) -> None:
        self._count(metrics.DEAD_LETTERS, _labels(metadata), metadata["written"])

    def _dead_letters_left(self, measurements: Data, metadata: Data) -> None:
        self._count(metrics.DEAD_LETTERS, _labels(metadata), metadata["written"])
        self._count(metrics.DEAD_LETTER_ERRORS, _labels(metadata), 1)

    # What connectors say. Those of others may leave something out.

    def _received(self, measurements: Data, metadata: Data) -> None:
        self._count(metrics.RECEIVED, _labels(metadata, "connector"), metadata.get("count"))

    def _broker_acknowledged(self, measurements: Data, metadata: Data) -> None:
        labels = _labels(metadata, "connector", "action")
        refused = metadata.get("failed") or 0
        self._count(metrics.BROKER_ACKNOWLEDGED, labels, (metadata.get("count") or 0) - refused)
        self._count(metrics.BROKER_REFUSED, labels, refused)

    def _broker_refused(self, measurements: Data, metadata: Data) -> None:
        self._count(metrics.BROKER_REFUSED, _labels(metadata, "connector", "action"), metadata.get("count"))

    def _revoked(self, measurements: Data, metadata: Data) -> None:
        pipeline = _labels(metadata)[0]
        for topic, partition in metadata.get("partitions") or ():
            self._lags.pop((pipeline, str(topic), str(partition)), None)
        self._count(metrics.REVOKED_UNFINISHED, _labels(metadata, "connector"), metadata.get("unfinished"))

    def _lease_lost(self, measurements: Data, metadata: Data) -> None:
        self._count(metrics.LEASES_LOST, _labels(metadata, "connector"), measurements.get("count"))

    def _connection_up(self, measurements: Data, metadata: Data) -> None:
        self._connections[_connection(metadata)] = True

    def _connection_down(self, measurements: Data, metadata: Data) -> None:
        self._connections[_connection(metadata)] = False

    def _consumer_lag(self, measurements: Data, metadata: Data) -> None:
        pipeline, topic, partition = _labels(metadata, "topic", "partition")
        lag = measurements.get("lag")
        if lag is not None:
            self._lags[pipeline, topic, partition] = lag, monotonic()

    def _count(self, metric: Metric, labels: Labels, amount: Any) -> None:
        if amount:
            self._aggregates.add([(metric, labels, amount)], [])


def _labels(metadata: Data, *names: str) -> Labels:
    """
    Return the pipeline and the values of *names* as labels.
    """
    return tuple(str(metadata.get(name, "unknown")) for name in ("topology_name", *names))


def _connection(metadata: Data) -> Tuple[str, str, str]:
    pipeline, connector, name = _labels(metadata, "connector", "name")
    return pipeline, connector, name
