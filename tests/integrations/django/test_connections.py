"""
Connections of a pipeline's threads: usable in every callback, dropped when they are broken or old, closed at the end.
"""

from __future__ import annotations

import logging
import math
import queue
import subprocess
import sys
import threading
from typing import Any, Callable

import pytest

from tests.helpers import BOUND, eventually, get, make_handler, python_env
from tests.integrations.django import support
from tests.integrations.django.cache import made as made_caches

from django.apps import apps  # isort: skip
from django.core.cache import caches  # isort: skip
from django.db import IntegrityError, OperationalError, connection, connections, transaction  # isort: skip
from django.test.utils import override_settings  # isort: skip
from shop.models import Activity, Invoice, Order  # isort: skip

import broadway_sync
from broadway_sync import DummyProducer, IterableProducer, Message, NoopAcknowledger, Producer
from broadway_sync.around import Call
from broadway_sync.integrations.django import connection_care
from broadway_sync.integrations.django.connections import care

BATCHERS = {"default": {"batch_size": 10, "batch_timeout": 0.05}}


def store(processor: str, message: Message, context: Any) -> Message:
    """
    Store an order.
    """
    order = Order.objects.create(email=f"{message.data}@example.com", amount=1)
    return message.put_data(order.pk)


def test_every_callback_may_use_the_orm(database: Any, make_pipeline: Callable[..., Any]) -> None:
    """
    prepare_messages, handle_message, handle_batch and handle_failed, each on its own thread.
    """
    seen: dict[str, int] = {}

    def count(name: str) -> None:
        seen[name] = Order.objects.count()

    def prepare_messages(messages: list[Message], context: Any) -> list[Message]:
        count("prepare_messages")
        return messages

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        count("handle_batch")
        return [message.fail("seen") for message in messages]

    def handle_failed(messages: list[Message], context: Any) -> list[Message]:
        count("handle_failed")
        return messages

    handler = make_handler(
        prepare_messages=prepare_messages, handle_message=store, handle_batch=handle_batch, handle_failed=handle_failed
    )
    pipeline = make_pipeline(handler, batchers=BATCHERS).start()
    _, failed = pipeline.test_message("a").receive(timeout=BOUND)
    assert [message.data for message in failed] == list(Order.objects.values_list("pk", flat=True))
    assert seen == {"prepare_messages": 0, "handle_batch": 1, "handle_failed": 1}


def test_raise_in_a_transaction_rolls_back_and_fails_the_batch(database: Any, make_pipeline: Any) -> None:
    """
    Nothing of the batch is stored; the next batch is.
    """

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        with transaction.atomic():
            Invoice.objects.bulk_create([Invoice(order=message.data, total=1) for message in messages])
        return messages

    orders = [Order.objects.create(email="a@example.com", amount=1) for _ in range(3)]
    Invoice.objects.create(order=orders[1], total=7)
    batchers = {"default": {"batch_size": 3, "batch_timeout": 0.05}}
    pipeline = make_pipeline(make_handler(handle_batch=handle_batch), batchers=batchers).start()
    successful, failed = pipeline.test_batch(orders).collect(3, timeout=BOUND)
    assert [type(message.reason) for message in failed] == [IntegrityError] * 3
    assert list(Invoice.objects.values_list("total", flat=True)) == [7]
    successful, failed = pipeline.test_batch([orders[0], orders[2]]).collect(2, timeout=BOUND)
    assert (len(successful), len(failed)) == (2, 0)
    assert Invoice.objects.count() == 3


def test_unrestored_autocommit_is_no_harm(database: Any, make_pipeline: Any) -> None:
    """
    What a callback began by hand and did not commit is gone, and the thread's next callback begins afresh.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        if message.data == "leaves it open":
            transaction.set_autocommit(False)
        Order.objects.create(email="a@example.com", amount=1)
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
    pipeline.test_message("leaves it open").receive(timeout=BOUND)
    assert Order.objects.count() == 0
    pipeline.test_message("does not").receive(timeout=BOUND)
    assert Order.objects.count() == 1


def test_open_atomic_block_is_rolled_back(database: Any, make_pipeline: Any, caplog: Any) -> None:
    """
    A callback that entered ``atomic`` and never left it is told so in the log; its thread goes on with another
    connection.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        if message.data == "enters":
            transaction.atomic().__enter__()
        Order.objects.create(email="a@example.com", amount=1)
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
    with caplog.at_level(logging.WARNING, "broadway_sync"):
        successful, _ = pipeline.test_message("enters").receive(timeout=BOUND)
    assert len(successful) == 1
    assert "a callback left a transaction of database 'default' open: it is rolled back" in caplog.text
    assert Order.objects.count() == 0
    pipeline.test_message("does not").receive(timeout=BOUND)
    assert Order.objects.count() == 1


def test_transaction_that_a_hook_of_the_process_puts_around_callbacks(
    database: Any, make_pipeline: Any, caplog: Any
) -> None:
    """
    Is that of the callback, and left alone, also if the hook was there before this app was ready.
    """

    def in_transaction(call: Any, messages: Any) -> Any:
        with transaction.atomic():
            return call()

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        Order.objects.create(email="a@example.com", amount=1)
        if message.data == "raises":
            raise LookupError
        return message

    broadway_sync.remove_around(care)
    broadway_sync.add_around(in_transaction)
    try:
        apps.get_app_config("broadway_sync").ready()
        pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
    finally:
        broadway_sync.remove_around(in_transaction)
    with caplog.at_level(logging.WARNING, "broadway_sync"):
        assert [ask(pipeline, data).status for data in ("raises", "does not")] == ["error", "ok"]
    assert Order.objects.count() == 1
    assert "left a transaction" not in caplog.text


# ---- how long connections live


def backend_of(processor: str, message: Message, context: Any) -> Message:
    """
    Put the server's process id of this thread's connection.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return message.put_data(cursor.fetchone()[0])


def ask(pipeline: Any, data: Any = "a") -> Any:
    """
    Send one message through; return it.
    """
    successful, failed = pipeline.test_message(data).receive(timeout=BOUND)
    return (successful + failed)[0]


def test_connection_is_kept_between_callbacks(pg: Any, make_pipeline: Any) -> None:
    """
    With CONN_MAX_AGE it serves one callback after the other.
    """
    pipeline = make_pipeline(make_handler(handle_message=backend_of)).start()
    pids = {ask(pipeline).data for _ in range(3)}
    assert len(pids) == 1
    assert pids <= pg.server.backends(pg.name)


def test_connection_without_age_serves_one_callback(make_database: Any, make_pipeline: Any) -> None:
    """
    With CONN_MAX_AGE 0, Django's default, it is closed after the callback.
    """
    pg = make_database("postgresql", CONN_MAX_AGE=0)
    pipeline = make_pipeline(make_handler(handle_message=backend_of)).start()
    assert len({ask(pipeline).data for _ in range(3)}) == 3
    eventually(lambda: not pg.server.backends(pg.name), "no connection is left between callbacks")


def test_callback_written_with_yield(make_database: Any, make_pipeline: Any) -> None:
    """
    Its body is inside of the care like that of others: its connection is closed after it.
    """
    pg = make_database("postgresql", CONN_MAX_AGE=0)

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> Any:
        for message in messages:
            yield backend_of("default", message, context)

    pipeline = make_pipeline(make_handler(handle_batch=handle_batch), batchers=BATCHERS).start()
    assert ask(pipeline).status == "ok"
    eventually(lambda: not pg.server.backends(pg.name), "no connection is left between callbacks")


def test_too_old_connection_is_replaced(make_database: Any, make_pipeline: Any) -> None:
    """
    CONN_MAX_AGE counts for the threads of a pipeline.
    """
    make_database("postgresql", CONN_MAX_AGE=0.05)
    pipeline = make_pipeline(make_handler(handle_message=backend_of)).start()
    first = ask(pipeline).data
    eventually(lambda: ask(pipeline).data != first, "another connection")


@pytest.mark.parametrize("hard", [False, True])
def test_restart_of_the_server_costs_one_callback(pg: Any, make_pipeline: Any, hard: bool) -> None:
    """
    The callback that meets the dead connection fails; the next one on that thread has a new one.
    """
    pipeline = make_pipeline(make_handler(handle_message=backend_of)).start()
    ask(pipeline)
    pg.server.restart(hard=hard)
    assert isinstance(ask(pipeline).reason, OperationalError)
    assert ask(pipeline).status == "ok"


@pytest.mark.skipif(support.django.VERSION < (4, 1), reason="Django checks the health of connections from 4.1 on")
def test_restart_of_the_server_costs_nothing_with_health_checks(make_database: Any, make_pipeline: Any) -> None:
    """
    With CONN_HEALTH_CHECKS the dead connection is noticed before it is used.
    """
    pg = make_database("postgresql", CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=True)
    pipeline = make_pipeline(make_handler(handle_message=backend_of)).start()
    ask(pipeline)
    pg.server.restart()
    assert ask(pipeline).status == "ok"


def test_killed_backend_in_the_middle_of_a_callback(pg: Any, make_pipeline: Any) -> None:
    """
    The server ends a connection inside of a transaction: the callback fails, nothing is stored, the next one works.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        with transaction.atomic():
            Order.objects.create(email="a@example.com", amount=1)
            if message.data == "killed":
                pg.server.close_connections(pg.name)
            Order.objects.create(email="b@example.com", amount=1)
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
    assert isinstance(ask(pipeline, "killed").reason, (OperationalError, support.django.db.InterfaceError))
    assert ask(pipeline, "next").status == "ok"
    connection.close()  # the test's own was killed too
    assert Order.objects.count() == 2


@pytest.mark.parametrize("age", [None, 0])
def test_threads_that_end_close_their_connections(make_database: Any, make_pipeline: Any, age: Any) -> None:
    """
    After a stop the server has as many connections as before.
    """
    pg = make_database("postgresql", CONN_MAX_AGE=age)
    gate = threading.Barrier(4, timeout=BOUND)

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        message = backend_of(processor, message, context)
        gate.wait()  # each of the four on a thread of its own
        return message

    processors = {"default": {"concurrency": 4, "max_demand": 1}}
    pipeline = make_pipeline(make_handler(handle_message=handle_message), processors=processors).start()
    assert pg.server.backends(pg.name) == set()
    successful, _ = pipeline.test_batch("abcd").collect(4, timeout=BOUND)
    pids = {message.data for message in successful}
    assert len(pids) == 4
    if age is None:
        assert pg.server.backends(pg.name) == pids
    pipeline.stop()
    # The server needs a moment to notice that a client has gone.
    eventually(lambda: pg.server.backends(pg.name) == set(), "no connection is left after the stop")


def test_abandoned_thread_closes_its_connection_when_it_ends(pg: Any, make_pipeline: Any, gate: Any) -> None:
    """
    Also one that a stop gave up.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        message = backend_of(processor, message, context)
        gate.wait()
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
    pipeline.test_message("a")
    gate.arrived()
    with pytest.raises(broadway_sync.DrainTimeoutError):
        pipeline.stop(timeout=0.1)
    assert len(pg.server.backends(pg.name)) == 1
    gate.open()
    eventually(lambda: pg.server.backends(pg.name) == set(), "no connection is left")


def test_server_that_is_down_fails_messages_until_it_is_back(pg: Any, make_pipeline: Any) -> None:
    """
    And nothing else: no thread dies.
    """
    pipeline = make_pipeline(make_handler(handle_message=backend_of)).start()
    ask(pipeline)
    pg.server.stop()
    assert [type(ask(pipeline).reason) for _ in range(3)] == [OperationalError] * 3
    pg.server.start()
    assert ask(pipeline).status == "ok"


@pytest.mark.skipif(support.django.VERSION < (5, 1), reason="Django has pools from 5.1 on")
def test_pool_gets_its_connections_back(make_database: Any, make_pipeline: Any) -> None:
    """
    Four threads share two connections of a pool: each callback takes one and gives it back.
    """
    pytest.importorskip("psycopg_pool")
    options = {"pool": {"min_size": 1, "max_size": 2, "timeout": BOUND}}
    pg = make_database("postgresql", OPTIONS=options)
    processors = {"default": {"concurrency": 4, "max_demand": 1}}
    pipeline = make_pipeline(make_handler(handle_message=backend_of), processors=processors).start()
    successful, failed = pipeline.test_batch(range(40)).collect(40, timeout=BOUND)
    assert failed == []
    assert len({message.data for message in successful}) <= 2
    pipeline.stop()
    # The pool takes them back on a thread of its own.
    stats = connection.pool.get_stats
    eventually(lambda: stats()["pool_available"] == stats()["pool_size"], "all are back")
    assert len(pg.server.backends(pg.name)) <= 2


# ---- producers


class Iterates(Producer):
    """
    Goes through a table by the ORM's iterator, over many calls.
    """

    poll_interval = 0.01

    def __init__(self) -> None:
        self.rows = iter(Order.objects.order_by("pk").iterator(chunk_size=2))

    def handle_demand(self, demand: int) -> list[Message]:
        """
        One row a call.
        """
        row = next(self.rows, None)
        if row is None:
            raise broadway_sync.EndOfStream
        return [Message(row.pk, NoopAcknowledger.init())]


def test_iterator_lives_over_many_calls_of_the_producer(database: Any, make_pipeline: Any, acks: Any) -> None:
    """
    A cursor of the database is not closed between two calls, whatever CONN_MAX_AGE is.
    """
    orders = Order.objects.bulk_create([Order(email="a@example.com", amount=1) for _ in range(10)])
    seen: list[int] = []
    handler = make_handler(handle_message=lambda processor, message, context: seen.append(message.data) or message)
    pipeline = make_pipeline(
        handler,
        producer={"module": (Iterates, {})},
        processors={"default": {"concurrency": 1, "max_demand": 2}},
    )
    assert pipeline.start().join(BOUND)
    assert sorted(seen) == sorted(Order.objects.values_list("pk", flat=True)) and len(seen) == len(orders)


def test_iterator_as_the_iterable_of_a_producer(database: Any, make_pipeline: Any) -> None:
    """
    ``IterableProducer`` over a query set that is read in chunks.
    """
    Order.objects.bulk_create([Order(email="a@example.com", amount=n) for n in range(100)])
    seen: list[int] = []
    handler = make_handler(handle_message=lambda processor, message, context: seen.append(message.data) or message)
    messages = (
        Message(order.amount, NoopAcknowledger.init()) for order in Order.objects.iterator(chunk_size=10)
    )  # fmt: skip
    pipeline = make_pipeline(handler, producer={"module": (IterableProducer, {"iterable": messages})})
    assert pipeline.start().join(BOUND)
    assert sorted(seen) == list(range(100))


class Polls(Producer):
    """
    Asks the database in each call.
    """

    poll_interval = 0.01

    def __init__(self, calls: Any) -> None:
        self.calls = calls

    def handle_demand(self, demand: int) -> list[Message]:
        """
        Put what the database said.
        """
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            self.calls.put(cursor.fetchone()[0])
        return []

    def terminate(self, reason: Any) -> None:
        """
        Connect once more, if the connection was dropped.
        """
        Order.objects.count()


def test_producer_has_another_connection_after_a_restart_of_the_server(pg: Any, make_pipeline: Any) -> None:
    """
    The producer that meets the dead connection crashes, and is made again with a new one; at the end it is closed.
    """
    calls: queue.Queue[int] = queue.Queue()
    pipeline = make_pipeline(producer={"module": (Polls, {"calls": calls})}).start()
    first = get(calls, "a query")
    pg.server.close_connections(pg.name)
    eventually(lambda: get(calls, "a query") != first, "another connection")
    pipeline.stop()
    eventually(lambda: pg.server.backends(pg.name) == set(), "no connection is left after the stop")


def test_iterator_outlives_care_inside_of_the_call(database: Any, make_pipeline: Any) -> None:
    """
    A transformer is called inside of the producer's callback: its care does not close the cursor that is read there.
    """

    def transform(event: Message) -> Message:
        with connection_care():
            return event.put_data(Order.objects.get(pk=event.data).amount)

    Order.objects.bulk_create([Order(email="a@example.com", amount=n) for n in range(10)])
    seen: list[int] = []
    handler = make_handler(handle_message=lambda processor, message, context: seen.append(message.data) or message)
    pipeline = make_pipeline(handler, producer={"module": (Iterates, {}), "transformer": transform})
    assert pipeline.start().join(BOUND)
    assert sorted(seen) == list(range(10))


class PollsWhenWoken(Polls):
    """
    Asks the database at the start, and when the test says so.
    """

    poll_interval = math.inf

    def __init__(self, calls: Any, made: list[Producer]) -> None:
        super().__init__(calls)
        made.append(self)


@pytest.mark.skipif(support.django.VERSION < (4, 1), reason="Django checks the health of connections from 4.1 on")
def test_restart_of_the_server_costs_a_producer_nothing_with_health_checks(
    make_database: Any, make_pipeline: Any
) -> None:
    """
    With CONN_HEALTH_CHECKS the first query of each call notices a dead connection.
    """
    pg = make_database("postgresql", CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=True)
    calls: queue.Queue[int] = queue.Queue()
    made: list[Producer] = []
    make_pipeline(producer={"module": (PollsWhenWoken, {"calls": calls, "made": made})}).start()
    first = get(calls, "a query")
    pg.server.close_connections(pg.name)
    eventually(lambda: first not in pg.server.backends(pg.name), "the connection is closed")
    made[0].stage.wake()
    assert get(calls, "a query") != first
    assert len(made) == 1


class KeepsATransaction(Producer):
    """
    Reads in one transaction, over all its calls.
    """

    poll_interval = 0.01

    def __init__(self, calls: Any) -> None:
        self.calls = calls

    def init(self) -> None:
        """
        Begin it.
        """
        transaction.atomic().__enter__()

    def handle_demand(self, demand: int) -> list[Message]:
        """
        Put what the database said.
        """
        backend_of("", message := Message(None, NoopAcknowledger.init()), None)
        self.calls.put(message.data)
        return []


def test_producer_that_loses_its_transaction_begins_another(pg: Any, make_pipeline: Any) -> None:
    """
    The one that is made in its place finds no connection that still believes to be in the transaction.
    """
    calls: queue.Queue[int] = queue.Queue()
    pipeline = make_pipeline(producer={"module": (KeepsATransaction, {"calls": calls})}, max_restarts=1).start()
    first = get(calls, "a query")
    pg.server.close_connections(pg.name)
    eventually(lambda: get(calls, "a query") != first, "another connection")
    assert sum(stage.restarts for stage in pipeline.statistics().stages) == 1
    pipeline.stop()
    eventually(lambda: pg.server.backends(pg.name) == set(), "no connection is left after the stop")


# ---- what else Django does around a request


def test_queries_are_forgotten_after_each_callback(database: Any, make_pipeline: Any) -> None:
    """
    With DEBUG, what ``connection.queries`` holds is that of one callback.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        Order.objects.count()
        return message.put_data(len(connection.queries))

    with override_settings(DEBUG=True):
        pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
        counts = [ask(pipeline).data for _ in range(3)]
    connection.queries_log.clear()
    assert len(set(counts)) == 1


def test_caches_are_kept_by_thread(database: Any, make_pipeline: Any, monkeypatch: Any) -> None:
    """
    Each thread has one backend of each cache, over all its callbacks, closed at its end. One that cannot be made is an
    error of who uses it.
    """
    del made_caches[:]
    monkeypatch.setitem(caches.settings, "broken", {"BACKEND": "nowhere.NoCache"})

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        caches["default"].set("last", message.data)
        if message.data == "broken":
            caches["broken"].get("last")
        return message.put_data(id(caches["default"]))

    pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
    assert len({ask(pipeline).data for _ in range(3)}) == 1
    assert "nowhere" in str(ask(pipeline, "broken").reason)
    pipeline.stop()
    by_thread = [cache.thread for cache in made_caches]
    assert len(by_thread) == len(set(by_thread)) > 0
    assert [cache.is_closed for cache in made_caches] == [True] * len(made_caches)


def test_cache_that_nobody_uses_is_no_fault(database: Any, make_pipeline: Any, caplog: Any, monkeypatch: Any) -> None:
    """
    Whatever its constructor raises; who uses it gets that, and no line of the log is about it before.
    """
    backend = "tests.integrations.django.cache.MisconfiguredCache"
    monkeypatch.setitem(caches.settings, "misconfigured", {"BACKEND": backend})

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        return message.put_data(caches[message.data].get("last"))

    pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
    assert ask(pipeline, "default").status == "ok"
    assert caplog.text == ""
    assert str(ask(pipeline, "misconfigured").reason) == "no address"


def test_fault_of_a_connection_is_no_fault_of_the_callback(
    database: Any, make_pipeline: Any, caplog: Any, monkeypatch: Any
) -> None:
    """
    A connection that cannot be closed is logged; the message, whose work is done, is successful.
    """

    def close(self: Any) -> None:
        raise OperationalError("it will not close")

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR, "broadway_sync"):
        pipeline = make_pipeline(make_handler(handle_message=store)).start()
        patch.setattr("django.db.backends.base.base.BaseDatabaseWrapper.close_if_unusable_or_obsolete", close)
        assert ask(pipeline).status == "ok"
    assert "the connections around handle_message could not be seen to" in caplog.text
    assert "it will not close" in caplog.text


def test_code_outside_of_callbacks(pg: Any, make_pipeline: Any) -> None:
    """
    ``connection_care`` does for an acknowledger what is done around callbacks.
    """
    outcomes: list[Any] = []

    class Acknowledger:
        def ack(self, ref: Any, successful: list[Message], failed: list[Message]) -> None:
            with connection_care():
                try:
                    outcomes.append(Order.objects.count())
                except OperationalError:
                    outcomes.append(OperationalError)
                acknowledged.set()

    acknowledged = threading.Event()
    pipeline = make_pipeline().start()
    for _ in range(3):
        acknowledged.clear()
        if len(outcomes) == 1:
            pg.server.restart()
        pipeline.push_messages([Message("a", (Acknowledger(), "ref", None))])
        assert acknowledged.wait(BOUND)
    assert outcomes == [0, OperationalError, 0]


def test_care_inside_of_a_callback_leaves_its_transaction(database: Any, make_pipeline: Any, caplog: Any) -> None:
    """
    ``ack_immediately`` calls the acknowledger inside of the callback: what that has begun is neither rolled back nor
    torn apart.
    """

    class Acknowledger:
        def ack(self, ref: Any, successful: list[Message], failed: list[Message]) -> None:
            with connection_care():
                counts.append(Order.objects.count())

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        with transaction.atomic():
            Order.objects.create(email="a@example.com", amount=1)
            messages = [message.ack_immediately() for message in messages]
            Order.objects.create(email="b@example.com", amount=1)
        return messages

    counts: list[int] = []
    with make_pipeline(make_handler(handle_batch=handle_batch), batchers=BATCHERS) as pipeline:
        pipeline.push_messages([Message("a", (Acknowledger(), "ref", None))])
    assert (counts, Order.objects.count()) == ([1], 2)
    assert caplog.text == ""


def test_care_inside_of_a_transaction_leaves_it(database: Any) -> None:
    """
    Also where no callback is around it, such as in a request.
    """
    with transaction.atomic():
        Order.objects.create(email="a@example.com", amount=1)
        with connection_care():
            assert Order.objects.count() == 1
        Order.objects.create(email="b@example.com", amount=1)
    assert Order.objects.count() == 2


def test_without_care_connections_stay_as_they_are(pg: Any, make_pipeline: Any) -> None:
    """
    What the hook is for: without it a dead connection is never replaced, and nothing is closed at the end.
    """
    broadway_sync.remove_around(care)
    pipeline = make_pipeline(make_handler(handle_message=backend_of)).start()
    ask(pipeline)
    pg.server.restart()
    assert [ask(pipeline).status for _ in range(3)] == ["error"] * 3


@pytest.mark.parametrize("setting, is_cared_for", [("", True), ("BROADWAY_CONNECTION_CARE = False", False)])
def test_app_puts_the_care_around_every_pipeline(tmp_path: Any, setting: str, is_cared_for: bool) -> None:
    """
    In a process that sets Django up, unless the setting says not to.
    """
    (tmp_path / "settings_of_care.py").write_text(f"from config.settings import *\n{setting}\n")
    source = "import django; django.setup(); from broadway_sync.around import everywhere; print(len(everywhere()))"
    paths = f"{tmp_path}:{support.PROJECT}:{support.ROOT}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source], stdin=subprocess.DEVNULL, capture_output=True, text=True,
        env=python_env({"DJANGO_SETTINGS_MODULE": "settings_of_care", "PYTHONPATH": paths}), timeout=50,
    )  # fmt: skip
    assert (done.stdout.strip(), done.stderr) == (str(int(is_cared_for)), "")


def test_shared_connections_are_left_alone(database: Any) -> None:
    """
    A connection that other threads may use is not closed, whatever its age.
    """
    connection.ensure_connection()
    connection.inc_thread_sharing()
    try:
        with connection_care():
            pass
        assert connection.connection is not None
        care.thread_ended()
        assert connection.connection is not None
    finally:
        connection.dec_thread_sharing()
    with connection_care():
        pass
    assert connection.connection is None


def test_every_connection_is_closed_even_if_one_cannot_be(database: Any, monkeypatch: Any) -> None:
    """
    The fault of one is raised when all others are closed.
    """
    other = connections.create_connection("default")
    other.alias = "other"
    connection.ensure_connection()

    def close() -> None:
        raise OperationalError("it will not close")

    monkeypatch.setattr(other, "close", close)
    monkeypatch.setattr(type(connections), "all", lambda self, **options: [other, connections["default"]])
    with pytest.raises(OperationalError, match="will not close"):
        care.thread_ended()
    assert connection.connection is None


@pytest.mark.parametrize("callback", ["handle_message", "handle_demand"])
def test_every_connection_is_seen_to_even_if_one_cannot_be(database: Any, monkeypatch: Any, callback: str) -> None:
    """
    Of a database that has a fault all callbacks have it; the others are looked at all the same.
    """
    other = connections.create_connection("default")
    other.alias = "other"
    for each in (connection, other):
        each.ensure_connection()
        each.errors_occurred = True

    def is_usable() -> bool:
        raise NotImplementedError("somebody's backend may not have this")

    monkeypatch.setattr(other, "is_usable", is_usable)
    monkeypatch.setattr(connections["default"], "is_usable", lambda: False)
    monkeypatch.setattr(type(connections), "all", lambda self, **options: [other, connections["default"]])
    call = Call(callback, "p", lambda: connection.connection is None)
    try:
        assert care(call, []) if callback == "handle_message" else care.around_producer(call)
    finally:
        other.close()


def test_dummy_producer_and_activity(database: Any, make_pipeline: Any) -> None:
    """
    The pipeline of the how-to stores a batch of activities in one go.
    """
    from shop.pipelines import StoreActivities

    order = Order.objects.create(email="a@example.com", amount=1)
    batchers = {"default": {"batch_size": 3, "batch_timeout": 5.0}}
    pipeline = make_pipeline(StoreActivities(), producer={"module": (DummyProducer, {})}, batchers=batchers).start()
    data = [{"order_id": order.pk, "text": str(n)} for n in range(3)]
    pipeline.test_batch(data).collect(3, timeout=BOUND)
    assert sorted(Activity.objects.values_list("text", flat=True)) == ["0", "1", "2"]
