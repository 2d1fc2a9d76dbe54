"""
Fixtures of the tests of SQSProducer.
"""

from __future__ import annotations

from typing import Any, Callable

import pytest

from tests.connectors.recorder import Recorder
from tests.connectors.sqs.support import module


@pytest.fixture
def start(make_pipeline: Callable[..., Any]) -> Callable[..., Any]:
    """
    Return a function that starts a pipeline on a queue; what is no setting of pipelines is an option of SQSProducer.
    """

    def start(
        server: Any,
        queue_url: str,
        handler: Any = None,
        *,
        options: dict[str, Any] | None = None,
        port: int | None = None,
        producers: int = 1,
        **settings: Any,
    ) -> Any:
        producer = {"module": module(queue_url, server, port, **(options or {})), "concurrency": producers}
        return make_pipeline(handler or Recorder(), producer=producer, **settings).start()

    return start
