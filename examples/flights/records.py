"""
What a flight is, and why a line of the file is not one. Pure: no pipeline, no database, no file.
"""

from __future__ import annotations

import csv
import re
from datetime import date, datetime, timezone
from typing import Any, Callable, Dict, List, Optional, Sequence

import attrs

LATE_MINUTES = 60
"""A flight that arrives more than this many minutes after its schedule is late."""

MAX_LINE_BYTES = 64 * 1024
"""A longer line is no flight; its rest is not even read into memory."""

MISSING = ("", "NA")
"""How the file writes that a value is not known."""

CANCELLED = "cancelled: no dep_time"
NEVER_ARRIVED = "never arrived: no arr_time"
TOO_LONG = "malformed: line too long"
NUL_BYTE = "malformed: NUL byte"
NOT_UTF8 = "malformed: not UTF-8"
NOT_CSV = "malformed: not CSV"
COLUMN_COUNT = "malformed: column count"
MISSING_VALUE = "malformed: missing value"
NOT_A_NUMBER = "malformed: not a number"
IMPOSSIBLE_DATE = "malformed: impossible date"
IMPOSSIBLE_TIME = "malformed: impossible time"


@attrs.frozen
class Rejection:
    """
    Why a line is not stored: one of a few reasons, to count by, and what exactly was found.
    """

    reason: str
    detail: str = ""


class RejectedLineError(Exception):
    """
    Raised by :func:`parse_flight`; carries the :class:`Rejection`.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason} ({detail})" if detail else reason)
        self.rejection = Rejection(reason, detail)


@attrs.frozen
class Line:
    """
    One line of the file, as it was read.
    """

    number: int
    """As an editor counts them: the header is line 1."""

    raw: bytes
    """With its line end; of a line longer than MAX_LINE_BYTES only the beginning."""

    @property
    def text(self) -> str:
        """
        The line for people to read: whatever the bytes are, this is printable and loses nothing.
        """
        return self.raw.decode("utf-8", "backslashreplace").rstrip("\r\n").replace("\0", "\\x00")


# int() alone would also take "1_000", " 7", "٣" and a million digits.
_NUMBER = re.compile(r"-?[0-9]{1,9}")


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise RejectedLineError(MISSING_VALUE if text in MISSING else NOT_A_NUMBER, repr(text))
    return int(text)


def _text(text: str) -> str:
    if text in MISSING:
        raise RejectedLineError(MISSING_VALUE, repr(text))
    return text


def _number_or_none(text: str) -> Optional[int]:
    return None if text in MISSING else _number(text)


def _text_or_none(text: str) -> Optional[str]:
    return None if text in MISSING else text


def _time_of_day(text: str) -> int:
    time = _number(text)
    # 2400 is how the file writes a midnight that ends a day.
    if not 0 <= time <= 2400 or time % 100 > 59:
        raise RejectedLineError(IMPOSSIBLE_TIME, repr(text))
    return time


def _instant(text: str) -> datetime:
    # fromisoformat() takes more forms in newer Pythons; writing the result back holds it to this one.
    try:
        instant = datetime.fromisoformat(text[:-1])
    except ValueError:
        raise RejectedLineError(IMPOSSIBLE_DATE, repr(text)) from None
    if instant.isoformat() + "Z" != text:
        raise RejectedLineError(IMPOSSIBLE_DATE, repr(text))
    return instant.replace(tzinfo=timezone.utc)


def _column(convert: Callable[[str], Any]) -> Any:
    return attrs.field(metadata={"convert": convert})


@attrs.frozen
class Flight:
    """
    One flight that took off and landed. The attributes are the columns of the file, by name.

    Times of day are local and written hhmm as one number, delays are in minutes, distances in miles.
    """

    year: int = _column(_number)
    month: int = _column(_number)
    day: int = _column(_number)
    dep_time: int = _column(_time_of_day)
    sched_dep_time: int = _column(_time_of_day)
    dep_delay: int = _column(_number)
    arr_time: int = _column(_time_of_day)
    sched_arr_time: int = _column(_time_of_day)
    # Not known of a flight that landed elsewhere first: it took off and arrived, so it is a flight.
    arr_delay: Optional[int] = _column(_number_or_none)
    carrier: str = _column(_text)
    flight: int = _column(_number)
    tailnum: Optional[str] = _column(_text_or_none)
    origin: str = _column(_text)
    dest: str = _column(_text)
    air_time: Optional[int] = _column(_number_or_none)
    distance: int = _column(_number)
    hour: int = _column(_number)
    minute: int = _column(_number)
    time_hour: datetime = _column(_instant)

    @property
    def is_late(self) -> bool:
        """
        Whether it arrived more than LATE_MINUTES minutes late; not, if that is not known.
        """
        return self.arr_delay is not None and self.arr_delay > LATE_MINUTES


_CONVERTERS: Dict[str, Callable[[str], Any]] = {f.name: f.metadata["convert"] for f in attrs.fields(Flight)}
COLUMNS = tuple(_CONVERTERS)
"""The columns of the file, in its usual order."""


def parse_flight(line: Line, columns: Sequence[str] = COLUMNS) -> Flight:
    """
    Make a typed record of one line.

    Args:
        line: Any bytes at all.
        columns: The names of the columns in the order of the file.

    Raises:
        RejectedLineError: The line is no flight; the first reason that was found.
    """
    cells = split_cells(line.raw)
    if len(cells) != len(columns):
        raise RejectedLineError(COLUMN_COUNT, f"{len(cells)} instead of {len(columns)}")
    row = dict(zip(columns, cells))
    # Before all else: in the line of a flight that never left most other values are missing as well.
    if row["dep_time"] in MISSING:
        raise RejectedLineError(CANCELLED)
    if row["arr_time"] in MISSING:
        raise RejectedLineError(NEVER_ARRIVED)
    flight = Flight(**_convert(row))
    _check_date(flight)
    return flight


def split_cells(raw: bytes) -> List[str]:
    """
    Split one line of a CSV file.

    A line is a row here: quotes may hold commas, but not line ends.

    Raises:
        RejectedLineError: Too long, not text, or not CSV.
    """
    if len(raw) > MAX_LINE_BYTES:
        raise RejectedLineError(TOO_LONG, f"more than {MAX_LINE_BYTES} bytes")
    if b"\0" in raw:
        raise RejectedLineError(NUL_BYTE)
    try:
        text = raw.decode("utf-8").rstrip("\r\n")
        return next(csv.reader([text], strict=True), [])
    except UnicodeDecodeError as error:
        raise RejectedLineError(NOT_UTF8, f"byte {error.start}") from None
    except csv.Error as error:
        raise RejectedLineError(NOT_CSV, str(error)) from None


def _convert(row: Dict[str, str]) -> Dict[str, Any]:
    values = {}
    for column, convert in _CONVERTERS.items():
        try:
            values[column] = convert(row[column])
        except RejectedLineError as error:
            raise RejectedLineError(error.rejection.reason, f"{column}: {error.rejection.detail}") from None
    return values


def _check_date(flight: Flight) -> None:
    try:
        date(flight.year, flight.month, flight.day)
    except ValueError:
        raise RejectedLineError(IMPOSSIBLE_DATE, f"{flight.year}-{flight.month}-{flight.day}") from None
