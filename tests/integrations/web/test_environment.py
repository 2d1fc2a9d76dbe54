"""
What a process says of itself: uWSGI's module, as its versions fill it, and children that were forked.
"""

from __future__ import annotations

import os
import types
from typing import Any, Callable, Iterator, List

import pytest

import broadway_sync
from broadway_sync import Buffer, BufferProducer, ConfigurationError, NotRunningError, Pipeline, environment, registry
from tests.contract.test_fork import in_child
from tests.helpers import BOUND, make_handler, unique_name


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
        "pipeline 'clicks' cannot run in this uWSGI process: its Python threads are switched off, so that no thread of a "
        'pipeline runs between two requests; set `enable-threads = true`, see "Use a pipeline in a web process" in the '
        "manual"
    )
    assert (pipeline.state, broadway_sync.all_running()) == ("new", [])


@pytest.mark.parametrize("attributes", [{"has_threads": 1}, {}, {"masterpid": None}], ids=["on", "not said", "other module"])
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
        "pipeline 'clicks' was about to start in uWSGI's master: threads do not survive the fork, no worker would have "
        "it. Set `lazy-apps = true`, so that each worker loads the application itself, or start it in a function decorated "
        'with uwsgidecorators.postfork; see "Use a pipeline in a web process" in the manual'
    )


fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this platform")
# Python 3.12 and later warn of what these tests are about.
no_warning = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def refusal(function: Callable[[], Any]) -> str:
    """
    Return the text of the NotRunningError that *function* raises.
    """
    with pytest.raises(NotRunningError) as caught:
        function()
    return str(caught.value)


def expected(what: str) -> str:
    """
    Return the text that a child gets, but for its own id.
    """
    return (
        f"{what} was started in process {os.getpid()}, before the fork that made this one (CHILD): threads do not survive "
        "a fork, so it does not run here. Start it after the fork: with gunicorn in the hook post_fork or "
        "post_worker_init, with uWSGI by `lazy-apps = true` or in a function decorated with uwsgidecorators.postfork"
    )


@pytest.fixture(params=["told", "not told"])
def in_a_child(request: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], Any]:
    """
    Return a function that calls another one in a forked child: one that Python knows of, or one like uWSGI's workers,
    in which Python's hooks do not run.
    """

    def call(function: Callable[[], Any]) -> Any:
        if request.param == "not told":
            monkeypatch.setattr(registry, "_after_fork", lambda: None)
            monkeypatch.setattr(registry, "_is_noticing", True)  # what the hook does finds it done
        return in_child(lambda: (_forget_hook(monkeypatch), function())[1])

    return call


@fork
@no_warning
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
        return [refusal(call).replace(str(os.getpid()), "CHILD") for call in calls]

    assert in_child(child) == [expected(f"pipeline {name!r}")] * 4
