"""
Lines to flights: every reason to reject one, and nothing that is not a number taken for one.
"""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from examples.flights import records
from examples.flights.records import COLUMNS, Flight, Line, RejectedLineError, Rejection, parse_flight

from .support import HEADER, row


def parse(text: str) -> Flight:
    """
    Parse one row that follows the header.
    """
    return parse_flight(Line(2, text.encode()))


def rejection(raw: "str | bytes") -> Rejection:
    """
    Return why a row is rejected.
    """
    with pytest.raises(RejectedLineError) as caught:
        parse_flight(Line(2, raw.encode() if isinstance(raw, str) else raw))
    return caught.value.rejection


def test_a_flight_is_typed() -> None:
    """
    Every value has the type of its column.
    """
    assert parse(row() + "\r\n") == Flight(
        year=2013,
        month=1,
        day=31,
        dep_time=517,
        sched_dep_time=515,
        dep_delay=2,
        arr_time=2400,
        sched_arr_time=2349,
        arr_delay=11,
        carrier="UA",
        flight=1545,
        tailnum="N14228",
        origin="EWR",
        dest="IAH",
        air_time=227,
        distance=1400,
        hour=5,
        minute=15,
        time_hour=datetime(2013, 1, 31, 10, tzinfo=timezone.utc),
    )


def test_the_columns_are_those_of_the_file() -> None:
    """
    The record names its columns as the file does, in the same order.
    """
    assert ",".join(COLUMNS) == HEADER


def test_columns_may_come_in_another_order() -> None:
    """
    Values are found by the names in the header.
    """
    line = Line(2, ",".join(reversed(row().split(","))).encode())
    assert parse_flight(line, tuple(reversed(COLUMNS))) == parse(row())


@pytest.mark.parametrize("missing", ["NA", ""])
@pytest.mark.parametrize("column", ["arr_delay", "air_time", "tailnum"])
def test_a_flight_may_lack_what_is_not_known_of_every_flight(column: str, missing: str) -> None:
    """
    Such a value is None.
    """
    assert getattr(parse(row(**{column: missing})), column) is None


@pytest.mark.parametrize("missing", ["NA", ""])
def test_cancelled_flights_are_rejected(missing: str) -> None:
    """
    No departure: cancelled, whatever else is missing.
    """
    text = row(dep_time=missing, dep_delay=missing, arr_time=missing, arr_delay=missing)
    assert rejection(text) == Rejection("cancelled: no dep_time")


@pytest.mark.parametrize("missing", ["NA", ""])
def test_flights_that_never_arrived_are_rejected(missing: str) -> None:
    """
    A departure, but no arrival.
    """
    assert rejection(row(arr_time=missing, arr_delay=missing)) == Rejection("never arrived: no arr_time")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (row() + ",1", Rejection("malformed: column count", "20 instead of 19")),
        ("garbage", Rejection("malformed: column count", "1 instead of 19")),
        (" ", Rejection("malformed: column count", "1 instead of 19")),
        (row(carrier="NA"), Rejection("malformed: missing value", "carrier: 'NA'")),
        (row(dep_delay="NA"), Rejection("malformed: missing value", "dep_delay: 'NA'")),
        (row(year=""), Rejection("malformed: missing value", "year: ''")),
        (row(distance="far"), Rejection("malformed: not a number", "distance: 'far'")),
        (row(distance="1e3"), Rejection("malformed: not a number", "distance: '1e3'")),
        (row(distance="1_000"), Rejection("malformed: not a number", "distance: '1_000'")),
        (row(distance=" 7"), Rejection("malformed: not a number", "distance: ' 7'")),
        (row(distance="7\t"), Rejection("malformed: not a number", "distance: '7\\t'")),
        (row(distance="--7"), Rejection("malformed: not a number", "distance: '--7'")),
        (row(distance="٣"), Rejection("malformed: not a number", "distance: '٣'")),
        (row(distance="1" * 10), Rejection("malformed: not a number", "distance: '1111111111'")),
        (row(month="x"), Rejection("malformed: not a number", "month: 'x'")),
        (row(air_time="nan"), Rejection("malformed: not a number", "air_time: 'nan'")),
        (row(month="2", day="29"), Rejection("malformed: impossible date", "2013-2-29")),
        (row(month="13"), Rejection("malformed: impossible date", "2013-13-31")),
        (row(year="0"), Rejection("malformed: impossible date", "0-1-31")),
        (
            row(time_hour="2013-02-30T10:00:00Z"),
            Rejection("malformed: impossible date", "time_hour: '2013-02-30T10:00:00Z'"),
        ),
        (row(time_hour="2013-01-31"), Rejection("malformed: impossible date", "time_hour: '2013-01-31'")),
        (row(time_hour="20130131T100000Z"), Rejection("malformed: impossible date", "time_hour: '20130131T100000Z'")),
        (row(dep_time="2401"), Rejection("malformed: impossible time", "dep_time: '2401'")),
        (row(arr_time="1260"), Rejection("malformed: impossible time", "arr_time: '1260'")),
        (row(sched_dep_time="-5"), Rejection("malformed: impossible time", "sched_dep_time: '-5'")),
        (row(tailnum="N1\x00"), Rejection("malformed: NUL byte")),
        (row(tailnum='"N1'), Rejection("malformed: not CSV", "unexpected end of data")),
        (row(tailnum='"N1"x'), Rejection("malformed: not CSV", "',' expected after '\"'")),
        (b"\x1f\x8b\x08\xff\xfe", Rejection("malformed: not UTF-8", "byte 1")),
        (row().encode("utf-16-le")[1:], Rejection("malformed: NUL byte")),
        (row() + "," * records.MAX_LINE_BYTES, Rejection("malformed: line too long", "more than 65536 bytes")),
    ],
)
def test_malformed_rows_are_rejected(raw: "str | bytes", expected: Rejection) -> None:
    """
    The reason is one to count by, the detail says what was found where.
    """
    assert rejection(raw) == expected


def test_a_carriage_return_inside_a_line_is_no_row() -> None:
    """
    The csv module words this differently in different Pythons; the reason is the same.
    """
    assert rejection(row(tailnum="N1\rN2")).reason == "malformed: not CSV"


def test_quotes_may_hold_commas_and_quotes() -> None:
    """
    Quoting is read as the csv module reads it.
    """
    assert parse(row(tailnum='"N,""1"""')).tailnum == 'N,"1"'


@pytest.mark.parametrize(("delay", "is_late"), [("60", False), ("61", True), ("-70", False), ("NA", False)])
def test_late_is_more_than_sixty_minutes(delay: str, is_late: bool) -> None:
    """
    Sixty minutes are not late yet, and what is not known is not late.
    """
    assert parse(row(arr_delay=delay)).is_late is is_late


@pytest.mark.parametrize(
    ("raw", "text"),
    [(b"a,b\r\n", "a,b"), (b"\xff\x00\n", "\\xff\\x00"), ("é".encode(), "é"), (b"\xed\xa0\x80", "\\xed\\xa0\\x80")],
)
def test_every_line_has_a_text(raw: bytes, text: str) -> None:
    """
    Bytes that are no text are shown escaped.
    """
    assert Line(1, raw).text == text
