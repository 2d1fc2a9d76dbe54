"""
What becomes of finished messages, and how that is handed to the connection.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, Callable, Dict, List, Mapping, Tuple

import attrs

from ...acknowledger import Acknowledger
from ...message import Message
from ...rules import mistake
from .messages import ack_data_of
from .options import REJECT, REQUEUE, REQUEUE_ONCE, RabbitMQOptions

NAMES = ("on_success", "on_failure")

AckData = Tuple[int, bool, "Choice"]
"""``(delivery tag, redelivered, choice)`` of a message."""


@attrs.frozen
class Choice:
    """
    What becomes of a message, by its status.
    """

    on_success: str
    on_failure: str

    def merged(self, options: Mapping[str, Any]) -> Choice:
        """
        Return this choice with what *options* replace.

        Raises:
            ConfigurationError: An option is unknown, or its value is.
        """
        for name, value in options.items():
            if name not in NAMES:
                raise mistake(name, f"unknown option of configure_ack, valid options are: {', '.join(NAMES)}")
            field = attrs.fields_dict(RabbitMQOptions)[name]
            assert field.validator is not None
            field.validator(None, field, value)
        return attrs.evolve(self, **options)


class RabbitMQAcknowledger(Acknowledger):
    """
    Hands outcomes to the session that delivered the messages. Stateless, thread-safe, never blocks.

    The reference is the session, so that what a lost channel delivered is never acknowledged on a later one, where
    the same tag is another message.
    """

    def ack(self, ack_ref: Any, successful: List[Message], failed: List[Message]) -> None:
        """
        Hand over what becomes of these messages.
        """
        lots: Dict[str, List[int]] = {}
        _add(lots, successful, _on_success)
        _add(lots, failed, _on_failure)
        ack_ref.finish(list(lots.items()))

    def configure(self, ack_ref: Any, ack_data: AckData, options: Mapping[str, Any]) -> AckData:
        """
        Replace ``on_success``, ``on_failure`` or both; one that is not given keeps its value.

        Raises:
            ConfigurationError: An option is unknown, or its value is.
        """
        tag, redelivered, choice = ack_data
        return tag, redelivered, choice.merged(options)


_on_success, _on_failure = attrgetter("on_success"), attrgetter("on_failure")


def _add(lots: Dict[str, List[int]], messages: List[Message], chosen: Callable[[Choice], str]) -> None:
    for message in messages:
        tag, redelivered, choice = ack_data_of(message)
        outcome = chosen(choice)
        if outcome == REQUEUE_ONCE:
            outcome = REJECT if redelivered else REQUEUE
        lots.setdefault(outcome, []).append(tag)


ACKNOWLEDGER = RabbitMQAcknowledger()
