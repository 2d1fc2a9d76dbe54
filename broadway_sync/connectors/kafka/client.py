"""
The seam to kafka-python: the only module that imports it, and the only one that knows that 2.x and 3.x differ.

What differs, and is hidden here:

* Rebalance listeners run on the thread that polls (2.x) or on the client's I/O thread while ``poll`` blocks (3.x),
  where ``commit`` is an error; there the listener is a coroutine that awaits ``commit_async``.
* A listener that raises is logged (2.x), or makes every later ``poll`` raise (3.x): ours never raises.
* ``OffsetAndMetadata`` takes two fields (2.0), three (2.1 on), or three with defaults (3.x).
* A constructor that fails leaves its I/O thread behind (3.x): we make the network client, so that we can close it.
* ``commit`` and ``close`` take a timeout from 2.1 on.
* Partitions that were paused may rest for ever (3.0), see ``_unpark``.
* Neither says why it cannot connect, except to its log; both say the password there, at level DEBUG.
"""

from __future__ import annotations

import inspect
import logging
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Set, Type

from ...errors import ConfigurationError
from ...extras import import_codec_of_host_names
from .configuration import check, milliseconds, to_config
from .discretion import keep_secrets
from .failures import Ear, GroupError, NoPositionError, UnavailableError, translate
from .options import KafkaOptions
from .partitions import Key

__all__ = ["Client", "GroupError", "Listener", "NoPositionError", "UnavailableError", "check_options", "load"]

Points = Dict[Key, int]


class Listener(NamedTuple):
    """
    What happens in a rebalance. Called on the thread that polls, or on another one while that is in ``poll``.
    """

    revoked: Callable[[List[Key]], Iterator[Points]]
    """Yields offsets to commit; they are committed, or that has failed, when it is asked for the next ones."""
    assigned: Callable[[List[Key]], None]
    lost: Callable[[List[Key]], None]


class Client:
    """
    One ``KafkaConsumer``. Everything is called by the one thread that owns it, :meth:`seek` and :meth:`reset` by the
    listener too.
    """

    def __init__(self, options: KafkaOptions, name: str, index: int) -> None:
        """
        Import kafka-python; connect to nothing.

        Args:
            name: How this client introduces itself.
            index: Number of the producer, for the name of a static member.

        Raises:
            ConfigurationError: kafka-python is not installed, or does not know an option of ``client_config``.
            ConnectorError: User and password cannot be read from their file.
        """
        self._kafka = load()
        self._options = options
        self._commit_error: Optional[BaseException] = None
        self._listener_error: Optional[BaseException] = None
        known = self._kafka.KafkaConsumer.DEFAULT_CONFIG
        self._config = to_config(options, name, index, known, self._make_network)
        # 3.x has an I/O thread of its own.
        self._is_threaded = self._kafka.AsyncConsumerRebalanceListener is not None
        self._consumer: Any = None
        self._network: Any = None

    def connect(self, listener: Listener, is_over: Callable[[], bool]) -> None:
        """
        Reach a broker, and subscribe. Takes twice ``connect_timeout`` at most.

        Args:
            is_over: Whether to give up early.

        Raises:
            ConnectorError: No broker answered, or none accepted us; the text says why as far as that is known.
        """
        with Ear() as ear:
            try:
                self._consumer = self._kafka.KafkaConsumer(**self._config)
                self._wait_for_connection(is_over)
                self._consumer.subscribe(list(self._options.topics), listener=self._adapt(listener))
                self._wait_for_topics(is_over)
            except Exception as error:
                self.close(0)
                raise ear.explain(error, self._options.client_config.sasl is not None) from error

    def _wait_for_connection(self, is_over: Callable[[], bool]) -> None:
        """
        Wait until a broker has accepted us: 2.x is content with one that has told its version and not seen a password.
        """
        deadline = monotonic() + self._options.client_config.connect_timeout
        while not self.is_connected():
            if monotonic() >= deadline or is_over():
                raise UnavailableError(f"no broker accepts us at {', '.join(self._options.hosts)}")
            self._reach_out(0.05)

    def _reach_out(self, seconds: float) -> None:
        """
        Try to connect to the brokers that are known, a moment long.
        """
        if self._is_threaded:
            # Without a subscription it looks for the group's coordinator, and returns no records.
            self._consumer.poll(timeout_ms=milliseconds(seconds))
            return
        # poll() of some 2.x does not come back before it has found a broker.
        for broker in self._network.cluster.brokers():
            self._network.ready(_node_id(broker))
        self._network.poll(timeout_ms=milliseconds(seconds))

    def _wait_for_topics(self, is_over: Callable[[], bool]) -> None:
        """
        Wait a moment until the brokers have told of the topics: a member that joins before it knows them gets no
        partitions, or joins a second time when it does, and the whole group has to stop for it.
        """
        deadline = monotonic() + _METADATA_SECONDS
        while self.unknown_topics() and monotonic() < deadline and not is_over():
            if self._is_threaded:
                sleep(0.005)  # its I/O thread is at it, and offers nothing to wait on
            else:
                self._network.poll(timeout_ms=20)

    def poll(self, seconds: float, most: int) -> Mapping[Any, List[Any]]:
        """
        Return fetched records by partition; waits *seconds* at most. Runs the listener.

        Raises:
            NoPositionError, UnavailableError: See there.
            Exception: Whatever else the client raises.
        """
        self._unpark()
        try:
            records: Mapping[Any, List[Any]] = self._consumer.poll(timeout_ms=int(seconds * 1000), max_records=most)
        except Exception as error:
            raise translate(error) from error
        if self._listener_error is not None:
            raise self._listener_error
        return records

    def _unpark(self) -> None:
        """
        Let 3.0 hand out what it keeps of partitions that were paused.

        It does so only when it has no other records at hand, and counts those that are used up as records: a partition
        that is resumed could rest for ever.
        """
        fetcher: Any = getattr(self._consumer, "_fetcher", None)
        if getattr(fetcher, "_paused_partition_records", None) and not fetcher._next_partition_records:
            fetcher._next_partition_records = None

    def commit(self, points: Points, seconds: float) -> None:
        """
        Commit, and wait for that.

        Raises:
            GroupError, UnavailableError: See there.
            Exception: Whatever else the client raises.
        """
        if not points:
            return
        try:
            self._consumer.commit(self._to_offsets(points), **self._timeout(self._consumer.commit, seconds))
        except Exception as error:
            raise translate(error) from error

    def pause(self, keys: Set[Key]) -> None:
        """
        Fetch nothing from *keys* until :meth:`resume`; those that are not ours are passed over.
        """
        self._consumer.pause(*self._ours(keys))

    def resume(self, keys: Set[Key]) -> None:
        """
        Fetch from *keys* again; those that are not ours are passed over.
        """
        self._consumer.resume(*self._ours(keys))

    def paused(self) -> Set[Any]:
        """
        Return the partitions that are paused.
        """
        return set(self._consumer.paused())

    def assignment(self) -> Set[Any]:
        """
        Return the partitions that are ours.
        """
        return set(self._consumer.assignment() or ())

    def seek(self, key: Key, offset: int) -> None:
        """
        Go on at *offset*; does not block, nothing happens if the partition is not ours.
        """
        for partition in self._ours([key]):
            self._consumer.seek(partition, offset)

    def reset(self, keys: Iterable[Key]) -> None:
        """
        Go on where ``offset_reset_policy`` says; blocks if that is a time.

        Raises:
            UnavailableError: See there.
        """
        partitions, policy = self._ours(keys), self._options.offset_reset_policy
        if not partitions:
            return
        if policy == "earliest":
            self._consumer.seek_to_beginning(*partitions)
        elif policy == "latest":
            self._consumer.seek_to_end(*partitions)
        else:
            self._reset_to_time(partitions, policy)

    def highwater(self, key: Key) -> Optional[int]:
        """
        Return the offset of the next record that will be written, as the last fetch told; None if not known.
        """
        for partition in self._ours([key]):
            offset: Optional[int] = self._consumer.highwater(partition)
            return offset
        return None

    def position(self, key: Key) -> Optional[int]:
        """
        Return the offset to fetch next; None if the client does not know it: the method of its own would ask then.
        """
        for partition in self._ours([key]):
            position = self._consumer._subscription.assignment[partition].position
            return None if position is None else int(position.offset)
        return None

    def is_connected(self) -> bool:
        """
        Whether there is a connection to some broker; no broker is asked.
        """
        network = self._network
        return any(network.connected(_node_id(broker)) for broker in network.cluster.brokers())

    def unknown_topics(self) -> List[str]:
        """
        Return the topics that the brokers do not have, as far as they told; have them asked again.
        """
        cluster = self._network.cluster
        unknown = [topic for topic in self._options.topics if not cluster.partitions_for_topic(topic)]
        if unknown:  # 2.x would ask again in five minutes
            cluster.request_update()
        return unknown

    def close(self, seconds: float) -> None:
        """
        Leave the group and close every connection; commits nothing. Idempotent, raises nothing.
        """
        consumer, self._consumer = self._consumer, None
        network, self._network = self._network, None
        try:
            if consumer is not None:
                consumer.close(autocommit=False, **self._timeout(consumer.close, seconds))
        except Exception as error:  # what it could not say goodbye to notices by itself
            logging.getLogger("broadway_sync").debug("closing the Kafka consumer: %s", type(error).__name__)
        try:
            if network is not None:
                network.close()
        except Exception as error:  # closed by the consumer, most often
            logging.getLogger("broadway_sync").debug("closing the Kafka client: %s", type(error).__name__)

    def _make_network(self, **config: Any) -> Any:
        self._network = self._kafka.KafkaConsumer.DEFAULT_CONFIG["kafka_client"](**config)
        return self._network

    def _timeout(self, method: Callable[..., Any], seconds: float) -> Dict[str, int]:
        return {"timeout_ms": milliseconds(seconds)} if "timeout_ms" in inspect.signature(method).parameters else {}

    # Partitions and offsets.

    def _ours(self, keys: Iterable[Key]) -> List[Any]:
        # What is not assigned any more is an error in both versions.
        assignment = self.assignment()
        return [self._kafka.TopicPartition(*key) for key in keys if key in assignment]

    def _to_offsets(self, points: Points) -> Dict[Any, Any]:
        kafka = self._kafka
        more = ("", -1) if "leader_epoch" in kafka.OffsetAndMetadata._fields else ("",)
        return {kafka.TopicPartition(*key): kafka.OffsetAndMetadata(point, *more) for key, point in points.items()}

    def _reset_to_time(self, partitions: List[Any], timestamp_ms: int) -> None:
        try:
            found = self._consumer.offsets_for_times(dict.fromkeys(partitions, timestamp_ms))
        except Exception as error:
            raise translate(error) from error
        for partition in partitions:
            if found.get(partition) is None:  # nothing is as new as that
                self._consumer.seek_to_end(partition)
            else:
                self._consumer.seek(partition, found[partition].offset)

    # The listener.

    def _adapt(self, listener: Listener) -> Any:
        asynchronous = self._kafka.AsyncConsumerRebalanceListener
        return self._adapt_sync(listener) if asynchronous is None else self._adapt_async(listener, asynchronous)

    def _adapt_sync(self, listener: Listener) -> Any:
        """
        For 2.x: on the thread that polls, where ``commit`` may be called.
        """
        client = self

        class Adapted(self._kafka.ConsumerRebalanceListener):  # type: ignore[misc, name-defined]
            def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
                for points in client._guard_steps(listener.revoked, revoked):
                    try:
                        client.commit(points, _LISTENER_SECONDS)
                    except Exception as error:
                        client._commit_error = error

            def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
                client._guard(listener.assigned, assigned)

        return Adapted()

    def _adapt_async(self, listener: Listener, base: Type[Any]) -> Any:
        """
        For 3.x: on the I/O thread. Waiting for a commit there lets heartbeats out.
        """
        client = self

        class Adapted(base):  # type: ignore[misc]
            async def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
                for points in client._guard_steps(listener.revoked, revoked):
                    try:
                        await client._consumer.commit_async(client._to_offsets(points))
                    except Exception as error:
                        client._commit_error = translate(error)
                        if isinstance(client._commit_error, GroupError):
                            client._forget(revoked)

            async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
                client._guard(listener.assigned, assigned)

            async def on_partitions_lost(self, lost: Iterable[Any]) -> None:
                client._guard(listener.lost, lost)

        return Adapted()

    def _forget(self, partitions: Iterable[Any]) -> None:
        """
        Have 3.x ask where to go on with partitions that others had meanwhile, as it does when it is told that they are
        lost. In those that come back it would keep its position, past records that nobody has handled.
        """
        subscription, gone = self._consumer._subscription, set(partitions)
        subscription.assign_from_subscribed([each for each in subscription.assigned_partitions() if each not in gone])

    def _guard(self, function: Callable[[List[Key]], None], partitions: Iterable[Any]) -> None:
        """
        Call a function of the listener; what it raises is raised by :meth:`poll`, where it does no harm.
        """
        try:
            function(_keys(partitions))
        except Exception as error:
            self._listener_error = error

    def _guard_steps(self, function: Callable[[List[Key]], Iterator[Points]], partitions: Iterable[Any]) -> Any:
        try:
            yield from function(_keys(partitions))
        except GroupError:  # a commit was refused: others have the partitions by now
            return
        except Exception as error:
            self._listener_error = error

    def take_commit_error(self) -> Optional[BaseException]:
        """
        Return why the last commit that the listener asked for has failed, None if it has not.
        """
        error, self._commit_error = self._commit_error, None
        return error


# How long to wait for news of topics that may not exist.
_METADATA_SECONDS = 0.5

# A commit during a rebalance in 2.x; without a limit a broker that is gone would hold it up for ever.
_LISTENER_SECONDS = 3.0


def _node_id(broker: Any) -> Any:
    return broker.node_id if hasattr(broker, "node_id") else broker.nodeId


def _keys(partitions: Iterable[Any]) -> List[Key]:
    return sorted((partition.topic, partition.partition) for partition in partitions)


def check_options(options: KafkaOptions) -> None:
    """
    Look whether kafka-python is there and knows these options; connect to nothing.

    Raises:
        ConfigurationError: It is not, or does not.
    """
    check(options.client_config, load().KafkaConsumer.DEFAULT_CONFIG)


def load() -> Any:
    """
    Return the names of kafka-python that are used here.

    Raises:
        ConfigurationError: It is not installed.
    """
    import_codec_of_host_names()
    try:
        import kafka
        from kafka.structs import OffsetAndMetadata, TopicPartition
    except ImportError as error:
        raise ConfigurationError(
            'the Kafka connector needs kafka-python: pip install "broadway_sync[kafka]"'
        ) from error
    keep_secrets()
    return SimpleNamespace(
        version=kafka.__version__,
        KafkaConsumer=kafka.KafkaConsumer,
        ConsumerRebalanceListener=kafka.ConsumerRebalanceListener,
        AsyncConsumerRebalanceListener=getattr(kafka, "AsyncConsumerRebalanceListener", None),
        OffsetAndMetadata=OffsetAndMetadata,
        TopicPartition=TopicPartition,
    )
