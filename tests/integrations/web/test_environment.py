"""
What a process says of itself: uWSGI's module, as its versions fill it, and children that were forked.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
import types
from pathlib import Path
from typing import Any, Callable, List

import pytest

import broadway_sync
from broadway_sync import Buffer, BufferProducer, ConfigurationError, NotRunningError, Pipeline, environment
from tests.contract.test_fork import in_child
from tests.helpers import BOUND, eventually, make_handler, unique_name
from tests.integrations.web.support import EXAMPLE, ROOT


@pytest.fixture
def uwsgi(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """
    Return a function that lets this process look like one of uWSGI's.
    """

    def pretend(**attributes: Any) -> None:
        module: Any = types.ModuleType("uwsgi")
        module.__dict__.update({"opt": {}, "masterpid": lambda: 0, **attributes})
        monkeypatch.setitem(environment.sys.modules, "uwsgi", module)

    return pretend


def test_uwsgi_without_threads(uwsgi: Any, make_pipeline: Any) -> None:
    """
    Refused, as up to 2.0.26 without ``enable-threads``: between two requests nothing would run.
    """
    uwsgi(has_threads=0)
    pipeline = make_pipeline(name="clicks")
    with pytest.raises(ConfigurationError) as caught:
        pipeline.start()
    assert str(caught.value) == (
        "pipeline 'clicks' cannot run in this uWSGI process: its Python threads are switched off, so that no thread of "
        "a pipeline runs between two requests; set `enable-threads = true`, "
        'see "Use a pipeline in a web process" in the manual'
    )
    assert (pipeline.state, broadway_sync.all_running()) == ("new", [])


def test_the_page_that_the_texts_name() -> None:
    """
    Is there, and has the examples.
    """
    page = (ROOT / "docs" / "howto" / "web_process.rst").read_text(encoding="utf-8")
    assert f'see "{page.splitlines()[0]}" in the manual' == environment.HOWTO
    included = re.findall(r"^.. literalinclude:: \.\./examples/web_app/(.+)$", page, re.MULTILINE)
    assert set(included) == {path.name for path in EXAMPLE.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    "attributes", [{"has_threads": 1}, {}, {"masterpid": None}], ids=["on", "not said", "other module"]
)
def test_uwsgi_with_threads(uwsgi: Any, make_pipeline: Any, attributes: Any) -> None:
    """
    Works, also if the module is not uWSGI's at all.
    """
    uwsgi(**attributes)
    with make_pipeline() as pipeline:
        assert pipeline.test_message(1).receive(BOUND)[0]


def test_uwsgis_master(uwsgi: Any, make_pipeline: Any) -> None:
    """
    Refused: the workers are forked later, and do not have what runs there.
    """
    uwsgi(has_threads=1, masterpid=os.getpid)
    with pytest.raises(ConfigurationError) as caught:
        make_pipeline(name="clicks").start()
    assert str(caught.value) == (
        "pipeline 'clicks' was about to start in uWSGI's master: threads do not survive the fork, no worker would "
        "have it. Set `lazy-apps = true`, so that each worker loads the application itself, or start it in a function "
        'decorated with uwsgidecorators.postfork; see "Use a pipeline in a web process" in the manual'
    )


def refusal(function: Callable[[], Any]) -> str:
    """
    Return the text of the NotRunningError that *function* raises, without the id of this process.
    """
    with pytest.raises(NotRunningError) as caught:
        function()
    return str(caught.value).replace(f"({os.getpid()})", "(CHILD)")


def expected(what: str) -> str:
    """
    Return the text that a child gets, without its id.
    """
    return (
        f"{what} was started in process {os.getpid()}, before the fork that made this one (CHILD): threads do not "
        "survive a fork, so it does not run here. Start it after the fork: with gunicorn in the hook post_fork or "
        "post_worker_init, with uWSGI by `lazy-apps = true` or in a function decorated with uwsgidecorators.postfork"
    )


@pytest.fixture(params=["told", "not told"])
def way(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Let children be forked by Python, and behind its back, as uWSGI's workers are: then Python's hooks do not run.
    """
    if request.param == "not told":
        monkeypatch.setattr(os, "fork", fork_untold)


def fork_untold() -> int:
    """
    Fork when all other threads sleep: one that is about to wait for the GIL holds a lock of the interpreter's, which
    Python's own fork makes anew in the child.
    """
    eventually(others_sleep, "all other threads sleep")
    return int(ctypes.PyDLL(None).fork())


def others_sleep() -> bool:
    """
    Whether this is the one thread at work; anyhow where there is no /proc.
    """
    own = str(threading.get_native_id())
    tasks = [task for task in Path("/proc/self/task").glob("*") if task.name != own]
    try:
        return all((task / "stat").read_text().rpartition(")")[2].split()[0] == "S" for task in tasks)
    except OSError:  # one has ended
        return False


children = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this platform"),
    # Python 3.12 and later warn of what these tests are about.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.usefixtures("way"),
]


def in_fork(test: Any) -> Any:
    """
    Give a test the marks above.
    """
    for mark in children:
        test = mark(test)
    return test


@in_fork
def test_a_child_is_told_what_to_do(make_pipeline: Any) -> None:
    """
    Whatever it asks of a pipeline that its parent started.
    """
    name = unique_name()
    pipeline = make_pipeline(name=name).start()

    def child() -> List[str]:
        calls: List[Callable[[], Any]] = [
            lambda: pipeline.push_messages([]),
            lambda: pipeline.test_message(1),
            pipeline.join,
            lambda: broadway_sync.get_pipeline(name),
        ]
        return [refusal(call) for call in calls]

    assert in_child(child) == [expected(f"pipeline {name!r}")] * 4
    assert pipeline.test_message(1).receive(BOUND)


@in_fork
def test_the_state_of_a_child(make_pipeline: Any) -> None:
    """
    Nothing runs there, names are free, stop() has nothing to do; the parent does not notice.
    """
    pipeline = make_pipeline().start()

    def child() -> Any:
        pipeline.request_stop()
        pipeline.stop()
        return [pipeline.state, broadway_sync.all_running(), str(pipeline.statistics().state)]

    assert in_child(child) == ["new", [], "new"]
    assert pipeline.test_message(1).receive(BOUND)


@in_fork
def test_a_child_starts_its_own(make_pipeline: Any) -> None:
    """
    The same object, or another one of the same name; both are found by their name then.
    """
    name = unique_name()
    pipeline = make_pipeline(name=name).start()

    def child() -> Any:
        found = []
        for own in (pipeline, make_pipeline(name=name)):
            with own:
                found.append(len(own.test_message(1).receive(BOUND)[0]))
                found.append(broadway_sync.get_pipeline(name) is own)
            found.append(
                refusal(lambda: broadway_sync.get_pipeline(name)) == f"no pipeline named {name!r} runs in this process"
            )
            found.append(refusal(lambda own=own: own.test_message(1)))
        return found

    stopped = f"pipeline {name!r} is not running in this process (it is stopped)"
    assert in_child(child) == [1, True, True, stopped] * 2
    assert pipeline.test_message(1).receive(BOUND)


@in_fork
def test_a_pipeline_that_had_ended_before_the_fork(make_pipeline: Any) -> None:
    """
    Is just not running.
    """
    pipeline = make_pipeline(name="ended")
    with pipeline:
        pass
    text = "pipeline 'ended' is not running in this process (it is new)"
    assert in_child(lambda: refusal(lambda: pipeline.test_message(1))) == text


@in_fork
def test_a_grandchild(make_pipeline: Any) -> None:
    """
    The text names the process that has the pipeline.
    """
    name = unique_name()
    make_pipeline(name=name).start()
    found = in_child(lambda: in_child(lambda: refusal(lambda: broadway_sync.get_pipeline(name))))
    assert found == expected(f"pipeline {name!r}")


def consumer(make_pipeline: Any, buffer: Buffer, **options: Any) -> Pipeline:
    """
    Return a pipeline that takes from *buffer*.
    """
    pipeline: Pipeline = make_pipeline(producer={"module": (BufferProducer, {"buffer": buffer})}, **options)
    return pipeline


@in_fork
def test_a_buffer_whose_pipeline_is_the_parents(make_pipeline: Any) -> None:
    """
    Takes nothing in the child: nobody would ever handle it.
    """
    buffer = Buffer()
    consumer(make_pipeline, buffer).start()
    buffer.push(1)
    found = in_child(lambda: [refusal(lambda: buffer.push(1)), refusal(lambda: buffer.push(1, timeout=0)), len(buffer)])
    assert found == [expected("the pipeline that takes from this buffer")] * 2 + [0]
    buffer.push(2)


@in_fork
def test_a_buffer_whose_pipeline_is_started_in_the_child(make_pipeline: Any) -> None:
    """
    Works from the moment ``start()`` has returned.
    """
    buffer, handled = Buffer(maxsize=2), []
    handler = make_handler(handle_message=lambda p, message, c: (handled.append(message.data), message)[1])
    pipeline = consumer(make_pipeline, buffer, handler=handler).start()

    def child() -> Any:
        pipeline.start()
        for number in range(10):
            buffer.push(number, timeout=BOUND)
        pipeline.stop()
        return handled

    assert in_child(child) == list(range(10))
    assert handled == []


@in_fork
def test_a_buffer_without_a_pipeline(make_pipeline: Any) -> None:
    """
    Takes messages on both sides of a fork, as long as there is room: somebody may start one yet. What it held is the
    parent's.
    """
    buffer = Buffer(maxsize=2)
    buffer.push("parent")
    with consumer(make_pipeline, Buffer()):
        pass

    def child() -> Any:
        buffer.push(1)
        buffer.push(2)
        with pytest.raises(TimeoutError):
            buffer.push(3, timeout=0)
        return len(buffer)

    assert in_child(child) == 2
    assert len(buffer) == 1


@in_fork
def test_a_buffer_whose_pipeline_had_ended(make_pipeline: Any) -> None:
    """
    Is one without a pipeline.
    """
    buffer = Buffer()
    with consumer(make_pipeline, buffer):
        buffer.push("parent")
    assert in_child(lambda: (buffer.push(1), len(buffer))[1]) == 1


@in_fork
def test_a_subclass_that_has_its_own_buffer(make_pipeline: Any) -> None:
    """
    A producer class that is its own factory finds its buffer as it likes.
    """
    buffer = Buffer()

    class Clicks(BufferProducer):
        def __init__(self) -> None:
            super().__init__(buffer)

    def child() -> Any:
        handled: List[Any] = []
        handler = make_handler(handle_message=lambda p, message, c: (handled.append(message.data), message)[1])
        with make_pipeline(handler, producer={"module": Clicks}) as pipeline:
            buffer.push(1)
            buffer.close()
            assert pipeline.join(BOUND)
        return handled

    assert in_child(child) == [1]
