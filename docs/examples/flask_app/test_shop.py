"""
How a pipeline is tested: with the application, a database of its own, and no source but the test.
"""

import pytest
from shop import Order, broadway, create_app, db

from broadway_sync import DummyProducer


@pytest.fixture
def app(tmp_path):
    app = create_app(SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path / 'test.sqlite'}")
    with app.app_context():
        db.create_all()
        yield app
        db.engine.dispose()


def test_orders_are_stored(app):
    with broadway.make("orders", app, producer=DummyProducer) as pipeline:
        (order,), failed = pipeline.test_message('{"customer": "ada"}').receive()
    assert [order.customer for order in Order.query.all()] == ["ada"]


def test_an_order_without_a_customer_fails(app):
    with broadway.make("orders", app, producer=DummyProducer) as pipeline:
        successful, (order,) = pipeline.test_message("{}").receive()
    assert "NOT NULL" in str(order.reason)
    assert Order.query.count() == 0
