"""
Acknowledgers, and how outcomes reach them: once for each message, grouped by ``(acknowledger, ack_ref)``.
"""

from __future__ import annotations

import threading
from operator import length_hint
from typing import Any, Dict, Hashable, Iterable, List, Sequence, Tuple

from .log import log_error, safe_repr
from .message import Message

Group = Tuple[Any, Any, List[Message], List[Message]]

# Of so few messages each is looked at by itself: to look first whether they are alike would take longer.
FEW = 10

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
    if len(messages) > FEW:
        messages = _group_alike(messages, groups, column)
    # The others mostly differ in their ack data alone: the last group is tried before the dict.
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
            found = safe_repr(getattr(message, "acknowledger", None))
            log_error(f"not an (acknowledger, ack_ref, ack_data): {found}", error, pipeline, stage)
            continue
        if acknowledger is not last_acknowledger or ack_ref is not last_ref:
            last_acknowledger, last_ref = acknowledger, ack_ref
            append = _find(groups, acknowledger, ack_ref)[column].append
        append(message)


def _group_alike(messages: Sequence[Message], groups: Dict[Hashable, Group], column: int) -> Sequence[Message]:
    """
    Claim messages from the first one on, as long as they have one and the same triple; return the others.

    Sources without ack data give all messages one triple: that takes half of the time.
    """
    triple: Any = getattr(messages[0], "acknowledger", None)
    alike = _claim_alike(messages, triple) if type(triple) is tuple and len(triple) == 3 else 0
    if alike:
        _find(groups, triple[0], triple[1])[column].extend(messages[:alike])
    return messages[alike:]


def _claim_alike(messages: Sequence[Message], triple: Tuple[Any, Any, Any]) -> int:
    rest = iter(messages)
    try:
        for message in rest:
            if message.acknowledger is not triple:
                break
            del message._claim  # the inlined Message.claim()
        else:
            return len(messages)
    except AttributeError:  # it is claimed already
        pass
    return len(messages) - length_hint(rest) - 1


def _find(groups: Dict[Hashable, Group], acknowledger: Any, ack_ref: Any) -> Group:
    """
    Return the group of this acknowledger and ref, a new one if there is none.
    """
    group: Group = (acknowledger, ack_ref, [], [])
    try:
        return groups.setdefault((acknowledger, ack_ref), group)
    except Exception:  # unhashable, or a __hash__ or __eq__ that raises: then the same object is the same ref
        return groups.setdefault((id(acknowledger), id(ack_ref)), group)
