"""
Which offset of a partition may be committed.
"""

from __future__ import annotations

import gc
import random
from typing import Any

import pytest

from broadway_sync.connectors.kafka.offsets import Lot, Tracker


def finish(lot: Lot, *offsets: int) -> None:
    """
    Acknowledge these messages.
    """
    lot.tracker.finish(lot.entry, offsets)


def test_nothing_delivered() -> None:
    """
    Before the first delivery there is nothing to commit.
    """
    tracker = Tracker(("t", 0))
    assert (tracker.commit_point(), tracker.next_offset, tracker.unfinished) == (None, None, 0)
    assert tracker.lost() is None
    assert not tracker.has_progress()


def test_point_is_the_first_unfinished() -> None:
    """
    What is finished out of order is not committed before what comes before it.
    """
    tracker = Tracker(("t", 0))
    first, second = tracker.deliver([0, 1, 2]), tracker.deliver([3, 4])
    assert (tracker.commit_point(), tracker.unfinished, tracker.has_progress()) == (0, 5, False)
    finish(second, 3, 4)
    finish(first, 1)
    assert (tracker.commit_point(), tracker.unfinished, tracker.has_progress()) == (0, 2, False)
    finish(first, 0)
    assert (tracker.commit_point(), tracker.unfinished, tracker.has_progress()) == (2, 1, True)
    finish(first, 2)
    assert (tracker.commit_point(), tracker.unfinished) == (5, 0)


def test_gaps() -> None:
    """
    Offsets that were never delivered hold nothing up; the point is the next unfinished, or one after the last.
    """
    tracker = Tracker(("t", 0))
    lot = tracker.deliver([5, 17, 18])
    later = tracker.deliver([100])
    finish(lot, 5)
    assert tracker.commit_point() == 17
    finish(lot, 17, 18)
    assert tracker.commit_point() == 100
    finish(later, 100)
    assert tracker.commit_point() == 101


def test_twice_is_once() -> None:
    """
    A message that is acknowledged again changes nothing, also when its lot is through.
    """
    tracker = Tracker(("t", 0))
    lot, other = tracker.deliver([0, 1]), tracker.deliver([2])
    finish(lot, 0)
    finish(lot, 0)
    assert (tracker.commit_point(), tracker.unfinished) == (1, 2)
    finish(lot, 1)
    finish(lot, 0, 1)
    assert (tracker.commit_point(), tracker.unfinished) == (2, 1)
    finish(other, 2)
    finish(other, 2)
    assert (tracker.commit_point(), tracker.unfinished) == (3, 0)


def test_twice_when_all_were_finished_at_once() -> None:
    """
    A copy of a message that comes when its lot is through changes nothing; nor does it stand for another message.
    """
    tracker = Tracker(("t", 0))
    lot, other = tracker.deliver([0, 1]), tracker.deliver([2, 3])
    lot.tracker.finish(lot.entry, [0, 1])
    lot.tracker.finish(lot.entry, [0])
    assert (tracker.commit_point(), tracker.unfinished) == (2, 2)
    other.tracker.finish(other.entry, [2, 2])
    assert (tracker.commit_point(), tracker.unfinished) == (3, 1)
    assert tracker.take_finished() == 3


def test_lost() -> None:
    """
    A lot that nobody holds any more is lost, with what is unfinished of it; it can be given up.
    """
    tracker = Tracker(("t", 0))
    lot, other = tracker.deliver([0, 1, 2]), tracker.deliver([3])
    finish(lot, 1)
    assert tracker.lost() is None
    del lot
    gc.collect()
    assert tracker.lost() == [0, 2]
    tracker.give_up_lost()
    assert (tracker.commit_point(), tracker.unfinished, tracker.lost()) == (3, 1, None)
    finish(other, 3)
    assert tracker.commit_point() == 4


@pytest.mark.parametrize("seed", range(50))
def test_against_the_obvious(seed: int) -> None:
    """
    Whatever the lots and the order of acknowledgements, the point is what a list of all messages says.
    """
    rng = random.Random(seed)
    tracker = Tracker(("t", 0))
    offsets = sorted(rng.sample(range(200), 60))
    waiting, alive, delivered, finished = list(offsets), [], [], set()
    while waiting or alive:
        if waiting and (not alive or rng.random() < 0.4):
            size = rng.randint(1, 7)
            part, waiting = waiting[:size], waiting[size:]
            alive.append((tracker.deliver(part), list(part)))
            delivered += part
        else:
            lot, left = rng.choice(alive)
            chosen = rng.sample(left, rng.randint(1, len(left)))
            finish(lot, *chosen)
            finished.update(chosen)
            for offset in chosen:
                left.remove(offset)
            alive = [item for item in alive if item[1]]
        expected: Any = next((offset for offset in delivered if offset not in finished), delivered[-1] + 1)
        assert tracker.commit_point() == expected
        assert tracker.unfinished == len(delivered) - len(finished)
