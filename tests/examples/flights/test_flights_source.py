"""
The file is checked as a whole, and read line by line.
"""

from __future__ import annotations

import gzip
import os
import tracemalloc
from pathlib import Path
from typing import List

import pytest

from examples.flights.records import COLUMNS, MAX_LINE_BYTES, Line
from examples.flights.source import UnusableFileError, check_file

from .support import HEADER, row, write_file

FOREIGN = "FILE is not a file of flights: its first line lacks the columns 'year', 'month', 'day' and 16 more"
CUT_OFF = "cannot read FILE: Compressed file ended before the end-of-stream marker was reached"


def lines(path: Path) -> List[Line]:
    """
    Return the rows of a file.
    """
    return list(check_file(str(path)).lines())


def complaint(path: Path) -> str:
    """
    Return why a file cannot be imported, without its name.
    """
    with pytest.raises(UnusableFileError) as caught:
        check_file(str(path))
    text = str(caught.value)
    assert "\n" not in text
    return text.replace(repr(str(path)), "FILE")


def test_rows_are_numbered_like_lines(tmp_path: Path) -> None:
    """
    The header is line 1; the last line needs no end; empty lines count as lines, not as rows.
    """
    path = tmp_path / "f.csv"
    path.write_bytes(f"{HEADER}\r\na\r\n\r\n\nb\nc".encode())
    assert lines(path) == [Line(2, b"a\r\n"), Line(5, b"b\n"), Line(6, b"c")]
    assert check_file(str(path)).row_count == 3


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    """
    The name does not matter, neither does how often the file was continued.
    """
    plain = write_file(tmp_path / "plain.gz", [row(), "x"])
    packed = tmp_path / "packed.csv"
    content = plain.read_bytes()
    packed.write_bytes(gzip.compress(content[:100]) + gzip.compress(content[100:]))
    assert lines(packed) == lines(plain) == [Line(2, f"{row()}\r\n".encode()), Line(3, b"x\r\n")]


def test_the_digest_names_the_content(tmp_path: Path) -> None:
    """
    A copy and a compressed copy are the same source, one changed byte makes another.
    """
    one = write_file(tmp_path / "1.csv", [row()])
    two = tmp_path / "2.csv.gz"
    two.write_bytes(gzip.compress(one.read_bytes()))
    three = write_file(tmp_path / "3.csv", [row(flight="1")])
    digests = [check_file(str(path)).digest for path in (one, two, three)]
    assert digests[0] == digests[1] != digests[2]


def test_the_digest_covers_what_is_cut_off(tmp_path: Path) -> None:
    """
    Two files that differ only behind the end of what is kept of a line are two sources.
    """
    paths = [write_file(tmp_path / f"{end}.csv", ["x" * MAX_LINE_BYTES * 2 + end]) for end in "ab"]
    assert len({check_file(str(path)).digest for path in paths}) == 2


def test_a_byte_order_mark_and_quotes_in_the_header(tmp_path: Path) -> None:
    """
    A file that a spreadsheet saved is a file of flights.
    """
    path = tmp_path / "f.csv"
    path.write_bytes(b"\xef\xbb\xbf" + ",".join(f'"{c}"' for c in COLUMNS).encode() + b"\n" + row().encode())
    assert check_file(str(path)).columns == COLUMNS


def test_columns_in_another_order(tmp_path: Path) -> None:
    """
    The file says in which order its columns are.
    """
    path = write_file(tmp_path / "f.csv", [], header=",".join(sorted(COLUMNS)))
    assert check_file(str(path)).columns == tuple(sorted(COLUMNS))


def test_a_header_alone_is_a_file_of_no_flights(tmp_path: Path) -> None:
    """
    Nothing to import is no mistake.
    """
    assert lines(write_file(tmp_path / "f.csv", [])) == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "FILE is empty"),
        (gzip.compress(b""), "FILE is empty"),
        (b"id,name\n1,x\n", FOREIGN),
        (b"\x89PNG\r\n\x1a\n\x00\x00", FOREIGN),
        (HEADER.encode("utf-16"), FOREIGN),
        (
            HEADER.replace("dest,", "").encode(),
            "FILE is not a file of flights: its first line lacks the columns 'dest'",
        ),
        (f"{HEADER},x,y".encode(), "FILE is not a file of flights: its first line has the unknown columns 'x', 'y'"),
        (f"{HEADER},dest".encode(), "FILE is not a file of flights: its first line names a column twice"),
        (f"\n{HEADER}".encode(), FOREIGN),
        (b"x" * (MAX_LINE_BYTES + 5), FOREIGN),
        (gzip.compress(HEADER.encode())[:-9], CUT_OFF),
        (gzip.compress(HEADER.encode())[:5], CUT_OFF),
        (gzip.compress(HEADER.encode()) + b"rest", "cannot read FILE: Not a gzipped file (b're')"),
    ],
)
def test_foreign_and_damaged_files_are_refused(tmp_path: Path, content: bytes, why: str) -> None:
    """
    One line says what is wrong.
    """
    path = tmp_path / "f"
    path.write_bytes(content)
    assert complaint(path) == why


@pytest.mark.parametrize("position", [20, 60, -8, -1])
def test_a_changed_byte_in_a_gzip_file_is_found(tmp_path: Path, position: int) -> None:
    """
    Before anything is imported: the checksum comes last in the file.
    """
    content = bytearray(gzip.compress("\n".join([HEADER, *[row(flight=str(n)) for n in range(50)]]).encode()))
    content[position] ^= 0xFF
    path = tmp_path / "f.gz"
    path.write_bytes(content)
    assert complaint(path).startswith("cannot read FILE: ")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """
    A pipe is not even opened, which could block.
    """
    os.mkfifo(str(tmp_path / "pipe"))
    assert complaint(tmp_path / "nothing") == "cannot read FILE: No such file or directory"
    assert complaint(tmp_path) == "cannot read FILE: Is a directory"
    assert complaint(tmp_path / "pipe") == "cannot read FILE: it is not a regular file"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    """
    One line says what is wrong.
    """
    path = write_file(tmp_path / "f.csv", [])
    path.chmod(0)
    assert complaint(path) == "cannot read FILE: Permission denied"


def test_a_name_that_cannot_be_one_is_refused() -> None:
    """
    A NUL in a name is a ValueError in Python.
    """
    with pytest.raises(UnusableFileError, match="embedded null"):
        check_file("a\0b")


def test_an_endless_line_is_cut_and_takes_no_memory(tmp_path: Path) -> None:
    """
    Of a line that is too long only as much is kept as shows that it is; the next line is read as ever.
    """
    path = tmp_path / "f.csv.gz"
    path.write_bytes(gzip.compress(f"{HEADER}\n".encode() + b"x" * 30_000_000 + b"\n" + row().encode(), 1))
    tracemalloc.start()
    try:
        numbers_and_sizes = [(line.number, len(line.raw)) for line in check_file(str(path)).lines()]
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert numbers_and_sizes == [(2, MAX_LINE_BYTES + 1), (3, len(row()))]


def test_the_file_is_read_as_it_is_needed(tmp_path: Path) -> None:
    """
    Asking for the first rows does not read the rest.
    """
    path = write_file(tmp_path / "f.csv", [row()] * 20_000)
    file = check_file(str(path))
    tracemalloc.start()
    try:
        reader = file.lines()
        assert next(reader).number == 2
        reader.close()  # type: ignore[attr-defined]
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size / 4
    finally:
        tracemalloc.stop()
