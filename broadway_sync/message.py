"""
The unit that travels through a pipeline.
"""

from __future__ import annotations

from reprlib import recursive_repr
from typing import Any, Callable, Dict, Hashable, Optional, Tuple

import attrs

from .errors import AckConfigurationError

DEFAULT = "default"


@attrs.define(eq=False, repr=False)
class Message:
    """
    One message: what it carries, where it goes, and who is told of its outcome.

    Changed in place; every method returns the message itself, so that calls chain. Compared by identity.
    Not thread-safe: a message belongs to the callback that has it in hand. Only its acknowledgement is
    guarded: however many threads try, a message is acknowledged once.

    Follows Broadway 1.3, ``message.ex``, where messages are immutable values.
    """

    data: Any
    """What the message carries."""

    acknowledger: Tuple[Any, Any, Any]
    """``(acknowledger, ack_ref, ack_data)``, see :class:`broadway_sync.Acknowledger`."""

    # Made at the first look only: an empty dict for each message costs more than the rest of the message.
    _metadata: Optional[Dict[Any, Any]] = attrs.field(default=None, kw_only=True)

    batcher: str = attrs.field(default=DEFAULT, kw_only=True)
    """Key of the batcher that the message goes to."""

    batch_key: Hashable = attrs.field(default=DEFAULT, kw_only=True)
    """Messages of one batcher with equal keys share batches."""

    batch_mode: str = attrs.field(default="bulk", kw_only=True)
    """``"bulk"``, or ``"flush"``: cut the batch as soon as this message is in it."""

    status: str = attrs.field(default="ok", init=False)
    """``"ok"``, ``"failed"`` (by :meth:`fail`) or ``"error"`` (a callback raised)."""

    reason: Any = attrs.field(default=None, init=False)
    """None, what :meth:`fail` got, or the exception that a callback raised, with its traceback."""

    # The right to acknowledge this message. Deleting a slot is the one test-and-set that CPython offers without
    # a lock: whoever deletes it owns the acknowledgement, everybody else gets an AttributeError.
    _claim: None = attrs.field(default=None, init=False)

    @recursive_repr("Message(...)")
    def __repr__(self) -> str:
        values = {"data": self.data, "acknowledger": self.acknowledger, "metadata": self._metadata or {}}
        values.update(
            (name, getattr(self, name)) for name in ("batcher", "batch_key", "batch_mode", "status", "reason")
        )
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in values.items())})"

    @property
    def metadata(self) -> Dict[Any, Any]:
        """
        What the producer knows about the message; a dict, empty unless given.
        """
        if self._metadata is None:
            self._metadata = {}
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: Dict[Any, Any]) -> None:
        self._metadata = metadata

    def put_data(self, data: Any) -> Message:
        """
        Replace the data.
        """
        self.data = data
        return self

    def update_data(self, function: Callable[[Any], Any]) -> Message:
        """
        Replace the data by ``function(data)``; what it raises leaves the message as it was.
        """
        self.data = function(self.data)
        return self

    def put_batcher(self, key: str) -> Message:
        """
        Choose the batcher; without batchers this is ignored.

        Raises:
            TypeError: *key* is not a str. An unknown key fails the message after the callback.
        """
        if not isinstance(key, str):
            raise TypeError(f"put_batcher() expects the key of a batcher, a str, got: {key!r}")
        self.batcher = key
        return self

    def put_batch_key(self, key: Hashable) -> Message:
        """
        Choose the batch key: batches of one key that was put are never handled concurrently.

        ``"default"`` is the default key; keys are equal when Python says so (``1 == 1.0 == True``).

        Raises:
            TypeError: *key* is not hashable.
        """
        hash(key)
        self.batch_key = key
        return self

    def put_batch_mode(self, mode: str) -> Message:
        """
        Choose the batch mode, ``"bulk"`` or ``"flush"``.

        Raises:
            ValueError: *mode* is neither.
        """
        if mode not in ("bulk", "flush"):
            raise ValueError(f'put_batch_mode() expects "bulk" or "flush", got: {mode!r}')
        self.batch_mode = mode
        return self

    def fail(self, reason: Any) -> Message:
        """
        Mark the message as failed: it goes to ``handle_failed`` and is acknowledged as failed at the end of this step.

        Nothing is logged.
        """
        self.status = "failed"
        self.reason = reason
        return self

    def configure_ack(self, **options: Any) -> Message:
        """
        Give the acknowledger new options for this message.

        Raises:
            AckConfigurationError: The acknowledger has no ``configure``.
        """
        acknowledger, ack_ref, ack_data = self.acknowledger
        configure = getattr(acknowledger, "configure", None)
        if configure is None:
            raise AckConfigurationError(
                f"the acknowledger {acknowledger!r} has no configure(ack_ref, ack_data, options): it takes no options"
            )
        self.acknowledger = (acknowledger, ack_ref, configure(ack_ref, ack_data, options))
        return self

    def ack_immediately(self) -> Message:
        """
        Acknowledge now, by the present status; nothing that comes later acknowledges the message again.

        What the acknowledger raises is logged.
        """
        from .acknowledger import ack_immediately

        ack_immediately([self])
        return self

    def is_acknowledged(self) -> bool:
        """
        Whether somebody has acknowledged the message, or has begun to.
        """
        return not hasattr(self, "_claim")

    def __getstate__(self) -> Dict[str, Any]:
        """
        For copies and pickles: a copy of an acknowledged message is acknowledged.
        """
        slots = (field.name for field in attrs.fields(type(self)))
        return {**getattr(self, "__dict__", {}), **{name: getattr(self, name) for name in slots if hasattr(self, name)}}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def claim(self) -> bool:
        """
        Take the right to acknowledge the message; False if it was taken before. Atomic.
        """
        try:
            del self._claim
        except AttributeError:
            return False
        return True
