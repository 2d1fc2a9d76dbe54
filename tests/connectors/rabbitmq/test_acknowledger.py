"""
The acknowledger: which outcome leads to what, and ``configure_ack``.
"""

from __future__ import annotations

from typing import Any, List, Tuple

import pytest

from broadway_sync import ConfigurationError, Message
from broadway_sync.connectors.rabbitmq.acknowledger import ACKNOWLEDGER, Choice


class Session:
    """
    Takes what the acknowledger hands over.
    """

    def __init__(self) -> None:
        self.lots: List[Any] = []

    def finish(self, lots: List[Any]) -> None:
        """
        Record the lots.
        """
        self.lots += lots


def message(session: Session, tag: int, redelivered: bool = False, choice: Tuple[str, str] = ("ack", "reject")) -> Any:
    """
    Return a message as the producer makes it.
    """
    return Message(b"", (ACKNOWLEDGER, session, (tag, redelivered, Choice(*choice))))


def test_outcomes_are_handed_over_in_lots() -> None:
    """
    One call hands over successes and failures, each outcome with its tags in order.
    """
    session = Session()
    messages = [message(session, tag) for tag in range(1, 6)]
    ACKNOWLEDGER.ack(session, [messages[0], messages[3]], [messages[1], messages[4]])
    assert session.lots == [("ack", [1, 4]), ("reject", [2, 5])]


@pytest.mark.parametrize("redelivered", [False, True])
@pytest.mark.parametrize("option", ["on_success", "on_failure"])
@pytest.mark.parametrize("value", ["ack", "reject", "reject_and_requeue", "reject_and_requeue_once"])
def test_every_choice(value: str, option: str, redelivered: bool) -> None:
    """
    Each value means the same for successes and failures; "once" goes by whether the message came back already.
    """
    expected = ("reject" if redelivered else "reject_and_requeue") if value.endswith("once") else value
    session, others = Session(), {"on_success": "ack", "on_failure": "ack", option: value}
    one = message(session, 7, redelivered, (others["on_success"], others["on_failure"]))
    ACKNOWLEDGER.ack(session, *(([one], []) if option == "on_success" else ([], [one])))
    assert session.lots == [(expected, [7])]


def test_configure_ack_merges() -> None:
    """
    An option that is not given keeps its value, also that of an earlier ``configure_ack``.
    """
    session = Session()
    one = message(session, 1).configure_ack(on_success="reject").configure_ack(on_failure="ack")
    assert one.acknowledger[2] == (1, False, Choice("reject", "ack"))


def test_configure_ack_concerns_one_message() -> None:
    """
    The choice of other messages stays.
    """
    session, choice = Session(), Choice("ack", "reject")
    first, second = (Message(b"", (ACKNOWLEDGER, session, (tag, False, choice))) for tag in (1, 2))
    first.configure_ack(on_failure="reject_and_requeue")
    ACKNOWLEDGER.ack(session, [], [first, second])
    assert session.lots == [("reject_and_requeue", [1]), ("reject", [2])]


@pytest.mark.parametrize(
    "options, text",
    [
        ({"requeue": True}, "requeue: unknown option of configure_ack, valid options are: on_success, on_failure"),
        (
            {"on_failure": "nack"},
            "on_failure: expected one of 'ack', 'reject', 'reject_and_requeue', 'reject_and_requeue_once', got: 'nack'",
        ),
        (
            {"on_success": None},
            "on_success: expected one of 'ack', 'reject', 'reject_and_requeue', 'reject_and_requeue_once', got: None",
        ),
    ],
)
def test_configure_ack_with_a_mistake(options: Any, text: str) -> None:
    """
    What cannot be is said by name, and nothing has changed.
    """
    one = message(Session(), 1)
    with pytest.raises(ConfigurationError) as caught:
        one.configure_ack(**options)
    assert str(caught.value) == text
    assert one.acknowledger[2] == (1, False, Choice("ack", "reject"))
