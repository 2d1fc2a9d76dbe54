"""
DeadLetter in a pipeline: what is written, what the source is told, and when the pipeline gives up.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from typing import Any, Sequence

import pytest

from broadway_sync import (
    ConfigurationError,
    DrainTimeoutError,
    IterableProducer,
    Message,
    NoopAcknowledger,
    PipelineFailedError,
    Retry,
    telemetry,
)
from broadway_sync.dead_letter import (
    DeadLetter,
    DeadLetterError,
    Letter,
    LetterRefusedError,
    PartlyWrittenError,
    TooManyFailuresError,
)
from tests.dead_letter.support import MemoryLetters, Unlucky, failing_handler
from tests.helpers import (
    BOUND,
    NEVER,
    ConfigurableAcknowledger,
    EndlessProducer,
    Feed,
    FeedProducer,
    Gate,
    RecordingAcknowledger,
    eventually,
    make_handler,
)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: Any) -> None:
    """
    Between two attempts of a letter.
    """
    monkeypatch.setattr("broadway_sync.dead_letter.callback._RETRY_MAX", 0.02)
    monkeypatch.setattr("broadway_sync.dead_letter.callback._RETRY_MIN", 0.01)


def iterable(acks: Any, data: Any) -> Any:
    """
    Return the option ``producer`` for these messages.
    """
    return {"module": (IterableProducer, {"iterable": acks.messages(data)})}


class ChoosyAcknowledger(RecordingAcknowledger):
    """
    One of somebody else, that knows other options.
    """

    def configure(self, ack_ref: Any, ack_data: Any, options: Any) -> Any:
        """
        Refuse.
        """
        raise ConfigurationError(f"unknown options {options!r}")


# What is written


def test_every_failed_message_is_written_once(make_pipeline: Any, acks: Any) -> None:
    """
    And all are acknowledged.
    """
    writer = MemoryLetters()
    handler = failing_handler(DeadLetter(writer), lambda number: number % 10 == 0)
    with make_pipeline(
        handler, producer=iterable(acks, range(1000)), processors={"default": {"concurrency": 4}}
    ) as pipeline:
        assert pipeline.join(BOUND)
    assert sorted(int(text) for text in writer.data) == list(range(0, 1000, 10))
    successful, failed = acks.collect_data(1000)
    assert sorted(failed) == list(range(0, 1000, 10))
    assert len(successful) == 900
    assert pipeline.state == "stopped"


def test_a_letter_knows_where_its_message_failed(make_pipeline: Any) -> None:
    """
    Pipeline, stage, reason, attempts, metadata.
    """
    writer = MemoryLetters()
    handler = failing_handler(DeadLetter(writer), retry=Retry(max_attempts=3, backoff=(0, 0)))
    with make_pipeline(handler) as pipeline:
        pipeline.test_message(b"x", metadata={"queue": "q"}).receive(BOUND)
    (letter,) = writer.letters
    assert letter.reason == "ValueError: cannot handle b'x'"
    assert "in handle_message" in letter.traceback
    assert letter.attempts == 3
    assert letter.pipeline == pipeline.name
    assert letter.stage == f"{pipeline.name}.Broadway.Processor_default_0"
    assert letter.origin == {"queue": "q"}


def test_the_data_are_those_before_the_callback_that_raised(make_pipeline: Any) -> None:
    """
    For handle_batch what handle_message has made of them; the option ``data`` finds the original.
    """

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        message.metadata["raw"] = message.data
        return message.update_data(int)

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        messages[0].data = "changed"
        raise ValueError

    bodies = []
    for data in (None, lambda message: message.metadata["raw"]):
        writer = MemoryLetters()
        handler = make_handler(
            handle_message=handle_message, handle_batch=handle_batch, handle_failed=DeadLetter(writer, data=data)
        )
        with make_pipeline(handler, batchers={"default": {"batch_size": 1}}) as pipeline:
            pipeline.test_message(b"7").receive(BOUND)
        bodies += [(letter.body, letter.content_type) for letter in writer.letters]
    assert bodies == [(b"7", "application/json"), (b"7", "application/octet-stream")]


def test_a_function_of_the_data_that_raises_is_not_in_the_way(make_pipeline: Any, caplog: Any) -> None:
    """
    What the message has is written, and the mistake is logged.
    """
    writer = MemoryLetters()
    handler = failing_handler(DeadLetter(writer, data=lambda message: message.metadata["raw"]))
    with make_pipeline(handler) as pipeline:
        pipeline.test_message("x").receive(BOUND)
    assert writer.data == ["x"]
    assert "the function `data` of DeadLetter raised" in caplog.text


def test_anything_can_be_written(make_pipeline: Any) -> None:
    """
    Whatever the data are, and whatever is in the metadata.
    """
    writer = MemoryLetters()
    with make_pipeline(failing_handler(DeadLetter(writer), lambda data: 1 / 0)) as pipeline:
        data = [threading.Lock(), Unlucky(), "x" * 5_000_000, None]
        ref = pipeline.test_batch(data, metadata={"odd": Unlucky()})
        _, failed = ref.collect(4, BOUND)
    assert len(failed) == len(writer.letters) == 4


def test_a_function_is_a_writer(make_pipeline: Any) -> None:
    """
    It returns once the letters are stored.
    """
    letters: list[Letter] = []
    with make_pipeline(failing_handler(DeadLetter(letters.extend))) as pipeline:
        pipeline.test_batch(["a", "b"]).collect(2, BOUND)
    assert [letter.text for letter in letters] == ["a", "b"]


def test_it_can_be_called_from_a_handler_of_ones_own(make_pipeline: Any) -> None:
    """
    For some of the failed messages, say.
    """
    writer = MemoryLetters()
    dead_letter = DeadLetter(writer)

    def handle_failed(messages: list[Message], context: Any) -> list[Message]:
        dead_letter([message for message in messages if message.data != "drop"], context)
        return messages

    with make_pipeline(failing_handler(handle_failed)) as pipeline:
        pipeline.test_batch(["keep", "drop"]).collect(2, BOUND)
    assert writer.data == ["keep"]


# What the source is told


def test_an_acknowledger_that_can_be_told_that_it_is_done_is_told(make_pipeline: Any) -> None:
    """
    And only after the letter was accepted.
    """
    acks = ConfigurableAcknowledger()
    seen: list[Any] = []

    def write(letters: Sequence[Letter]) -> None:
        seen.extend(letter.message.acknowledger[2] for letter in letters)
        assert acks.acks == []

    with make_pipeline(failing_handler(DeadLetter(write)), producer=iterable(acks, [1])) as pipeline:
        assert pipeline.join(BOUND)
    _, (message,) = acks.collect(1)
    assert seen == [None]
    assert message.acknowledger[2]["options"] == {"on_failure": "ack"}


def test_an_acknowledger_with_other_options_decides_by_itself(make_pipeline: Any, caplog: Any) -> None:
    """
    The message is acknowledged as failed; the log says what that may mean.
    """
    acks, writer = ChoosyAcknowledger(), MemoryLetters()
    with make_pipeline(failing_handler(DeadLetter(writer)), producer=iterable(acks, [1])) as pipeline:
        assert pipeline.join(BOUND)
    assert acks.collect_data(1) == ([], [1])
    assert "does not know on_failure='ack'" in caplog.text


def test_a_message_that_was_acknowledged_before_is_written_all_the_same(make_pipeline: Any, acks: Any) -> None:
    """
    It did fail.
    """
    writer = MemoryLetters()

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        message.ack_immediately()
        raise ValueError

    handler = make_handler(handle_message=handle_message, handle_failed=DeadLetter(writer))
    with make_pipeline(handler, producer=iterable(acks, ["x"])) as pipeline:
        assert pipeline.join(BOUND)
    assert writer.data == ["x"]
    assert acks.collect_data(1) == (["x"], [])


# When letters are not accepted


def test_a_letter_is_written_again(make_pipeline: Any, acks: Any) -> None:
    """
    Until it is accepted.
    """
    writer = MemoryLetters(ConnectionError(), SystemExit(), ConnectionError())
    with make_pipeline(failing_handler(DeadLetter(writer)), producer=iterable(acks, ["x"])) as pipeline:
        assert pipeline.join(BOUND)
    assert writer.data == ["x"]
    assert writer.writes == 4
    assert pipeline.state == "stopped"
    assert acks.collect_data(1) == ([], ["x"])


def test_only_what_is_left_is_written_again(make_pipeline: Any, acks: Any) -> None:
    """
    What was accepted is not written twice.
    """
    letters: list[Letter] = []

    def write(given: Sequence[Letter]) -> None:
        letters.append(given[0])
        if len(given) > 1:
            raise PartlyWrittenError("one at a time", given[1:])

    with make_pipeline(failing_handler(DeadLetter(write))) as pipeline:
        pipeline.test_batch(["a", "b", "c"]).collect(3, BOUND)
    assert [letter.text for letter in letters] == ["a", "b", "c"]


@pytest.mark.parametrize("error", [ConnectionError("down"), SystemExit(), LetterRefusedError("too large", [])])
def test_a_pipeline_whose_letters_nobody_takes_gives_up(make_pipeline: Any, caplog: Any, error: Any) -> None:
    """
    The messages are not acknowledged, and not lost; whoever waits for the pipeline learns why.
    """
    acks = RecordingAcknowledger()
    writer = MemoryLetters(*[error] * 1000)
    pipeline = make_pipeline(
        failing_handler(DeadLetter(writer, patience=0), lambda number: number == 3),
        producer={"module": (EndlessProducer, {"acknowledger": acks})},
    ).start()
    with pytest.raises(PipelineFailedError) as caught:
        pipeline.join(BOUND)
    assert isinstance(caught.value.__cause__, DeadLetterError)
    assert caught.value.__cause__.__cause__ is error
    assert "dead letters of 1 messages were not accepted" in str(caught.value.__cause__)
    assert pipeline.state == "failed"
    assert 3 not in acks.all_data()
    gave_up = [record for record in caplog.records if "the pipeline gives up" in record.getMessage()]
    assert len(gave_up) == 1


async def send_later(letters: Any) -> None:
    """
    Is never run.
    """


def send_one_by_one(letters: Any) -> Any:
    """
    Is never run.
    """
    yield from letters


@pytest.mark.parametrize(("function", "kind"), [(send_later, "asynchronous"), (send_one_by_one, "a generator")])
def test_a_writer_that_only_promises_has_accepted_nothing(make_pipeline: Any, function: Any, kind: str) -> None:
    """
    What it returns would have to be awaited, or gone through; nobody waits for ``patience`` seconds to learn that.
    """
    acks = RecordingAcknowledger()
    pipeline = make_pipeline(failing_handler(DeadLetter(lambda letters: function(letters), patience=NEVER))).start()
    pipeline.push_messages(acks.messages([1]))
    with pytest.raises(PipelineFailedError, match=f"the writer is {kind}"):
        pipeline.join(BOUND)
    assert acks.acks == []


def test_what_was_accepted_is_acknowledged_also_then(make_pipeline: Any, acks: Any) -> None:
    """
    Only what is left is left.
    """

    def write(letters: Sequence[Letter]) -> None:
        left = [letter for letter in letters if letter.text != "a"]
        if left:
            raise PartlyWrittenError("full", left)

    handler = failing_handler(DeadLetter(write, patience=0))
    pipeline = make_pipeline(handler, producer=iterable(acks, ["a", "b"])).start()
    with pytest.raises(PipelineFailedError):
        pipeline.join(BOUND)
    assert acks.all_data() == ["a"]


def test_an_acknowledger_that_knows_noop_is_told_that(make_pipeline: Any) -> None:
    """
    Better than silence: it may wait for its messages, and extend their leases meanwhile.
    """
    acks = ConfigurableAcknowledger()
    handler = failing_handler(DeadLetter(MemoryLetters(OSError()), patience=0))
    pipeline = make_pipeline(handler, producer=iterable(acks, [1])).start()
    with pytest.raises(PipelineFailedError):
        pipeline.join(BOUND)
    _, (message,) = acks.collect(1)
    assert message.acknowledger[2]["options"] == {"on_failure": "noop"}


def test_a_mistake_of_the_callback_itself_loses_nothing(make_pipeline: Any, acks: Any, monkeypatch: Any) -> None:
    """
    Whatever it is: the messages are left to their source.
    """
    monkeypatch.setattr("broadway_sync.dead_letter.callback.to_letter", lambda *args: 1 / 0)
    handler = failing_handler(DeadLetter(MemoryLetters()))
    pipeline = make_pipeline(handler, producer=iterable(acks, [1])).start()
    with pytest.raises(PipelineFailedError):
        pipeline.join(BOUND)
    acks.assert_nothing("it is not acknowledged")


def test_waiting_for_the_writer_ends_when_the_stop_runs_out_of_time(make_pipeline: Any, acks: Any) -> None:
    """
    Then the messages are the source's anyhow, and the pipeline has not failed.
    """
    tried = threading.Event()

    def write(letters: Sequence[Letter]) -> None:
        tried.set()
        raise OSError

    feed = Feed(acks.messages([1]))
    handler = failing_handler(DeadLetter(write, patience=NEVER))
    pipeline = make_pipeline(handler, producer={"module": (FeedProducer, {"feed": feed})}).start()
    assert tried.wait(BOUND)
    began = time.monotonic()
    with pytest.raises(DrainTimeoutError):
        pipeline.stop(timeout=0.1)
    assert time.monotonic() - began < BOUND
    assert pipeline.state == "stopped"
    acks.assert_nothing("nobody acknowledges it")


def test_what_one_writer_does_not_accept_goes_to_another(make_pipeline: Any, acks: Any, caplog: Any) -> None:
    """
    Some are refused, some not accepted in time; the pipeline goes on.
    """
    kept: list[Letter] = []

    def write(letters: Sequence[Letter]) -> None:
        large = [letter for letter in letters if letter.text == "large"]
        kept.extend(letter for letter in letters if letter not in large)
        if large:
            raise LetterRefusedError("too large", large)

    fallback = MemoryLetters()
    handler = failing_handler(DeadLetter(write, fallback=fallback))
    with make_pipeline(handler, producer=iterable(acks, ["a", "large", "b"])) as pipeline:
        assert pipeline.join(BOUND)
    assert [letter.text for letter in kept] == ["a", "b"]
    assert fallback.data == ["large"]
    assert sorted(acks.all_data()) == ["a", "b", "large"]
    assert "1 dead letters were not accepted by <function" in caplog.text
    assert fallback.closes == 1


def test_without_luck_in_both_the_pipeline_gives_up(make_pipeline: Any, acks: Any) -> None:
    """
    The cause is what the last one said; both are closed.
    """
    writer, fallback = MemoryLetters(OSError("down")), MemoryLetters(OSError("full"))
    handler = failing_handler(DeadLetter(writer, fallback=fallback, patience=0))
    pipeline = make_pipeline(handler, producer=iterable(acks, ["a"])).start()
    with pytest.raises(PipelineFailedError, match="full"):
        pipeline.join(BOUND)
    assert (writer.closes, fallback.closes) == (1, 1)
    acks.assert_nothing("it is left to its source")


# When there are too many


def test_a_run_of_failures_stops_the_pipeline(make_pipeline: Any) -> None:
    """
    All letters are written, and their messages acknowledged.
    """
    acks, writer = RecordingAcknowledger(), MemoryLetters()
    pipeline = make_pipeline(
        failing_handler(DeadLetter(writer, max_run=20)),
        producer={"module": (EndlessProducer, {"acknowledger": acks})},
        processors={"default": {"concurrency": 2}},
    ).start()
    with pytest.raises(PipelineFailedError) as caught:
        pipeline.join(BOUND)
    assert isinstance(caught.value.__cause__, TooManyFailuresError)
    assert "messages failed in a row, more than max_run=20 allows" in str(caught.value.__cause__)
    assert 20 < len(writer.letters) < 100
    assert sorted(acks.all_data()) == sorted(int(text) for text in writer.data)


def test_a_ratio_of_failures_stops_the_pipeline(make_pipeline: Any) -> None:
    """
    Two of three, where half are allowed.
    """
    acks, writer = RecordingAcknowledger(), MemoryLetters()
    pipeline = make_pipeline(
        failing_handler(DeadLetter(writer, max_ratio=0.5, window=100), lambda number: number % 3),
        producer={"module": (EndlessProducer, {"acknowledger": acks})},
    ).start()
    with pytest.raises(PipelineFailedError, match="of the last 100 messages failed, more than max_ratio=0.5 allows"):
        pipeline.join(BOUND)
    assert len(writer.letters) > 50


def test_failures_within_the_limits_stop_nothing(make_pipeline: Any, acks: Any) -> None:
    """
    Four of ten in the processors, and every second batch.
    """

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        return [message.fail("odd") if message.data % 10 == 5 else message for message in messages]

    writer = MemoryLetters()
    dead_letter = DeadLetter(writer, max_ratio=0.6, window=200, max_run=50)
    handler = failing_handler(dead_letter, lambda number: number % 10 < 4, handle_batch=handle_batch)
    pipeline = make_pipeline(
        handler,
        producer=iterable(acks, range(2000)),
        processors={"default": {"concurrency": 2}},
        batchers={"default": {"batch_size": 10, "concurrency": 2}},
    )
    with pipeline:
        assert pipeline.join(BOUND)
    assert pipeline.state == "stopped"
    assert len(writer.letters) == 1000


# Its life


def test_the_writer_is_closed_before_stop_returns(make_pipeline: Any) -> None:
    """
    And at the end of every run, however it ends.
    """
    writer = MemoryLetters()
    pipeline = make_pipeline(failing_handler(DeadLetter(writer)))
    for run in (1, 2):
        with pipeline:
            pipeline.test_batch([1, 2, 3]).collect(3, BOUND)
            assert writer.closes == run - 1
        assert writer.closes == run


def test_what_a_thread_that_was_given_up_has_opened_is_closed(make_pipeline: Any, gate: Gate) -> None:
    """
    By itself, when its call comes back: the pipeline has not waited for it.
    """
    writer = MemoryLetters()
    write = writer.write
    writer.write = lambda letters: (gate.wait(), write(letters))  # type: ignore[assignment]
    pipeline = make_pipeline(failing_handler(DeadLetter(writer))).start()
    pipeline.test_message("x")
    gate.arrived()
    with pytest.raises(DrainTimeoutError):
        pipeline.stop(timeout=0.1)
    assert writer.closes == 1
    gate.open()
    eventually(lambda: writer.closes == 2, "it is closed again")
    assert writer.data == ["x"]


def test_all_writers_are_closed_whatever_one_of_them_raises() -> None:
    """
    In a pipeline that is logged.
    """
    writer, fallback = MemoryLetters(), MemoryLetters()
    fallback.close = lambda: 1 / 0  # type: ignore[assignment]
    with pytest.raises(ZeroDivisionError):
        DeadLetter(writer, fallback=fallback).close()
    assert writer.closes == 1


def test_one_serves_several_pipelines(make_pipeline: Any) -> None:
    """
    Closing it for one of them is no harm for the other.
    """
    writer = MemoryLetters()
    handler = failing_handler(DeadLetter(writer))
    first, second = make_pipeline(handler).start(), make_pipeline(handler).start()
    first.test_message("a").receive(BOUND)
    second.test_message("b").receive(BOUND)
    first.stop()
    second.test_message("c").receive(BOUND)
    assert writer.data == ["a", "b", "c"]


def test_a_writer_that_cannot_be_closed_is_logged(make_pipeline: Any, caplog: Any) -> None:
    """
    And stops nothing.
    """
    writer = MemoryLetters()
    writer.close = lambda: 1 / 0  # type: ignore[assignment]
    with make_pipeline(failing_handler(DeadLetter(writer))) as pipeline:
        pipeline.test_message("a").receive(BOUND)
    assert pipeline.state == "stopped"
    assert "ZeroDivisionError" in caplog.text


def test_nothing_of_the_messages_is_kept(make_pipeline: Any, acks: Any) -> None:
    """
    Neither of those that were written, nor, once the pipeline has ended, of those that were left.
    """
    dead_letter = DeadLetter(MemoryLetters(None, OSError()), patience=0)
    pipeline = make_pipeline(
        failing_handler(dead_letter),
        producer=iterable(acks, [1, 2]),
        processors={"default": {"concurrency": 1, "max_demand": 1}},
    ).start()
    with pytest.raises(PipelineFailedError):
        pipeline.join(BOUND)
    assert [run.left for run in dead_letter._runs.values()] == [[]]


def test_telemetry_has_a_span_for_each_lot(make_pipeline: Any) -> None:
    """
    With the messages; an exception when they were not accepted.
    """
    events: list[Any] = []
    names = [("broadway", "dead_letter", kind) for kind in ("start", "stop", "exception")]
    telemetry.attach_many("test", names, lambda event, measurements, metadata, _: events.append((event[2], metadata)))
    handler = failing_handler(DeadLetter(MemoryLetters(None, OSError("full")), patience=0))
    pipeline = make_pipeline(handler).start()
    _, (first,) = pipeline.test_message(1).receive(BOUND)
    pipeline.test_message(2)
    eventually(lambda: len(events) == 4, "the second span ends")
    assert [kind for kind, _ in events] == ["start", "stop", "start", "exception"]
    start, stop = events[0][1], events[1][1]
    assert start["messages"] == stop["messages"] == [first]
    assert start["topology_name"] == pipeline.name
    assert start["name"] == f"{pipeline.name}.Broadway.Processor_default_0"
    assert isinstance(events[3][1]["reason"], OSError)
    assert (stop["written"], events[3][1]["written"]) == (1, 0)


# Outside of a pipeline


def test_no_messages_are_no_reason_to_write() -> None:
    """
    A handle_failed that chooses what it keeps may keep nothing; a writer that is down would hold it up.
    """
    writer = MemoryLetters(OSError("down"))
    assert DeadLetter(writer)([]) == []
    assert writer.writes == 0


def test_outside_of_a_pipeline_it_raises() -> None:
    """
    There is nobody else to tell; in a test of one's handler, say.
    """
    messages = [Message(1, NoopAcknowledger.init()).fail("no")]
    writer = MemoryLetters()
    assert DeadLetter(writer)(messages) is messages
    assert writer.data == ["1"]
    with pytest.raises(DeadLetterError, match="dead letters of 1 messages were not accepted") as caught:
        DeadLetter(MemoryLetters(OSError("full")), patience=0)(messages)
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"writer": 3}, "writer: expected an object with write(letters), or such a function, got: 3"),
        ({"writer": lambda: None}, "writer: expected an object with write(letters), or such a function"),
        (
            {"writer": io.StringIO()},
            "writer: expected FileLetters(path) and not an open file, got: <_io.StringIO object",
        ),
        ({"fallback": 3}, "fallback: expected an object with write(letters), or such a function, got: 3"),
        ({"data": 3}, "data: expected a function of a message, got: 3"),
        ({"patience": -1}, "patience: expected a number of seconds >= 0, got: -1"),
        ({"max_ratio": 1}, "max_ratio: expected a number above 0 and below 1, or None, got: 1"),
        ({"max_ratio": 0}, "max_ratio: expected a number above 0 and below 1, or None, got: 0"),
        ({"window": 0}, "window: expected an int > 0, got: 0"),
        ({"max_run": 0}, "max_run: expected an int > 0, or None, got: 0"),
    ],
)
def test_a_mistake_is_named(options: dict[str, Any], text: str) -> None:
    """
    With the argument, the value and the rule.
    """
    with pytest.raises(ConfigurationError) as caught:
        DeadLetter(**{"writer": MemoryLetters(), **options})
    assert text in str(caught.value)


def test_a_record_for_each_failure_and_no_more(make_pipeline: Any, caplog: Any) -> None:
    """
    The core logs what a callback raises; a letter that was written is not worth a line.
    """
    with caplog.at_level(logging.DEBUG, "broadway_sync"), make_pipeline(
        failing_handler(DeadLetter(MemoryLetters()))
    ) as pipeline:
        pipeline.test_message(1).receive(BOUND)
    assert [record.getMessage().split("] ")[1] for record in caplog.records] == ["handle_message failed"]
