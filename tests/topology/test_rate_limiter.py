"""
``topology/rate_limiter.py``: the stage that holds messages back. Windows last an hour here: only an update opens the
next one.
"""

from __future__ import annotations

import queue
from typing import Any, Iterator, List, Optional, Tuple

import attrs
import pytest

from broadway_sync.options import RateLimiting
from broadway_sync.topology.dispatcher import Channel, Source
from broadway_sync.topology.rate_limiter import RateLimiter, SharedRateLimit

from ..helpers import BOUND, NEVER, Call, RecordingAcknowledger, eventually, get
from .support import data, messages


class Scene:
    """
    A limiter, and a channel behind it.
    """

    def __init__(self, allowed: int, interval: float = NEVER) -> None:
        self.limit = SharedRateLimit(RateLimiting(allowed_messages=allowed, interval=interval))
        self.limiter = RateLimiter("the limiter", self.limit)
        self.channel = Channel(1, lambda: None)
        self.source: Any = object.__new__(Source)
        self._thread: Optional[Call] = None

    def start(self) -> Scene:
        """
        Start the limiter's thread, and see it wait.
        """
        self._thread = Call(self.limiter.run)
        eventually(lambda: self.limiter._timer.parked, "the limiter waits")
        return self

    def join(self) -> None:
        """
        Wait until the thread has ended.
        """
        if self._thread is not None:
            self._thread.thread.join(BOUND)
            assert not self._thread.thread.is_alive()

    def hold(self, members: List[Any], is_rejected: bool = False) -> None:
        self.limiter.hold([(self.channel, (self.source, members, is_rejected))])

    def ready(self) -> List[Any]:
        """
        Return what was let go so far, as lists of data.
        """
        return [data(chunk[1]) for chunk in self.channel.ready]

    def reset(self, allowed: int, interval: float = NEVER) -> None:
        """
        Begin a new window.
        """
        new = RateLimiting(allowed_messages=allowed, interval=interval)
        self.limit.update(lambda _: new, reset=True)


@pytest.fixture
def make_scene() -> Iterator[Any]:
    """
    Return a function that makes scenes, which end with the test.
    """
    scenes: List[Scene] = []

    def make(*arguments: Any) -> Scene:
        scenes.append(Scene(*arguments))
        return scenes[-1].start()

    yield make
    for scene in scenes:
        scene.limiter.abandon()
        scene.join()


def test_what_the_window_allows_goes_at_once_the_rest_is_held(make_scene: Any, acks: RecordingAcknowledger) -> None:
    """
    A chunk is cut where the allowance ends, and goes on in its order when the next window begins.
    """
    scene = make_scene(3)
    first, second = messages(acks, 5), messages(acks, 2)
    scene.hold(first)
    scene.hold(second)
    assert scene.ready() == [[0, 1, 2]]
    scene.reset(1)
    eventually(lambda: scene.ready() == [[0, 1, 2], [3]], "one more")
    scene.reset(100)
    eventually(lambda: scene.ready() == [[0, 1, 2], [3], [4], [0, 1]], "the rest")


def test_short_windows_follow_each_other(make_scene: Any, acks: RecordingAcknowledger) -> None:
    """
    The stage's own thread lets messages go, window by window, until nothing is held.
    """
    scene = make_scene(2, 0.01)
    scene.hold(messages(acks, 9))
    eventually(lambda: sum(scene.ready(), []) == list(range(9)), "all messages")
    assert max(map(len, scene.ready())) <= 2


def test_messages_without_a_partition_cost_nothing(make_scene: Any, acks: RecordingAcknowledger) -> None:
    """
    They only have to be failed; but they keep their turn.
    """
    scene = make_scene(1)
    scene.hold(messages(acks, 3), is_rejected=True)
    scene.hold(messages(acks, 2))
    scene.hold(messages(acks, 3), is_rejected=True)
    assert scene.ready() == [[0, 1, 2], [0]]
    scene.reset(1)
    eventually(lambda: scene.ready() == [[0, 1, 2], [0], [1], [0, 1, 2]], "the rest")


def test_an_update_that_comes_before_the_thread_has_looked(acks: RecordingAcknowledger) -> None:
    """
    A window that begins while the thread is on its way from one wait to the next is not slept through.
    """
    scene = Scene(1)
    scene.hold(messages(acks, 3))
    scene.reset(2)
    call = Call(scene.limiter.run)
    try:
        eventually(lambda: scene.ready() == [[0], [1, 2]], "what the new window allows")
    finally:
        scene.limiter.abandon()
        call.result()


class TestEnd:
    """
    The end of the stage.
    """

    def test_it_ends_when_its_last_message_has_gone(self, make_scene: Any, acks: RecordingAcknowledger) -> None:
        """
        Then it says so, once.
        """
        scene, ends = make_scene(1), queue.Queue()
        scene.hold(messages(acks, 2))
        scene.limiter.close(lambda: ends.put("empty"))
        assert ends.empty()
        scene.reset(1)
        assert get(ends) == "empty"
        scene.join()
        assert (scene.ready(), ends.empty()) == ([[0], [1]], True)

    def test_it_ends_at_once_when_nothing_is_held(self, make_scene: Any) -> None:
        """
        On the thread that closes it.
        """
        scene, ends = make_scene(1), queue.Queue()
        scene.limiter.close(lambda: ends.put("empty"))
        assert ends.get_nowait() == "empty"
        scene.join()

    def test_given_up_it_lets_nothing_go(self, make_scene: Any, acks: RecordingAcknowledger) -> None:
        """
        What is held stays there to be counted.
        """
        scene, ends = make_scene(1), queue.Queue()
        scene.hold(messages(acks, 4))
        scene.limiter.close(lambda: ends.put("empty"))
        assert scene.limiter.abandon() == 0
        scene.join()
        assert data(scene.limiter.remove_all()) == [1, 2, 3]
        assert scene.limiter.remove_all() == []
        assert (scene.ready(), ends.empty()) == ([[0]], True)


def test_a_restart_gives_no_new_allowance(make_scene: Any, acks: RecordingAcknowledger) -> None:
    """
    The limit outlives the stage, and tells the stage that came last of updates.
    """
    scene = make_scene(3)
    scene.hold(messages(acks, 2))
    second = make_scene(1)
    second.limiter.abandon()
    second.join()
    second.limiter = RateLimiter("the next one", scene.limit)
    second.start()
    second.hold(messages(acks, 2))
    assert second.ready() == [[0]]
    scene.reset(1)
    eventually(lambda: second.ready() == [[0], [1]], "what the update allows")


def test_updates(make_scene: Any) -> None:
    """
    What is in force from the next window on; each update has a version of its own.
    """
    scene = make_scene(3)
    seen: List[Tuple[int, Any]] = [(scene.limit.version, scene.limit.current())]
    scene.limit.update(lambda _: RateLimiting(allowed_messages=5, interval=1.5), reset=False)
    seen.append((scene.limit.version, scene.limit.current()))
    assert [current for _, current in seen] == [
        RateLimiting(allowed_messages=3, interval=NEVER),
        RateLimiting(allowed_messages=5, interval=1.5),
    ]
    assert seen[0][0] != seen[1][0]
    assert scene.limit.take(10) == 3
    assert scene.limit.take(10) == 0


def test_updates_from_two_threads_are_both_kept() -> None:
    """
    Each changes what the other left.
    """
    limit = SharedRateLimit(RateLimiting(allowed_messages=1, interval=1.0))

    def add(count: int) -> None:
        for _ in range(count):
            limit.update(lambda now: attrs.evolve(now, allowed_messages=now.allowed_messages + 1), reset=False)

    calls = [Call(add, 500) for _ in range(4)]
    for call in calls:
        call.result()
    assert limit.current().allowed_messages == 2001
