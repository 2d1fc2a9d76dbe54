"""
The terminal: a progress bar, or plain lines now and then where nobody watches; a table at the end.
"""

from __future__ import annotations

import errno
import os
import time
from typing import Callable, List, Optional, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from .report import Counts, Report, Timing

LINE_INTERVAL = 1.0
PLAIN_WIDTH = 100


class Output:
    """
    A text stream that goes quiet when its reader goes away (``| head``): the rows matter more than the listener.
    """

    def __init__(self, stream: Optional[TextIO]) -> None:
        # Python has no stdout at all when the shell closed it.
        self._is_mine = stream is None
        self._stream = stream or open(os.devnull, "w")  # noqa: SIM115
        self.encoding = self._stream.encoding
        self.error: Optional[OSError] = None
        """Why not all could be written, or None; a reader that went away is no error."""

    def write(self, text: str) -> int:
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def close(self) -> None:
        """
        Close the stream, if it was opened here.
        """
        if self._is_mine:
            self._stream.close()

    def _attempt(self, operation: Callable[[], object]) -> None:
        try:
            operation()
        except OSError as error:
            if error.errno != errno.EPIPE:
                self.error = error
            # What is still buffered would fail once more when the interpreter flushes it at its end.
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, self.fileno())
            os.close(devnull)


class Display:
    """
    What is common to both: the table at the end. Belongs to the main thread.
    """

    def __init__(self, output: Output, row_count: int) -> None:
        is_terminal = output.isatty()
        self._row_count = row_count
        # Said explicitly: an environment variable could make rich write colours and cursor movements into a pipe.
        self.console = Console(
            file=output,  # type: ignore[arg-type]
            force_terminal=is_terminal,
            width=None if is_terminal else PLAIN_WIDTH,
            markup=False,
            highlight=False,
            emoji=False,
        )

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def say(self, text: str) -> None:
        """
        Print one line.
        """
        self.console.print(text, soft_wrap=True)

    def update(self, counts: Counts) -> None:
        """
        Show how far the import is; called several times a second.
        """

    def finish(self, report: Report) -> None:
        """
        Show the tables.
        """
        self.console.print(_outcome_table(report.counts()))
        self.console.print(_timing_table(report))
        self.console.file.flush()


class BarDisplay(Display):
    """
    A progress bar with rate and counts.
    """

    def __init__(self, output: Output, row_count: int) -> None:
        super().__init__(output, row_count)
        self._progress = Progress(
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.fields[counts]}"),
            TimeRemainingColumn(),
            console=self.console,
            # Drawn by update(), so that there is no further thread.
            auto_refresh=False,
        )
        self._task = self._progress.add_task("", total=row_count, counts="")

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        # Also shows the cursor again.
        self._progress.stop()

    def update(self, counts: Counts) -> None:
        text = f"{counts.stored:,} stored, {counts.rejected:,} rejected, {counts.rows_per_second:,.0f} rows/s"
        self._progress.update(self._task, completed=counts.rows, counts=text, refresh=True)


class LineDisplay(Display):
    """
    A line of text now and then.
    """

    def __init__(self, output: Output, row_count: int) -> None:
        super().__init__(output, row_count)
        self._next_line = time.monotonic() + LINE_INTERVAL

    def update(self, counts: Counts) -> None:
        if time.monotonic() < self._next_line:
            return
        self._next_line = time.monotonic() + LINE_INTERVAL
        self.say(
            f"{counts.rows:,} of {self._row_count:,} rows, {counts.stored:,} stored, {counts.rejected:,} rejected, "
            f"{counts.rows_per_second:,.0f} rows/s"
        )


def make_display(output: Output, row_count: int) -> Display:
    """
    Choose by what is at the other end; a terminal that cannot move its cursor gets lines.
    """
    can_draw = output.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
    return (BarDisplay if can_draw else LineDisplay)(output, row_count)


def _outcome_table(counts: Counts) -> Table:
    table = Table(box=None, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("rows in", f"{counts.rows:,}")
    table.add_row("stored", f"{counts.stored:,}")
    table.add_row("rejected", f"{counts.rejected:,}")
    for reason, count in counts.rejected_by_reason.items():
        table.add_row(f"  {reason}", f"{count:,}")
    table.add_row("rows/s", f"{counts.rows_per_second:,.0f}")
    return table


def _timing_table(report: Report) -> Table:
    table = Table(box=None)
    table.add_column("")
    for title in ("calls", "p50", "p95", "p99"):
        table.add_column(title, justify="right")
    for name, timing in report.timings().items():
        table.add_row(name, f"{timing.calls:,}", *_milliseconds(timing))
    return table


def _milliseconds(timing: Timing) -> List[str]:
    return [f"{1000 * seconds:,.3f} ms" for seconds in (timing.p50, timing.p95, timing.p99)]
