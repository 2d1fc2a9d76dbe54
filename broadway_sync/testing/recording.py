"""
Handlers and acknowledgers that remember what they saw.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any, Callable, Iterable, List, Optional, Set, Tuple

from ..acknowledger import Acknowledger
from ..batch_info import BatchInfo
from ..message import Message


class _Record:
    """
    Lists that several threads add to, and that a test waits on.
    """

    def __init__(self) -> None:
        # Guards the lists of the subclass; notified whenever one of them changed. Innermost.
        self._changed = threading.Condition()

    def wait_for(self, predicate: Callable[[], Any], timeout: float, what: str = "the condition") -> Any:
        """
        Wait until *predicate*, called after each change, returns something true, and return it.

        Raises:
            AssertionError: It did not within *timeout* seconds.
        """
        with self._changed:
            value = self._changed.wait_for(predicate, timeout)
        if not value:
            raise AssertionError(f"not so within {timeout:g} s: {what}; recorded: {self}")
        return value


class RecordingHandler(_Record):
    """
    A handler that records the data of every message, and does what a test tells it to. Thread-safe.

    Args:
        behave: ``behave(message, attempt)`` is called for each message, after it was recorded as begun, on the
            processor's thread; *attempt* is 1 when data of that value is seen for the first time. It may change the
            message, fail it, raise, or wait at a :class:`Gate`.
        read: ``read(message)`` is what is recorded of a message, something hashable; its data unless given.
    """

    def __init__(
        self,
        behave: Optional[Callable[[Message, int], Any]] = None,
        read: Optional[Callable[[Message], Any]] = None,
    ) -> None:
        super().__init__()
        self._behave = behave
        self._read = read or (lambda message: message.data)
        self.begun: List[Any] = []
        """What ``handle_message`` was called with, in order."""
        self.handled: List[Any] = []
        """What ``handle_message`` returned without having failed."""
        self.failed: List[Any] = []
        """What came to ``handle_failed``."""
        self.batches: List[List[Any]] = []
        """What ``handle_batch`` was called with."""
        self._attempts: Counter[Any] = Counter()
        self._distinct: Set[Any] = set()  # of what is in `handled`

    def __str__(self) -> str:
        return (
            f"{len(self.begun)} messages begun, {len(self.handled)} handled, {len(self.failed)} failed, "
            f"{len(self.batches)} batches"
        )

    def handle_message(self, processor: str, message: Message, context: Any) -> Message:
        """
        Record, behave, record.
        """
        data = self._read(message)
        with self._changed:
            self.begun.append(data)
            self._attempts[data] += 1
            attempt = self._attempts[data]
            self._changed.notify_all()
        if self._behave is not None:
            self._behave(message, attempt)
        if message.status == "ok":
            with self._changed:
                self.handled.append(data)
                self._distinct.add(data)
                self._changed.notify_all()
        return message

    def handle_batch(self, batcher: str, messages: List[Message], batch_info: BatchInfo, context: Any) -> List[Message]:
        """
        Record the batch.
        """
        self._add(self.batches, [[self._read(message) for message in messages]])
        return messages

    def handle_failed(self, messages: List[Message], context: Any) -> List[Message]:
        """
        Record the messages.
        """
        self._add(self.failed, [self._read(message) for message in messages])
        return messages

    def wait_for_handled(self, data: Iterable[Any], timeout: float) -> None:
        """
        Wait until each of *data* was handled at least once.

        Raises:
            AssertionError: Some were not, within *timeout* seconds; says which.
        """
        wanted = set(data)
        with self._changed:
            self._changed.wait_for(lambda: wanted <= self._distinct, timeout)
            missing = sorted(wanted - self._distinct, key=repr)
        if missing:
            raise AssertionError(
                f"{len(missing)} of {len(wanted)} messages were not handled within {timeout:g} s, "
                f"the first is {missing[0]!r}; recorded: {self}"
            )

    def _add(self, to: List[Any], items: List[Any]) -> None:
        with self._changed:
            to.extend(items)
            self._changed.notify_all()


class RecordingAcknowledger(_Record, Acknowledger):
    """
    An acknowledger that records the messages that it gets. Thread-safe.

    For example ``IterableProducer`` with ``iterable=acknowledger.messages(range(100))``, to see what became of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.successful: List[Message] = []
        """Acknowledged as successful, in order."""
        self.failed: List[Message] = []
        """Acknowledged as failed, in order."""

    def __str__(self) -> str:
        return f"{len(self.successful)} successful and {len(self.failed)} failed messages"

    def init(self, ack_ref: Any = None, ack_data: Any = None) -> Tuple[Any, Any, Any]:
        """
        Return the ``acknowledger`` of a message.
        """
        return (self, ack_ref, ack_data)

    def messages(self, data: Iterable[Any]) -> List[Message]:
        """
        Return one message for each of *data*.
        """
        return [Message(item, self.init()) for item in data]

    def ack(self, ack_ref: Any, successful: List[Message], failed: List[Message]) -> None:
        """
        Record.
        """
        with self._changed:
            self.successful += successful
            self.failed += failed
            self._changed.notify_all()

    def wait_for_acks(self, count: int, timeout: float) -> Tuple[List[Message], List[Message]]:
        """
        Wait until *count* messages are acknowledged; return all that are, (successful, failed).

        Raises:
            AssertionError: There were fewer after *timeout* seconds.
        """
        self.wait_for(
            lambda: len(self.successful) + len(self.failed) >= count, timeout, f"{count} acknowledged messages"
        )
        return list(self.successful), list(self.failed)
