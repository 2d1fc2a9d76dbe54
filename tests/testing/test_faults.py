"""
Connectors with one planted fault each: every test of the contract catches some, and says what to look at.
"""

from __future__ import annotations

import socket
import threading
import time
import unittest
from typing import Any, Iterator, List, Mapping, Type

import pytest

from broadway_sync import ConfigurationError, Message
from broadway_sync.testing import ConnectorContract, ConnectorHarness
from tests.helpers import SCALE
from tests.testing.memory import (
    PASSWORD,
    Broker,
    Connection,
    ConnectionLost,
    MemoryAcknowledger,
    MemoryProducer,
    logger,
)
from tests.testing.test_contract import MemoryHarness

LONG = 2.0 * SCALE
"""Longer than a stop may take here."""


class WithAcknowledger(MemoryProducer):
    """
    A producer with another acknowledger.
    """

    acknowledger_class: Type[MemoryAcknowledger]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.acknowledger = self.acknowledger_class(self.broker)


# Delivery


class StopsAfterAnEmptyAnswer(MemoryProducer):
    def receive(self, connection: Connection) -> None:
        super().receive(connection)
        if self.received.empty():
            self.is_receiving = False


class KeepsPartOfALot(MemoryProducer):
    def receive(self, connection: Connection) -> None:
        for tag, data in self.broker.receive(connection, self.prefetch - self.received.qsize())[1:]:
            self.received.put((connection, tag, data))


class NeverAcks(WithAcknowledger):
    class acknowledger_class(MemoryAcknowledger):  # noqa: N801
        def settle(self, connection: Connection, tag: int, action: str) -> None:
            if action != "ack":
                super().settle(connection, tag, action)


class AcksTwice(WithAcknowledger):
    class acknowledger_class(MemoryAcknowledger):  # noqa: N801
        def settle(self, connection: Connection, tag: int, action: str) -> None:
            super().settle(connection, tag, action)
            super().settle(connection, tag, action)


class AcksTwiceUnnoticed(AcksTwice):
    def init(self) -> None:
        self.broker.is_strict = False
        super().init()


class AcksFullLotsOnly(WithAcknowledger):
    class acknowledger_class(MemoryAcknowledger):  # noqa: N801
        def __init__(self, broker: Broker) -> None:
            super().__init__(broker)
            self.lot: List[Any] = []
            self.lock = threading.Lock()

        def settle(self, connection: Connection, tag: int, action: str) -> None:
            with self.lock:
                self.lot.append((connection, tag, action))
                full, self.lot = (self.lot, []) if len(self.lot) == 7 else ([], self.lot)
            for each in full:
                super().settle(*each)


class DropsAcksOfBatchProcessors(WithAcknowledger):
    class acknowledger_class(MemoryAcknowledger):  # noqa: N801
        def settle(self, connection: Connection, tag: int, action: str) -> None:
            if "BatchProcessor" not in threading.current_thread().name:
                super().settle(connection, tag, action)


class AcksOnTheNewestConnection(WithAcknowledger):
    class acknowledger_class(MemoryAcknowledger):  # noqa: N801
        def settle(self, connection: Connection, tag: int, action: str) -> None:
            super().settle(max(self.broker._connections, key=id), tag, action)


class AcksFailures(WithAcknowledger):
    class acknowledger_class(MemoryAcknowledger):  # noqa: N801
        def ack(self, ack_ref: Any, successful: List[Message], failed: List[Message]) -> None:
            super().ack(ack_ref, successful + failed, [])


class ForgetsSuccessesBesideFailures(WithAcknowledger):
    class acknowledger_class(MemoryAcknowledger):  # noqa: N801
        def ack(self, ack_ref: Any, successful: List[Message], failed: List[Message]) -> None:
            super().ack(ack_ref, [] if failed else successful, failed)


class IgnoresAckOptions(WithAcknowledger):
    class acknowledger_class(MemoryAcknowledger):  # noqa: N801
        def configure(self, ack_ref: Any, ack_data: Any, options: Mapping[str, Any]) -> Any:
            return ack_data


class ResetsAckOptions(WithAcknowledger):
    class acknowledger_class(MemoryAcknowledger):  # noqa: N801
        def configure(self, ack_ref: Any, ack_data: Any, options: Mapping[str, Any]) -> Any:
            return super().configure(ack_ref, ack_data, {"on_failure": "requeue", **options})


class TurnsLotsRound(MemoryProducer):
    def handle_demand(self, demand: int) -> List[Message]:
        return super().handle_demand(demand)[::-1]


class TakesTheQueueAlong(MemoryProducer):
    def terminate(self, reason: Any) -> None:
        super().terminate(reason)
        self.broker._waiting.clear()


class LetsLeasesRunOut(MemoryProducer):
    def extend_all(self) -> None:
        pass


# Stops


class LosesOnStop(MemoryProducer):
    def hand_back(self) -> None:
        while not self.received.empty():
            connection, tag, _ = self.received.get()
            self.acknowledger.settle(connection, tag, "ack")


class LeavesItToTheLease(MemoryProducer):
    def hand_back(self) -> None:
        pass

    def terminate(self, reason: Any) -> None:
        self.connection = None
        super().terminate(reason)


class HandsOutTheRestTwice(MemoryProducer):
    def prepare_for_draining(self) -> List[Message]:
        self.is_receiving = False
        self.threads[0].join()
        taken = list(self.received.queue)
        self.hand_back()
        return [Message(data, (self.acknowledger, connection, (tag, "requeue"))) for connection, tag, data in taken]


class AcksUpToTheHighestTag(WithAcknowledger):
    class acknowledger_class(MemoryAcknowledger):  # noqa: N801
        def settle(self, connection: Connection, tag: int, action: str) -> None:
            for each in [each for each in list(connection.outstanding) if each <= tag]:
                super().settle(connection, each, action)


class AcksOnDelivery(WithAcknowledger):
    class acknowledger_class(MemoryAcknowledger):  # noqa: N801
        def ack(self, ack_ref: Any, successful: List[Message], failed: List[Message]) -> None:
            pass

    def handle_demand(self, demand: int) -> List[Message]:
        messages = super().handle_demand(demand)
        for message in messages:
            self.acknowledger.settle(message.acknowledger[1], message.acknowledger[2][0], "ack")
        return messages


class PollsForLong(MemoryProducer):
    def handle_demand(self, demand: int) -> List[Message]:
        messages = super().handle_demand(demand)
        if not messages and self.connection is not None and self.broker.acknowledgements:
            time.sleep(LONG)
        return messages


class StaysClosed(MemoryProducer):
    connections: List[Connection] = []

    def connect(self) -> Connection:
        if not self.connections:
            self.connections.append(super().connect())
        return self.connections[0]


class LeaksAThread(MemoryProducer):
    def terminate(self, reason: Any) -> None:
        super().terminate(reason)
        threading.Thread(target=time.sleep, args=(LONG,), name="forgotten", daemon=True).start()


class LeaksASocket(MemoryProducer):
    leaked: List[Any] = []

    def init(self) -> None:
        super().init()
        self.leaked += socket.socketpair()


class OpensEarly(MemoryProducer):
    @classmethod
    def validate_options(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        threading.Thread(target=time.sleep, args=(LONG,), name="early", daemon=True).start()
        return super().validate_options(options)


class ForgetsItsMessagesInACrash(MemoryProducer):
    def terminate(self, reason: Any) -> None:
        connection, self.connection = self.connection, None
        self.is_over.set()
        if isinstance(reason, Exception) and connection is not None:  # it stays open, and holds them
            self.broker.lease = LONG
            self.broker.extend(connection)
        elif connection is not None:
            self.broker.close(connection)
        super().terminate(reason)


# Faults


class NeverReconnects(MemoryProducer):
    def report(self, error: Exception) -> None:
        self.is_receiving = False


class SubscribesAgainAtEachReconnect(MemoryProducer):
    subscriptions = 0

    def connect(self) -> Connection:
        self.broker.is_strict = False
        connection = super().connect()
        self.subscriptions += 1
        return connection

    def receive(self, connection: Connection) -> None:
        for tag, data in self.broker.receive(connection, self.prefetch - self.received.qsize()):
            for _ in range(self.subscriptions):
                self.received.put((connection, tag, data))


class ForgetsAcksOfABrokerThatHangs(WithAcknowledger):
    class acknowledger_class(MemoryAcknowledger):  # noqa: N801
        def settle(self, connection: Connection, tag: int, action: str) -> None:
            if self.broker.is_passing.wait(0.02):
                super().settle(connection, tag, action)


class CrashesWithoutBroker(MemoryProducer):
    def init(self) -> None:
        self.broker.close(self.connect())
        super().init()


class ComplainsAtEachAttempt(MemoryProducer):
    def report(self, error: Exception) -> None:
        logger.warning("no connection: %s", error)


class ComplainsOfSomethingElse(MemoryProducer):
    def report(self, error: Exception) -> None:
        super().report(ConnectionLost("connection reset"))


class WaitsForTheBroker(MemoryProducer):
    def connect(self) -> Connection:
        deadline = time.monotonic() + LONG
        while True:
            try:
                return super().connect()
            except ConnectionLost:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


class LogsThePassword(MemoryProducer):
    def connect(self) -> Connection:
        logger.info("connecting with %r", {"password": self.password})
        return super().connect()


class ShowsThePasswordInErrors(MemoryProducer):
    @classmethod
    def validate_options(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return super().validate_options(options)
        except ValueError as error:
            raise type(error)(f"{error}, given were {options}") from None


class ShowsAPasswordThatIsNoStr(MemoryProducer):
    @classmethod
    def validate_options(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        if not isinstance(options["password"], str):
            raise ConfigurationError(f"password: expected a str, got: {options['password']!r}")
        return super().validate_options(options)


class ShowsThePasswordInMessages(MemoryProducer):
    def handle_demand(self, demand: int) -> List[Message]:
        messages = super().handle_demand(demand)
        for message in messages:
            message.metadata["url"] = f"memory://user:{self.password}@broker"
        return messages


class TakesAnyOption(MemoryProducer):
    def __init__(self, **options: Any) -> None:
        super().__init__(options["broker"], options["password"])

    @classmethod
    def validate_options(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        return options


CAUGHT = [
    (StopsAfterAnEmptyAnswer, "test_delivers_everything", "what wakes the producer"),
    (KeepsPartOfALot, "test_delivers_everything", "everything that the client received must be returned"),
    (AcksTwice, "test_delivers_everything", "twice"),
    (NeverAcks, "test_acknowledges_each_message_once", "the acknowledger's ack()"),
    (AcksTwiceUnnoticed, "test_acknowledges_each_message_once", "the broker was told 120 times"),
    (ComplainsAtEachAttempt, "test_wrong_credentials", "log once that it is about them"),
    (ComplainsOfSomethingElse, "test_wrong_credentials", "no record says 'ACCESS refused'"),
    (AcksFullLotsOnly, "test_nothing_comes_again_after_a_run", "acknowledgements on their way must be sent"),
    (DropsAcksOfBatchProcessors, "test_acknowledges_batches", "on the threads of batch processors too"),
    (AcksOnTheNewestConnection, "test_two_producers", "the other producer's connection"),
    (TurnsLotsRound, "test_order", "several requests that are under way"),
    (AcksFailures, "test_failed_messages", "on_failure"),
    (ForgetsSuccessesBesideFailures, "test_failed_messages", "the successful ones beside them"),
    (IgnoresAckOptions, "test_wrong_ack_option_fails_its_message_alone", "must refuse by name"),
    (ResetsAckOptions, "test_configure_ack", "keep what it is not given"),
    (TakesTheQueueAlong, "test_two_pipelines_share_a_queue", "those that it leaves behind"),
    (LetsLeasesRunOut, "test_slow_handlers_keep_their_messages", "must count from receipt"),
    (LosesOnStop, "test_stop_hands_back_what_was_not_begun", "hand back"),
    (LeavesItToTheLease, "test_stop_hands_back_what_was_not_begun", "hand back"),
    (LosesOnStop, "test_stops_under_load_lose_nothing", "hand back"),
    (HandsOutTheRestTwice, "test_stops_under_load_lose_nothing", "hand back"),
    (AcksUpToTheHighestTag, "test_unfinished_messages_come_again", "only the contiguous finished prefix"),
    (AcksOnDelivery, "test_unfinished_messages_come_again", "which must acknowledge nothing"),
    (PollsForLong, "test_idle_stop_is_prompt", "long polls on the producer's own thread"),
    (StaysClosed, "test_same_pipeline_runs_again", "what terminate() leaves closed"),
    (LeaksAThread, "test_nothing_is_left_behind", "forgotten"),
    (LeaksASocket, "test_nothing_is_left_behind", "12 sockets are open"),
    (OpensEarly, "test_nothing_is_opened_before_start", "early"),
    (ForgetsItsMessagesInACrash, "test_crash_of_the_producer", "terminate() after a crash"),
    (NeverReconnects, "test_reconnects_after_a_cut", "the reconnect"),
    (SubscribesAgainAtEachReconnect, "test_reconnects_after_a_cut", "duplicates of what was not in flight"),
    (ForgetsAcksOfABrokerThatHangs, "test_survives_a_hang", "timeouts of requests"),
    (CrashesWithoutBroker, "test_broker_is_down_at_the_start", "errors of connecting must be caught"),
    (ComplainsAtEachAttempt, "test_broker_is_down_at_the_start", "logged once"),
    (WaitsForTheBroker, "test_stop_while_the_broker_is_down", "in place of a sleep"),
    (LogsThePassword, "test_wrong_credentials", "a secret is shown"),
    (LogsThePassword, "test_credentials_are_never_shown", "a record of the logger 'off_broadway_memory'"),
    (ShowsThePasswordInErrors, "test_credentials_are_never_shown", "a text of an error"),
    (ShowsAPasswordThatIsNoStr, "test_credentials_are_never_shown", "a text of an error"),
    (ShowsThePasswordInMessages, "test_credentials_are_never_shown", "the telemetry event"),
    (TakesAnyOption, "test_unknown_option", "validate_options()"),
]


class HastyHarness(MemoryHarness):
    """
    Gives up soon: what is waited for never comes.
    """

    lease = 1.2 * SCALE
    timeout = 0.7 * SCALE
    redelivery_timeout = 0.1 * SCALE
    stop_timeout = 0.5 * SCALE


@pytest.fixture(autouse=True)
def leaks_are_mended() -> Iterator[None]:
    """
    Close what connectors here leave open on purpose.
    """
    yield
    for each in LeaksASocket.leaked:
        each.close()
    LeaksASocket.leaked.clear()
    StaysClosed.connections.clear()


@pytest.mark.parametrize(
    ("producer_class", "test", "text"), CAUGHT, ids=[f"{cls.__name__}-{test[5:]}" for cls, test, _ in CAUGHT]
)
def test_fault_is_caught(producer_class: Type[MemoryProducer], test: str, text: str) -> None:
    """
    The test fails, and its text says what to look at.
    """
    with pytest.raises(AssertionError) as caught:
        getattr(ConnectorContract(), test)(HastyHarness(producer_class))
    assert text in str(caught.value)
    assert "\nLook at: " in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_every_test_of_the_contract_catches_something() -> None:
    """
    There is no test in it that cannot fail.
    """
    tests = {name for name in dir(ConnectorContract) if name.startswith("test_")}
    assert {test for _, test, _ in CAUGHT} == tests


def test_threads_of_a_library_are_no_fault() -> None:
    """
    Those that the harness names do not count, whenever they begin.
    """
    harness = HastyHarness(OpensEarly)
    harness.ignored_threads = ("early",)
    ConnectorContract().test_nothing_is_opened_before_start(harness)


class MinimalHarness(HastyHarness):
    """
    Offers only what every harness must.
    """

    is_ordered = False
    lease = None
    drop_options = None
    secrets = ()


def minimal() -> MinimalHarness:
    """
    Return a harness without the optional methods.
    """
    optional = ("cut", "stall", "resume", "take_down", "bring_up", "wrong_credentials", "acknowledgements")
    methods = {name: getattr(ConnectorHarness, name) for name in optional}
    cls = type("Minimal", (MinimalHarness,), methods)
    harness = cls.__new__(cls)
    harness.broker, harness.producer_class = Broker(10.0), MemoryProducer
    return harness


def test_what_the_harness_does_not_offer_is_skipped() -> None:
    """
    With its reason; everything else runs.
    """
    skipped = {}
    for name in [name for name in dir(ConnectorContract) if name.startswith("test_")]:
        try:
            getattr(ConnectorContract(), name)(minimal())
        except unittest.SkipTest as skip:
            skipped[name] = str(skip)
    assert skipped == {
        "test_reconnects_after_a_cut": "the harness does not define cut()",
        "test_broker_is_down_at_the_start": "the harness does not define take_down()",
        "test_stop_while_the_broker_is_down": "the harness does not define take_down()",
        "test_survives_a_hang": "the harness does not define stall()",
        "test_wrong_credentials": "the harness does not define wrong_credentials()",
        "test_credentials_are_never_shown": "the harness has no secrets",
        "test_order": "the harness says that its queue has no order",
        "test_slow_handlers_keep_their_messages": "the harness has no lease",
        "test_configure_ack": "the harness has no drop_options",
    }
