"""
Tags: every message is settled once, with as few frames as the broker's rules allow.
"""

from __future__ import annotations

from typing import Any, Dict, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadway_sync.connectors.rabbitmq.tags import Tags

ACTIONS = ("ack", "reject", "reject_and_requeue")


def opened(*numbers: int, most_held: int = 0) -> Tags:
    """
    Return tags that were delivered and nothing else.
    """
    tags = Tags(most_held)
    tags.open.update(dict.fromkeys(numbers, True))
    return tags


def test_prefix_is_one_frame() -> None:
    """
    Messages that were finished from the oldest on are acknowledged with one frame.
    """
    tags = opened(1, 2, 3, 4)
    assert tags.settle([("ack", [2]), ("ack", [1, 3])]) == [("ack", 3, True)]
    assert list(tags.open) == [4]


def test_all_that_is_open_is_one_frame() -> None:
    """
    When nothing is left open, one frame acknowledges everything.
    """
    assert opened(5, 6, 7).settle([("ack", [7, 5, 6])]) == [("ack", 7, True)]


def test_messages_above_an_open_one_are_acknowledged_one_by_one() -> None:
    """
    What is still in work is never acknowledged along with others, and what is finished does not wait for it.
    """
    tags = opened(1, 2, 3, 4, 5)
    assert tags.settle([("ack", [2, 4])]) == [("ack", 2, False), ("ack", 4, False)]
    assert tags.settle([("ack", [5])]) == [("ack", 5, False)]
    assert tags.settle([("ack", [1, 3])]) == [("ack", 3, True)]
    assert not tags.open


def test_prefix_and_the_rest() -> None:
    """
    The prefix goes with one frame, what is above the first open message one by one.
    """
    tags = opened(1, 2, 3, 4, 5, 6)
    assert tags.settle([("ack", [6, 2, 1, 4])]) == [("ack", 2, True), ("ack", 6, False), ("ack", 4, False)]


def test_single_messages_need_no_multiple() -> None:
    """
    A prefix of one message is acknowledged as such.
    """
    tags = opened(1, 2, 3, 4)
    assert tags.settle([("ack", [1, 3])]) == [("ack", 1, False), ("ack", 3, False)]


def test_rejections_go_first() -> None:
    """
    A rejected message is rejected before a frame that would acknowledge it along with others.
    """
    tags = opened(1, 2, 3, 4)
    lots = [("ack", [1, 3]), ("reject", [2]), ("reject_and_requeue", [4])]
    assert tags.settle(lots) == [("reject", 2, False), ("reject_and_requeue", 4, False), ("ack", 3, True)]


def test_frame_names_a_tag_that_is_open_to_the_broker() -> None:
    """
    The broker refuses a tag that is settled already: the largest *acknowledged* one is named, not the largest.
    """
    tags = opened(1, 2, 3)
    assert tags.settle([("reject", [3]), ("ack", [1, 2])]) == [("reject", 3, False), ("ack", 2, True)]


@pytest.mark.parametrize("action", ACTIONS)
def test_nothing_is_settled_twice(action: str) -> None:
    """
    Tags that were settled, or never delivered, are passed over.
    """
    tags = opened(1, 2)
    assert tags.settle([(action, [1, 1]), (action, [1, 9])]) == [(action, 1, False)]
    assert tags.settle([("ack", [1]), ("reject", [1])]) == []
    assert list(tags.open) == [2]


def test_shared_channel() -> None:
    """
    On a channel from which somebody else has messages too, every message is acknowledged for itself.
    """
    tags = opened(2, 3, 5)
    tags.forbid_multiple()
    assert tags.settle([("ack", [2, 3, 5])]) == [("ack", 2, False), ("ack", 3, False), ("ack", 5, False)]


def test_held_for_the_one_before() -> None:
    """
    Messages that are finished behind an open one go with its frame, also when that one is rejected.
    """
    tags = opened(1, 2, 3, 4, 5, 6, most_held=2)
    assert tags.settle([("ack", [3])]) == tags.settle([("ack", [2])]) == []
    assert (tags.held, tags.take_acknowledged()) == ([3, 2], 0)
    assert tags.settle([("ack", [1])]) == [("ack", 3, True)]
    assert (tags.held, tags.take_acknowledged()) == ([], 3)
    assert tags.settle([("ack", [5])]) == []
    assert tags.settle([("reject", [4])]) == [("reject", 4, False), ("ack", 5, False)]
    assert list(tags.open) == [6]


def test_held_for_a_moment_only() -> None:
    """
    Whoever keeps the time releases what is held.
    """
    tags = opened(1, 2, 3, 4, most_held=2)
    assert tags.release() == []
    assert tags.settle([("ack", [4, 2])]) == []
    assert tags.release() == [("ack", 4, False), ("ack", 2, False)]
    assert (tags.release(), tags.take_acknowledged()) == ([], 2)
    assert tags.settle([("ack", [3, 1])]) == [("ack", 3, True)]


def test_no_more_than_so_many_are_held() -> None:
    """
    The broker must not have to wait for what is held.
    """
    tags = opened(1, 2, 3, 4, 5, most_held=2)
    assert tags.settle([("ack", [2, 3])]) == []
    assert tags.settle([("ack", [4])]) == [("ack", 2, False), ("ack", 3, False), ("ack", 4, False)]
    assert tags.settle([("ack", [5])]) == []


def test_nothing_is_held_on_a_shared_channel() -> None:
    """
    One frame for many is not to be had there.
    """
    tags = opened(1, 2, most_held=2)
    tags.forbid_multiple()
    assert tags.settle([("ack", [2])]) == [("ack", 2, False)]


@pytest.mark.parametrize("most_held", [0, 10])
def test_memory_is_that_of_open_messages(most_held: int) -> None:
    """
    However many messages pass one that is never finished, only open ones are remembered, and those that are held.
    """
    tags = opened(1, most_held=most_held)
    sent = []
    for tag in range(2, 1000):
        tags.open[tag] = True
        sent += tags.settle([("ack", [tag])])
    assert len(tags.held) <= most_held
    assert sorted(sent + tags.release()) == [("ack", tag, False) for tag in range(2, 1000)]
    assert list(tags.open) == [1]
    others = {name: value for name, value in vars(tags).items() if name != "open" and hasattr(value, "__len__")}
    assert others == {"held": []}


class BrokerModel:
    """
    What RabbitMQ makes of frames: a tag that is not outstanding closes the channel.
    """

    def __init__(self) -> None:
        self.outstanding: List[int] = []
        self.outcomes: Dict[int, str] = {}

    def receive(self, action: str, tag: int, multiple: bool) -> None:
        """
        Take one frame.
        """
        assert tag in self.outstanding, f"406, unknown delivery tag {tag}"
        assert action == "ack" or not multiple
        for settled in [t for t in self.outstanding if t == tag or (multiple and t < tag)]:
            self.outstanding.remove(settled)
            self.outcomes[settled] = action


@given(st.data())
def test_every_history_ends_as_it_should(data: Any) -> None:
    """
    Whatever is delivered and finished in which order, the broker accepts every frame, each message gets its own
    outcome, at once or when it was held, and none that is open is touched.
    """
    tags, broker, wanted, last = Tags(data.draw(st.integers(0, 4))), BrokerModel(), {}, 0
    acknowledged = 0
    for _ in range(data.draw(st.integers(1, 8))):
        count = data.draw(st.integers(0, 6))
        for last in range(last + 1, last + count + 1):  # noqa: B020 - goes on from where it was
            broker.outstanding.append(last)
            tags.open[last] = True
        finished = [t for t in data.draw(st.permutations(list(tags.open))) if data.draw(st.booleans())]
        lots = [(data.draw(st.sampled_from(ACTIONS)), [tag]) for tag in finished]
        wanted.update({tag[0]: action for action, tag in lots})
        frames = tags.settle(lots)
        if data.draw(st.booleans()):
            frames += tags.release()
        for frame in frames:
            broker.receive(*frame)
        acknowledged += tags.take_acknowledged()
        held = dict.fromkeys(tags.held, "ack")
        assert {**broker.outcomes, **held} == wanted
        assert not set(held) & set(broker.outcomes)
        assert broker.outstanding == sorted([*tags.open, *held])
        assert acknowledged == list(broker.outcomes.values()).count("ack")
