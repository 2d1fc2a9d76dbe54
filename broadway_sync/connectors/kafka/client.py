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
* Neither says why it cannot connect, except to its log.
"""

from __future__ import annotations

import inspect
import logging
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Set, Tuple, Type

from ...errors import ConfigurationError, ConnectorError
from .options import ClientConfig, KafkaOptions

Key = Tuple[str, int]
Points = Dict[Key, int]


class GroupError(ConnectorError):
    """
    A commit was refused because the partitions are being moved, or have been: drop it, poll, look again.
    """


class UnavailableError(ConnectorError):
    """
    The brokers did not answer in time; the same again may succeed.
    """


class NoPositionError(ConnectorError):
    """
    Nobody knows where to begin with these partitions.
    """

    def __init__(self, text: str, keys: Dict[Key, Optional[int]], is_out_of_range: bool) -> None:
        """
        Args:
            keys: The partitions; each with the offset to go on at, None to apply the policy.
            is_out_of_range: Whether there was a position, which the broker does not have (any more).
        """
        super().__init__(text)
        self.keys = keys
        self.is_out_of_range = is_out_of_range


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
            ConfigurationError: kafka-python is not installed, or does not know an option of ``extra_config``.
        """
        self._kafka = load()
        self._options = options
        self._commit_error: Optional[BaseException] = None
        self._listener_error: Optional[BaseException] = None
        self._config = self._to_config(name, index)
        unknown = sorted(set(options.client_config.extra_config) - set(self._kafka.KafkaConsumer.DEFAULT_CONFIG))
        if unknown:
            raise ConfigurationError(
                f"producer.module.client_config.extra_config: kafka-python {self._kafka.version} does not know "
                f"{', '.join(map(repr, unknown))}"
            )
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
        with _Ear() as ear:
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
            # Without a subscription it looks for the group's coordinator, and returns no records.
            self._consumer.poll(timeout_ms=50)

    def _wait_for_topics(self, is_over: Callable[[], bool]) -> None:
        """
        Wait a moment until the brokers have told of the topics: a member that joins before it knows them gets no
        partitions, or joins a second time when it does, and the whole group has to stop for it.
        """
        deadline = monotonic() + _METADATA_SECONDS
        while self.unknown_topics() and monotonic() < deadline and not is_over():
            if self._kafka.AsyncConsumerRebalanceListener is None:
                self._network.poll(timeout_ms=20)
            else:
                sleep(0.005)  # its I/O thread is at it, and offers nothing to wait on

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
            raise self._translate(error) from error
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
            raise self._translate(error) from error

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

    # Configuration.

    def _to_config(self, name: str, index: int) -> Dict[str, Any]:
        options, group, fetch = self._options, self._options.group_config, self._options.fetch_config
        client = options.client_config
        config: Dict[str, Any] = {
            "bootstrap_servers": list(options.hosts),
            "client_id": f"{client.client_id_prefix or ''}{name}",
            "group_id": options.group_id,
            # True would commit what was delivered, handled or not.
            "enable_auto_commit": False,
            # Positions are ours to find: the client knows no times, and says nothing when it jumps.
            "auto_offset_reset": "none",
            "max_poll_interval_ms": _ms(group.rebalance_timeout_seconds),
            "session_timeout_ms": _ms(group.session_timeout_seconds),
            "heartbeat_interval_ms": _ms(group.heartbeat_rate_seconds),
            "request_timeout_ms": _ms(client.request_timeout),
            "fetch_min_bytes": fetch.min_bytes,
            "fetch_max_wait_ms": _ms(fetch.max_wait_time),
            "max_partition_fetch_bytes": fetch.max_bytes,
            "check_crcs": fetch.check_crcs,
            "kafka_client": self._make_network,
            # A tenth of the client's time, for figures that nobody can ask for.
            "metrics_enabled": False,
            # A topic's name with a typo must not become a topic.
            "allow_auto_create_topics": False,
            # How long the constructor tries: 3.x, and 2.x.
            "bootstrap_timeout_ms": _ms(client.connect_timeout),
            "api_version_auto_timeout_ms": _ms(client.connect_timeout),
            # 2.x takes no more than 1 MB in one response, which two full partitions exceed, and then never gets on.
            "receive_message_max_bytes": _FETCH_MAX_BYTES + 2 * fetch.max_bytes,
            "fetch_max_bytes": _FETCH_MAX_BYTES,
            # The client's 30 s would be added to every outage.
            "reconnect_backoff_max_ms": 1000,
            "isolation_level": fetch.isolation_level,
            **_security(client),
        }
        if group.group_instance_id is not None:
            config["group_instance_id"] = f"{group.group_instance_id}-{index}"
        known = self._kafka.KafkaConsumer.DEFAULT_CONFIG
        config = {name: value for name, value in config.items() if name in known}
        return {**config, **client.extra_config}

    def _make_network(self, **config: Any) -> Any:
        self._network = self._kafka.KafkaConsumer.DEFAULT_CONFIG["kafka_client"](**config)
        return self._network

    def _timeout(self, method: Callable[..., Any], seconds: float) -> Dict[str, int]:
        return {"timeout_ms": _ms(seconds)} if "timeout_ms" in inspect.signature(method).parameters else {}

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
            raise self._translate(error) from error
        for partition in partitions:
            if found.get(partition) is None:  # nothing is as new as that
                self._consumer.seek_to_end(partition)
            else:
                self._consumer.seek(partition, found[partition].offset)

    # Errors.

    def _translate(self, error: Exception) -> Exception:
        """
        Return the error of ours that says what to do, or *error* itself.
        """
        names = {cls.__name__ for cls in type(error).__mro__}
        text = _text(error)
        if names & _REBALANCE_ERRORS:
            return GroupError(text)
        if "LogTruncationError" in names:
            found: Any = error
            keys = {tuple(key): None if at is None else at.offset for key, at in found.divergent_offsets.items()}
            return NoPositionError(text, keys, True)
        if "NoOffsetForPartitionError" in names or "OffsetOutOfRangeError" in names:
            return NoPositionError(text, self._partitions_in(error), "OffsetOutOfRangeError" in names)
        if getattr(error, "retriable", False) or "RetriableError" in names or "KafkaConnectionError" in names:
            return UnavailableError(text)
        return error

    def _partitions_in(self, error: Exception) -> Dict[Key, Optional[int]]:
        """
        Return the partitions that an error names, in whichever way.
        """
        found: Dict[Key, Optional[int]] = {}
        for argument in error.args:
            several = isinstance(argument, (dict, set, frozenset, list)) or not isinstance(argument, tuple)
            for key in argument if several and not isinstance(argument, str) else [argument]:
                if isinstance(key, self._kafka.TopicPartition):
                    found[tuple(key)] = None
        return found

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
                        client._commit_error = client._translate(error)

            async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
                client._guard(listener.assigned, assigned)

            async def on_partitions_lost(self, lost: Iterable[Any]) -> None:
                client._guard(listener.lost, lost)

        return Adapted()

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


# The client's own default for one response; all partitions of a broker share it.
_FETCH_MAX_BYTES = 50 * 1024 * 1024

# How long to wait for news of topics that may not exist.
_METADATA_SECONDS = 0.5

# A commit during a rebalance in 2.x; without a limit a broker that is gone would hold it up for ever.
_LISTENER_SECONDS = 3.0

_REBALANCE_ERRORS = {
    "CommitFailedError", "RebalanceInProgressError", "UnknownMemberIdError", "IllegalGenerationError",
}  # fmt: skip


class _Ear(logging.Handler):
    """
    Listens to the client's log while it connects: nothing else says that a password is wrong.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._heard: Optional[BaseException] = None
        self._logger = logging.getLogger("kafka")

    def __enter__(self) -> _Ear:
        self._logger.addHandler(self)
        return self

    def __exit__(self, *exc: Any) -> None:
        self._logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """
        Remember the error, if the record has one; what a broker refused weighs more than a lost connection.
        """
        for argument in record.args if isinstance(record.args, tuple) else ():
            if isinstance(argument, BaseException) and (self._heard is None or _is_refusal(argument)):
                self._heard = argument

    def explain(self, error: Exception, has_credentials: bool) -> ConnectorError:
        """
        Return an error with the reason of *error*, as far as that is known.
        """
        text = _text(error) if self._heard is None else f"{_text(error)} ({_text(self._heard)})"
        if has_credentials and (self._heard is None or not _is_refusal(self._heard)):
            # 3.0 often sees the end of the connection before it has read why.
            text += "; if brokers close the connection, the authentication may have failed: look at client_config.sasl"
        return ConnectorError(text)


def _text(error: BaseException) -> str:
    """
    Return type and text; kafka-python's errors mostly begin with their type.
    """
    name, text = type(error).__name__, str(error)
    return text if name in text else f"{name}: {text}"


def _is_refusal(error: BaseException) -> bool:
    return "Sasl" in type(error).__name__ or "Authorization" in type(error).__name__


def _security(client: ClientConfig) -> Dict[str, Any]:
    """
    Return the client's options for TLS and SASL.
    """
    config: Dict[str, Any] = {"security_protocol": _PROTOCOLS[bool(client.sasl), client.ssl is not False]}
    if isinstance(client.ssl, Mapping):
        config.update({f"ssl_{name}": value for name, value in client.ssl.items()})
    elif not isinstance(client.ssl, bool):
        config["ssl_context"] = client.ssl
    if client.sasl:
        config.update({f"sasl_{name}": value for name, value in _with_password(client.sasl).items()})
    return config


_PROTOCOLS = {
    (False, False): "PLAINTEXT", (False, True): "SSL", (True, False): "SASL_PLAINTEXT", (True, True): "SASL_SSL",
}  # fmt: skip


def _with_password(sasl: Mapping[str, Any]) -> Dict[str, Any]:
    """
    Read username and password from the file, if there is one: at each connect, so that they can be changed.
    """
    config = dict(sasl)
    path = config.pop("path", None)
    if path is not None:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
        if len(lines) < 2:
            raise ConfigurationError(f"producer.module.client_config.sasl: {path} must have two lines, user, password")
        config["plain_username"], config["plain_password"] = lines[0].strip(), lines[1].strip()
    return config


def _node_id(broker: Any) -> Any:
    return broker.node_id if hasattr(broker, "node_id") else broker.nodeId


def _keys(partitions: Iterable[Any]) -> List[Key]:
    return sorted((partition.topic, partition.partition) for partition in partitions)


def _ms(seconds: float) -> int:
    return max(1, int(seconds * 1000))


def load() -> Any:
    """
    Return the names of kafka-python that are used here.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        import kafka
        from kafka.structs import OffsetAndMetadata, TopicPartition
    except ImportError as error:
        raise ConfigurationError(
            'the Kafka connector needs kafka-python: pip install "broadway_sync[kafka]"'
        ) from error
    return SimpleNamespace(
        version=kafka.__version__,
        KafkaConsumer=kafka.KafkaConsumer,
        ConsumerRebalanceListener=kafka.ConsumerRebalanceListener,
        AsyncConsumerRebalanceListener=getattr(kafka, "AsyncConsumerRebalanceListener", None),
        OffsetAndMetadata=OffsetAndMetadata,
        TopicPartition=TopicPartition,
    )
