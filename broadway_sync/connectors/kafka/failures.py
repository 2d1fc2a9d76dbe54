"""
What goes wrong with kafka-python, sorted by what to do about it.

By the names of its errors: they are in different modules, with different bases, in 2.x and 3.x.
"""

from __future__ import annotations

import logging
from typing import Any, Dict, Iterable, Optional

from ...errors import ConnectorError
from .partitions import Key


class GroupError(ConnectorError):
    """
    A commit was refused because the partitions are being moved, or have been: drop it, poll, look again.
    """


class RefusedError(ConnectorError):
    """
    The brokers answered, and did not let us in.
    """


class UnavailableError(ConnectorError):
    """
    The brokers did not answer in time; the same again may succeed.
    """


class NoPositionError(ConnectorError):
    """
    Nobody knows where to begin with these partitions.
    """

    def __init__(self, text: str, keys: Dict[Key, Optional[int]], is_out_of_range: bool) -> None:
        """
        Args:
            keys: The partitions; each with the offset to go on at, None to apply the policy.
            is_out_of_range: Whether there was a position, which the broker does not have (any more).
        """
        super().__init__(text)
        self.keys = keys
        self.is_out_of_range = is_out_of_range


_REBALANCE_ERRORS = {
    "CommitFailedError", "RebalanceInProgressError", "UnknownMemberIdError", "IllegalGenerationError",
}  # fmt: skip


def translate(error: Exception) -> Exception:
    """
    Return the error of ours that says what to do, or *error* itself.
    """
    names = {cls.__name__ for cls in type(error).__mro__}
    text = describe(error)
    if names & _REBALANCE_ERRORS:
        return GroupError(text)
    if "LogTruncationError" in names:
        found: Any = error
        keys = {tuple(key): None if at is None else at.offset for key, at in found.divergent_offsets.items()}
        return NoPositionError(text, keys, True)
    if "NoOffsetForPartitionError" in names or "OffsetOutOfRangeError" in names:
        return NoPositionError(text, _partitions_in(error), "OffsetOutOfRangeError" in names)
    if getattr(error, "retriable", False) or "RetriableError" in names or "KafkaConnectionError" in names:
        return UnavailableError(text)
    return error


def _partitions_in(error: Exception) -> Dict[Key, Optional[int]]:
    """
    Return the partitions that an error names: as one, or as a set, list or mapping of them.
    """
    found: Dict[Key, Optional[int]] = {}
    for argument in error.args:
        keys: Iterable[Any] = argument if isinstance(argument, (dict, set, frozenset, list)) else [argument]
        found.update({(key.topic, key.partition): None for key in keys if hasattr(key, "topic")})
    return found


class Ear(logging.Handler):
    """
    Listens to the client's log while it connects: nothing else says that a password is wrong.

    It hears nothing where the level of the logger ``kafka`` is above ERROR.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._heard: Optional[BaseException] = None
        self._logger = logging.getLogger("kafka")

    def __enter__(self) -> Ear:
        self._logger.addHandler(self)
        return self

    def __exit__(self, *exc: Any) -> None:
        self._logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """
        Remember the error, if the record has one; what a broker refused weighs more than a lost connection.
        """
        for argument in record.args if isinstance(record.args, tuple) else ():
            if isinstance(argument, BaseException) and (self._heard is None or _is_refusal(argument)):
                self._heard = argument

    def explain(self, error: Exception, has_credentials: bool) -> ConnectorError:
        """
        Return an error with the reason of *error*, as far as that is known.
        """
        text = describe(error) if self._heard is None else f"{describe(error)} ({describe(self._heard)})"
        if self._heard is not None and _is_refusal(self._heard):
            return RefusedError(text)
        if has_credentials:
            # 3.0 often sees the end of the connection before it has read why.
            text += "; if brokers close the connection, the authentication may have failed: look at client_config.sasl"
        return ConnectorError(text)


def describe(error: BaseException) -> str:
    """
    Return type and text; kafka-python's errors mostly begin with their type.
    """
    name, text = type(error).__name__, str(error)
    return text if name in text else f"{name}: {text}"


def _is_refusal(error: BaseException) -> bool:
    return "Sasl" in type(error).__name__ or "Authorization" in type(error).__name__
