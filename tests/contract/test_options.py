"""
Options: every mistake is a ``ConfigurationError`` at construction that gives the path, the value and the rule.
"""

from __future__ import annotations

import functools
import queue
import sys
import threading
import types
from typing import Any

import pytest

import broadway_sync
from broadway_sync import (
    BatcherOptions,
    ConfigurationError,
    DummyProducer,
    Handler,
    Pipeline,
    ProcessorOptions,
    Producer,
    ProducerOptions,
    RateLimiting,
)
from tests.helpers import BOUND, Batches, make_handler, unique_name

DUMMY = (DummyProducer, {})


def configure(handler: Any = None, **options: Any) -> Pipeline:
    """
    Return a pipeline that is valid but for *options*.
    """
    defaults: dict[str, Any] = {
        "name": unique_name(),
        "producer": {"module": DUMMY},
        "processors": {"default": {"concurrency": 1}},
    }
    return Pipeline(handler or make_handler(), **{**defaults, **options})


def refusal(handler: Any = None, **options: Any) -> str:
    """
    Return the text with which these options are refused.
    """
    before = set(threading.enumerate())
    with pytest.raises(ConfigurationError) as caught:
        configure(handler, **options)
    assert set(threading.enumerate()) <= before
    return str(caught.value)


def producer(**options: Any) -> dict[str, Any]:
    """
    Return the producer's options.
    """
    return {"producer": {"module": DUMMY, **options}}


def limits(**options: Any) -> dict[str, Any]:
    """
    Return the rate limiting options.
    """
    return producer(rate_limiting=options)


def processor(**options: Any) -> dict[str, Any]:
    """
    Return the processors' options.
    """
    return {"processors": {"default": options}}


def batcher(**options: Any) -> dict[str, Any]:
    """
    Return the options of one batcher.
    """
    return {"batchers": {"sqs": options}}


def splitter(message: Any, accumulator: Any) -> Any:
    """
    A valid batch size function.
    """
    return ("emit", accumulator)


# Unknown options


def test_unknown_option_text() -> None:
    """
    The text for an unknown option is the one that the contract shows.
    """
    assert refusal(processors={"default": {"concurency": 2}}) == (
        "processors.default.concurency: unknown option, valid options are: "
        "concurrency, max_demand, min_demand, partition_by"
    )


UNKNOWN = [
    (
        producer(concurency=1),
        "producer.concurency",
        {"module", "concurrency", "transformer", "rate_limiting"},
    ),
    (
        limits(allowed_messages=1, interval=1, per="s"),
        "producer.rate_limiting.per",
        {"allowed_messages", "interval"},
    ),
    (
        {"batchers": {"sqs": {"batch_sizy": 1}}},
        "batchers.sqs.batch_sizy",
        {"concurrency", "batch_size", "batch_timeout", "max_demand", "partition_by"},
    ),
]


@pytest.mark.parametrize(("options", "path", "valid"), UNKNOWN, ids=[u[1] for u in UNKNOWN])
def test_unknown_options_elsewhere(options: Any, path: str, valid: set[str]) -> None:
    """
    Every mapping refuses an unknown option with its path and the valid names.
    """
    head, _, names = refusal(**options).partition(": unknown option, valid options are: ")
    assert head == path
    assert set(names.split(", ")) == valid


def test_unknown_option_is_named_before_other_mistakes() -> None:
    """
    A misspelt option is reported as such even where its absence is a mistake, too.
    """
    assert "producer.modul" in refusal(producer={"modul": DUMMY})


# Wrong values

WRONG: list[tuple[dict[str, Any], str, Any]] = [
    ({"name": ""}, "name", ""),
    ({"name": None}, "name", None),
    ({"name": 7}, "name", 7),
    ({"shutdown": 0}, "shutdown", 0),
    ({"shutdown": -1.5}, "shutdown", -1.5),
    ({"shutdown": "30"}, "shutdown", "30"),
    ({"shutdown": float("nan")}, "shutdown", float("nan")),
    ({"shutdown": float("inf")}, "shutdown", float("inf")),
    ({"shutdown": True}, "shutdown", True),
    ({"max_restarts": -1}, "max_restarts", -1),
    ({"max_restarts": 1.5}, "max_restarts", 1.5),
    ({"max_seconds": 0}, "max_seconds", 0),
    ({"max_seconds": "5"}, "max_seconds", "5"),
    ({"resubscribe_interval": -0.1}, "resubscribe_interval", -0.1),
    ({"resubscribe_interval": "soon"}, "resubscribe_interval", "soon"),
    ({"partition_by": 5}, "partition_by", 5),
    ({"producer": None}, "producer", None),
    ({"producer": [1]}, "producer", [1]),
    ({"producer": {"module": 5}}, "producer.module", 5),
    ({"producer": {"module": None}}, "producer.module", None),
    ({"producer": {"module": (DummyProducer,)}}, "producer.module", (DummyProducer,)),
    ({"producer": {"module": (DummyProducer, {}, 1)}}, "producer.module", (DummyProducer, {}, 1)),
    ({"producer": {"module": (DummyProducer, 5)}}, "producer.module", 5),
    ({"producer": {"module": ("dummy", {})}}, "producer.module", "dummy"),
    (producer(concurrency=0), "producer.concurrency", 0),
    (producer(concurrency=-2), "producer.concurrency", -2),
    (producer(concurrency=1.5), "producer.concurrency", 1.5),
    (producer(concurrency="2"), "producer.concurrency", "2"),
    (producer(concurrency=True), "producer.concurrency", True),
    (producer(transformer="function"), "producer.transformer", "function"),
    (producer(rate_limiting=5), "producer.rate_limiting", 5),
    (limits(allowed_messages=0, interval=1), "producer.rate_limiting.allowed_messages", 0),
    (limits(allowed_messages=1.5, interval=1), "producer.rate_limiting.allowed_messages", 1.5),
    (limits(allowed_messages=1, interval=0), "producer.rate_limiting.interval", 0),
    (limits(allowed_messages=1, interval=-1), "producer.rate_limiting.interval", -1),
    (limits(allowed_messages=1, interval="1s"), "producer.rate_limiting.interval", "1s"),
    ({"processors": None}, "processors", None),
    ({"processors": {}}, "processors", {}),
    ({"processors": {"a": {}, "b": {}}}, "processors", None),
    ({"processors": [("default", {})]}, "processors", None),
    ({"processors": {"default": 3}}, "processors.default", 3),
    ({"processors": {1: {}}}, "processors", 1),
    (processor(concurrency=0), "processors.default.concurrency", 0),
    (processor(concurrency="4"), "processors.default.concurrency", "4"),
    (processor(max_demand=0), "processors.default.max_demand", 0),
    (processor(max_demand=2.5), "processors.default.max_demand", 2.5),
    (processor(min_demand=-1), "processors.default.min_demand", -1),
    (processor(min_demand="1"), "processors.default.min_demand", "1"),
    (processor(min_demand=10), "processors.default.min_demand", 10),
    (processor(max_demand=4, min_demand=4), "processors.default.min_demand", 4),
    (processor(max_demand=4, min_demand=9), "processors.default.min_demand", 9),
    (processor(partition_by="key"), "processors.default.partition_by", "key"),
    ({"batchers": 7}, "batchers", 7),
    ({"batchers": {"sqs": 7}}, "batchers.sqs", 7),
    (batcher(concurrency=0), "batchers.sqs.concurrency", 0),
    (batcher(batch_size=0), "batchers.sqs.batch_size", 0),
    (batcher(batch_size=-5), "batchers.sqs.batch_size", -5),
    (batcher(batch_size="10"), "batchers.sqs.batch_size", "10"),
    (batcher(batch_size=1.5), "batchers.sqs.batch_size", 1.5),
    (batcher(batch_size=(0, "f"), max_demand=5), "batchers.sqs.batch_size", "f"),
    (batcher(batch_size=(0,), max_demand=5), "batchers.sqs.batch_size", (0,)),
    (batcher(batch_timeout=0), "batchers.sqs.batch_timeout", 0),
    (batcher(batch_timeout=-1), "batchers.sqs.batch_timeout", -1),
    (batcher(batch_timeout="1"), "batchers.sqs.batch_timeout", "1"),
    (batcher(batch_timeout=float("nan")), "batchers.sqs.batch_timeout", float("nan")),
    (batcher(batch_timeout=float("inf")), "batchers.sqs.batch_timeout", float("inf")),
    (batcher(max_demand=0), "batchers.sqs.max_demand", 0),
    (batcher(max_demand="9"), "batchers.sqs.max_demand", "9"),
    (batcher(partition_by=3), "batchers.sqs.partition_by", 3),
]


@pytest.mark.parametrize(("options", "path", "value"), WRONG, ids=[f"{w[1]}={w[2]!r:.40}" for w in WRONG])
def test_wrong_value(options: Any, path: str, value: Any) -> None:
    """
    A wrong type or a value out of range is refused with the option's path, the value and the rule.
    """
    text = refusal(**options)
    head, separator, rest = text.partition(":")
    assert (head, separator) == (path, ":"), text
    if value is not None or path in ("name", "producer", "producer.module"):
        assert repr(value) in rest, text
    assert len(rest.replace(repr(value), "").split()) >= 2, f"no rule in {text!r}"


MISSING: list[tuple[dict[str, Any], str]] = [
    ({"producer": {}}, "producer.module"),
    ({"producer": {"concurrency": 2}}, "producer.module"),
    (limits(interval=1), "producer.rate_limiting.allowed_messages"),
    (limits(allowed_messages=1), "producer.rate_limiting.interval"),
    (limits(), "producer.rate_limiting"),
    (batcher(batch_size=(0, splitter)), "batchers.sqs.max_demand"),
]


@pytest.mark.parametrize(("options", "path"), MISSING, ids=[m[1] for m in MISSING])
def test_missing_option(options: Any, path: str) -> None:
    """
    A required option that is missing is named with its path.
    """
    assert path in refusal(**options)


def test_configuration_error_is_a_value_error() -> None:
    """
    Who catches ``ValueError`` catches mistakes in the configuration.
    """
    with pytest.raises(ValueError, match="name"):
        configure(name="")


def test_the_path_names_the_key_that_is_wrong() -> None:
    """
    With several batchers the path tells which one.
    """
    assert refusal(batchers={"good": {}, "bad": {"batch_size": 0}}).startswith("batchers.bad.batch_size:")


# Callbacks


class AsyncHandlers:
    """
    Handlers that are written for asyncio.
    """

    async def coroutine(self, *args: Any) -> Any:
        """
        Do nothing.
        """

    async def generator(self, *args: Any) -> Any:
        """
        Do nothing, often.
        """
        yield None


CALLBACKS = ["handle_message", "prepare_messages", "handle_batch", "handle_failed"]


@pytest.mark.parametrize("callback", CALLBACKS)
@pytest.mark.parametrize("kind", ["coroutine", "generator"])
def test_async_callback(callback: str, kind: str) -> None:
    """
    A callback written with ``async def`` is refused by name.
    """
    text = refusal(make_handler(**{callback: getattr(AsyncHandlers(), kind)}), **batcher())
    assert callback in text
    assert "async" in text


def test_async_partial() -> None:
    """
    ``async def`` is found inside ``functools.partial``, too.
    """
    bound = functools.partial(AsyncHandlers().coroutine, "extra")
    assert "handle_message" in refusal(make_handler(handle_message=bound))


@pytest.mark.parametrize(
    "handler",
    [types.SimpleNamespace(handle_batch=lambda *a: a[1]), None, 5, object],
    ids=["only handle_batch", "None", "5", "object"],
)
def test_missing_handle_message(handler: Any) -> None:
    """
    A handler without ``handle_message`` is refused.
    """
    with pytest.raises(ConfigurationError, match="handle_message"):
        Pipeline(handler, name="x", producer={"module": DUMMY}, processors={"default": {}})


def test_missing_handle_batch() -> None:
    """
    Batchers need ``handle_batch``; without batchers nobody does.
    """
    handler = types.SimpleNamespace(handle_message=lambda processor, message, context: message)
    assert "handle_batch" in refusal(handler, **batcher())
    configure(handler)
    configure(handler, batchers={})
    configure(handler, batchers=None)


def test_missing_handle_batch_of_a_subclass() -> None:
    """
    The base class for type checkers does not pretend to have the callbacks.
    """

    class OnlyMessages(Handler):
        def handle_message(self, processor: str, message: Any, context: Any) -> Any:
            return message

    assert configure(OnlyMessages()).state == "new"
    assert "handle_batch" in refusal(OnlyMessages(), **batcher())


@pytest.mark.parametrize("callback", CALLBACKS)
def test_callback_that_is_no_function(callback: str) -> None:
    """
    A callback that cannot be called is refused by name.
    """
    assert callback in refusal(make_handler(**{callback: 5}), **batcher())


# Valid ones


VALID: list[dict[str, Any]] = [
    {},
    {"shutdown": 1},
    {"shutdown": 0.5, "max_restarts": 0, "max_seconds": 0.1, "resubscribe_interval": 0},
    processor(max_demand=1),
    processor(max_demand=10, min_demand=0),
    processor(max_demand=10, min_demand=9),
    batcher(batch_size=1, batch_timeout=1e-3, max_demand=1, concurrency=5),
    batcher(batch_size=(0, splitter), max_demand=5),
    batcher(batch_size=[0, splitter][:0] or (None, splitter), max_demand=5),
    limits(allowed_messages=1, interval=0.001),
    producer(rate_limiting=None, transformer=None),
    {"processors": {"anything": {}}, "batchers": {"a": {}, "b": {}}},
    {"producer": ProducerOptions(module=DUMMY, concurrency=2)},
    {"processors": {"default": ProcessorOptions(concurrency=1, max_demand=2)}},
    {"batchers": {"a": BatcherOptions(batch_size=5), "b": {}}},
    producer(rate_limiting=RateLimiting(allowed_messages=1, interval=1)),
    {"producer": types.MappingProxyType({"module": DUMMY}), "processors": types.MappingProxyType({"default": {}})},
]


@pytest.mark.parametrize("options", VALID, ids=[str(n) for n in range(len(VALID))])
def test_valid_options(options: Any) -> None:
    """
    Everything within the rules is accepted: mappings of any kind, typed twins, and both mixed.
    """
    assert configure(**options).state == "new"


def test_typed_twins_behave_like_mappings(make_pipeline: Any) -> None:
    """
    A pipeline made from the typed twins runs like one made from mappings.
    """
    batches = Batches()
    pipeline = make_pipeline(
        make_handler(handle_batch=batches),
        producer=ProducerOptions(
            module=DUMMY, concurrency=2, rate_limiting=RateLimiting(allowed_messages=5, interval=1)
        ),
        processors={"default": ProcessorOptions(concurrency=3)},
        batchers={"default": BatcherOptions(batch_size=2)},
    ).start()
    assert pipeline.topology()["producers"][0]["concurrency"] == 2
    assert pipeline.topology()["processors"][0]["concurrency"] == 3
    assert pipeline.get_rate_limiting() == {"allowed_messages": 5, "interval": 1}
    pipeline.test_batch([1, 2])
    assert sorted(batches.next()[0]) == [1, 2]


TWINS: list[dict[str, Any]] = [
    {"options": lambda: {"producer": ProducerOptions(module=DUMMY, concurrency=0)}},
    {"options": lambda: {"producer": ProducerOptions(module=5)}},
    {"options": lambda: {"processors": {"default": ProcessorOptions(min_demand=10)}}},
    {"options": lambda: {"batchers": {"sqs": BatcherOptions(batch_size=0)}}},
    {"options": lambda: {"batchers": {"sqs": BatcherOptions(batch_size=(0, splitter))}}},
    {"options": lambda: producer(rate_limiting=RateLimiting(allowed_messages=0, interval=1))},
    {"options": lambda: {"processors": ProcessorOptions()}},
]


@pytest.mark.parametrize("case", TWINS, ids=[str(n) for n in range(len(TWINS))])
def test_typed_twins_are_validated(case: Any) -> None:
    """
    The same rules hold for the typed twins.
    """
    with pytest.raises(ConfigurationError):
        configure(**case["options"]())


def test_options_are_taken_at_construction(make_pipeline: Any) -> None:
    """
    Changing a mapping after the constructor saw it changes nothing.
    """
    processors = {"default": {"concurrency": 1}}
    pipeline = make_pipeline(processors=processors)
    processors["default"]["concurrency"] = 50
    assert pipeline.topology()["processors"][0]["concurrency"] == 1


# Producers: module, factory, own validation


class Validating(Producer):
    """
    A producer that checks and completes its options.
    """

    made: queue.Queue[dict[str, Any]] = queue.Queue()

    def __init__(self, **options: Any) -> None:
        self.made.put(options)

    @classmethod
    def validate_options(cls, options: Any) -> Any:
        """
        Want a queue, and give a default for the rest.
        """
        if "queue" not in options:
            raise ConfigurationError("queue: required option is missing")
        return {"prefetch": 10, **options}

    def handle_demand(self, demand: int) -> list[Any]:
        """
        Produce nothing.
        """
        return []


def test_validate_options_refuses() -> None:
    """
    What a producer's ``validate_options`` raises leaves the constructor of the pipeline.
    """
    assert "queue: required option is missing" in refusal(producer={"module": (Validating, {})})


def test_validate_options_completes(make_pipeline: Any) -> None:
    """
    A producer is made from what its ``validate_options`` returned, once for each index.
    """
    Validating.made = queue.Queue()
    given = {"queue": "invoices"}
    pipeline = make_pipeline(producer={"module": (Validating, given), "concurrency": 2})
    assert Validating.made.empty()
    pipeline.start()
    expected = {"queue": "invoices", "prefetch": 10}
    assert [Validating.made.get(timeout=BOUND) for _ in range(2)] == [expected, expected]
    assert given == {"queue": "invoices"}


class Polling(Producer):
    """
    A producer that has arguments and checks nothing itself.
    """

    def __init__(self, url: str, prefetch: int = 10) -> None:
        """
        Nothing is kept.
        """


class Forgetful(Producer):
    """
    A producer whose check has no ``return``.
    """

    @classmethod
    def validate_options(cls, options: Any) -> Any:
        """
        Return nothing.
        """


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (
            (Polling, {"url": "secret", "prefech": 5}),
            "producer.module.prefech: unknown option, valid options are: url, prefetch",
        ),
        ((Polling, {"url": "secret", 1: 5}), "producer.module.1: unknown option, valid options are: url, prefetch"),
        ((Polling, {"prefetch": 5}), "producer.module.url: required by Polling"),
        ((DummyProducer, {"url": "secret"}), "producer.module.url: unknown option, valid options are: none"),
        ((Forgetful, {}), "producer.module: Forgetful.validate_options must return the options, a mapping, got: None"),
    ],
    ids=["unknown", "no name", "missing", "takes none", "not returned"],
)
def test_options_that_a_producer_cannot_be_made_with(module: Any, text: str) -> None:
    """
    The constructor says so, before a start that could only crash.
    """
    assert refusal(producer={"module": module}) == text


def test_options_that_only_the_start_knows(make_pipeline: Any) -> None:
    """
    What ``prepare_for_start`` or a decorator adds is nothing that the constructor could ask for.
    """

    class Completed(Polling):
        @classmethod
        def prepare_for_start(cls, handler: Any, options: Any) -> Any:
            return [], options

    def inject(function: Any) -> Any:
        return functools.wraps(function)(lambda self, **given: function(self, url="amqp:", **given))

    class Injected(Polling):
        __init__ = inject(Polling.__init__)

    for producer in (Completed, Injected):
        make_pipeline(producer={"module": (producer, {})})


def test_factory_as_module(make_pipeline: Any) -> None:
    """
    A callable without arguments makes one producer for each index.
    """
    made: queue.Queue[Any] = queue.Queue()

    def factory() -> Producer:
        made.put(threading.current_thread().name)
        return DummyProducer()

    pipeline = make_pipeline(producer={"module": factory, "concurrency": 2})
    assert made.empty()
    pipeline.start()
    assert len([made.get(timeout=BOUND) for _ in range(2)]) == 2


def test_class_as_module(make_pipeline: Any) -> None:
    """
    A producer class without options is such a callable, too.
    """
    with make_pipeline(producer={"module": DummyProducer}) as pipeline:
        assert pipeline.test_message(1).receive(BOUND)


def test_text_of_a_value_that_cannot_be_shown() -> None:
    """
    A value whose ``repr`` raises is refused like any other.
    """

    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert refusal(shutdown=Shy()).startswith("shutdown:")


def test_recursion_limit_is_left_alone() -> None:
    """
    Constructing a pipeline changes no setting of the interpreter.
    """
    before = sys.getrecursionlimit(), sys.getswitchinterval(), threading.stack_size()
    configure()
    assert (sys.getrecursionlimit(), sys.getswitchinterval(), threading.stack_size()) == before
    assert broadway_sync.all_running() == []
