"""
Which stage a message belongs to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Dict, List, Sequence, Tuple

from ..errors import InvalidReturnError

if TYPE_CHECKING:
    from ..message import Message

Rejected = List[Tuple["Message", BaseException]]
"""Messages that could not be placed, each with the reason."""


def split(
    messages: Sequence[Message], partition_by: Callable[[Message], Any], concurrency: int
) -> Tuple[Dict[int, List[Message]], Rejected]:
    """
    Return the messages of each partition in their order, and those that have no partition.

    A message has none if ``partition_by`` raised or returned something else than an int >= 0 (a bool is none:
    Python's ``%`` would take it, and negative numbers too, and put the message on some stage).
    Runs user code: call it without a lock.
    """
    partitions: Dict[int, List[Message]] = {}
    rejected: Rejected = []
    for message in messages:
        try:
            value = partition_by(message)
            if value.__class__ is not int or value < 0:
                value = _check(value)
        except BaseException as error:  # user code: whatever it raises fails its message
            rejected.append((message, error))
            continue
        partition = value % concurrency
        if partition in partitions:
            partitions[partition].append(message)
        else:
            partitions[partition] = [message]
    return partitions, rejected


def _check(value: Any) -> int:
    """
    Let subclasses of int pass (an ``IntEnum``, say).
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return int(value)
    raise InvalidReturnError(f"partition_by must return an int >= 0, got: {value!r}")
