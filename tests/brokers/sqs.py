"""
What the servers that speak SQS have in common: addresses, clients, queues.
"""

from __future__ import annotations

import importlib.util
import threading
import urllib.error
import urllib.request
from typing import Any, Iterable

from tests.brokers.broker import Broker, unique
from tests.brokers.ports import HOST
from tests.brokers.process import SCALE

CREDENTIALS = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
REGION = "us-east-1"


def boto3_missing() -> str | None:
    """
    Return what to do about a missing client.
    """
    return None if importlib.util.find_spec("boto3") else "needs boto3 (the extra sqs)"


class SQSServer(Broker):
    """
    A server on one port.
    """

    def __init__(self) -> None:
        super().__init__()
        self.host = HOST
        self.port = self.reserve()
        # For the calls below. Making a session or a client takes a tenth of a second; a client may be shared.
        self._session: Any = None
        self._client: Any = None
        self._mutex = threading.Lock()  # guards the two

    @property
    def url(self) -> str:
        """
        The endpoint for clients.
        """
        return self.url_of(self.port)

    def url_of(self, port: int) -> str:
        """
        Return the endpoint at another port: that of a proxy.
        """
        return f"http://{HOST}:{port}"

    def is_ready(self) -> bool:
        """
        Whether it answers HTTP, with whatever.
        """
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            opener.open(self.url, timeout=2 * SCALE).close()
        except urllib.error.HTTPError as error:
            error.close()
        return True

    def client_options(self, port: int | None = None) -> dict[str, Any]:
        """
        Return what ``boto3.client("sqs", ...)`` needs to reach this server.
        """
        return {"endpoint_url": self.url_of(port or self.port), "region_name": REGION, **CREDENTIALS}

    def client(self, port: int | None = None, **options: Any) -> Any:
        """
        Return a new client.
        """
        import boto3

        with self._mutex:  # a session may not be shared
            if self._session is None:
                self._session = boto3.session.Session()
            return self._session.client("sqs", **{**self.client_options(port), **options})

    @property
    def own_client(self) -> Any:
        """
        The client of the helpers here, for any thread.
        """
        if self._client is None:
            self._client = self.client()
        return self._client

    def close(self) -> None:
        """
        End the server; close the connections of the helpers' client.
        """
        super().close()
        if self._client is not None:
            self._client.close()

    def queue(self, *, fifo: bool = False, **attributes: Any) -> str:
        """
        Make a queue and return its URL; *attributes* as SQS names them: ``queue(VisibilityTimeout=2)``.
        """
        name = unique("queue")
        if fifo:
            name += ".fifo"
            attributes = {"FifoQueue": "true", "ContentBasedDeduplication": "true", **attributes}
        given = {key: str(value) for key, value in attributes.items()}
        return str(self.own_client.create_queue(QueueName=name, Attributes=given)["QueueUrl"])

    def arn(self, queue_url: str) -> str:
        """
        Return the ARN of a queue, for a redrive policy.
        """
        answer = self.own_client.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
        return str(answer["Attributes"]["QueueArn"])

    def send(self, queue_url: str, bodies: Iterable[str], group: str | None = None) -> None:
        """
        Send messages, ten at a time; *group* is the message group of a FIFO queue.
        """
        client, items = self.own_client, list(bodies)
        extra = {} if group is None else {"MessageGroupId": group}
        for first in range(0, len(items), 10):
            entries = [
                {"Id": str(number), "MessageBody": body, **extra}
                for number, body in enumerate(items[first : first + 10])
            ]
            answer = client.send_message_batch(QueueUrl=queue_url, Entries=entries)
            assert not answer.get("Failed"), answer["Failed"]

    def counts(self, queue_url: str) -> tuple[int, int, int]:
        """
        Return how many messages are visible, in flight, delayed.
        """
        answer = self.own_client.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["All"])
        names = ("", "NotVisible", "Delayed")
        visible, hidden, delayed = (int(answer["Attributes"][f"ApproximateNumberOfMessages{name}"]) for name in names)
        return visible, hidden, delayed

    def take(self, queue_url: str) -> list[dict[str, Any]]:
        """
        Receive and delete all visible messages; return them as the client gave them.
        """
        client, taken = self.own_client, []
        while True:
            answer = client.receive_message(
                QueueUrl=queue_url, MaxNumberOfMessages=10, AttributeNames=["All"], MessageAttributeNames=["All"]
            )
            if not answer.get("Messages"):
                return taken
            for message in answer["Messages"]:
                client.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])
                taken.append(message)
