"""
The end of the program: with and without ``stop``, with handlers that hang, by ``sys.exit``, an exception or Ctrl-C.

Each test runs a script in an interpreter of its own.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import pytest

from tests.helpers import BOUND, python_env, run_python

PROLOGUE = """
import os, signal, sys, threading, time
import broadway_sync
from broadway_sync import BufferProducer, DummyProducer, IterableProducer, Message, Pipeline, Producer

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

class Acknowledger:
    def ack(self, ack_ref, successful, failed):
        for message in successful:
            say("ok", message.data)
        for message in failed:
            say("failed", message.data)

def messages(count):
    return [Message(n, (Acknowledger(), "ref", None)) for n in range(count)]

class Handler:
    hang = None

    def handle_message(self, processor, message, context):
        if self.hang == message.data:
            say("hangs")
            threading.Event().wait()
        return message

    def handle_batch(self, batcher, messages, batch_info, context):
        return messages

class Endless(Producer):
    given = 0

    def handle_demand(self, demand):
        Endless.given += demand
        return [Message("x", (Acknowledger(), "ref", None)) for _ in range(demand)]

    def terminate(self, reason):
        say("given", Endless.given)

def make(producer=None, handler=None, **options):
    options.setdefault("shutdown", 20)
    return Pipeline(
        handler or Handler(), name="exiting", producer=producer or {"module": (DummyProducer, {})},
        processors={"default": {"concurrency": 2}}, batchers={"default": {"batch_timeout": 3600}}, **options
    )
"""


def run(source: str, timeout: float = 3 * BOUND, **options: Any) -> subprocess.CompletedProcess[str]:
    """
    Run a script after the prologue.
    """
    return run_python(PROLOGUE + source, timeout=timeout, **options)


def acknowledged(output: str) -> list[int]:
    """
    Return the numbers that were acknowledged as successful.
    """
    return sorted(int(n) for n in re.findall(r"^ok (\d+)$", output, re.MULTILINE))


def test_main_ends_without_stop() -> None:
    """
    An interpreter that ends without ``stop`` drains first: open batches are flushed, everything is acknowledged.
    """
    done = run("make().start().push_messages(messages(50))")
    assert (done.returncode, done.stderr) == (0, "")
    assert acknowledged(done.stdout) == list(range(50))


def test_main_ends_under_load() -> None:
    """
    An endless producer is drained, too: exactly what it gave out is acknowledged.
    """
    done = run("make({'module': Endless}).start(); time.sleep(0.1)")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"^given (\d+)$", done.stdout, re.MULTILINE) == [str(done.stdout.count("ok x\n"))]


def test_main_ends_with_a_hung_handler() -> None:
    """
    With a handler that hangs the interpreter exits when ``shutdown`` is over, and acknowledges nothing of its chunk.
    """
    before = time.monotonic()
    source = "Handler.hang = 0\np = make(shutdown=1)\np.start().push_messages(messages(3))\ntime.sleep(0.1)"
    done = run(source)
    assert 0.9 <= time.monotonic() - before < BOUND
    assert done.returncode == 0
    assert "hangs" in done.stdout
    assert acknowledged(done.stdout) == []


def test_main_raises() -> None:
    """
    An uncaught exception in the main thread drains as well, and is the one that is shown.
    """
    done = run("make().start().push_messages(messages(20))\nraise ZeroDivisionError('mine')")
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("ZeroDivisionError: mine")
    assert acknowledged(done.stdout) == list(range(20))


def test_several_pipelines() -> None:
    """
    All pipelines that still run are drained, side by side.
    """
    source = """
for number in range(3):
    p = Pipeline(Handler(), name=f"p{number}", producer={"module": DummyProducer},
                 processors={"default": {"concurrency": 1}}, batchers={"default": {"batch_timeout": 3600}})
    p.start().push_messages(messages(10))
"""
    done = run(source)
    assert (done.returncode, done.stderr) == (0, "")
    assert acknowledged(done.stdout) == sorted(list(range(10)) * 3)


def test_sys_exit_inside_with() -> None:
    """
    ``sys.exit`` inside ``with`` drains and keeps its code.
    """
    done = run("with make() as p:\n    p.push_messages(messages(20))\n    sys.exit(3)")
    assert (done.returncode, done.stderr) == (3, "")
    assert acknowledged(done.stdout) == list(range(20))


def test_sys_exit_without_with() -> None:
    """
    ``sys.exit`` of a program that never stops its pipeline keeps its code, too.
    """
    done = run("p = make().start()\np.push_messages(messages(20))\nsys.exit(3)")
    assert (done.returncode, done.stderr) == (3, "")
    assert acknowledged(done.stdout) == list(range(20))


def test_hung_handler_after_a_drain_timeout() -> None:
    """
    A thread that was abandoned by a stop does not keep the interpreter from ending.
    """
    source = """
Handler.hang = 0
p = make(shutdown=0.2).start()
p.push_messages(messages(3))
time.sleep(0.1)
try:
    p.stop()
except broadway_sync.DrainTimeoutError:
    say("drain timeout")
"""
    before = time.monotonic()
    done = run(source)
    assert done.returncode == 0
    assert "drain timeout" in done.stdout
    assert time.monotonic() - before < BOUND


def test_threads_are_daemons() -> None:
    """
    Every thread of a pipeline is a daemon: none by itself keeps the interpreter alive.
    """
    source = """
make().start()
say(sorted({t.daemon for t in threading.enumerate() if t is not threading.main_thread()}))
"""
    done = run(source)
    assert done.stdout == "[True]\n"


def test_natural_end_at_exit() -> None:
    """
    A pipeline whose producer is not exhausted yet when the main thread ends is stopped, not waited for.
    """
    source = """
def numbers():
    n = 0
    while True:
        yield Message(n, (Acknowledger(), "ref", None))
        n += 1
p = make({"module": (IterableProducer, {"iterable": numbers()})}).start()
while not p.statistics().handled:
    time.sleep(0.01)
"""
    done = run(source)
    assert (done.returncode, done.stderr) == (0, "")
    assert acknowledged(done.stdout) == list(range(len(acknowledged(done.stdout))))
    assert acknowledged(done.stdout)


def test_stop_in_atexit() -> None:
    """
    A program that stops its pipeline in an ``atexit`` function finds it stopped or running, and ends.
    """
    done = run("import atexit\np = make().start()\natexit.register(p.stop)\np.push_messages(messages(5))")
    assert (done.returncode, done.stderr) == (0, "")
    assert acknowledged(done.stdout) == list(range(5))


def test_thread_of_the_program_that_still_pushes() -> None:
    """
    A thread that pushes while the interpreter ends gets ``NotRunningError`` in the end, and nothing it pushed is lost.
    """
    source = """
p = make().start()
def push():
    number = 0
    try:
        while True:
            p.push_messages([Message(number, (Acknowledger(), "ref", None))])
            number += 1
    except broadway_sync.NotRunningError:
        say("pushed", number)
threading.Thread(target=push, daemon=True).start()
time.sleep(0.05)
"""
    done = run(source)
    assert (done.returncode, done.stderr) == (0, "")
    acked = acknowledged(done.stdout)
    assert acked == list(range(len(acked)))
    for count in re.findall(r"^pushed (\d+)$", done.stdout, re.MULTILINE):
        assert int(count) == len(acked)


def interrupt(source: str, number: int) -> tuple[int, str, str]:
    """
    Run a script, send it the signal once it says that it is ready; return code, output and errors.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", PROLOGUE + source],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=python_env(),
        cwd=tempfile.gettempdir(),
    )
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "ready\n":
                break
        os.kill(process.pid, number)
        output, errors = process.communicate(timeout=3 * BOUND)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return process.returncode, "".join(lines) + output, errors


def test_ctrl_c_in_join() -> None:
    """
    Ctrl-C while the main thread waits in ``join`` raises there; leaving ``with`` drains.
    """
    source = """
with make() as p:
    p.push_messages(messages(20))
    try:
        say("ready")
        p.join()
    except KeyboardInterrupt:
        say("interrupted", p.state)
        raise
"""
    code, output, errors = interrupt(source, signal.SIGINT)
    assert "interrupted running" in output
    assert code in (-signal.SIGINT, 130)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert acknowledged(output) == list(range(20))


def test_ctrl_c_without_with() -> None:
    """
    The same without ``with``: the interpreter drains at its end.
    """
    source = "p = make().start()\np.push_messages(messages(20))\nsay('ready')\np.join()"
    code, output, _ = interrupt(source, signal.SIGINT)
    assert code in (-signal.SIGINT, 130)
    assert acknowledged(output) == list(range(20))


@pytest.mark.parametrize("call", ["request_stop", "stop"])
def test_sigterm(call: str) -> None:
    """
    A SIGTERM handler that requests a stop ends a program that waits in ``join``; ``stop`` would do on the main thread.
    """
    source = f"""
p = make().start()
signal.signal(signal.SIGTERM, lambda number, frame: p.{call}())
p.push_messages(messages(20))
say("ready")
say("joined", p.join())
"""
    code, output, errors = interrupt(source, signal.SIGTERM)
    assert (code, errors) == (0, "")
    assert "joined True" in output
    assert acknowledged(output) == list(range(20))


def test_exit_while_rate_limited() -> None:
    """
    A limit that holds messages back keeps the interpreter no longer than ``shutdown``.
    """
    source = """
producer = {"module": Endless, "rate_limiting": {"allowed_messages": 1, "interval": 3600}}
make(producer, shutdown=0.5).start()
time.sleep(0.1)
"""
    before = time.monotonic()
    done = run(source)
    assert done.returncode == 0
    assert time.monotonic() - before < BOUND


def test_exit_while_a_producer_keeps_crashing() -> None:
    """
    A pipeline in the middle of its restarts is stopped as well.
    """
    source = """
import logging
logging.getLogger("broadway_sync").addHandler(logging.NullHandler())
class Crashing(Producer):
    def handle_demand(self, demand):
        raise ConnectionError
p = make({"module": Crashing}, resubscribe_interval=0, max_restarts=10**6).start()
p.push_messages(messages(5))
time.sleep(0.1)
"""
    done = run(source)
    assert (done.returncode, done.stderr) == (0, "")
    assert acknowledged(done.stdout) == list(range(5))
