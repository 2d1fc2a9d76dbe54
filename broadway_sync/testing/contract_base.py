"""
What the tests of the contract share: pipelines over a harness, and checks whose text says where to look.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import unittest
import uuid
from collections import Counter
from typing import Any, Callable, Iterable, Iterator, List, NoReturn, Optional, Sequence

from ..errors import DrainTimeoutError
from ..message import Message
from ..pipeline import Pipeline
from . import hints
from .harness import ConnectorHarness, offers
from .recording import RecordingHandler
from .waiting import Gate, wait_until

_numbers = itertools.count()

Behave = Callable[[Message, int], Any]


def check(condition: Any, what: str, look_at: str) -> None:
    """
    Fail unless *condition* holds.

    Args:
        what: What the suite saw.
        look_at: What a connector's author should look at.
    """
    if not condition:
        raise AssertionError(f"{what}.\nLook at: {look_at}.")


@contextlib.contextmanager
def hint(look_at: str) -> Iterator[None]:
    """
    Add where to look to the failures of what is waited for inside ``with``.
    """
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{error}.\nLook at: {look_at}.") from None


def need(harness: ConnectorHarness, *methods: str) -> None:
    """
    Skip the test unless the harness defines these optional methods.
    """
    for method in methods:
        if not offers(harness, method):
            skip(f"the harness does not define {method}()")


def skip(reason: str) -> NoReturn:
    """
    Skip the test, for pytest and unittest alike.
    """
    raise unittest.SkipTest(reason)


def publish(harness: ConnectorHarness, label: str, count: int = 0) -> List[str]:
    """
    Publish *count* (or ``harness.count``) messages that no other test publishes, and return their data.
    """
    prefix = f"{label}-{uuid.uuid4().hex[:8]}"
    data = [f"{prefix}-{number:05d}" for number in range(count or harness.count)]
    harness.publish(data)
    return data


def recorder(harness: ConnectorHarness, behave: Optional[Behave] = None) -> RecordingHandler:
    """
    Return a handler that records what the harness reads from the messages.
    """
    return RecordingHandler(behave, read=harness.text)


def make_pipeline(
    harness: ConnectorHarness,
    handler: Any,
    *,
    module: Any = None,
    producers: int = 1,
    processors: int = 4,
    max_demand: int = 10,
    **options: Any,
) -> Pipeline:
    """
    Return a pipeline over the harness's producer, not started.
    """
    return Pipeline(
        handler,
        name=f"contract_{next(_numbers)}",
        producer={"module": module or harness.producer(), "concurrency": producers},
        processors={"default": {"concurrency": processors, "max_demand": max_demand}},
        shutdown=harness.timeout,
        **options,
    )


@contextlib.contextmanager
def running(harness: ConnectorHarness, handler: Any, **options: Any) -> Iterator[Pipeline]:
    """
    Run a pipeline; a stop that leaves something behind is a failure.
    """
    with started(harness, make_pipeline(harness, handler, **options)) as pipeline:
        yield pipeline


@contextlib.contextmanager
def started(harness: ConnectorHarness, pipeline: Pipeline) -> Iterator[Pipeline]:
    """
    Start a pipeline and stop it at the end, within ``harness.timeout``.
    """
    pipeline.start()
    try:
        yield pipeline
    except BaseException:
        with contextlib.suppress(DrainTimeoutError):  # what failed the test is what its author must see
            pipeline.stop(harness.stop_timeout)
        raise
    try:
        pipeline.stop()
    except DrainTimeoutError as error:
        check(False, f"a stop did not come to its end within {harness.timeout:g} s: {error}", hints.STUCK_STOP)


def hold(harness: ConnectorHarness, gate: Gate, is_held: Callable[[str, int], Any]) -> Behave:
    """
    Return a behaviour: messages for which ``is_held(data, attempt)`` is true wait at the gate.
    """

    def behave(message: Message, attempt: int) -> None:
        if is_held(harness.text(message), attempt):
            gate.wait()

    return behave


def work(message: Message, attempt: int) -> None:
    """
    Take a moment for a message, so that a connector that fetches ahead has something to hold.
    """
    time.sleep(0.002)


def watch(harness: ConnectorHarness, times: float = 1.0) -> None:
    """
    Let time pass, in which something may happen that must not.
    """
    threading.Event().wait(times * harness.quiet)


def wait_for_handled(
    harness: ConnectorHarness, handler: RecordingHandler, data: Iterable[str], look_at: str, *, again: bool = False
) -> None:
    """
    Wait until all of *data* was handled; *again*: some of it may have to be delivered a second time.
    """
    with hint(look_at):
        handler.wait_for_handled(data, harness.timeout + (harness.redelivery_timeout if again else 0))


def wait_for_begun(harness: ConnectorHarness, handler: RecordingHandler, data: Iterable[str], look_at: str) -> None:
    """
    Wait until all of *data* was begun.
    """
    wanted = set(data)
    with hint(look_at):
        handler.wait_for(lambda: wanted <= set(handler.begun), harness.timeout, f"{len(wanted)} messages begun")


def timed_stop(pipeline: Pipeline) -> float:
    """
    Stop a pipeline and return how many seconds it took, until it ended or gave up.
    """
    before = time.monotonic()
    with contextlib.suppress(DrainTimeoutError):
        pipeline.stop()
    return time.monotonic() - before


def check_nothing_lost(seen: Sequence[str], published: Sequence[str], look_at: str) -> None:
    """
    Fail unless all that was published was seen, and nothing else.
    """
    missing = sorted(set(published).difference(seen))
    check(not missing, f"{len(missing)} of {len(published)} messages were lost, the first is {missing[:1]}", look_at)
    foreign = sorted(set(seen).difference(published))
    what = f"{len(foreign)} messages came that this test did not publish, such as {foreign[:1]}"
    check(not foreign, what, hints.FRESH_QUEUE)


def check_once(seen: Sequence[str], published: Sequence[str], look_at: str) -> None:
    """
    Fail unless each message was seen exactly once.
    """
    check_nothing_lost(seen, published, look_at)
    twice = {data: times for data, times in Counter(seen).items() if times > 1}
    text = f"{len(twice)} messages were delivered more than once, such as {sorted(twice.items())[:1]}"
    check(not twice, f"{text}, though nothing failed", look_at)


def check_empty(harness: ConnectorHarness, look_at: str, expected: int = 0) -> None:
    """
    Fail unless the broker comes to hold *expected* messages.
    """
    try:
        wait_until(lambda: harness.remaining() == expected, harness.timeout, "", pause=0.05)
    except AssertionError:
        what = f"the broker holds {harness.remaining()} messages after {harness.timeout:g} s, expected were {expected}"
        check(False, what, look_at)
