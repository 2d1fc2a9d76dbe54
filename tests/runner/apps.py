"""
Targets for the runners of the tests. What they do they write into the file that ``DIARY`` names.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, Iterator

from broadway_sync import DummyProducer, IterableProducer, Message, Pipeline, Producer

_DIARY = os.open(os.environ["DIARY"], os.O_WRONLY | os.O_APPEND)


def say(*words: Any) -> None:
    """
    Add an entry to the diary, at once and as a whole.
    """
    os.write(_DIARY, (" ".join(map(str, [os.getpid(), *words])) + "\n").encode())


def wait_at_gate() -> None:
    """
    Wait until the test opens the gate.
    """
    gate = Path(os.environ["DIARY"]).with_name("gate")
    while not gate.exists():
        time.sleep(0.005)


class Diarist:
    """
    Acknowledges by an entry.
    """

    def ack(self, ack_ref: Any, successful: Any, failed: Any) -> None:
        """
        Write down what is acknowledged.
        """
        for message in successful:
            say("ok", message.data)
        for message in failed:
            say("failed", message.data)


def messages(count: float) -> Iterator[Message]:
    """
    Yield numbered messages.
    """
    number = 0
    while number < count:
        yield Message(number, (Diarist(), "ref", None))
        number += 1


class Handler:
    """
    Calls *action* with each number.
    """

    def __init__(self, action: Any) -> None:
        self.action = action

    def handle_message(self, processor: Any, message: Message, context: Any) -> Message:
        """
        Call the action.
        """
        self.action(message.data)
        return message


def make(action: Any, name: str, count: float = float("inf"), **options: Any) -> Pipeline:
    """
    Return a pipeline that calls *action* with each of *count* numbers.
    """
    defaults = {"producer": {"module": (IterableProducer, {"iterable": messages(count)})}}
    defaults["processors"] = {"default": {"concurrency": 1, "max_demand": 2}}
    return Pipeline(Handler(action), name=name, **{**defaults, **options})


def endless() -> Pipeline:
    """
    Does a little, for ever.
    """
    return make(lambda number: time.sleep(0.005), "endless")


def short() -> Pipeline:
    """
    Ends by itself, after ten messages.
    """
    return make(lambda number: None, "short", 10)


def gated() -> Pipeline:
    """
    Its handler waits for the gate.
    """

    def action(number: int) -> None:
        say("in", number)
        wait_at_gate()

    return make(action, "gated")


def hanging() -> Pipeline:
    """
    Its handler never returns.
    """

    def never_returns(number: int) -> None:
        say("in", number)
        threading.Event().wait()

    return make(never_returns, "hanging")


class Failing(Producer):
    """
    Crashes whenever it is asked.
    """

    def handle_demand(self, demand: int) -> Any:
        """
        Crash.
        """
        raise OSError("the broker is on fire")


def failing() -> Pipeline:
    """
    Gives up.
    """
    return make(None, "failing", producer={"module": Failing}, max_restarts=0, resubscribe_interval=0)


def dying() -> Pipeline:
    """
    Kills its process at the first message.
    """

    def die(number: int) -> None:
        say("dies", time.monotonic())
        os._exit(7)

    return make(die, "dying")


def growing() -> Pipeline:
    """
    Keeps a megabyte for each message.
    """
    kept = []
    return make(lambda number: (kept.append(b"x" * 2**20), time.sleep(0.005)), "growing")


class SlowToStart(DummyProducer):
    """
    Cannot be started while the gate is shut.
    """

    @classmethod
    def prepare_for_start(cls, handler: Any, options: Any) -> Any:
        """
        Wait.
        """
        say("starting")
        wait_at_gate()
        return [], options


def slow_to_start() -> Pipeline:
    """
    Its ``start()`` waits for the gate.
    """
    return make(None, "slow", producer={"module": (SlowToStart, {})})


def slow_to_make() -> Pipeline:
    """
    Is being made while the gate is shut.
    """
    say("making")
    wait_at_gate()
    return endless()


class Stubborn:
    """
    A child of a pipeline that does not stop.
    """

    def start(self) -> None:
        """
        Start at once.
        """

    def stop(self) -> None:
        """
        Never return.
        """
        threading.Event().wait()


class StubbornProducer(IterableProducer):
    """
    Brings a child that does not stop.
    """

    @classmethod
    def prepare_for_start(cls, handler: Any, options: Any) -> Any:
        """
        Return the child.
        """
        return [Stubborn()], options


def stubborn() -> Pipeline:
    """
    Drains, and then hangs.
    """
    producer = {"module": (StubbornProducer, {"iterable": messages(float("inf"))})}
    return make(lambda number: time.sleep(0.005), "stubborn", producer=producer)


def stubborn_and_hanging() -> Pipeline:
    """
    Cannot be drained, and hangs after that as well.
    """

    def never_returns(number: int) -> None:
        say("in", number)
        threading.Event().wait()

    producer = {"module": (StubbornProducer, {"iterable": messages(float("inf"))})}
    return make(never_returns, "stubborn", producer=producer)


def with_thread() -> Pipeline:
    """
    Hangs, and has a thread that would keep the interpreter for ever.
    """
    threading.Thread(target=threading.Event().wait, name="no daemon").start()
    return hanging()


def forking() -> Pipeline:
    """
    Its handler terminates a process that it forked, and waits for its end.
    """

    def fork(number: int) -> None:
        pid = os.fork()
        if not pid:
            say("forked")
            threading.Event().wait()
        while not any(line.split() == [str(pid), "forked"] for line in Path(os.environ["DIARY"]).open()):
            time.sleep(0.005)
        os.kill(pid, signal.SIGTERM)
        say("ended by", os.WTERMSIG(os.waitpid(pid, 0)[1]))

    return make(fork, "forking", 1)


def wandering() -> Pipeline:
    """
    Goes elsewhere while it is made.
    """
    os.chdir(os.sep)
    return endless()


def deaf_to_make() -> Pipeline:
    """
    Swallows whatever is raised while it is made.
    """
    try:
        slow_to_make()
    except BaseException:
        say("swallowed")
    return endless()


pipeline = short()
