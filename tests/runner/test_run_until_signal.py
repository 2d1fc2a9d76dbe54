"""
``run_until_signal`` in scripts: what it returns, raises and puts back.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any, Callable

import pytest

from broadway_sync import (
    ConfigurationError,
    DrainTimeoutError,
    IterableProducer,
    Message,
    PipelineFailedError,
    Producer,
)
from broadway_sync.runner import run_until_signal, signals
from tests.helpers import BOUND, Call, RecordingAcknowledger, eventually, make_handler, run_python
from tests.runner.support import wait_for_echo

Make = Callable[..., Any]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")


@pytest.fixture(autouse=True)
def handlers() -> Any:
    """
    Whatever happens, the handlers are afterwards those from before.
    """
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before


def after(condition: Any, *numbers: int) -> Call:
    """
    Signal this process as soon as *condition* is true.
    """

    before = [signal.getsignal(number) for number in numbers]

    def send() -> None:
        eventually(lambda: [signal.getsignal(number) for number in numbers] != before, "signals are handled")
        eventually(condition, "the time for a signal has come")
        for number in numbers:
            os.kill(os.getpid(), number)

    return Call(send)


def endless(acks: RecordingAcknowledger) -> dict[str, Any]:
    """
    Return the options of a producer without end.
    """

    def messages() -> Any:
        number = 0
        while True:
            yield acks.message(number)
            number += 1

    return {"module": (IterableProducer, {"iterable": messages()})}


def test_until_the_source_is_exhausted(make_pipeline: Make, acks: RecordingAcknowledger) -> None:
    """
    Returns None; join() then returns at once.
    """
    pipeline = make_pipeline(producer={"module": (IterableProducer, {"iterable": acks.messages(range(50))})})
    assert run_until_signal(pipeline) is None
    assert pipeline.state == "stopped"
    assert pipeline.join(0)
    assert acks.collect_data(50) == (list(range(50)), [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_until_a_signal(make_pipeline: Make, acks: RecordingAcknowledger, number: signal.Signals) -> None:
    """
    Drains all pipelines, and returns the signal.
    """
    first, second = make_pipeline(producer=endless(acks)), make_pipeline(producer=endless(acks))
    sender = after(lambda: len(acks.acks) > 5 and second.state == "running", number)
    assert run_until_signal(first, second) is number
    sender.result()
    assert (first.state, second.state) == ("stopped", "stopped")


def test_other_signals(make_pipeline: Make, acks: RecordingAcknowledger) -> None:
    """
    Those that the caller names.
    """
    sender = after(lambda: acks.acks, signal.SIGUSR2)
    assert run_until_signal(make_pipeline(producer=endless(acks)), signals=[signal.SIGUSR2]) is signal.SIGUSR2
    sender.result()


@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="needs real-time signals")
def test_signal_without_a_name(make_pipeline: Make, acks: RecordingAcknowledger) -> None:
    """
    Drains like any other.
    """
    number = signal.SIGRTMIN + 1
    sender = after(lambda: acks.acks, number)
    assert run_until_signal(make_pipeline(producer=endless(acks)), signals=[number]) == number
    sender.result()


def test_signal_that_is_named_twice(make_pipeline: Make) -> None:
    """
    Gets its handler back all the same; the fixture has a look.
    """
    pipeline = make_pipeline(producer={"module": (IterableProducer, {"iterable": []})})
    assert run_until_signal(pipeline, signals=[signal.SIGUSR2, int(signal.SIGUSR2)]) is None


def test_pipeline_that_runs_already(make_pipeline: Make, acks: RecordingAcknowledger) -> None:
    """
    Is not started again, but waited for and drained.
    """
    with make_pipeline(producer=endless(acks)) as pipeline:
        sender = after(lambda: acks.acks, signal.SIGTERM)
        assert run_until_signal(pipeline) is signal.SIGTERM
        sender.result()
        assert pipeline.state == "stopped"


def test_join_of_others(make_pipeline: Make, acks: RecordingAcknowledger) -> None:
    """
    Returns when it does.
    """
    pipeline = make_pipeline(producer=endless(acks)).start()
    joining = Call(pipeline.join)
    sender = after(lambda: acks.acks, signal.SIGTERM)
    run_until_signal(pipeline)
    sender.result()
    assert joining.result() is True


def test_messages_that_are_left_behind(make_pipeline: Make, acks: RecordingAcknowledger, gate: Any) -> None:
    """
    Raise DrainTimeoutError, after ``shutdown`` seconds.
    """
    pipeline = make_pipeline(make_handler(handle_message=hold(gate)), producer=endless(acks))
    sender = after(lambda: pipeline.statistics().in_flight, signal.SIGTERM)
    with pytest.raises(DrainTimeoutError, match="messages were left behind") as caught:
        run_until_signal(pipeline, shutdown=0.3)
    sender.result()
    assert caught.value.left_behind > 0


def test_second_signal(make_pipeline: Make, acks: RecordingAcknowledger, gate: Any) -> None:
    """
    Stops at once, whatever the time that is left.
    """
    pipeline = make_pipeline(make_handler(handle_message=hold(gate)), producer=endless(acks), shutdown=600.0)
    sender = Call(signal_twice, pipeline)
    with pytest.raises(DrainTimeoutError, match="messages were left behind"):
        run_until_signal(pipeline)
    sender.result()


def signal_twice(pipeline: Any) -> None:
    """
    Signal this process when messages are in hand, and again when the drain has begun.
    """
    eventually(lambda: signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL, "signals are handled")
    eventually(lambda: any(stage.in_hand for stage in pipeline.statistics().stages), "a message is in hand")
    os.kill(os.getpid(), signal.SIGTERM)
    eventually(lambda: pipeline.state == "draining", "it drains")
    wait_for_echo()
    os.kill(os.getpid(), signal.SIGINT)


def hold(gate: Any) -> Any:
    """
    Return a callback that waits at the gate.
    """

    def handle_message(processor: Any, message: Message, context: Any) -> Message:
        gate.wait()
        return message

    return handle_message


class Failing(Producer):
    """
    Crashes.
    """

    def handle_demand(self, demand: int) -> Any:
        """
        Crash.
        """
        raise ZeroDivisionError("mine")


def test_two_signals_at_once_are_one(
    make_pipeline: Make, acks: RecordingAcknowledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The drain goes on.
    """
    monkeypatch.setattr(signals, "ECHO", BOUND)  # however late the second one comes
    pipeline = make_pipeline(producer=endless(acks))
    sender = after(lambda: acks.acks, signal.SIGTERM, signal.SIGINT)
    assert run_until_signal(pipeline) in (signal.SIGTERM, signal.SIGINT)
    sender.result()


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs signal masks")
def test_two_signals_at_once_on_a_busy_machine() -> None:
    """
    Are one, too, if it takes long to begin the stop.
    """
    stops = []

    class Slow:
        def request_stop(self, seconds: float | None = None) -> None:
            stops.append(seconds)
            time.sleep(2 * signals.ECHO)

    both = [signal.SIGINT, signal.SIGTERM]
    with signals.StopSignals() as stop_signals:
        stop_signals.group = Slow()  # type: ignore[assignment]
        signal.pthread_sigmask(signal.SIG_BLOCK, both)
        for number in both:
            signal.pthread_kill(threading.get_ident(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, both)
        eventually(lambda: stops, "a signal is handled")
    assert stops == [None]


def test_second_signal_while_a_start_hangs(make_pipeline: Make, acks: RecordingAcknowledger) -> None:
    """
    Interrupts it, and says that something may be left behind; whatever ran before is stopped.
    """

    class Hanging(Producer):
        @classmethod
        def prepare_for_start(cls, handler: Any, options: Any) -> Any:
            is_starting.set()
            # Not one long wait for a lock: a signal that comes just before it is seen only after it.
            eventually(lambda: False, "a signal comes")

    is_starting = threading.Event()
    other = make_pipeline(producer=endless(acks))

    def signal_twice() -> None:
        is_starting.wait(BOUND)
        os.kill(os.getpid(), signal.SIGTERM)
        eventually(lambda: other.state != "running", "the first one is handled")
        wait_for_echo()
        os.kill(os.getpid(), signal.SIGTERM)

    sender = Call(signal_twice)
    with pytest.raises(DrainTimeoutError, match="^a start was interrupted by a second signal"):
        run_until_signal(other, make_pipeline(producer={"module": (Hanging, {})}))
    sender.result()
    assert other.state == "stopped"


def test_pipeline_that_gives_up(make_pipeline: Make, acks: RecordingAcknowledger) -> None:
    """
    Raises PipelineFailedError from the cause, after the others have drained.
    """
    other = make_pipeline(producer=endless(acks))
    failing = make_pipeline(producer={"module": Failing}, max_restarts=0, resubscribe_interval=0)
    with pytest.raises(PipelineFailedError) as caught:
        run_until_signal(other, failing)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert other.state == "stopped"


def test_pipeline_that_cannot_start(make_pipeline: Make, acks: RecordingAcknowledger) -> None:
    """
    Raises what it raised, after those that had started were drained.
    """

    class Unstartable(Producer):
        @classmethod
        def prepare_for_start(cls, handler: Any, options: Any) -> Any:
            raise OSError("no such device")

    other = make_pipeline(producer=endless(acks))
    with pytest.raises(OSError, match="no such device"):
        run_until_signal(other, make_pipeline(producer={"module": (Unstartable, {})}))
    assert other.state == "stopped"


def test_on_another_thread(make_pipeline: Make) -> None:
    """
    Is an error that says so; nothing is started.
    """
    pipeline = make_pipeline()
    call = Call(run_until_signal, pipeline)
    with pytest.raises(RuntimeError, match="signals can be handled on the main thread only, this is 'call of"):
        call.result()
    assert pipeline.state == "new"


def test_nothing_to_run() -> None:
    """
    Is a mistake.
    """
    with pytest.raises(ConfigurationError, match="^expected at least one pipeline$"):
        run_until_signal()


@pytest.mark.parametrize("shutdown", ["25", -1, float("inf"), True])
def test_shutdown_that_is_none(make_pipeline: Make, shutdown: Any) -> None:
    """
    Is found before anything is started, and not by the signal that should drain.
    """
    pipeline = make_pipeline()
    with pytest.raises(
        ConfigurationError, match=f"^shutdown: expected a finite number of seconds >= 0, got: {shutdown!r}$"
    ):
        run_until_signal(pipeline, shutdown=shutdown)
    assert pipeline.state == "new"


def test_list_of_pipelines(make_pipeline: Make) -> None:
    """
    The star was forgotten.
    """
    with pytest.raises(ConfigurationError, match=r"^pipelines: expected Pipeline objects, got: \[<Pipeline"):
        run_until_signal([make_pipeline()])  # type: ignore[arg-type]


def test_two_of_a_name(make_pipeline: Make) -> None:
    """
    Are a mistake that is found before anything is started.
    """
    first = make_pipeline(name="twin")
    with pytest.raises(ConfigurationError, match="^two pipelines are named 'twin', names must be unique"):
        run_until_signal(first, make_pipeline(name="twin"))
    assert first.state == "new"


def test_signal_that_cannot_be_handled(make_pipeline: Make) -> None:
    """
    Leaves the handlers of the others as they were.
    """
    with pytest.raises(OSError):
        run_until_signal(make_pipeline(), signals=[signal.SIGTERM, signal.SIGKILL])


def test_exception_in_the_main_thread(make_pipeline: Make, acks: RecordingAcknowledger) -> None:
    """
    By a handler that is none of ours: the pipelines are drained, and it is raised.
    """
    pipeline = make_pipeline(producer=endless(acks))
    previous = signal.getsignal(signal.SIGUSR2)
    sender = after(lambda: acks.acks, signal.SIGUSR2)
    signal.signal(signal.SIGUSR2, interrupt)
    try:
        with pytest.raises(InterruptedError, match="by a handler of the script"):
            run_until_signal(pipeline)
        sender.result()
    finally:
        signal.signal(signal.SIGUSR2, previous)
    assert pipeline.state in ("stopped", "new")  # new: start() itself was interrupted, and has undone it


def interrupt(number: int, frame: Any) -> None:
    """
    Raise what a script's own handler may raise.
    """
    raise InterruptedError("by a handler of the script")


SCRIPT = """
import os, signal, threading, time
from broadway_sync import DrainTimeoutError, IterableProducer, Message, NoopAcknowledger, Pipeline, run_until_signal

class Handler:
    def handle_message(self, processor, message, context):
        while message.data and pipeline.state != "draining":
            time.sleep(0.01)
        time.sleep(message.data)  # the second one is no echo of the first
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait()

pipeline = Pipeline(
    Handler(), name="script", processors={"default": {"concurrency": 2, "max_demand": 1}},
    producer={"module": (IterableProducer, {"iterable": [Message(n, NoopAcknowledger.init()) for n in range(2)]})},
)
try:
    run_until_signal(pipeline, shutdown=600)
except DrainTimeoutError as error:
    print("left", error.left_behind)
finally:
    print("finally")
"""


def test_second_signal_lets_the_script_clean_up() -> None:
    """
    Two signals while both handlers hang: ``finally`` blocks run, the interpreter ends.
    """
    done = run_python(SCRIPT)
    assert (done.returncode, done.stdout) == (0, "left 2\nfinally\n"), done.stderr
