"""
Fork: a child has no pipeline and says so; the parent goes on.
"""

from __future__ import annotations

import json
import os
import select
import signal
import traceback
from typing import Any, Callable

import pytest

import broadway_sync
from broadway_sync import Buffer, BufferProducer, DummyProducer, Message, NotRunningError, Pipeline
from tests.helpers import BOUND, NEVER, Call, make_handler, unique_name

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this platform"),
    # Python 3.12 and later warn of what these tests are about.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def in_child(function: Callable[[], Any]) -> Any:
    """
    Fork, run *function* in the child and return its result, which must fit into JSON.

    The child ends in any case: a signal ends one that hangs.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(int(2 * BOUND))
            try:
                answer = {"result": function()}
            except BaseException:  # handed to the parent, which fails the test with it
                answer = {"error": traceback.format_exc()}
            os.write(writing, json.dumps(answer).encode())
        finally:
            os._exit(0)
    os.close(writing)
    try:
        ready, _, _ = select.select([reading], [], [], 3 * BOUND)
        text = os.read(reading, 65536) if ready else b""
    finally:
        os.close(reading)
        if not ready:
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert text, "the child hung or died"
    answer = json.loads(text)
    assert "error" not in answer, answer["error"]
    return answer["result"]


def refusal(call: Callable[[], Any]) -> str:
    """
    Return the name of the error that *call* raises.
    """
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "nothing raised"


def test_child_has_no_pipeline(make_pipeline: Any, acks: Any) -> None:
    """
    In a child the registry is empty, and calls that need a running pipeline raise ``NotRunningError``.
    """
    name = unique_name()
    pipeline = make_pipeline(name=name).start()

    def child() -> Any:
        return {
            "all_running": broadway_sync.all_running(),
            "get_pipeline": refusal(lambda: broadway_sync.get_pipeline(name)),
            "push_messages": refusal(lambda: pipeline.push_messages([])),
            "test_message": refusal(lambda: pipeline.test_message(1)),
            "test_batch": refusal(lambda: pipeline.test_batch([1])),
            "running": pipeline.state == "running",
            "producer_names": pipeline.producer_names(),
        }

    found = in_child(child)
    calls = ("get_pipeline", "push_messages", "test_message", "test_batch")
    assert {found[call] for call in calls} == {NotRunningError.__name__}
    assert (found["all_running"], found["running"]) == ([], False)
    assert found["producer_names"] == [f"{name}.Broadway.Producer_0"]
    assert broadway_sync.all_running() == [name]
    pipeline.push_messages(acks.messages([1]))
    assert acks.collect_data(1) == ([1], [])


def test_stop_and_join_in_the_child_do_not_hang(make_pipeline: Any) -> None:
    """
    ``stop``, ``request_stop`` and ``join`` in a child come back, and the parent's pipeline does not notice.
    """
    pipeline = make_pipeline().start()

    def child() -> Any:
        pipeline.request_stop()
        pipeline.stop()
        return refusal(lambda: pipeline.join(0.01))

    assert in_child(child) in ("nothing raised", "NotRunningError")
    assert pipeline.state == "running"
    assert pipeline.test_message(1).receive(BOUND)


def test_child_may_start_a_pipeline_of_the_same_name(make_pipeline: Any) -> None:
    """
    The name of the parent's pipeline is free in the child, and a new one works there.
    """
    name = unique_name()
    pipeline = make_pipeline(name=name, batchers={"default": {}}).start()

    def child() -> Any:
        with Pipeline(
            make_handler(handle_message=lambda p, m, c: m.update_data(lambda d: d + 1)),
            name=name,
            producer={"module": (DummyProducer, {})},
            processors={"default": {"concurrency": 2}},
            batchers={"default": {"batch_timeout": 0.01}},
        ) as other:
            assert broadway_sync.get_pipeline(name) is other
            ok, failed = other.test_batch([1, 2]).collect(2, BOUND)
        return [sorted(m.data for m in ok), failed, broadway_sync.all_running()]

    assert in_child(child) == [[2, 3], [], []]
    assert broadway_sync.get_pipeline(name) is pipeline
    assert pipeline.test_message(1).receive(BOUND)


def test_child_may_start_the_same_pipeline(make_pipeline: Any) -> None:
    """
    The very object works in the child once it is started there: the prefork pattern.
    """
    pipeline = make_pipeline().start()

    def child() -> Any:
        pipeline.start()
        (message,), _ = pipeline.test_message(5).receive(BOUND)
        pipeline.stop()
        return message.data

    assert in_child(child) == 5
    assert pipeline.test_message(1).receive(BOUND)


def test_pipeline_made_before_the_fork(make_pipeline: Any) -> None:
    """
    A pipeline that was only constructed before the fork can be started on both sides.
    """
    pipeline = make_pipeline()

    def child() -> Any:
        with pipeline:
            (message,), _ = pipeline.test_message(5).receive(BOUND)
        return [message.data, pipeline.state]

    assert in_child(child) == [5, "stopped"]
    assert pipeline.state == "new"
    with pipeline:
        assert pipeline.test_message(1).receive(BOUND)


def test_fork_under_load(make_pipeline: Any, acks: Any) -> None:
    """
    Whatever locks other threads hold at the moment of the fork, the child does not hang on them.
    """
    name = unique_name()
    pipeline = make_pipeline(
        name=name, processors={"default": {"concurrency": 3}}, batchers={"default": {"batch_timeout": NEVER}}
    ).start()
    pushed: list[int] = []

    def load() -> None:
        number = 0
        while True:
            try:
                pipeline.push_messages(acks.messages([number]))
            except NotRunningError:
                return
            pushed.append(number)
            number += 1

    call = Call(load)

    def child() -> Any:
        broadway_sync.telemetry.attach("in child", ("broadway", "topology", "init"), lambda *a: None)
        pipeline.stop()
        with Pipeline(
            make_handler(),
            name=name,
            producer={"module": (DummyProducer, {})},
            processors={"default": {"concurrency": 1}},
        ) as other:
            (message,), _ = other.test_message(5).receive(BOUND)
        return [message.data, broadway_sync.all_running(), pipeline.state == "running"]

    for _ in range(10):
        assert in_child(child) == [5, [], False]
    pipeline.stop()
    call.result()
    assert sorted(acks.all_data()) == pushed


def test_buffer_in_the_child(make_pipeline: Any) -> None:
    """
    A buffer that other threads use at the moment of the fork works in the child, too.
    """
    buffer = Buffer(maxsize=50)
    pipeline = make_pipeline(producer={"module": (BufferProducer, {"buffer": buffer})}).start()

    def load() -> None:
        while True:
            try:
                buffer.push(1)
            except NotRunningError:
                return

    calls = [Call(load) for _ in range(2)]

    def child() -> Any:
        other = Buffer(maxsize=5)
        other.push(1, timeout=0)
        try:
            buffer.push(2, timeout=0)
        except NotRunningError:
            pass  # the pipeline is the parent's
        buffer.close()
        return refusal(lambda: buffer.push(3))

    for _ in range(10):
        assert in_child(child) == "NotRunningError"
    buffer.close()
    for call in calls:
        call.result()
    assert pipeline.join(BOUND)


def test_fork_in_a_callback(make_pipeline: Any) -> None:
    """
    A callback may fork: the child has no pipeline, the message goes on in the parent.
    """
    pipeline: Any = None

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        found = in_child(lambda: [broadway_sync.all_running(), refusal(lambda: pipeline.test_message(1))])
        return message.put_data(found)

    pipeline = make_pipeline(make_handler(handle_message=handle_message)).start()
    (message,), _ = pipeline.test_message(1).receive(3 * BOUND)
    assert message.data == [[], "NotRunningError"]
