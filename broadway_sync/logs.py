"""
Which pipeline, which stage, which message: for every record that is logged while a callback runs.

.. code-block:: python

    logging.config.dictConfig({
        "version": 1,
        "filters": {"broadway": {"()": "broadway_sync.logs.ContextFilter"}},
        "formatters": {"plain": {"format": "%(levelname)s %(pipeline)s %(stage)s %(message_id)s %(message)s"}},
        "handlers": {"console": {
            "class": "logging.StreamHandler", "filters": ["broadway"], "formatter": "plain",
        }},
        "root": {"level": "INFO", "handlers": ["console"]},
    })
"""

from __future__ import annotations

import logging
import threading
from contextvars import ContextVar
from typing import Any, Callable, Dict, List, Optional, Tuple
from weakref import ref

from .around import Around, Call, add_ours
from .message import Message
from .runtime.stage_thread import current_owner

NO_ID = "-"
"""What a field has that is not known."""

FIELDS = ("pipeline", "stage", "callback", "message_id")

MakeId = Callable[[Message], Any]

# What is being called on this thread, in the context of the callback.
_current: ContextVar[Optional[Tuple[Call, List[Message]]]] = ContextVar("broadway_sync_call", default=None)

# What was called, on the exception that came out of it: it is logged when the context of the callback is gone.
_ATTRIBUTE = "_broadway_sync_origin"


class _Origin:
    """
    Where an exception came from. Without the message: that one has the exception as its reason.
    """

    def __init__(self, call: Call, messages: List[Message]) -> None:
        self.place = (call.pipeline, call.stage, call.callback)
        self.first = ref(messages[0]) if messages else None
        self.count = len(messages)

    def __getstate__(self) -> Dict[str, Any]:
        """
        For pickles of the exception: there the message is another one.
        """
        return {**self.__dict__, "first": None}


def message_id(message: Message) -> str:
    """
    Return what identifies a message to its broker, ``"-"`` if its metadata do not say.

    That is ``message_id`` (SQS, Pub/Sub, and RabbitMQ if ``metadata`` asks for it), ``topic-partition-offset`` (Kafka)
    or ``delivery_tag`` (RabbitMQ, the same).
    """
    metadata = message.metadata
    if metadata.get("message_id") not in (None, ""):  # 0 is one
        return str(metadata["message_id"])
    if "offset" in metadata and "partition" in metadata:
        return f"{metadata.get('topic')}-{metadata['partition']}-{metadata['offset']}"
    return str(metadata.get("delivery_tag", NO_ID))


class ContextFilter(logging.Filter):
    """
    Adds ``pipeline``, ``stage``, ``callback`` and ``message_id`` to every record; drops none.

    Put it on handlers, not on loggers: a logger's filters see only what is logged to that very logger. Records of other
    threads, and what a record does not know, get ``"-"``; what it has already stays. For a list of messages
    ``message_id`` is that of the first, and how many follow: ``"17 (+99)"``.

    Making one adds an ``around`` hook to all pipelines that start later in this process: that is how callbacks and
    messages are known. Pipelines that run already have their name and stage only. Thread-safe.

    Args:
        message_id: ``message_id(message)``: what identifies a message; default is :func:`message_id`. In the
            configuration of ``logging.config`` that is ``"ext://my.module.function"``.
    """

    def __init__(self, message_id: MakeId = message_id) -> None:
        super().__init__()
        self._message_id = message_id
        add_ours(_HOOK)

    def filter(self, record: logging.LogRecord) -> bool:
        """
        Complete a record.
        """
        known = record.__dict__
        if not all(field in known for field in FIELDS):
            for field, value in zip(FIELDS, self._describe(record)):
                known.setdefault(field, value)
        return True

    def _describe(self, record: logging.LogRecord) -> Tuple[str, str, str, str]:
        """
        Return the values of the fields.
        """
        current = _current.get()
        origin = _origin_of(record) if current is None else _Origin(*current)
        if origin is not None:
            return (*origin.place, self._identify(origin))
        owner = current_owner()
        if owner is not None:
            return owner.name, threading.current_thread().name, NO_ID, NO_ID
        return NO_ID, NO_ID, NO_ID, NO_ID

    def _identify(self, origin: _Origin) -> str:
        message = None if origin.first is None else origin.first()
        if message is None:
            return NO_ID
        try:
            first = str(self._message_id(message))
        except Exception:  # a user's function: a record must not cost more than its fields
            return NO_ID
        return first if origin.count == 1 else f"{first} (+{origin.count - 1})"


def install(*handlers: logging.Handler, message_id: MakeId = message_id) -> ContextFilter:
    """
    Put a :class:`ContextFilter` on *handlers*, by default on those that the root logger has now; return it.
    """
    made = ContextFilter(message_id)
    for handler in handlers or tuple(logging.getLogger().handlers):
        handler.addFilter(made)
    return made


class _Hook(Around):
    """
    Says what is being called. One object for all filters, so that it is added once.
    """

    def __call__(self, call: Call, messages: List[Message]) -> Any:
        return self._within(call, messages)

    def around_producer(self, call: Call) -> Any:
        return self._within(call, [])

    def _within(self, call: Call, messages: List[Message]) -> Any:
        token = _current.set((call, messages))
        try:
            return call()
        except BaseException as error:  # whoever logs it should know where it came from
            _note(error, _Origin(call, messages))
            raise
        finally:
            _current.reset(token)


_HOOK = _Hook()


def _note(error: BaseException, origin: _Origin) -> None:
    try:
        # Not as its class would have it: a frozen dataclass refuses to be changed.
        BaseException.__setattr__(error, _ATTRIBUTE, origin)
    except Exception:  # an exception that takes no attributes
        pass


def _origin_of(record: logging.LogRecord) -> Optional[_Origin]:
    try:
        origin = getattr(record.exc_info[1], _ATTRIBUTE, None) if record.exc_info else None
    except Exception:  # an exception whose attributes raise
        return None
    return origin if isinstance(origin, _Origin) else None  # it may have an answer to everything
