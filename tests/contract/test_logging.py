"""
Logging: one record for each failure, with pipeline and stage; nothing printed; log handlers that raise break nothing.
"""

from __future__ import annotations

import logging
from typing import Any, Iterable

import pytest

from broadway_sync import DummyProducer, Message, PipelineFailedError, Producer
from tests.helpers import BOUND, NEVER, Feed, FeedProducer, eventually, make_handler, run_python, unique_name


@pytest.fixture
def records(caplog: Any) -> Any:
    """
    Return a function that gives the library's records so far, warnings and worse.
    """
    caplog.set_level(logging.DEBUG, "broadway_sync")

    def get_records(level: int = logging.WARNING) -> list[logging.LogRecord]:
        return [r for r in caplog.records if r.name.partition(".")[0] == "broadway_sync" and r.levelno >= level]

    return get_records


def visible(record: logging.LogRecord) -> str:
    """
    Return all that a formatter could show of a record but its traceback.
    """
    fields = {k: v for k, v in vars(record).items() if k not in ("exc_info", "exc_text", "threadName")}
    return f"{record.getMessage()} {fields!r}"


def raising(error: BaseException) -> Any:
    """
    Return a callback that raises *error*.
    """

    def callback(*args: Any) -> Any:
        raise error

    return callback


@pytest.fixture
def error() -> ValueError:
    """
    Return the error that callbacks of this test raise.
    """
    return ValueError("what went wrong")


CALLBACKS = {
    "handle_message": "Processor_default_0",
    "prepare_messages": "Processor_default_0",
    "handle_batch": "BatchProcessor_default_0",
}


@pytest.mark.parametrize(("callback", "stage"), CALLBACKS.items())
def test_one_record_for_a_callback_that_raises(
    make_pipeline: Any, acks: Any, records: Any, callback: str, stage: str, error: Any
) -> None:
    """
    A callback that raises is logged once, with traceback, pipeline and stage, however many messages it fails.
    """
    name = unique_name()
    with make_pipeline(
        make_handler(**{callback: raising(error)}),
        name=name,
        batchers={"default": {"batch_size": 3, "batch_timeout": NEVER}},
    ) as pipeline:
        pipeline.push_messages(acks.messages(range(1 if callback == "handle_message" else 3)))
    (record,) = records()
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert record.exc_info[2] is not None
    assert callback in record.getMessage()
    assert name in visible(record)
    assert stage in visible(record)


def test_pipeline_and_stage_are_fields(make_pipeline: Any, acks: Any, records: Any, error: Any) -> None:
    """
    Pipeline and stage are attributes of the record, for filters and structured logs.
    """
    name = unique_name()
    with make_pipeline(make_handler(handle_message=raising(error)), name=name) as pipeline:
        pipeline.push_messages(acks.messages([1]))
    (record,) = records()
    assert record.pipeline == name
    assert record.stage.endswith("Processor_default_0")


def test_one_record_for_each_message(make_pipeline: Any, acks: Any, records: Any, error: Any) -> None:
    """
    Each message that ``handle_message`` raises for is a failure, and a record, of its own.
    """
    with make_pipeline(make_handler(handle_message=raising(error))) as pipeline:
        pipeline.push_messages(acks.messages(range(4)))
    assert len(records()) == 4


def test_fail_is_not_logged(make_pipeline: Any, acks: Any, records: Any) -> None:
    """
    Nothing is logged for messages that were failed by ``fail``.
    """
    with make_pipeline(
        make_handler(
            handle_message=lambda p, m, c: m.fail("x") if m.data % 2 else m,
            handle_batch=lambda b, messages, i, c: [m.fail("y") for m in messages],
            handle_failed=lambda messages, c: messages,
        ),
        batchers={"default": {}},
    ) as pipeline:
        pipeline.push_messages(acks.messages(range(4)))
    assert len(acks.all_data()) == 4
    assert records() == []


def test_healthy_pipeline_logs_no_warning(make_pipeline: Any, acks: Any, records: Any) -> None:
    """
    A life without failures has no records of warning level or above.
    """
    with make_pipeline(batchers={"default": {}}) as pipeline:
        pipeline.push_messages(acks.messages(range(20)))
    assert records() == []


WRONG_RETURNS: dict[str, Any] = {
    "handle_message returns none": {"handle_message": lambda *args: None},
    "prepare_messages returns too few": {"prepare_messages": lambda messages, context: []},
    "handle_batch returns none": {"handle_batch": lambda *args: None},
    "handle_batch returns too few": {"handle_batch": lambda b, messages, i, c: []},
    "handle_batch returns too many": {"handle_batch": lambda b, messages, i, c: [*messages, *messages]},
    "handle_failed raises": {
        "handle_message": lambda p, m, c: m.fail("x"),
        "handle_failed": raising(ValueError("handle_failed")),
    },
    "handle_failed returns none": {
        "handle_message": lambda p, m, c: m.fail("x"),
        "handle_failed": lambda messages, c: None,
    },
    "handle_failed returns too few": {
        "handle_message": lambda p, m, c: m.fail("x"),
        "handle_failed": lambda messages, c: [],
    },
    "unknown batcher": {"handle_message": lambda p, m, c: m.put_batcher("unknown")},
}


@pytest.mark.parametrize("name", WRONG_RETURNS)
def test_one_record_for_a_wrong_return(make_pipeline: Any, acks: Any, records: Any, name: str) -> None:
    """
    A wrong return is logged once, naming the callback.
    """
    with make_pipeline(make_handler(**WRONG_RETURNS[name]), batchers={"default": {}}) as pipeline:
        pipeline.push_messages(acks.messages([1]))
    (record,) = records()
    callback = name.partition(" ")[0]
    shown = record.getMessage() + str(record.exc_info[1] if record.exc_info else "")
    assert callback in shown
    assert len(acks.all_data()) == 1


def test_one_record_for_an_acknowledger_that_raises(make_pipeline: Any, records: Any, error: Any) -> None:
    """
    An acknowledger that raises is logged once.
    """

    class Broken:
        def ack(self, ack_ref: Any, successful: Any, failed: Any) -> None:
            raise error

    with make_pipeline() as pipeline:
        pipeline.push_messages([Message(n, (Broken, None, None)) for n in range(1)])
        pipeline.push_messages([Message(n, (Broken(), "ref", None)) for n in range(1)])
    assert len(records()) == 2
    assert records()[1].exc_info[1] is error


def test_failures_of_several_layers(make_pipeline: Any, records: Any) -> None:
    """
    When ``handle_message``, ``handle_failed`` and the acknowledger all raise, each is logged; the stage lives.
    """

    class Broken:
        def ack(self, ack_ref: Any, successful: Any, failed: Any) -> None:
            raise RuntimeError("third")

    handler = make_handler(
        handle_message=raising(RuntimeError("first")), handle_failed=raising(RuntimeError("second"))
    )
    with make_pipeline(handler) as pipeline:
        pipeline.push_messages([Message(1, (Broken(), None, None))])
    assert [str(r.exc_info[1]) for r in records()] == ["first", "second", "third"]


def test_one_record_for_a_crash_of_a_producer(make_pipeline: Any, acks: Any, records: Any, error: Any) -> None:
    """
    A producer that raises is logged once, with the exception and its stage.
    """
    name = unique_name()
    feed = Feed([error, acks.message(1)])
    with make_pipeline(
        name=name, producer={"module": (FeedProducer, {"feed": feed})}, resubscribe_interval=0.01
    ):
        acks.collect(1)
    with_error = [r for r in records() if r.exc_info and r.exc_info[1] is error]
    assert len(with_error) == 1
    assert name in visible(with_error[0])
    assert "Producer_0" in visible(with_error[0])


def test_giving_up_is_logged(make_pipeline: Any, records: Any, error: Any) -> None:
    """
    A pipeline that gives up says so in the log, beside the crashes that led to it.
    """

    class Crashing(Producer):
        def handle_demand(self, demand: int) -> Iterable[Message]:
            raise error

    name = unique_name()
    pipeline = make_pipeline(
        name=name, producer={"module": Crashing}, resubscribe_interval=0, max_restarts=0
    ).start()
    with pytest.raises(PipelineFailedError):
        pipeline.join(BOUND)
    assert len(records(logging.ERROR)) >= 3
    assert all(name in visible(r) for r in records())


def test_no_payload_in_the_log(make_pipeline: Any, acks: Any, records: Any, error: Any) -> None:
    """
    Above debug level no record shows the data or the metadata of a message.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Any:
        if message.metadata["n"] == 0:
            raise error
        if message.metadata["n"] == 1:
            return None
        return message.put_batcher("unknown") if message.metadata["n"] == 2 else message

    handler = make_handler(handle_message=handle_message, handle_batch=lambda *args: None)
    with make_pipeline(handler, batchers={"default": {}}) as pipeline:
        pipeline.push_messages(acks.message("hunter2", metadata={"n": n, "key": "hunter3"}) for n in range(4))
    assert len(records()) == 4
    formatter = logging.Formatter("%(message)s")
    for record in records(logging.INFO):
        assert "hunter" not in formatter.format(record)
        assert "hunter" not in visible(record)


class BrokenLogHandler(logging.Handler):
    """
    A log handler that raises where it should not.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error
        self.calls = 0

    def handle(self, record: logging.LogRecord) -> bool:
        """
        Raise into the code that logs.
        """
        self.calls += 1
        raise self.error


@pytest.fixture(params=[RuntimeError, SystemExit])
def broken_log_handler(request: Any) -> Any:
    """
    Put a broken handler on the library's logger.
    """
    handler = BrokenLogHandler(request.param("a log handler"))
    logger = logging.getLogger("broadway_sync")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def test_log_handler_that_raises(make_pipeline: Any, acks: Any, broken_log_handler: Any, error: Any) -> None:
    """
    A log handler that raises breaks no stage and loses no message.
    """

    class Broken:
        def ack(self, ack_ref: Any, successful: Any, failed: Any) -> None:
            raise error

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        if message.data % 2:
            raise error
        return message

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        return messages[1:]

    handler = make_handler(
        handle_message=handle_message, handle_batch=handle_batch, handle_failed=raising(RuntimeError())
    )
    feed = Feed([*acks.messages(range(10)), RuntimeError("crash"), *acks.messages(range(10, 20))])
    with make_pipeline(
        handler,
        producer={"module": (FeedProducer, {"feed": feed})},
        batchers={"default": {"batch_timeout": 0.01}},
        resubscribe_interval=0.01,
    ) as pipeline:
        pipeline.push_messages([Message(2, (Broken(), None, None))])
        eventually(lambda: len(acks.all_data()) == 20, "all acknowledged")
        assert pipeline.state == "running"
    assert sorted(acks.all_data()) == list(range(20))
    assert broken_log_handler.calls > 10


def test_log_handler_that_raises_at_a_failure(make_pipeline: Any, broken_log_handler: Any, error: Any) -> None:
    """
    With a log handler that raises a pipeline still gives up as it should.
    """

    class Crashing(Producer):
        def handle_demand(self, demand: int) -> Iterable[Message]:
            raise error

    pipeline = make_pipeline(producer={"module": Crashing}, resubscribe_interval=0, max_restarts=0).start()
    with pytest.raises(PipelineFailedError):
        pipeline.join(BOUND)
    assert broken_log_handler.calls >= 1


def test_library_prints_nothing(make_pipeline: Any, acks: Any, capfd: Any, error: Any) -> None:
    """
    Neither success nor failure prints anything to stdout or stderr.
    """
    handler = make_handler(
        handle_message=lambda p, m, c: m if m.data % 2 else None, handle_batch=raising(error)
    )
    with make_pipeline(handler, batchers={"default": {}}) as pipeline:
        pipeline.push_messages(acks.messages(range(6)))
    assert capfd.readouterr() == ("", "")


def test_unconfigured_program_prints_nothing_on_success() -> None:
    """
    A program that never configured logging sees nothing of a healthy pipeline.
    """
    source = """
from broadway_sync import DummyProducer, Pipeline
class Handler:
    def handle_message(self, processor, message, context):
        return message
with Pipeline(Handler(), name="x", producer={"module": DummyProducer}, processors={"default": {}}) as pipeline:
    pipeline.test_message(1).receive(10)
"""
    done = run_python(source)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_records_stay_below_the_librarys_logger(make_pipeline: Any, acks: Any, caplog: Any, error: Any) -> None:
    """
    Everything the library logs is logged under ``broadway_sync``.
    """
    caplog.set_level(logging.DEBUG)
    with make_pipeline(
        make_handler(handle_message=raising(error)), producer={"module": (DummyProducer, {})}
    ) as pipeline:
        pipeline.push_messages(acks.messages([1]))
    assert {r.name.partition(".")[0] for r in caplog.records} == {"broadway_sync"}
