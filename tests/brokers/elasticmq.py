"""
ElasticMQ, a server of SQS with the most complete behaviour, from the jars that ``make brokers`` fetches.
"""

from __future__ import annotations

from typing import Iterable

from tests.brokers.broker import JARS, java, java_missing
from tests.brokers.ports import HOST
from tests.brokers.sqs import REGION, SQSServer, boto3_missing


class ElasticMQ(SQSServer):
    """
    One server.

    What it does not do as AWS: deleting a message twice is an error; attribute names with ``.*`` match nothing.

    After a restart a FIFO queue has its messages, but the ones sent together may be in another order.

    Args:
        durable: Keep queues and messages in a file, over ``stop()`` and ``kill()``; a third slower.
    """

    name = "ElasticMQ"

    def __init__(self, durable: bool = True) -> None:
        super().__init__()
        self._durable = durable
        self._stored: set[str] = set()  # the names of the queues that a restart has to bring back
        self._awaited: set[str] = set()  # those that were there when the present process was started
        self._log_start = 0  # where the log of the present process begins, in bytes

    @property
    def _storage(self) -> str:
        # By default H2 writes after half a second: what was sent just before a kill would be lost.
        return f"jdbc:h2:{self.folder}/data;WRITE_DELAY=0"

    @classmethod
    def missing(cls) -> str | None:
        """
        Java, the jars, and boto3.
        """
        if not list(JARS.glob("elasticmq/elasticmq-server_*.jar")):
            return f"needs ElasticMQ in {JARS / 'elasticmq'} (make brokers)"
        return boto3_missing() or java_missing()

    def send(self, queue_url: str, bodies: Iterable[str], group: str | None = None) -> None:
        """
        Send messages; from then on the queue is in the file, which an empty new one may not be yet.
        """
        super().send(queue_url, bodies, group)
        self._stored.add(queue_url.rpartition("/")[2])

    def is_ready(self) -> bool:
        """
        Whether it answers, and has its queues back: it begins to serve before it has read them from its file.
        """
        if not super().is_ready():
            return False
        with open(str(self.log), "rb") as log:
            log.seek(self._log_start)
            restored = {line.split()[-1] for line in log.read().decode().splitlines() if "Restored" in line}
        return not self._durable or restored.issuperset(self._awaited)

    def prepare(self) -> None:
        """
        Write the configuration.
        """
        self._awaited = set(self._stored)
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        (self.folder / "elasticmq.conf").write_text(
            f"""include classpath("application.conf")
node-address {{ protocol = http, host = "{HOST}", port = {self.port}, context-path = "" }}
rest-sqs {{ enabled = true, bind-port = {self.port}, bind-hostname = "{HOST}", sqs-limits = strict }}
rest-stats {{ enabled = false }}
aws {{ region = {REGION}, accountId = 000000000000 }}
messages-storage {{ enabled = {str(self._durable).lower()}, uri = "{self._storage}" }}
"""
        )

    def command(self) -> list[str]:
        """
        The server.
        """
        config = f"-Dconfig.file={self.folder / 'elasticmq.conf'}"
        return [*java("256m"), config, "-cp", str(JARS / "elasticmq" / "*"), "org.elasticmq.server.Main"]
