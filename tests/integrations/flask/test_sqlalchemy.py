"""
Flask-SQLAlchemy: a session for each call, from several threads, on an SQLite file and on PostgreSQL.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

flask = pytest.importorskip("flask", reason="Flask is not installed")
flask_sqlalchemy = pytest.importorskip("flask_sqlalchemy", reason="Flask-SQLAlchemy is not installed")
sqlalchemy = pytest.importorskip("sqlalchemy")

from broadway_sync import DummyProducer, Pipeline  # noqa: E402 - after the look for Flask
from broadway_sync.integrations.flask import Broadway, command  # noqa: E402
from tests.contract.test_fork import in_child  # noqa: E402
from tests.helpers import BOUND, make_handler, unique_name  # noqa: E402

OPTIONS = {"producer": {"module": (DummyProducer, {})}, "processors": {"default": {"concurrency": 4}}}


class Shop:
    """
    An application with a table of orders.
    """

    def __init__(self, uri: str, options: Dict[str, Any]) -> None:
        self.app = flask.Flask("shop")
        self.app.config.update(SQLALCHEMY_DATABASE_URI=uri, SQLALCHEMY_ENGINE_OPTIONS=options)
        self.app.config.update(SQLALCHEMY_TRACK_MODIFICATIONS=False)
        self.db = db = flask_sqlalchemy.SQLAlchemy()
        db.init_app(self.app)

        class Order(db.Model):  # type: ignore[misc, name-defined]
            number = db.Column(db.Integer, primary_key=True)
            customer = db.Column(db.String(80), nullable=False)

        self.Order = Order
        self.broadway = Broadway(self.app)
        with self.app.app_context():
            db.create_all()

    def pipeline(self, handler: Any, **options: Any) -> Pipeline:
        """
        Return a pipeline of this application.
        """
        name = unique_name()
        self.broadway.pipeline(name)(lambda: Pipeline(handler, name=name, **{**OPTIONS, **options}))
        return self.broadway.make(name, self.app)

    def customers(self) -> List[str]:
        """
        Return what is in the table.
        """
        with self.app.app_context():
            return sorted(order.customer for order in self.Order.query.all())

    def close(self) -> None:
        """
        Close the connections.
        """
        with self.app.app_context():
            self.db.engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def shop(request: Any, tmp_path: Path) -> Iterator[Shop]:
    """
    Return an application, once for each database.
    """
    # As SQLAlchemy 2 does: connections are kept, and given to whichever thread asks next.
    options: Dict[str, Any] = {"poolclass": sqlalchemy.pool.QueuePool}
    if request.param == "postgresql":
        pytest.importorskip("psycopg", reason="psycopg is not installed")
        pytest.importorskip("sqlalchemy.dialects.postgresql.psycopg", reason="SQLAlchemy 1 does not know psycopg 3")
        server = request.getfixturevalue("postgresql")
        uri = f"postgresql+psycopg://{server.user}:{server.password}@{server.host}:{server.port}/{server.database()}"
    else:
        uri = f"sqlite:///{tmp_path / 'shop.sqlite'}"
        options["connect_args"] = {"check_same_thread": False}
    shop = Shop(uri, options)
    yield shop
    shop.close()


def test_batches_are_stored(shop: Shop) -> None:
    """
    Each ``handle_batch`` commits its own session, several at a time.
    """

    def handle_batch(batcher: Any, messages: Any, batch_info: Any, context: Any) -> Any:
        shop.db.session.add_all(
            [shop.Order(number=message.data, customer=f"c{message.data:03}") for message in messages]
        )
        shop.db.session.commit()
        return messages

    batchers = {"default": {"concurrency": 3, "batch_size": 7, "batch_timeout": 0.05}}
    with shop.pipeline(make_handler(handle_batch=handle_batch), batchers=batchers) as pipeline:
        good, bad = pipeline.test_batch(range(200)).collect(200, BOUND)
    assert (len(good), bad) == (200, [])
    assert shop.customers() == [f"c{number:03}" for number in range(200)]


def test_a_batch_that_fails_leaves_nothing_in_the_session(shop: Shop) -> None:
    """
    It is rolled back with its session; the next one on the same thread starts afresh.
    """

    def handle_batch(batcher: Any, messages: Any, batch_info: Any, context: Any) -> Any:
        shop.db.session.add_all([shop.Order(customer=message.data) for message in messages])
        shop.db.session.flush()
        shop.db.session.commit()
        return messages

    batchers = {"default": {"batch_timeout": 0.01}}
    with shop.pipeline(make_handler(handle_batch=handle_batch), batchers=batchers) as pipeline:
        assert pipeline.test_message("first").receive(BOUND)[0]
        ((), (failed,)) = pipeline.test_message(None).receive(BOUND)  # the column must not be null
        assert isinstance(failed.reason, sqlalchemy.exc.IntegrityError)
        assert pipeline.test_message("second").receive(BOUND)[0]
    assert shop.customers() == ["first", "second"]


def test_what_is_not_committed_is_gone(shop: Shop) -> None:
    """
    The session is removed after each call, as after a request.
    """

    def handle_message(processor: Any, message: Any, context: Any) -> Any:
        new = list(shop.db.session.new)
        shop.db.session.add(shop.Order(customer="nobody"))
        return message.put_data(len(new))

    with shop.pipeline(make_handler(handle_message=handle_message)) as pipeline:
        assert [pipeline.test_message(1).receive(BOUND)[0][0].data for _ in range(5)] == [0] * 5
    assert shop.customers() == []


def test_no_connection_is_kept(shop: Shop) -> None:
    """
    After each call its connection is back in the pool.
    """
    pools: List[Any] = []

    def handle_message(processor: Any, message: Any, context: Any) -> Any:
        assert shop.db.session.execute(sqlalchemy.text("SELECT 1")).scalar() == 1
        pools.append(shop.db.engine.pool)
        return message

    with shop.pipeline(make_handler(handle_message=handle_message)) as pipeline:
        assert len(pipeline.test_batch(range(50)).collect(50, BOUND)[0]) == 50
        assert {pool.checkedout() for pool in pools} == {0}
    assert len(pools) == 50


def test_sessions_are_not_shared(shop: Shop) -> None:
    """
    Calls at the same time have a session each.
    """
    barrier = threading.Barrier(4)

    def handle_message(processor: Any, message: Any, context: Any) -> Any:
        barrier.wait(BOUND)
        session = shop.db.session()
        barrier.wait(BOUND)  # nobody's has been removed yet
        return message.put_data(id(session))

    with shop.pipeline(make_handler(handle_message=handle_message)) as pipeline:
        refs = [pipeline.test_message(number) for number in range(4)]
        assert len({ref.receive(BOUND)[0][0].data for ref in refs}) == 4


def test_the_main_thread_keeps_its_session(shop: Shop) -> None:
    """
    A pipeline does not disturb whoever uses a session elsewhere.
    """
    handle: Callable[..., Any] = lambda p, message, c: message.put_data(shop.Order.query.count())  # noqa: E731
    with shop.app.app_context():
        shop.db.session.add(shop.Order(customer="mine"))
        with shop.pipeline(make_handler(handle_message=handle)) as pipeline:
            assert pipeline.test_message(1).receive(BOUND)[0][0].data == 0
        shop.db.session.commit()
    assert shop.customers() == ["mine"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_do_not_share_connections(shop: Shop) -> None:
    """
    A process that ``flask broadway run --processes`` has forked uses none of those that its parent has opened.
    """
    shop.broadway.pipeline("orders")(lambda: Pipeline(make_handler(), name="orders", **OPTIONS))
    target = command._Target(shop.broadway, "orders", shop.app)
    with shop.app.app_context():
        engine = shop.db.engine
        shop.db.session.add(shop.Order(customer="mine"))
        shop.db.session.commit()
        used = raw_connection(engine)

    def child() -> Any:
        target()
        with shop.app.app_context():
            return [raw_connection(engine) is used, shop.Order.query.count(), is_open(used)]

    assert in_child(child) == [False, 1, True]
    target()
    assert raw_connection(engine) is used


def is_open(connection: Any) -> bool:
    """
    Whether a connection still answers.
    """
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute("SELECT 1")
        return bool(cursor.fetchone() == (1,))


def raw_connection(engine: Any) -> Any:
    """
    Return the connection that the pool gives out next.
    """
    with contextlib.closing(engine.raw_connection()) as connection:
        return getattr(connection, "driver_connection", None) or connection.connection
