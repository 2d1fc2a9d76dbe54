"""
Rate limiting: a fixed window over all producers, changed at run time, in nobody's way.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from broadway_sync import (
    ConfigurationError,
    DrainTimeoutError,
    DummyProducer,
    IterableProducer,
    RateLimitingNotEnabledError,
)
from tests.helpers import BOUND, NEVER, EndlessProducer, Feed, FeedProducer, eventually, make_handler


def limited(acks: Any, allowed: int, interval: float, concurrency: int = 1) -> dict[str, Any]:
    """
    Return the producer options of endless producers with a limit.
    """
    return {
        "module": lambda: EndlessProducer(acks),
        "concurrency": concurrency,
        "rate_limiting": {"allowed_messages": allowed, "interval": interval},
    }


@pytest.fixture
def endless(make_pipeline: Any, acks: Any) -> Any:
    """
    Return a function that starts a pipeline with a limit over endless producers.
    """

    def start(allowed: int, interval: float, concurrency: int = 1, **options: Any) -> Any:
        return make_pipeline(producer=limited(acks, allowed, interval, concurrency), **options).start()

    return start


@pytest.mark.parametrize(("allowed", "concurrency"), [(1, 1), (7, 1), (7, 3), (40, 2)])
def test_exactly_what_is_allowed(endless: Any, acks: Any, allowed: int, concurrency: int) -> None:
    """
    In one interval exactly ``allowed_messages`` leave, over all producers of the pipeline together.
    """
    pipeline = endless(allowed, NEVER, concurrency, shutdown=0.1)
    acks.collect(allowed)
    acks.assert_nothing("the window is used up")
    stop_quickly(pipeline)


def stop_quickly(pipeline: Any) -> None:
    """
    Stop a pipeline whose limit would hold messages back for longer than anybody waits.
    """
    pipeline.update_rate_limiting(interval=0.001, allowed_messages=10**6, reset=True)
    pipeline.stop()


def test_pace(endless: Any, acks: Any) -> None:
    """
    Over time no more messages leave than the windows that passed allow, and none of them stays unused for ever.
    """
    allowed, interval = 5, 0.1
    started = time.monotonic()
    pipeline = endless(allowed, interval)
    for count in range(1, 31):
        if len(acks.all_data()) < count:
            eventually(lambda count=count: len(acks.all_data()) >= count, f"{count} messages")
        seen = len(acks.all_data())
        windows = (time.monotonic() - started) // interval + 1
        assert seen <= allowed * windows
    assert time.monotonic() - started >= 5 * interval
    stop_quickly(pipeline)


def test_get_rate_limiting(endless: Any) -> None:
    """
    The limits can be asked for, and changed.
    """
    pipeline = endless(5, 0.5)
    assert pipeline.get_rate_limiting() == {"allowed_messages": 5, "interval": 0.5}
    pipeline.update_rate_limiting(allowed_messages=6)
    pipeline.update_rate_limiting(interval=0.25)
    assert pipeline.get_rate_limiting() == {"allowed_messages": 6, "interval": 0.25}
    pipeline.update_rate_limiting(allowed_messages=7, interval=0.125, reset=True)
    assert pipeline.get_rate_limiting() == {"allowed_messages": 7, "interval": 0.125}
    stop_quickly(pipeline)


def test_not_enabled(make_pipeline: Any) -> None:
    """
    Without rate limiting there is nothing to ask for or to change.
    """
    pipeline = make_pipeline().start()
    with pytest.raises(RateLimitingNotEnabledError):
        pipeline.get_rate_limiting()
    with pytest.raises(RateLimitingNotEnabledError):
        pipeline.update_rate_limiting(allowed_messages=5)


@pytest.mark.parametrize(
    "options",
    [{"allowed_messages": 0}, {"allowed_messages": 1.5}, {"interval": 0}, {"interval": -1}, {"interval": "1"}],
    ids=repr,
)
def test_wrong_update(endless: Any, options: Any) -> None:
    """
    The rules of the options hold for updates; a refused one changes nothing.
    """
    pipeline = endless(5, 0.5)
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        pipeline.update_rate_limiting(**options)
    assert pipeline.get_rate_limiting() == {"allowed_messages": 5, "interval": 0.5}
    stop_quickly(pipeline)


def test_update_takes_keywords_only(endless: Any) -> None:
    """
    Positional arguments are refused.
    """
    with pytest.raises(TypeError):
        endless(5, 0.01).update_rate_limiting(5)


def test_update_with_reset(endless: Any, acks: Any) -> None:
    """
    With ``reset=True`` a new window with the new allowance starts at once.
    """
    pipeline = endless(5, NEVER)
    acks.collect(5)
    acks.assert_nothing("the window is used up")
    pipeline.update_rate_limiting(allowed_messages=3, reset=True)
    acks.collect(3)
    acks.assert_nothing("the new window is used up")
    pipeline.update_rate_limiting(reset=True)
    acks.collect(3)
    stop_quickly(pipeline)


def test_update_without_reset(endless: Any, acks: Any) -> None:
    """
    Without it the running window stays as it is.
    """
    pipeline = endless(5, NEVER)
    acks.collect(5)
    pipeline.update_rate_limiting(allowed_messages=50)
    pipeline.update_rate_limiting(interval=0.01)
    acks.assert_nothing("the running window is used up")
    stop_quickly(pipeline)


def test_update_counts_from_the_next_interval(endless: Any, acks: Any) -> None:
    """
    A new allowance is used when the next interval begins.
    """
    pipeline = endless(1, 0.2)
    acks.collect(1)
    pipeline.update_rate_limiting(allowed_messages=100)
    eventually(lambda: len(acks.all_data()) >= 100, "a window with the new allowance")
    stop_quickly(pipeline)


def test_pushed_messages_are_not_limited(make_pipeline: Any, acks: Any) -> None:
    """
    A window that is used up delays neither pushed nor test messages.
    """
    pipeline = make_pipeline(
        producer={"module": (DummyProducer, {}), "rate_limiting": {"allowed_messages": 1, "interval": NEVER}}
    ).start()
    pipeline.push_messages(acks.messages(range(20)))
    assert acks.collect_data(20) == (list(range(20)), [])
    ok, _ = pipeline.test_batch(range(5)).collect(5, BOUND)
    assert len(ok) == 5


def test_pushed_messages_pass_those_held_back(endless: Any, acks: Any) -> None:
    """
    Pushed messages go through while produced ones wait for the next window.
    """
    pipeline = endless(2, NEVER)
    acks.collect(2)
    pipeline.push_messages(acks.messages(["pushed"]))
    assert acks.collect_data(1) == (["pushed"], [])
    stop_quickly(pipeline)


def test_stop_with_nothing_held_back(make_pipeline: Any, acks: Any) -> None:
    """
    A window that is used up does not keep a pipeline that holds nothing back from stopping at once.
    """
    feed = Feed(acks.messages(range(3)))
    pipeline = make_pipeline(
        producer={
            "module": (FeedProducer, {"feed": feed}),
            "rate_limiting": {"allowed_messages": 3, "interval": NEVER},
        },
        shutdown=6 * BOUND,
    ).start()
    acks.collect(3)
    before = time.monotonic()
    pipeline.stop()
    assert time.monotonic() - before < BOUND


def test_held_back_messages_leave_at_the_pace_of_the_limit(make_pipeline: Any, acks: Any) -> None:
    """
    On a stop, messages held back by the limit leave window by window, and none is lost.
    """
    interval = 0.1

    class Hoarding(EndlessProducer):
        def handle_demand(self, demand: int) -> Any:
            return super().handle_demand(12) if self.next == 0 else []

    options = limited(acks, 2, interval)
    producer = Hoarding(acks)
    before = time.monotonic()  # not after the first ones: whoever waits for them may come late
    pipeline = make_pipeline(producer={**options, "module": lambda: producer}, shutdown=60).start()
    acks.collect(2)
    pipeline.stop()
    assert time.monotonic() - before >= 4 * interval  # six windows, of which the first may have begun before
    assert acks.all_data() == list(range(12))


def test_held_back_messages_and_the_deadline(make_pipeline: Any, acks: Any) -> None:
    """
    What the limit holds back beyond the deadline is left behind, and the stop says how many messages that is.
    """

    class Hoarding(EndlessProducer):
        def handle_demand(self, demand: int) -> Any:
            return super().handle_demand(12) if self.next == 0 else []

    producer = Hoarding(acks)
    options = {**limited(acks, 2, NEVER), "module": lambda: producer}
    pipeline = make_pipeline(producer=options, shutdown=0.2).start()
    acks.collect(2)
    with pytest.raises(DrainTimeoutError, match=r"\b10\b"):
        pipeline.stop()
    assert acks.all_data() == [0, 1]


def test_natural_end_waits_for_the_limit(make_pipeline: Any, acks: Any) -> None:
    """
    A natural end lets every message through at the pace of the limit.
    """
    started = time.monotonic()
    pipeline = make_pipeline(
        producer={
            "module": (IterableProducer, {"iterable": acks.messages(range(10))}),
            "rate_limiting": {"allowed_messages": 3, "interval": 0.05},
        },
    ).start()
    assert pipeline.join(BOUND)
    assert acks.all_data() == list(range(10))
    assert time.monotonic() - started >= 3 * 0.05


def test_limit_is_shared_with_a_restarted_producer(make_pipeline: Any, acks: Any) -> None:
    """
    A crash of a producer opens no new window.
    """
    feed = Feed([*acks.messages(range(3)), RuntimeError("crash"), *acks.messages(range(3, 20))])
    pipeline = make_pipeline(
        producer={
            "module": (FeedProducer, {"feed": feed}),
            "rate_limiting": {"allowed_messages": 5, "interval": NEVER},
        },
        resubscribe_interval=0.01,
    ).start()
    ok, _ = acks.collect_data(5)
    assert ok == [0, 1, 2, 3, 4]
    assert len(feed.instances) == 2
    acks.assert_nothing("the window is used up")
    stop_quickly(pipeline)


def test_update_from_a_callback(make_pipeline: Any, acks: Any) -> None:
    """
    A handler may slow its own pipeline down or speed it up.
    """
    changed = threading.Event()
    pipeline: Any = None

    def handle_message(processor: str, message: Any, context: Any) -> Any:
        if not changed.is_set():
            changed.set()
            pipeline.update_rate_limiting(allowed_messages=50, reset=True)
        return message

    pipeline = make_pipeline(make_handler(handle_message=handle_message), producer=limited(acks, 1, NEVER))
    pipeline.start()
    acks.collect(51)
    stop_quickly(pipeline)
