"""
The command line: ``python -m examples.flights [FILE] [options]``.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import signal
import sys
import warnings
from contextlib import closing
from typing import Any, Callable, List, Optional, Sequence

from broadway_sync import DrainTimeoutError, Pipeline, PipelineFailedError

from .pipeline import build_pipeline
from .report import Counts, Report
from .source import FlightFile, UnusableFileError, check_file
from .store import NOT_STORED, Store, UnusableDatabaseError

try:
    from .display import Display, Output, make_display
except ImportError as import_error:
    print(f"flights: {import_error}; to install it: pip install 'broadway_sync[demo]'", file=sys.stderr)
    sys.exit(2)

NAME = "flights"
SAMPLE = os.path.join(os.path.dirname(__file__), "flights-2013-01.csv.gz")
REFRESH_SECONDS = 0.1

FAILED = 1
UNUSABLE = 2

EPILOG = """\
tables: flights (every row that could be stored), rejected (every other row, with its reason),
delays (late flights by route). Importing a file again, also after kill -9, ends with the same tables.

exit status: 0 every row was stored or rejected; 1 rows are missing: import the file again;
2 nothing was touched: the file or the database cannot be used; 130 interrupted by Ctrl-C, after finishing
what had been read (a second Ctrl-C does not wait for that), 143 by SIGTERM: import the file again for the rest.
"""


class Interrupts:
    """
    Counts SIGINT and SIGTERM inside its ``with`` block, in place of what they would do.
    """

    def __init__(self) -> None:
        self.received: List[int] = []

    def __enter__(self) -> Interrupts:
        self._previous = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: Any) -> None:
        self.received.append(number)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """
    Import one file; return the exit status.
    """
    options = _parse(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file name need not be writable in the encoding of the terminal.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        file = check_file(options.file)
        store = Store(options.database, file.digest, lock_timeout=options.lock_timeout)
        with Interrupts() as interrupts:
            return _import(file, store, options, interrupts)
    except (UnusableFileError, UnusableDatabaseError) as error:
        return _complain(str(error), UNUSABLE)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _import(file: FlightFile, store: Store, options: argparse.Namespace, interrupts: Interrupts) -> int:
    with closing(Output(sys.stdout)) as output, closing(file):
        display = make_display(output, file.row_count)
        display.say(f"importing {file.row_count:,} rows of {file.path} into {options.database}")
        with Report(NAME) as report, display:
            pipeline = build_pipeline(file, store, name=NAME, rate=options.rate)
            trouble = _watch(pipeline, store, report, display, interrupts)
            display.update(report.counts())
        display.finish(report)
    counts = report.counts()
    trouble = trouble or _missing_rows(counts) or _unwritten(output)
    if interrupts.received:
        done = f"{counts.settled:,} of {file.row_count:,} rows"
        return _complain(trouble or f"interrupted after {done}", 128 + interrupts.received[0])
    trouble = trouble or _unread_rows(counts, file)
    return _complain(trouble, FAILED) if trouble else 0


def _watch(pipeline: Pipeline, store: Store, report: Report, display: Display, interrupts: Interrupts) -> str:
    """
    Run the pipeline to its end; return what went wrong, or "".
    """
    trouble = ""
    try:
        pipeline.start()
        while not pipeline.join(timeout=REFRESH_SECONDS) and len(interrupts.received) < 2:
            display.update(report.counts())
            if interrupts.received or store.broken:
                pipeline.request_stop()
        _stop(pipeline, at_once=len(interrupts.received) > 1)
    except PipelineFailedError as error:
        trouble = f"the pipeline failed: {error}: {error.__cause__}"
    except DrainTimeoutError:
        # The abandoned threads may still be writing: the connection stays open. Whatever they do not commit before the
        # process ends is rolled back. Python 3.13 would warn of it.
        warnings.filterwarnings("ignore", "unclosed database", ResourceWarning)
        return "stopped before all rows that had been read were stored"
    store.close()
    return trouble


def _stop(pipeline: Pipeline, *, at_once: bool) -> None:
    """
    Raises:
        DrainTimeoutError: Messages were left behind; the next import brings them.
    """
    if at_once:
        # That messages are left behind, and where the threads were, is what was asked for.
        logging.getLogger("broadway_sync").setLevel(logging.CRITICAL)
    pipeline.stop(timeout=0.001 if at_once else None)


def _missing_rows(counts: Counts) -> str:
    for reason, count in counts.rejected_by_reason.items():
        if reason.startswith(NOT_STORED):
            return f"{count:,} rows were {reason}; import the file again"
    return ""


def _unread_rows(counts: Counts, file: FlightFile) -> str:
    if counts.settled == file.row_count:
        return ""
    return f"only {counts.settled:,} of {file.row_count:,} rows were imported: did the file change?"


def _unwritten(output: Output) -> str:
    return f"cannot write to standard output: {output.error.strerror}" if output.error else ""


def _complain(text: str, status: int) -> int:
    print(f"flights: {text}", file=sys.stderr)
    return status


def _parse(arguments: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.flights",
        description="Import flight records (CSV, also gzipped) into an SQLite database through a pipeline.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", nargs="?", default=SAMPLE, metavar="FILE", help="default: January 2013 from New York")
    parser.add_argument("--database", default="flights.sqlite3", metavar="PATH", help="default: %(default)s")
    parser.add_argument("--rate", type=_positive(int), metavar="ROWS", help="import at most ROWS rows a second")
    parser.add_argument(
        "--lock-timeout",
        type=_positive(float),
        default=5.0,
        metavar="SECONDS",
        help="how long a batch waits while another program locks the database, default: %(default)s",
    )
    return parser.parse_args(arguments)


def _positive(convert: Callable[[str], float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = convert(text)
        if not 0 < value < float("inf"):
            raise ValueError(text)
        return value

    parse.__name__ = "number > 0"  # argparse: "invalid number > 0 value: '-1'"
    return parse


if __name__ == "__main__":
    sys.exit(main())
