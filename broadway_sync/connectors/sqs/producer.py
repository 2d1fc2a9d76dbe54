"""
The producer of messages from Amazon SQS.
"""

from __future__ import annotations

from typing import Any, Mapping

from ..common.options import build
from ..common.polling import PollingProducer
from ..common.polling_client import PollingClient
from ..common.reporter import Reporter
from . import client
from .options import SQSOptions


class SQSProducer(PollingProducer):
    """
    Receives from an SQS queue as much as the pipeline asks for, by long polls on a thread of its own; keeps what is in
    the pipeline invisible to others; deletes what was successful, in batches of ten.

    ``producer={"module": (SQSProducer, {"queue_url": "https://sqs.eu-west-1.amazonaws.com/123456789012/invoices"})}``

    A message's data is the body. Its metadata are ``message_id``, ``receipt_handle``, ``md5_of_body``, ``attributes``
    (system attributes, by names such as ``sent_timestamp``; numbers are int), ``message_attributes`` (name ->
    ``{"data_type", "value"}``) and ``approximate_receive_count``.

    ``message.configure_ack(on_success=..., on_failure=...)`` replaces these options for one message.

    Of a FIFO queue, one message of each message group at a time is in the pipeline. When it was deleted the next one
    follows; otherwise the others of its group that were received are made visible again.

    Follows Broadway's SQS connector 0.7. What it does not have: leases, order, partial failures, a stop that does not
    wait for a long poll.

    Args:
        queue_url: Address of the queue.
        options: See :class:`~broadway_sync.connectors.sqs.options.SQSOptions`.

    Raises:
        ConfigurationError: An option is unknown, missing, or breaks its rule.
    """

    connector = "sqs"
    options_class = SQSOptions

    def __init__(self, *, queue_url: str, **options: Any) -> None:
        super().__init__(queue_url=queue_url, **options)

    @classmethod
    def validate_options(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """
        Check the options, and that boto3 is there and takes those that it is given.
        """
        checked = build(cls.options_class, options)
        if checked.client is None:
            client.check(checked)
        return options

    def make_client(self, options: Any) -> PollingClient:
        """
        Return a client, not connected.
        """
        return client.SQSClient(options, Reporter(self.connector, self.stage).warning)
