"""
The producer.
"""

from __future__ import annotations

import math
from typing import Any, Iterable, List, Mapping, Tuple

from ...log import log_error, log_warning
from ...options import PipelineOptions
from ...producer import Producer
from ..common.events import RECEIVE
from ..common.options import build
from ..common.reporter import Reporter
from .client import PikaClient
from .connection import Connection
from .options import RabbitMQOptions, warnings_for


class RabbitMQProducer(Producer):
    """
    Takes messages from a RabbitMQ queue; ``message.data`` is the body, bytes.

    Options: :class:`~broadway_sync.connectors.rabbitmq.options.RabbitMQOptions`; ``queue`` and ``on_failure`` are
    required. Each producer has its own connection with one channel and one consumer. The broker sends up to
    ``prefetch_count`` messages ahead of their acknowledgement, whatever the demand: that is the limit of what this
    producer has in the pipeline.

    ``Message.configure_ack(on_success=..., on_failure=...)`` changes what becomes of one message.

    Follows Broadway's RabbitMQ connector, ``producer.ex``; docs/howto/rabbitmq.rst lists what differs.
    """

    # Asked again when there is something: the connection's thread wakes the stage.
    poll_interval = math.inf

    def __init__(self, **options: Any) -> None:
        self._given = options
        self._options = build(RabbitMQOptions, options)

    @classmethod
    def validate_options(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """
        Check the options, pika's reading of the connection included.
        """
        checked = build(RabbitMQOptions, options)
        (checked.client or PikaClient()).check(checked)
        return options

    @classmethod
    def prepare_for_start(cls, handler: Any, options: PipelineOptions) -> Tuple[List[Any], PipelineOptions]:
        """
        Warn of a prefetch that does not suit the pipeline.
        """
        module = options.producer.module
        if isinstance(module, tuple):
            for text in warnings_for(build(RabbitMQOptions, module[1]), options):
                log_warning(text, options.name, f"{options.name}.Broadway.Producer")
        return [], options

    def init(self) -> None:
        """
        Begin to connect; a broker that is down is tried again and again.
        """
        self._reporter = Reporter("rabbitmq", self.stage)
        client = self._options.client or PikaClient()
        self._connection = Connection(client, self._options, self._given, self.stage, self._reporter)
        self._connection.start()

    def handle_demand(self, demand: int) -> Iterable[Any]:
        """
        Return what has been delivered, up to *demand*.
        """
        connection = self._connection
        if not connection.waiting:
            if connection.failure is not None:
                raise connection.failure
            return ()
        if connection.failure is not None:
            self.stage.wake()  # nobody else will: ask again, for the failure, when these are gone
        if not any(self._reporter.is_heard((*RECEIVE, end)) for end in ("start", "stop")):
            return connection.take(demand)
        with self._reporter.span(RECEIVE, demand=demand) as span:
            messages = connection.take(demand)
            span.stop_metadata["count"] = len(messages)
        return messages

    def prepare_for_draining(self) -> Iterable[Any]:
        """
        Cancel the consumer; what was delivered and nobody has asked for goes back to the queue.
        """
        return self._connection.drain()

    def terminate(self, reason: Any) -> None:
        """
        Send the last acknowledgements and disconnect.
        """
        connection = getattr(self, "_connection", None)
        if connection is None:
            return
        connection.close()
        failure = connection.failure
        if failure is not None and failure is not reason:  # nobody has asked for messages since
            log_error("the connection's thread has died", failure, self.stage.pipeline_name, self.stage.name)
