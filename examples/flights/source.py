"""
The file of flights: checked as a whole before anything is written, then read line by line.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import stat
import zlib
from typing import BinaryIO, Callable, Generator, Iterator, List, Tuple

import attrs

from .records import COLUMNS, MAX_LINE_BYTES, Line, RejectedLineError, split_cells

GZIP_MAGIC = b"\x1f\x8b"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class UnusableFileError(Exception):
    """
    The file cannot be imported; the text says why, in one line.
    """


@attrs.frozen
class FlightFile:
    """
    A file that was read to its end once and found to hold flights.
    """

    path: str
    columns: Tuple[str, ...]
    """The names of the columns, in the order of the file."""

    digest: str
    """
    Names the content: the same for a copy, a renamed or a recompressed file, another one after any change.

    (source digest, line number) is the identity of a row. The columns of a flight would not do: a line that is no
    flight has none, and two equal lines of one file are two rows that must both be accounted for.
    """

    row_count: int
    """Lines that are neither the header nor empty."""

    _readers: List[Generator[Line, None, None]] = attrs.field(factory=list, init=False, eq=False, repr=False)

    def lines(self) -> Iterator[Line]:
        """
        Read the rows, one at a time; nothing of the file is held but the present line.
        """
        reader = self._read()
        self._readers.append(reader)
        return reader

    def close(self) -> None:
        """
        Close what was not read to its end.
        """
        for reader in self._readers:
            with contextlib.suppress(ValueError):  # it is in the hands of a thread that was left behind
                reader.close()

    def _read(self) -> Generator[Line, None, None]:
        with _open(self.path) as stream:
            for line in _lines(stream):
                if line.number > 1 and not _is_blank(line):
                    yield line


def check_file(path: str) -> FlightFile:
    """
    Read the whole file once: a gzip file that breaks off is only found out at its end.

    Raises:
        UnusableFileError: Missing, unreadable, damaged, or not a file of flights.
    """
    digest = hashlib.sha256()
    columns: Tuple[str, ...] = ()
    row_count = 0
    try:
        with _open(path) as stream:
            for line in _lines(stream, digest.update):
                if line.number == 1:
                    columns = _read_header(path, line.raw)
                elif not _is_blank(line):
                    row_count += 1
    except OSError as error:
        raise UnusableFileError(f"cannot read {path!r}: {error.strerror or error}") from error
    except (EOFError, zlib.error, ValueError) as error:
        raise UnusableFileError(f"cannot read {path!r}: {error}") from error
    if not columns:
        raise UnusableFileError(f"{path!r} is empty")
    return FlightFile(path, columns, digest.hexdigest()[:16], row_count)


def _open(path: str) -> BinaryIO:
    # A pipe could be read only once, and opening one may block for ever.
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UnusableFileError(f"cannot read {path!r}: it is not a regular file")
    with open(path, "rb") as stream:
        is_gzip = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    return io.BufferedReader(gzip.open(path)) if is_gzip else open(path, "rb")


def _lines(stream: BinaryIO, also: Callable[[bytes], object] = len) -> Iterator[Line]:
    """
    Split the stream into lines, each cut off at one byte more than is allowed; *also* gets every byte.
    """
    number = 0
    piece = b"\n"
    while True:
        is_new_line = piece.endswith(b"\n")
        piece = stream.readline(MAX_LINE_BYTES + 1)
        if not piece:
            return
        also(piece)
        if is_new_line:
            number += 1
            yield Line(number, piece)


def _is_blank(line: Line) -> bool:
    return not line.raw.strip(b"\r\n")


def _read_header(path: str, raw: bytes) -> Tuple[str, ...]:
    """
    Raises:
        UnusableFileError: These are not the columns of a flight, each once, in any order.
    """
    if raw.startswith(BYTE_ORDER_MARK):
        raw = raw[len(BYTE_ORDER_MARK) :]
    try:
        columns = tuple(split_cells(raw))
    except RejectedLineError:
        columns = ()
    complaint = _complain(columns)
    if complaint:
        raise UnusableFileError(f"{path!r} is not a file of flights: its first line {complaint}")
    return columns


def _complain(columns: Tuple[str, ...]) -> str:
    missing = [column for column in COLUMNS if column not in columns]
    if missing:
        return f"lacks the columns {_enumerate(missing)}"
    unknown = [column for column in columns if column not in COLUMNS]
    if unknown:
        return f"has the unknown columns {_enumerate(unknown)}"
    return "names a column twice" if len(columns) > len(COLUMNS) else ""


def _enumerate(names: List[str]) -> str:
    shown = [repr(name[:40]) for name in names[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
