"""
The helpers for users' tests, in real test cases of Django that are run here.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import unittest
from typing import Any, Callable

import pytest

from tests.helpers import BOUND, eventually, make_handler, unique_name
from tests.integrations.django import pipelines, support

from asgiref.sync import sync_to_async  # isort: skip
from django.core.exceptions import SynchronousOnlyOperation  # isort: skip
from django.db import DatabaseError, connection, connections, transaction  # isort: skip
from django.test import SimpleTestCase, TestCase, TransactionTestCase  # isort: skip
from shop.models import Invoice, Order, OutboxRow  # isort: skip
from shop.outbox import OutboxProducer  # isort: skip
from shop.pipelines import invoices  # isort: skip

from broadway_sync import (  # isort: skip
    AlreadyStartedError,
    DrainTimeoutError,
    DummyProducer,
    Message,
    Pipeline,
    Producer,
    add_around,
    remove_around,
)
from broadway_sync.integrations.django import testing
from broadway_sync.integrations.django.testing import PipelineTestMixin, running

CASES = [TestCase, TransactionTestCase]
Function = Callable[[Any], None]


def run_case(base: type, function: Function) -> unittest.TestResult:
    """
    Run *function* as the one test of a test case; return what unittest says.
    """
    case = type("Case", (PipelineTestMixin, base), {"test": function})
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    return result


def passes(base: type, function: Function) -> None:
    """
    Run *function* as a test that must pass.
    """
    result = run_case(base, function)
    assert "\n".join(text for _, text in result.errors + result.failures) == ""
    assert result.testsRun == 1


def make(**callbacks: Any) -> Pipeline:
    """
    Return a pipeline of these callbacks that waits for test messages, with four processors.
    """
    return Pipeline(
        make_handler(**callbacks),
        name=unique_name(),
        producer={"module": (DummyProducer, {})},
        processors={"default": {"concurrency": 4, "max_demand": 1}},
        batchers={"default": {"batch_size": 2, "batch_timeout": 0.05, "concurrency": 2}},
        shutdown=5.0,
    )


def orders(count: int) -> list[Order]:
    """
    Store some orders.
    """
    return [Order.objects.create(email="a@example.com", amount=n + 1) for n in range(count)]


@pytest.mark.parametrize("base", CASES)
def test_pipeline_sees_the_tests_rows_and_the_test_sees_its(database: Any, base: type) -> None:
    """
    Also in a transaction that is never committed; after the test all of it is gone.
    """

    def test(self: Any) -> None:
        pipeline = self.run_pipeline(invoices(producer=(DummyProducer, {})))
        rows = [OutboxRow.objects.create(order=order) for order in orders(3)]
        successful, failed = pipeline.test_batch(rows, batch_mode="flush").collect(3, timeout=BOUND)
        self.assertEqual((len(successful), failed), (3, []))
        self.assertEqual(sorted(Invoice.objects.values_list("total", flat=True)), [1, 2, 3])
        self.assertEqual(OutboxRow.objects.count(), 0)

    passes(base, test)
    assert (Order.objects.count(), Invoice.objects.count()) == (0, 0)


@pytest.mark.parametrize("base", CASES)
def test_raise_in_a_transaction_of_a_callback(database: Any, base: type) -> None:
    """
    It rolls back what the callback did; what the test did stays, and it can go on.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        with transaction.atomic():
            Order.objects.create(email="b@example.com", amount=1)
            Invoice.objects.create(order_id=message.data, total=1)
            raise DatabaseError("no")

    def test(self: Any) -> None:
        pipeline = self.run_pipeline(make(handle_message=handle_message))
        (order,) = orders(1)
        _, failed = pipeline.test_message(order.pk).receive(timeout=BOUND)
        self.assertIsInstance(failed[0].reason, DatabaseError)
        self.assertEqual((Order.objects.count(), Invoice.objects.count()), (1, 0))

    passes(base, test)


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    """
    Refuses to be changed.
    """

    code: int


@pytest.mark.parametrize("base", CASES)
def test_reason_is_what_the_callback_raised(database: Any, base: type) -> None:
    """
    Whatever its class is.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        raise FrozenError(1)

    def test(self: Any) -> None:
        _, failed = self.run_pipeline(make(handle_message=handle_message)).test_message(1).receive(timeout=BOUND)
        self.assertEqual(failed[0].reason, FrozenError(1))

    passes(base, test)


@pytest.mark.parametrize("base", CASES)
def test_hook_of_the_process_has_the_connections_of_the_test(database: Any, base: type) -> None:
    """
    A transaction that it puts around callbacks is one of the test's, and rolled back when they raise.
    """

    def in_transaction(call: Any, messages: Any) -> Any:
        with transaction.atomic():
            return call()

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        Order.objects.create(email=f"{message.data}@example.com", amount=1)
        if message.data == "raises":
            raise LookupError
        return message

    def test(self: Any) -> None:
        pipeline = self.run_pipeline(make(handle_message=handle_message))
        outcomes = [pipeline.test_message(data).receive(timeout=BOUND) for data in ("raises", "does not")]
        self.assertEqual([(len(successful), len(failed)) for successful, failed in outcomes], [(0, 1), (1, 0)])
        self.assertEqual([order.email for order in Order.objects.all()], ["does not@example.com"])

    add_around(in_transaction)
    try:
        passes(base, test)
    finally:
        remove_around(in_transaction)


@pytest.mark.parametrize("base", CASES)
def test_many_threads_with_transactions(database: Any, base: type) -> None:
    """
    Callbacks of four processors and two batch processors, all with nested transactions, do not meet in the test's one.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        with transaction.atomic():
            Invoice.objects.create(order=message.data, total=0)
            try:
                with transaction.atomic():
                    Invoice.objects.filter(order=message.data).delete()
                    raise LookupError
            except LookupError:
                return message

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        with transaction.atomic():
            for message in messages:
                Invoice.objects.filter(order=message.data, total=0).update(total=message.data.amount)
        return messages

    def test(self: Any) -> None:
        pipeline = self.run_pipeline(make(handle_message=handle_message, handle_batch=handle_batch))
        successful, failed = pipeline.test_batch(orders(40)).collect(40, timeout=2 * BOUND)
        self.assertEqual([message.reason for message in failed], [])
        self.assertEqual(sorted(Invoice.objects.values_list("total", flat=True)), list(range(1, 41)))

    passes(base, test)


@pytest.mark.parametrize("base", CASES)
def test_producer_that_reads_a_table(database: Any, base: type) -> None:
    """
    Its callbacks have the test's connections too.
    """

    def test(self: Any) -> None:
        OutboxRow.objects.bulk_create([OutboxRow(order=order) for order in orders(20)])
        pipeline = self.run_pipeline(invoices(producer=(OutboxProducer, {"until_empty": True})))
        self.assertTrue(pipeline.join(BOUND))
        self.assertEqual(Invoice.objects.count(), 20)

    passes(base, test)


class Waits(Producer):
    """
    Waits in handle_demand for something else than the database.
    """

    def __init__(self, gate: Any) -> None:
        self.gate = gate

    def handle_demand(self, demand: int) -> list[Message]:
        """
        Wait, then ask the database.
        """
        self.gate.wait(self)
        Order.objects.count()
        return []


def test_producer_that_waits_keeps_nobody_from_the_connections(database: Any, gate: Any) -> None:
    """
    It has them from its first query on.
    """
    handler = make_handler(handle_message=lambda processor, message, context: message.put_data(Order.objects.count()))

    def test(self: Any) -> None:
        pipeline = Pipeline(
            handler,
            name=unique_name(),
            producer={"module": (Waits, {"gate": gate})},
            processors={"default": {"concurrency": 1}},
        )
        self.run_pipeline(pipeline)
        gate.arrived()
        successful, _ = pipeline.test_message("a").receive(timeout=BOUND)
        self.assertEqual([message.data for message in successful], [0])
        gate.open()
        pipeline.stop()

    passes(TestCase, test)


def test_callbacks_that_wait_for_each_other_are_told(database: Any, gate: Any, monkeypatch: Any) -> None:
    """
    In a TestCase they run one at a time. One that waits too long fails, with a text that says what to do.
    """
    monkeypatch.setattr(testing, "PATIENCE", 0.2)
    first = threading.Event()

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        if message.data == "waits":
            first.set()
            gate.wait()
        return message

    def test(self: Any) -> None:
        pipeline = self.run_pipeline(make(handle_message=handle_message))
        waiting = pipeline.test_message("waits")
        self.assertTrue(first.wait(BOUND))
        _, failed = pipeline.test_message("a").receive(timeout=BOUND)
        self.assertIn("handle_message waited 0.2 s for the test's connections", str(failed[0].reason))
        self.assertIn("use TransactionTestCase", str(failed[0].reason))
        gate.open()
        waiting.receive(timeout=BOUND)

    passes(TestCase, test)


def test_callbacks_run_side_by_side_in_a_transaction_test_case(database: Any) -> None:
    """
    Each thread has a connection of its own there.
    """
    barrier = threading.Barrier(3, timeout=BOUND)

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        Order.objects.count()
        barrier.wait()
        return message.put_data(id(connection.connection))

    def test(self: Any) -> None:
        pipeline = self.run_pipeline(make(handle_message=handle_message))
        successful, failed = pipeline.test_batch("abc").collect(3, timeout=BOUND)
        self.assertEqual([message.reason for message in failed], [])
        own = {message.data for message in successful}
        self.assertEqual(len(own - {id(connection.connection)}), 3)

    passes(TransactionTestCase, test)


def test_connections_are_closed_before_the_database_goes(make_database: Any) -> None:
    """
    After the test the server has the test's own connection at most: a test database can be dropped.
    """
    pg = make_database("postgresql", CONN_MAX_AGE=None)

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        return message.put_data(Order.objects.count())

    def test(self: Any) -> None:
        pipeline = self.run_pipeline(make(handle_message=handle_message))
        pipeline.test_batch("abcd").collect(4, timeout=BOUND)
        self.assertGreater(len(pg.server.backends(pg.name)), 0)

    passes(TransactionTestCase, test)
    connection.close()
    eventually(lambda: pg.server.backends(pg.name) == set(), "no connection is left")


def test_test_case_without_a_database(database: Any) -> None:
    """
    Under SimpleTestCase callbacks may not use it either; other callbacks work.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        return message.put_data(Order.objects.count()) if message.data == "query" else message

    def test(self: Any) -> None:
        pipeline = self.run_pipeline(make(handle_message=handle_message))
        _, failed = pipeline.test_message("query").receive(timeout=BOUND)
        self.assertIn("are not allowed in SimpleTestCase subclasses", str(failed[0].reason))
        successful, _ = pipeline.test_message("none").receive(timeout=BOUND)
        self.assertEqual(len(successful), 1)

    passes(SimpleTestCase, test)


def test_what_a_test_case_without_a_database_leaves_is_no_harm(database: Any) -> None:
    """
    Django leaves methods in the connections that it had forbidden: a test after it has its pipeline's own.
    """
    test_test_case_without_a_database(database)
    test_callbacks_run_side_by_side_in_a_transaction_test_case(database)


@pytest.mark.parametrize("base", CASES)
def test_pipeline_is_stopped_when_the_test_fails(database: Any, base: type) -> None:
    """
    And the connections are the test's own again.
    """
    made: list[Pipeline] = []

    def test(self: Any) -> None:
        made.append(self.run_pipeline(make()))
        raise LookupError("the test is wrong")

    result = run_case(base, test)
    assert len(result.errors) == 1 and "the test is wrong" in result.errors[0][1]
    assert made[0].state == "stopped"
    assert not connection.allow_thread_sharing
    assert connection.execute_wrappers == []


def test_handler_that_hangs_fails_the_test(database: Any, gate: Any) -> None:
    """
    What a stop leaves behind is an error of the test. The abandoned thread cannot use the connection any more.
    """
    caught: list[BaseException] = []
    done = threading.Event()

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        gate.wait()
        try:
            Order.objects.count()
        except BaseException as error:
            caught.append(error)
        done.set()
        return message

    def test(self: Any) -> None:
        pipeline = make(handle_message=handle_message)
        with self.assertRaises(DrainTimeoutError), running(pipeline, timeout=0.1):
            pipeline.test_message("a")
            gate.arrived()
        gate.open()
        self.assertTrue(done.wait(BOUND))

    passes(TestCase, test)
    assert len(caught) == 1 and "can only be used in that same thread" in str(caught[0])


def test_pipeline_that_does_not_start(database: Any) -> None:
    """
    Its error is the test's, and nothing is left shared.
    """

    def test(self: Any) -> None:
        pipeline = self.run_pipeline(make())
        with self.assertRaises(AlreadyStartedError), running(pipeline):
            self.fail("it runs already")
        self.assertEqual(pipeline.state, "running")

    passes(TestCase, test)
    assert not connection.allow_thread_sharing


def test_pipeline_that_gives_up_fails_the_test(database: Any) -> None:
    """
    Though it could be stopped.
    """

    def test(self: Any) -> None:
        pipeline = self.run_pipeline(pipelines.crashing())
        eventually(lambda: pipeline.state == "failed", "it gives up")

    result = run_case(TestCase, test)
    assert len(result.errors) == 1 and "PipelineFailedError" in result.errors[0][1]


@pytest.mark.parametrize("base", CASES)
def test_pipeline_of_an_async_test(database: Any, base: type) -> None:
    """
    Its body runs on another thread, where the test's connections are not: started there, a pipeline would store for
    good what the test wants rolled back. Started by ``sync_to_async`` it has the test's.
    """
    handler = {"handle_message": lambda processor, message, context: message.put_data(Order.objects.count())}

    async def test(self: Any) -> None:
        await sync_to_async(orders)(3)
        with self.assertRaisesRegex(SynchronousOnlyOperation, "sync_to_async.self.run_pipeline."):
            self.run_pipeline(make(**handler))
        pipeline = await sync_to_async(self.run_pipeline)(make(**handler))
        successful, _ = pipeline.test_message("a").receive(timeout=BOUND)
        self.assertEqual([message.data for message in successful], [3])

    passes(base, test)


def test_two_pipelines(database: Any, caplog: Any) -> None:
    """
    Both have the test's connection, one callback at a time.
    """
    caplog.set_level(logging.WARNING)

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        with transaction.atomic():
            return message.put_data(Order.objects.create(email="a@example.com", amount=message.data).pk)

    def test(self: Any) -> None:
        both = [self.run_pipeline(make(handle_message=handle_message)) for _ in range(2)]
        refs = [pipeline.test_batch(range(1, 21)) for pipeline in both]
        self.assertEqual([len(ref.collect(20, timeout=BOUND)[0]) for ref in refs], [20, 20])
        self.assertEqual(Order.objects.count(), 40)

    passes(TestCase, test)
    assert caplog.records == []
    assert [each.alias for each in connections.all()] == [support.connections["default"].alias]
