"""
The Flask extension: which pipelines there are, and the application context around their callbacks.
"""

from __future__ import annotations

import re
import threading
from typing import Any, Callable, Iterator, List

import pytest

flask = pytest.importorskip("flask", reason="Flask is not installed")

from broadway_sync import (  # noqa: E402 - after the look for Flask
    ConfigurationError,
    DummyProducer,
    EndOfStream,
    Handler,
    Message,
    NoopAcknowledger,
    Pipeline,
    Producer,
)
from broadway_sync.integrations.flask import AppContext, Broadway  # noqa: E402
from tests.helpers import BOUND, Gate, make_handler, run_python, unique_name  # noqa: E402

OPTIONS = {"producer": {"module": (DummyProducer, {})}, "processors": {"default": {"concurrency": 2}}}


def make_app(name: str = "shop", *extensions: Broadway) -> Any:
    """
    Return an application with these extensions.
    """
    app = flask.Flask(name)
    for extension in extensions:
        extension.init_app(app)
    return app


@pytest.fixture
def start() -> Iterator[Callable[..., Pipeline]]:
    """
    Return a function that starts a pipeline with this handler in the context of *app*.
    """
    running: List[Pipeline] = []

    def start(app: Any, handler: Any, **options: Any) -> Pipeline:
        broadway, name = app.extensions.get("broadway_sync") or Broadway(app), unique_name()
        broadway.pipeline(name)(lambda: Pipeline(handler, **{"name": name, **OPTIONS, **options}))
        running.append(broadway.make(name, app).start())
        return running[-1]

    yield start
    for pipeline in running:
        pipeline.stop()


def refusal(function: Callable[[], Any]) -> str:
    """
    Return the text of the ConfigurationError that *function* raises.
    """
    with pytest.raises(ConfigurationError) as caught:
        function()
    return str(caught.value)


def test_callbacks_have_the_application_context(start: Any) -> None:
    """
    ``current_app`` is the application in each callback, also in that for failed messages.
    """
    seen: List[Any] = []

    class Shop(Handler):
        def prepare_messages(self, messages: Any, context: Any) -> Any:
            seen.append(("prepare_messages", flask.current_app.name))
            return messages

        def handle_message(self, processor: Any, message: Any, context: Any) -> Any:
            seen.append(("handle_message", flask.current_app.name))
            return message.fail("no") if message.data == "bad" else message

        def handle_batch(self, batcher: Any, messages: Any, batch_info: Any, context: Any) -> Any:
            seen.append(("handle_batch", flask.current_app.name))
            return messages

        def handle_failed(self, messages: Any, context: Any) -> Any:
            seen.append(("handle_failed", flask.current_app.name))
            return messages

    pipeline = start(make_app(), Shop(), batchers={"default": {}})
    assert len(pipeline.test_message("good").receive(BOUND)[0]) == 1
    assert len(pipeline.test_message("bad").receive(BOUND)[1]) == 1
    callbacks = ("prepare_messages", "handle_message", "handle_batch", "handle_failed")
    assert set(seen) == {(callback, "shop") for callback in callbacks}


def test_each_call_has_a_context_of_its_own(start: Any) -> None:
    """
    What a call puts on ``g`` is gone after it, and not seen by calls on other threads.
    """
    gate = Gate()

    def handle_message(processor: Any, message: Any, context: Any) -> Any:
        before = flask.g.get("number")
        flask.g.number = message.data
        gate.wait()
        return message.put_data((before, flask.g.number, threading.current_thread().name))

    pipeline = start(make_app(), make_handler(handle_message=handle_message))
    refs = [pipeline.test_message(number) for number in range(2)]
    for _ in refs:
        gate.arrived()
    gate.open()
    refs += [pipeline.test_message(number) for number in range(2, 6)]
    found = [ref.receive(BOUND)[0][0].data for ref in refs]
    assert [(before, number) for before, number, _ in found] == [(None, number) for number in range(6)]
    assert len({thread for _, _, thread in found[:2]}) == 2


def test_teardown_runs_on_the_thread_of_the_callback(start: Any) -> None:
    """
    After each call, with what it raised.
    """
    app = make_app()
    ended: List[Any] = []
    app.teardown_appcontext(lambda error: ended.append((repr(error), threading.current_thread().name)))

    def handle_message(processor: Any, message: Any, context: Any) -> Any:
        if message.data == "bad":
            raise ZeroDivisionError("mine")
        return message

    pipeline = start(app, make_handler(handle_message=handle_message), processors={"default": {"concurrency": 1}})
    ended.clear()  # that of make()
    assert pipeline.test_message("good").receive(BOUND)[0]
    assert pipeline.test_message("bad").receive(BOUND)[1]
    thread = f"{pipeline.name}.Broadway.Processor_default_0"
    assert ended == [("None", thread), ("ZeroDivisionError('mine')", thread)]


def test_a_teardown_function_that_raises_fails_the_messages(start: Any) -> None:
    """
    It may be what commits: a message must not be acknowledged as handled then.
    """
    app = make_app()

    def handle_message(processor: Any, message: Any, context: Any) -> Any:
        flask.g.data = message.data
        return message

    @app.teardown_appcontext  # type: ignore[untyped-decorator]
    def commit(error: Any) -> None:
        if flask.g.get("data") == "bad":
            raise OSError("disk full")

    pipeline = start(app, make_handler(handle_message=handle_message))
    ((message,), _), (_, (failed,)) = (pipeline.test_message(data).receive(BOUND) for data in ("good", "bad"))
    assert (message.status, failed.status, repr(failed.reason)) == ("ok", "error", "OSError('disk full')")


def test_producers_have_the_application_context(start: Any) -> None:
    """
    In each of their callbacks.
    """
    seen: List[Any] = []

    class Source(Producer):
        def init(self) -> None:
            seen.append(("init", flask.current_app.name))

        def handle_demand(self, demand: int) -> Any:
            seen.append(("handle_demand", flask.current_app.name))
            raise EndOfStream([Message(1, NoopAcknowledger.init())])

        def terminate(self, reason: Any) -> None:
            seen.append(("terminate", flask.current_app.name))

    pipeline = start(make_app(), make_handler(), producer={"module": (Source, {})})
    assert pipeline.join(BOUND)
    assert seen == [(callback, "shop") for callback in ("init", "handle_demand", "terminate")]


def test_hooks_of_the_user_have_the_application_context(start: Any) -> None:
    """
    It is the outermost, so that the pipeline's own hooks may use what belongs to the application.
    """
    seen: List[str] = []

    def around(call: Any, messages: Any) -> Any:
        seen.append(flask.current_app.name)
        return call()

    pipeline = start(make_app(), make_handler(), around=around)
    assert pipeline.test_message(1).receive(BOUND)[0]
    assert seen == ["shop"]


def test_pipelines_that_are_made_by_hand(make_pipeline: Any) -> None:
    """
    ``AppContext`` is the hook to give them.
    """
    app = make_app()
    handler = make_handler(handle_message=lambda p, message, c: message.put_data(flask.current_app.name))
    pipeline = make_pipeline(handler, around=AppContext(app)).start()
    assert pipeline.test_message(1).receive(BOUND)[0][0].data == "shop"
    assert repr(AppContext(app)) == "<AppContext of <Flask 'shop'>>"


@pytest.mark.parametrize("by_hand", [False, True])
def test_current_app_will_do_for_the_application(make_pipeline: Any, by_hand: bool) -> None:
    """
    In the threads of the pipeline it would mean nothing.
    """
    handler = make_handler(handle_message=lambda p, message, c: message.put_data(flask.current_app.name))
    app, broadway = make_app(), Broadway()
    broadway.pipeline("orders")(lambda app: make_pipeline(handler, context=app))
    with app.app_context():
        if by_hand:
            pipeline = make_pipeline(handler, around=AppContext(flask.current_app))
        else:
            pipeline = broadway.make("orders", flask.current_app)
    assert pipeline.start().test_message(1).receive(BOUND)[0][0].data == "shop"


def test_application_factories(start: Any) -> None:
    """
    Several applications share the functions; each makes its own pipelines with its own configuration.
    """
    broadway = Broadway()

    @broadway.pipeline("orders")
    def orders(app: Any) -> Pipeline:
        assert flask.current_app.name == app.name
        handler = make_handler(handle_message=lambda p, message, c: message.put_data(flask.current_app.name))
        return Pipeline(handler, name=unique_name(app.name), **OPTIONS)

    apps = [make_app(name, broadway) for name in ("books", "toys")]
    broadway.pipeline("late")(orders)
    assert broadway.names() == ["orders", "late"]
    for app in apps:
        with app.app_context(), broadway.make("orders") as pipeline:
            assert pipeline.name.startswith(app.name)
            assert pipeline.test_message(1).receive(BOUND)[0][0].data == app.name
        with broadway.make("late", app) as pipeline:
            assert pipeline.test_message(1).receive(BOUND)[0][0].data == app.name


def test_an_application_that_is_there_already() -> None:
    """
    ``Broadway(app)`` needs neither ``init_app`` nor an application context.
    """
    broadway = Broadway(make_app())
    broadway.pipeline("orders")(lambda: Pipeline(make_handler(), name="orders", **OPTIONS))
    assert broadway.make("orders").name == "orders"


def test_nothing_starts_by_itself() -> None:
    """
    A pipeline that is made is new.
    """
    broadway = Broadway(make_app())
    broadway.pipeline("orders")(lambda app: Pipeline(make_handler(), name="orders", **OPTIONS))
    assert broadway.make("orders").state == "new"
    assert broadway.make("orders") is not broadway.make("orders")


def test_arguments_for_the_function() -> None:
    """
    Are handed on, with the application or without.
    """
    broadway = Broadway(make_app())
    broadway.pipeline("with")(lambda app, kind="x": Pipeline(make_handler(), name=f"{app.name}_{kind}", **OPTIONS))
    broadway.pipeline("without")(lambda kind="x": Pipeline(make_handler(), name=kind, **OPTIONS))
    names = [broadway.make(name, **given).name for name in ("with", "without") for given in ({}, {"kind": "y"})]
    assert names == ["shop_x", "shop_y", "x", "y"]


def test_init_app_twice() -> None:
    """
    With the same application it changes nothing; with another extension it is refused.
    """
    broadway = Broadway()
    app = make_app("shop", broadway, broadway)
    assert app.extensions["broadway_sync"] is broadway
    text = "<Flask 'shop'> has a Broadway extension already: register all pipelines with that one"
    assert refusal(lambda: Broadway(app)) == text


@pytest.mark.parametrize("name", ["", None, 1, "--orders"])
def test_names_that_are_refused(name: Any) -> None:
    """
    Whatever a command line could not name.
    """
    text = f"pipeline: expected a name, as in @broadway.pipeline('orders'), got: {name!r}"
    assert refusal(lambda: Broadway().pipeline(name)) == text


def test_functions_that_are_refused() -> None:
    """
    Those that need other arguments, and a second one of the same name.
    """
    broadway = Broadway()
    text = refusal(lambda: broadway.pipeline("orders")(lambda app, other: None))
    assert text.startswith(
        "pipeline 'orders': expected a function that takes the application, or nothing, got: <function"
    )
    broadway.pipeline("orders")(make_handler)
    broadway.pipeline("orders")(make_handler)
    assert re.match(
        "pipeline 'orders': registered already, by <function", refusal(lambda: broadway.pipeline("orders")(len))
    )


def test_pipelines_that_are_refused(start: Any) -> None:
    """
    What is none, and one that was started.
    """
    broadway = Broadway(make_app())
    running = start(broadway._app, make_handler())
    broadway.pipeline("none")(lambda: None)
    broadway.pipeline("text")(lambda app: "orders")
    broadway.pipeline("running")(lambda: running)
    assert refusal(lambda: broadway.make("none")) == (
        "pipeline 'none': expected a Pipeline, got: None (was `return pipeline` forgotten?)"
    )
    assert refusal(lambda: broadway.make("text")) == "pipeline 'text': expected a Pipeline, got: 'orders'"
    assert refusal(lambda: broadway.make("running")) == (
        f"pipeline 'running': expected a new one, which was not started; got: <Pipeline {running.name!r}, running>"
    )
    assert refusal(lambda: broadway.make("other")).startswith("no pipeline is registered as 'other', there are: ")
    assert refusal(lambda: Broadway().make("other")) == "no pipeline is registered as 'other', there are: none"


def test_make_without_an_application() -> None:
    """
    Says what to do.
    """
    broadway = Broadway()
    broadway.pipeline("orders")(lambda: Pipeline(make_handler(), name="orders", **OPTIONS))
    text = "make() needs the application: give it, or call make() in an application context"
    assert refusal(lambda: broadway.make("orders")) == text


def test_without_flask() -> None:
    """
    The import names the extra.
    """
    done = run_python("import sys; sys.modules['flask'] = None\nimport broadway_sync.integrations.flask")
    text = "broadway_sync.integrations.flask needs Flask, which is not installed: pip install 'broadway_sync[flask]'"
    assert done.stderr.strip().endswith(f"ConfigurationError: {text}")
