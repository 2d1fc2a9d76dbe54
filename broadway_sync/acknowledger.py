"""
Acknowledgers, and how outcomes reach them: once for each message, grouped by ``(acknowledger, ack_ref)``.
"""

from __future__ import annotations

import threading
from typing import Any, Dict, Hashable, Iterable, List, Sequence, Tuple

from .log import log_error, safe_repr
from .message import Message

Group = Tuple[Any, Any, List[Message], List[Message]]

# Neither an acknowledger nor a ref.
_NOBODY = object()


class Acknowledger:
    """
    The interface of acknowledgers; any object with these methods will do.

    ``ack`` runs on the threads of processors and batch processors, several at a time: it must be thread-safe.
    An acknowledger may also define ``configure(ack_ref, ack_data, options) -> new ack_data``, which
    :meth:`Message.configure_ack` calls.

    Follows Broadway 1.3, ``acknowledger.ex``.
    """

    def ack(self, ack_ref: Any, successful: List[Message], failed: List[Message]) -> None:
        """
        Tell the source what became of these messages.

        Called once per ``(acknowledger, ack_ref)`` and step, both lists in the order of the step. What it
        raises is logged; as far as the pipeline is concerned the messages are acknowledged.
        """
        raise NotImplementedError


class NoopAcknowledger(Acknowledger):
    """
    Tells nobody.
    """

    @classmethod
    def init(cls) -> Tuple[Any, Any, Any]:
        """
        Return the ``acknowledger`` of a message.
        """
        return _NOOP

    def ack(self, ack_ref: Any, successful: List[Message], failed: List[Message]) -> None:
        """
        Do nothing.
        """


_NOOP = (NoopAcknowledger(), None, None)


class CallerAcknowledger(Acknowledger):
    """
    Puts ``("ack", ref, successful, failed)`` on a queue, and ``("configure", ref, options)`` for ``configure_ack``.
    """

    @classmethod
    def init(cls, queue: Any, ref: Any) -> Tuple[Any, Any, Any]:
        """
        Return the ``acknowledger`` of a message.

        Args:
            queue: A ``queue.Queue``, or anything with ``put``.
            ref: Whatever tells the caller which messages these are.
        """
        return (_CALLER, _QueueRef(queue, ref), None)

    def ack(self, ack_ref: Any, successful: List[Message], failed: List[Message]) -> None:
        """
        Put the outcome on the queue.
        """
        ack_ref.queue.put(("ack", ack_ref.ref, successful, failed))

    def configure(self, ack_ref: Any, ack_data: Any, options: Dict[str, Any]) -> Any:
        """
        Put the options on the queue; the ack data stays as it is.
        """
        ack_ref.queue.put(("configure", ack_ref.ref, options))
        return ack_data


class _QueueRef:
    """
    A queue and a ref that are equal to themselves alone, whatever their types.
    """

    __slots__ = ("queue", "ref")

    def __init__(self, queue: Any, ref: Any) -> None:
        self.queue = queue
        self.ref = ref

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _QueueRef) and self.queue is other.queue and bool(self.ref == other.ref)

    def __hash__(self) -> int:
        return id(self.queue)


_CALLER = CallerAcknowledger()


def ack_immediately(messages: Iterable[Message]) -> List[Message]:
    """
    Acknowledge these messages now, each by its present status, and return them.

    Messages that were acknowledged before are passed over. What an acknowledger raises is logged.
    """
    messages = list(messages)
    successful = [message for message in messages if message.status == "ok"]
    failed = [message for message in messages if message.status != "ok"]
    acknowledge(successful, failed, "", threading.current_thread().name)
    return messages


def acknowledge(successful: Sequence[Message], failed: Sequence[Message], pipeline: str, stage: str) -> None:
    """
    Acknowledge the messages of one step that are not acknowledged yet.

    Every group is called, whatever the others raise; the groups come in the order of their first message.
    """
    groups: Dict[Hashable, Group] = {}
    if successful:
        _group(successful, groups, 2, pipeline, stage)
    if failed:
        _group(failed, groups, 3, pipeline, stage)
    for acknowledger, ack_ref, ok, not_ok in groups.values():
        try:
            acknowledger.ack(ack_ref, ok, not_ok)
        except BaseException as error:  # the acknowledger's fault must not become the stage's
            what = f"{safe_repr(acknowledger)}.ack raised, for {len(ok)} successful and {len(not_ok)} failed messages"
            log_error(what, error, pipeline, stage)


def _group(messages: Sequence[Message], groups: Dict[Hashable, Group], column: int, pipeline: str, stage: str) -> None:
    """
    Claim *messages* and add them to their groups, as successful (column 2) or failed (column 3).
    """
    # The messages of a step mostly share acknowledger and ref: the last group is tried before the dict.
    append: Any = None
    last_acknowledger = last_ref = _NOBODY
    for message in messages:
        try:
            del message._claim  # the inlined Message.claim()
        except AttributeError:
            continue
        try:
            acknowledger, ack_ref, _ = message.acknowledger
        except BaseException as error:  # whatever it is, it is no triple
            log_error(
                f"not an (acknowledger, ack_ref, ack_data): {safe_repr(message.acknowledger)}", error, pipeline, stage
            )
            continue
        if acknowledger is not last_acknowledger or ack_ref is not last_ref:
            last_acknowledger, last_ref = acknowledger, ack_ref
            group: Group = (acknowledger, ack_ref, [], [])
            try:
                group = groups.setdefault((acknowledger, ack_ref), group)
            except Exception:  # unhashable, or a __hash__ or __eq__ that raises: then the same object is the same ref
                group = groups.setdefault((id(acknowledger), id(ack_ref)), group)
            append = group[column].append
        append(message)
