"""
The handlers of the scenarios; the yardstick and the peers call the same ones.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any, Dict, List

from broadway_sync import BatchInfo, Message

BLOCK = b"\xab" * 4096
HASHES = 20


class Nothing:
    """
    Does nothing; the handler that shows what everything else costs.
    """

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        return message

    def handle_batch(self, batcher: str, messages: List[Message], batch_info: BatchInfo, context: Any) -> List[Message]:
        return messages


class Keys(Nothing):
    """
    Spreads the messages over *context* batch keys.
    """

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        message.batch_key = message.data % context
        return message


class Sleep(Nothing):
    """
    Waits *context* seconds, as for a server's answer.
    """

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        time.sleep(context)
        return message


class Sha(Nothing):
    """
    Computes SHA-256 of 4 KB, 20 times: CPU work that releases the GIL.
    """

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        sha256 = hashlib.sha256
        for _ in range(HASHES):
            sha256(BLOCK).digest()
        return message


class Failing(Nothing):
    """
    Raises for every message whose number is divisible by *context*.
    """

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        if message.data % context == 0:
            raise ValueError("this message fails")
        return message


class Times(Nothing):
    """
    Appends the time of each message to the list *context*.
    """

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        context.append(time.perf_counter())
        return message


HANDLERS: Dict[str, Any] = {
    "nothing": Nothing,
    "keys": Keys,
    "sleep": Sleep,
    "sha": Sha,
    "failing": Failing,
}


def partition_by(message: Message) -> int:
    """
    The ``partition_by`` of the scenario ``partition``.
    """
    number: int = message.data % 1000
    return number
