"""
ministack, a server of SQS that is several times quicker than the others, from PyPI.

It pins an exact version of boto3's core, so ``make brokers`` gives it an environment of its own.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from tests.brokers.broker import JARS
from tests.brokers.ports import HOST
from tests.brokers.sqs import SQSServer, boto3_missing


def _python() -> Path | None:
    """
    Return a Python that has ministack, None if there is none.
    """
    own = JARS / "ministack" / "bin" / "python"
    if own.exists():
        return own
    return Path(sys.executable) if importlib.util.find_spec("ministack") else None


class MiniStack(SQSServer):
    """
    One server; queues and messages survive ``stop()``, not ``kill()``.
    """

    name = "ministack"

    @classmethod
    def missing(cls) -> str | None:
        """
        The server, and boto3.
        """
        if _python() is None:
            return f"needs ministack in {JARS / 'ministack'} (make brokers)"
        return boto3_missing()

    def command(self) -> list[str]:
        """
        The server.
        """
        return [str(_python()), "-m", "ministack"]

    def environment(self) -> dict[str, str]:
        """
        Its settings; by default it listens on all interfaces and writes into the temporary folder.
        """
        return {
            **os.environ,
            "BIND_HOST": HOST,
            "GATEWAY_PORT": str(self.port),
            "IOT_MTLS_ENABLED": "0",  # would listen on port 8883 of all interfaces, whatever SERVICES says
            "LOG_LEVEL": "WARNING",
            "MINISTACK_HOST": HOST,
            "PERSIST_STATE": "1",
            "S3_DATA_DIR": str(self.folder / "s3"),
            "SERVICES": "sqs",
            "STATE_DIR": str(self.folder / "state"),
            "TMPDIR": str(self.folder),
        }
