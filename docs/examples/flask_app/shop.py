"""
A shop: orders come from a file, clicks from its own visitors, both are stored by pipelines.
"""

import json

from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from broadway_sync import Buffer, BufferProducer, IterableProducer, NotRunningError, Pipeline
from broadway_sync.integrations.flask import Broadway

db = SQLAlchemy()
broadway = Broadway()
clicks = Buffer(maxsize=1000)


class Order(db.Model):
    id = db.Column(db.Integer, primary_key=True)
    customer = db.Column(db.String(80), nullable=False)


class Click(db.Model):
    id = db.Column(db.Integer, primary_key=True)
    path = db.Column(db.String(200), nullable=False)


class StoreOrders:
    def handle_message(self, processor, message, context):
        return message.update_data(json.loads)

    def handle_batch(self, batcher, messages, batch_info, context):
        db.session.add_all([Order(**message.data) for message in messages])
        db.session.commit()
        return messages


class StoreClicks:
    def handle_message(self, processor, message, context):
        return message

    def handle_batch(self, batcher, messages, batch_info, context):
        db.session.add_all([Click(path=message.data) for message in messages])
        db.session.commit()
        return messages


def read_lines(path):
    with open(path, encoding="utf-8") as file:
        yield from file


@broadway.pipeline("orders")
def make_orders(app, producer=None):
    """
    Stores the orders of a file, one in each line. In real life they come from a broker.
    """
    return Pipeline(
        StoreOrders(),
        name="orders",
        producer={"module": producer or (IterableProducer, {"iterable": read_lines(app.config["ORDERS"])})},
        processors={"default": {"concurrency": 4}},
        batchers={"default": {"batch_size": 100}},
    )


@broadway.pipeline("clicks")
def make_clicks():
    """
    Stores the clicks of a web process.
    """
    return Pipeline(
        StoreClicks(),
        name="clicks",
        producer={"module": (BufferProducer, {"buffer": clicks})},
        processors={"default": {"concurrency": 1}},
        batchers={"default": {"batch_size": 100, "batch_timeout": 2.0}},
        shutdown=10,
    )


def create_app(**config):
    app = Flask(__name__)
    app.config.update(SQLALCHEMY_DATABASE_URI="sqlite:///shop.sqlite", ORDERS="orders.jsonl")
    app.config.from_envvar("SHOP_SETTINGS", silent=True)
    app.config.update(config)
    db.init_app(app)
    broadway.init_app(app)

    @app.cli.command("create-tables")
    def create_tables():
        db.create_all()

    @app.route("/<path:path>")
    def page(path):
        try:
            clicks.push(f"/{path}", timeout=0.5)
        except (TimeoutError, NotRunningError):  # the buffer is full, or the worker ends
            return "busy\n", 503
        return "thank you\n", 202

    return app
