"""
The logging filter: which pipeline, stage, callback and message a record belongs to.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import io
import logging
import logging.config
import pickle
import queue
import threading
import weakref
from contextvars import copy_context
from typing import Any, Callable, Iterator

import pytest

from broadway_sync import IterableProducer, Message, NoopAcknowledger, Producer, around, logs
from broadway_sync.logs import ContextFilter, message_id
from tests.helpers import RecordingAcknowledger, get, make_handler

log = logging.getLogger("application.orders")


class Records(logging.Handler):
    """
    Keeps records, with the fields that the filter added.
    """

    def __init__(self) -> None:
        super().__init__()
        self.queue: queue.Queue[logging.LogRecord] = queue.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        """
        Keep one.
        """
        self.queue.put(record)

    def next(self) -> tuple[str, str, str, str]:
        """
        Wait for the next record; return what was added to it.
        """
        record: Any = get(self.queue, "a record")
        return record.pipeline, record.stage, record.callback, record.message_id


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """
    Take the hook away again.
    """
    yield
    around.remove_around(logs._HOOK)


@pytest.fixture
def records() -> Iterator[Records]:
    """
    Return a handler of the root logger, with the filter.
    """
    handler = Records()
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logs.install(handler)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def push(make_pipeline: Callable[..., Any]) -> Callable[..., RecordingAcknowledger]:
    """
    Return a function that runs messages with these metadata through a pipeline named "orders".
    """

    def push(*metadata: dict[str, Any], **options: Any) -> RecordingAcknowledger:
        callbacks = {name: options.pop(name) for name in list(options) if name.startswith(("handle", "prepare"))}
        acks = RecordingAcknowledger()
        pipeline = make_pipeline(make_handler(**callbacks), name="orders", **options).start()
        pipeline.push_messages([acks.message(each, metadata=each) for each in metadata])
        acks.collect(len(metadata))
        return acks

    return push


def logging_handler(processor: str, message: Message, context: Any) -> Message:
    """
    A ``handle_message`` that logs as any library would.
    """
    log.info("handling")
    return message


def test_records_of_a_callback_know_their_message(records: Records, push: Callable[..., Any]) -> None:
    """
    Whoever logs, and at whatever depth.
    """
    push({"message_id": "m1"}, {"message_id": "m2"}, handle_message=logging_handler)
    stage = "orders.Broadway.Processor_default_0"
    assert records.next() == ("orders", stage, "handle_message", "m1")
    assert records.next() == ("orders", stage, "handle_message", "m2")


def test_records_of_a_batch_name_the_first_message(records: Records, push: Callable[..., Any]) -> None:
    """
    And how many there are.
    """

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        log.info("inserting")
        return messages

    batchers = {"default": {"batch_size": 3, "batch_timeout": 60}}
    push(*({"message_id": f"m{number}"} for number in range(3)), handle_batch=handle_batch, batchers=batchers)
    assert records.next() == ("orders", "orders.Broadway.BatchProcessor_default_0", "handle_batch", "m0 (+2)")


def test_records_of_other_threads_have_dashes(records: Records) -> None:
    """
    So that every format works for them.
    """
    log.info("starting")
    assert records.next() == ("-", "-", "-", "-")


def test_what_the_library_logs_about_a_callback(records: Records, push: Callable[..., Any]) -> None:
    """
    Its errors know the message too, although the callback is over.
    """

    def fail(processor: str, message: Message, context: Any) -> Message:
        raise ValueError("wrong")

    push({"message_id": "m1"}, handle_message=fail)
    assert records.next() == ("orders", "orders.Broadway.Processor_default_0", "handle_message", "m1")


def test_what_the_library_logs_about_a_batch(records: Records, push: Callable[..., Any]) -> None:
    """
    The same.
    """

    def fail(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        raise ValueError("wrong")

    push({"message_id": "m1"}, handle_batch=fail, batchers={"default": {"batch_size": 1}})
    assert records.next() == ("orders", "orders.Broadway.BatchProcessor_default_0", "handle_batch", "m1")


class RaisingError(Exception):
    """
    An exception whose attributes raise.
    """

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name) if name.startswith("__") else RuntimeError(name)


class AnsweringError(Exception):
    """
    An exception that has an answer to everything.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


@pytest.mark.parametrize("cls", [RaisingError, AnsweringError])
def test_an_exception_with_odd_attributes_is_logged(records: Records, cls: Any) -> None:
    """
    What the filter cannot find out costs the record nothing, and whoever logs it even less.
    """
    log.error("wrong", exc_info=cls())
    assert records.next() == ("-", "-", "-", "-")


def test_a_logged_failure_keeps_no_message_alive(records: Records, push: Callable[..., Any]) -> None:
    """
    What is noted on the exception is where it came from, and the message by a weak reference.
    """
    errors: list[BaseException] = []

    def fail(processor: str, message: Message, context: Any) -> Message:
        raise ValueError("wrong")

    acks = push({"message_id": "m1"}, handle_message=fail)
    (message,) = acks.acks[0].failed
    errors.append(message.reason.with_traceback(None))
    known = weakref.ref(message)
    del message, acks
    records.queue.queue.clear()
    for handler in logging.getLogger().handlers:  # pytest's own keep records, and those have tracebacks
        getattr(handler, "records", []).clear()
    gc.collect()
    assert known() is None
    log.error("later", exc_info=errors[0])
    assert records.next() == ("orders", "orders.Broadway.Processor_default_0", "handle_message", "-")


def test_callbacks_of_the_producer(records: Records, make_pipeline: Callable[..., Any]) -> None:
    """
    Have a callback, and no message.
    """

    class Logging(Producer):
        def init(self) -> None:
            log.info("connecting")

        def handle_demand(self, demand: int) -> Any:
            return []

    make_pipeline(name="orders", producer={"module": Logging}).start()
    assert records.next() == ("orders", "orders.Broadway.Producer_0", "init", "-")


def test_stages_of_pipelines_that_ran_before(records: Records, make_pipeline: Callable[..., Any]) -> None:
    """
    Name and stage are known without the hook.
    """
    around.remove_around(logs._HOOK)
    pipeline = make_pipeline(make_handler(handle_message=logging_handler), name="orders").start()
    pipeline.test_message(1).receive(10)
    assert records.next() == ("orders", "orders.Broadway.Processor_default_0", "-", "-")


def test_fields_that_a_record_has_stay(records: Records, push: Callable[..., Any]) -> None:
    """
    ``extra`` is the application's.
    """

    def handle(processor: str, message: Message, context: Any) -> Message:
        log.info("handling", extra={"message_id": "mine", "stage": "second"})
        return message

    push({"message_id": "m1"}, handle_message=handle)
    assert records.next() == ("orders", "second", "handle_message", "mine")


def test_a_thread_of_a_callback_has_dashes(records: Records, push: Callable[..., Any]) -> None:
    """
    Unless it is given the context, as with anything in ``contextvars``.
    """

    def handle(processor: str, message: Message, context: Any) -> Message:
        for target, arguments in ((log.info, ()), (copy_context().run, (log.info,))):
            thread = threading.Thread(target=target, args=(*arguments, "elsewhere"))
            thread.start()
            thread.join()
        return message

    push({"message_id": "m1"}, handle_message=handle)
    assert records.next() == ("-", "-", "-", "-")
    assert records.next() == ("orders", "orders.Broadway.Processor_default_0", "handle_message", "m1")


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"message_id": "5fea7756", "attributes": {}}, "5fea7756"),
        ({"topic": "orders", "partition": 3, "offset": 1042}, "orders-3-1042"),
        ({"delivery_tag": 17, "message_id": None}, "17"),
        ({"delivery_tag": 17, "message_id": "m1"}, "m1"),
        ({"topic": "orders", "partition": 0, "offset": 0}, "orders-0-0"),
        ({"message_id": 0}, "0"),
        ({"delivery_tag": 17, "message_id": ""}, "17"),
        ({}, "-"),
    ],
    ids=["sqs", "kafka", "rabbitmq", "rabbitmq_id", "zero", "id_of_zero", "empty_id", "none"],
)
def test_the_id_of_a_message(metadata: dict[str, Any], expected: str) -> None:
    """
    By what its connector gives.
    """
    assert message_id(Message(None, NoopAcknowledger.init(), metadata=metadata)) == expected


def own_id(message: Message) -> Any:
    """
    For the configuration below.
    """
    return message.data["message_id"].upper()


def test_dict_config(make_pipeline: Callable[..., Any]) -> None:
    """
    As ``"()"`` entry, with a function for ids of one's own.
    """
    stream = io.StringIO()
    stream_handler = {"class": "logging.StreamHandler", "stream": stream, "filters": ["broadway"], "formatter": "plain"}
    logger = {"handlers": ["memory"], "level": "INFO", "propagate": False}
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {
                "broadway": {"()": "broadway_sync.logs.ContextFilter", "message_id": f"ext://{__name__}.own_id"}
            },
            "formatters": {"plain": {"format": "%(pipeline)s %(callback)s %(message_id)s %(message)s"}},
            "handlers": {"memory": stream_handler},
            "loggers": {"application": logger},
        }
    )
    try:
        log.info("outside")
        producer = {"module": (IterableProducer, {"iterable": [{"message_id": "a"}]})}
        with make_pipeline(make_handler(handle_message=logging_handler), name="orders", producer=producer) as pipeline:
            pipeline.join(10)
    finally:
        application = logging.getLogger("application")
        application.handlers.clear()
        application.propagate = True
    assert stream.getvalue().splitlines() == ["- - - outside", "orders handle_message A handling"]


def test_an_id_function_that_raises_costs_the_id_only(push: Callable[..., Any], records: Records) -> None:
    """
    The record stays.
    """
    records.filters.clear()
    records.addFilter(ContextFilter(message_id=lambda message: 1 / 0))
    push({"message_id": "m1"}, handle_message=logging_handler)
    assert records.next() == ("orders", "orders.Broadway.Processor_default_0", "handle_message", "-")


def test_a_thread_that_has_an_owner_of_its_own(records: Records) -> None:
    """
    Belongs to no pipeline, whatever it means by that.
    """
    thread = threading.Thread(target=log.info, args=("hello",))
    thread.owner = "ada"  # type: ignore[attr-defined]
    thread.start()
    assert records.next() == ("-", "-", "-", "-")
    thread.join(10)


@pytest.mark.parametrize("copy", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_what_a_callback_raises_can_still_be_copied(
    records: Records, push: Callable[..., RecordingAcknowledger], copy: Callable[[Any], Any]
) -> None:
    """
    And pickled, though it knows where it came from; a copy knows the place.
    """
    failed = push({"message_id": "m1"}, handle_message=lambda processor, message, context: 1 / 0)
    records.next()
    error = copy(failed.acks[0].failed[0].reason)
    log.info("it failed", exc_info=(type(error), error, None))
    assert records.next()[:3] == ("orders", "orders.Broadway.Processor_default_0", "handle_message")


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    """
    Refuses to be changed.
    """

    code: int


def test_what_is_raised_may_refuse_to_be_changed(records: Records, push: Callable[..., Any]) -> None:
    """
    Its record has the fields all the same.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        raise FrozenError(1)

    push({"message_id": "m1"}, handle_message=handle_message)
    assert records.next() == ("orders", "orders.Broadway.Processor_default_0", "handle_message", "m1")


def test_filters_add_one_hook() -> None:
    """
    However many there are.
    """
    before = len(around.everywhere())
    ContextFilter()
    ContextFilter()
    assert len(around.everywhere()) == before + 1


def test_install_takes_the_handlers_of_the_root_logger() -> None:
    """
    Unless others are given.
    """
    root, handler = logging.getLogger(), logging.NullHandler()
    others = list(root.handlers)
    root.addHandler(handler)
    try:
        made = logs.install()
        assert made in handler.filters
    finally:
        root.removeHandler(handler)
        for other in others:
            other.removeFilter(made)
