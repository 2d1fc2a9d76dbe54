"""
What is shown: lines on a pipe, a bar on a terminal, and nothing ill when the reader goes away.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from pathlib import Path
from typing import Any, List

import pytest

from examples.flights.display import Display, LineDisplay, Output, make_display
from examples.flights.report import Counts, Report, Timing

from .support import END, environment, figures, some_rows, started_demo, tables, write_file

COUNTS = Counts(12345, 12000, {"cancelled: no dep_time": 340, "malformed: column count": 5}, 0.5)


class DoneReport(Report):
    """
    A report of an import that is over.
    """

    def counts(self) -> Counts:
        return COUNTS

    def timings(self) -> Any:
        return {"handle_message": Timing(12345, 0.0000123, 0.5, 1234.5)}


class NoTerminal(io.StringIO):
    """
    A stream that is no terminal and has an encoding.
    """

    encoding = "utf-8"


class Terminal(NoTerminal):
    """
    A stream that is a terminal.
    """

    def isatty(self) -> bool:
        return True


class Clock:
    """
    Stands in for the clock of the display.
    """

    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_the_tables_at_the_end() -> None:
    """
    Plain text, one figure a line.
    """
    stream = NoTerminal()
    Display(Output(stream), 20000).finish(DoneReport("x"))
    lines = stream.getvalue().splitlines()
    assert [line.split() for line in lines] == [
        ["rows", "in", "12,345"],
        ["stored", "12,000"],
        ["rejected", "345"],
        ["cancelled:", "no", "dep_time", "340"],
        ["malformed:", "column", "count", "5"],
        ["rows/s", "24,690"],
        ["calls", "p50", "p95", "p99"],
        ["handle_message", "12,345", "0.012", "ms", "500.000", "ms", "1,234,500.000", "ms"],
    ]
    assert figures(stream.getvalue())["rows in"] == "12,345"
    assert stream.getvalue().isascii()


def test_lines_come_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Not with every update, and on one line each.
    """
    clock = Clock()
    monkeypatch.setattr("examples.flights.display.time", clock)
    stream = NoTerminal()
    with make_display(Output(stream), 20000) as display:
        for _ in range(35):
            display.update(COUNTS)
            clock.now += 0.1
    line = "12,345 of 20,000 rows, 12,000 stored, 345 rejected, 24,690 rows/s"
    assert stream.getvalue().splitlines() == [line] * 3


def test_markup_in_names_is_text() -> None:
    """
    A file may be called ``[red].csv``.
    """
    stream = NoTerminal()
    LineDisplay(Output(stream), 1).say("[red]" + "x" * 200 + ":smile:")
    assert stream.getvalue() == "[red]" + "x" * 200 + ":smile:\n"


@pytest.mark.parametrize(
    ("stream", "term", "bar"), [(Terminal, "xterm", True), (Terminal, "dumb", False), (NoTerminal, "xterm", False)]
)
def test_a_bar_only_where_it_can_be_drawn(stream: Any, term: str, bar: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A pipe gets no control characters, also when the environment asks for colours.
    """
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("FORCE_COLOR", "1")
    target = stream()
    display = make_display(Output(target), 20000)
    with display:
        display.update(COUNTS)
    display.finish(DoneReport("x"))
    assert isinstance(display, LineDisplay) is not bar
    assert ("\x1b[" in target.getvalue()) is bar


def test_output_goes_quiet_when_the_reader_went_away() -> None:
    """
    Neither now nor when the stream is flushed for the last time.
    """
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        output = Output(stream)
        for _ in range(3):
            assert output.write("x" * 100_000) == 100_000
            output.flush()
        assert output.error is None


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_output_that_cannot_be_written_is_remembered() -> None:
    """
    A full disk is not a reader that went away.
    """
    with open("/dev/full", "w") as stream:
        output = Output(stream)
        output.write("x")
        output.flush()
    assert output.error is not None
    assert output.error.errno == errno.ENOSPC


def test_no_output_at_all() -> None:
    """
    Python has no stdout when the shell closed it.
    """
    output = Output(None)
    LineDisplay(output, 1).say("x")
    output.close()


class Screen:
    """
    The other end of a terminal.
    """

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
        self.text = ""

    def become_terminal(self) -> None:
        """
        Make this the controlling terminal of the child, which Ctrl-C is sent by.
        """
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def read_until(self, pattern: str) -> None:
        """
        Read until *pattern* was shown, or the terminal is closed.
        """
        deadline = time.monotonic() + END
        while not re.search(pattern, self.text):
            ready, _, _ = select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"not shown in {END} s: {pattern!r}, but {self.text!r}"
            try:
                self.text += os.read(self.master, 65536).decode("utf-8", "replace")
            except OSError:  # Linux: nobody has the other end open any more
                return

    def close(self) -> None:
        """
        Close what is still open.
        """
        for descriptor in (self.master, self.slave):
            if descriptor >= 0:
                os.close(descriptor)


@pytest.fixture
def screen() -> Any:
    """
    Return a terminal.
    """
    screen = Screen()
    yield screen
    screen.close()


def start(screen: Screen, arguments: List[object], cwd: Path) -> Any:
    """
    Start the demo on a terminal.
    """
    env = environment(TERM="xterm-256color")
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        env.pop(name, None)
    return started_demo(
        *arguments,
        cwd=cwd,
        env=env,
        stdin=screen.slave,
        stdout=screen.slave,
        stderr=screen.slave,
        start_new_session=True,
        preexec_fn=screen.become_terminal,
    )


def let_go(screen: Screen) -> None:
    """
    Leave the terminal to the child alone, so that its end can be seen.
    """
    os.close(screen.slave)
    screen.slave = -1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_shows_a_bar_with_counts_and_rate(screen: Screen, tmp_path: Path) -> None:
    """
    It grows, reaches the end, and is followed by the tables; the cursor is there again.
    """
    path = write_file(tmp_path / "f.csv", some_rows(300))
    with start(screen, [path, "--rate", 200], tmp_path) as process:
        let_go(screen)
        screen.read_until(r"p99[^$]*handle_batch.*\n")
        assert process.wait(END) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.text)
    shown = [tuple(map(int, found)) for found in re.findall(r"(\d+)% (\d+) stored, (\d+) rejected, \d+ rows/s", text)]
    percents = [percent for percent, _, _ in shown]
    assert percents == sorted(percents)
    assert any(percent < 100 for percent in percents)
    assert shown[-1] == (100, 210, 90)
    assert "━" in text
    assert figures(text)["rows in"] == "300"
    assert screen.text.rindex("\x1b[?25h") > screen.text.rindex("\x1b[?25l")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_ctrl_c_on_a_terminal_drains_and_reports(screen: Screen, tmp_path: Path) -> None:
    """
    As typed, not as sent: the bar ends, the tables follow, nothing that was read is lost.
    """
    path = write_file(tmp_path / "f.csv", some_rows(3000))
    with start(screen, [path, "--rate", 100], tmp_path) as process:
        let_go(screen)
        screen.read_until(r"[1-9]\d* stored")
        os.write(screen.master, b"\x03")
        screen.read_until(r"flights: interrupted.*\n")
        assert process.wait(END) == 130
    report = figures(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.text).split("\r\n rows in", 1)[1])
    found = tables(tmp_path / "flights.sqlite3")
    assert report["stored"] == str(len(found["flights"]))
    assert 0 < len(found["flights"]) + len(found["rejected"]) < 3000
    assert screen.text.rindex("\x1b[?25h") > screen.text.rindex("\x1b[?25l")
