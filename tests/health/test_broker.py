"""
Readiness with a real broker, which goes away and comes back.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.connectors.rabbitmq.support import producer
from tests.health.support import ask
from tests.helpers import eventually

pytest.importorskip("pika", reason="the client of RabbitMQ is not installed")


def test_a_broker_that_comes_goes_and_comes_back(
    make_pipeline: Any, make_monitor: Any, rabbitmq: Any, make_proxy: Any
) -> None:
    """
    Not there at the start, then there, then cut off, then back: live all the time, ready while it is there.
    """
    proxy = make_proxy(rabbitmq.port)
    proxy.refuse()
    url = rabbitmq.url_of(proxy.port)
    pipeline = make_pipeline(producer=producer(url, rabbitmq.queue()))
    monitor = make_monitor(pipeline).start()
    pipeline.start()
    for is_there in (False, True, False, True):
        if is_there:
            proxy.accept()
        else:
            proxy.refuse()
            proxy.reset()
        status = 200 if is_there else 503
        eventually(lambda status=status: ask(monitor.port, "/readyz").status == status, f"readyz answers {status}")
        answer = ask(monitor.port, "/livez")
        assert answer.status == 200
        assert ("has no connection" in answer.text) != is_there
        assert url not in answer.text
    pipeline.stop()
    assert ask(monitor.port, "/livez").text == "ok\nno pipeline is running\n"
