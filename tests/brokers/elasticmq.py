"""
ElasticMQ, a server of SQS with the most complete behaviour, from the jars that ``make brokers`` fetches.
"""

from __future__ import annotations

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

    def prepare(self) -> None:
        """
        Write the configuration.
        """
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
