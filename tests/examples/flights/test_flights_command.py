"""
The command as a user meets it: what it says, how it ends, and what it leaves alone.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import resource
import signal
import sqlite3
import subprocess
from pathlib import Path
from typing import Any, Iterator, List, Optional

import pytest

from broadway_sync import all_running
from examples.flights import __main__ as command_module
from examples.flights.__main__ import main
from examples.flights.source import FlightFile
from examples.flights.store import Store
from tests.helpers import SCALE, eventually

from .support import (
    END,
    HEADER,
    count,
    environment,
    figures,
    finish,
    locked,
    row,
    run_demo,
    some_rows,
    started_demo,
    tables,
    write_file,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """
    Return a file of flights.
    """
    return write_file(tmp_path / "f.csv", some_rows(2000))


@pytest.fixture
def clean(path: Path, tmp_path: Path) -> Any:
    """
    Return the tables after one clean run.
    """
    assert main([str(path), "--database", str(tmp_path / "clean.sqlite3")]) == 0
    return tables(tmp_path / "clean.sqlite3")


def wait_for_rows(database: Path, rows: int) -> None:
    """
    Wait until so many flights were committed.
    """
    eventually(lambda: count(database, "flights") >= rows, f"{rows} rows in {database}", timeout=END)


# The file


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file or directory"),
        (b"", "is empty"),
        (
            b"id,name\n1,x\n",
            "is not a file of flights: its first line lacks the columns 'year', 'month', 'day' and 16 more",
        ),
        (
            gzip.compress((HEADER + "\n" + row()).encode())[:-4],
            "Compressed file ended before the end-of-stream marker was reached",
        ),
    ],
)
def test_a_file_that_cannot_be_imported_is_refused(tmp_path: Path, content: Optional[bytes], why: str) -> None:
    """
    One clear line, status 2, and no database.
    """
    if content is not None:
        (tmp_path / "input").write_bytes(content)
    done = run_demo("input", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("flights: ")
    assert done.stderr.endswith(f"{why}\n")
    assert done.stderr.count("\n") == 1
    assert "'input'" in done.stderr
    assert not (tmp_path / "flights.sqlite3").exists()


def test_a_file_that_cannot_be_imported_leaves_the_database_as_it_is(
    path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """
    Byte for byte.
    """
    database = tmp_path / "f.sqlite3"
    assert main([str(path), "--database", str(database)]) == 0
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    capfd.readouterr()
    assert main([str(tmp_path / "nothing"), "--database", str(database)]) == 2
    assert main([str(database), "--database", str(database)]) == 2
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert capfd.readouterr().out == ""


def test_a_file_that_lost_its_end_meanwhile_is_noticed(
    path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What was read is stored, and the status says that it was not all.
    """

    class Shrunk(FlightFile):
        def lines(self) -> Iterator[Any]:
            return (line for line in list(FlightFile.lines(self))[:1500])

    monkeypatch.setattr("examples.flights.source.FlightFile", Shrunk)
    assert main([str(path), "--database", str(tmp_path / "f.sqlite3")]) == 1
    assert capfd.readouterr().err == "flights: only 1,500 of 2,000 rows were imported: did the file change?\n"


def test_a_pipeline_that_fails_is_reported(
    path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The producer crashes until the library gives up.
    """

    class Broken:
        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            raise OSError("the disk is gone")

    monkeypatch.setattr(FlightFile, "lines", lambda self: Broken())
    assert main([str(path), "--database", str(tmp_path / "f.sqlite3")]) == 1
    output = capfd.readouterr()
    assert output.err.splitlines()[-1].startswith("flights: the pipeline failed: ")
    assert "the disk is gone" in output.err.splitlines()[-1]
    assert figures(output.out)["rows in"] == "0"
    assert all_running() == []


# The database


def test_a_database_that_cannot_be_used_is_refused(path: Path, tmp_path: Path) -> None:
    """
    One clear line and status 2.
    """
    before = path.read_bytes()
    for database, why in (
        (path, "file is not a database"),
        (tmp_path, "unable to open database file"),
        (tmp_path / "no" / "f.sqlite3", "unable to open database file"),
    ):
        done = run_demo(path, "--database", database, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"flights: cannot use the database {str(database)!r}: {why}\n"
    assert path.read_bytes() == before


@pytest.mark.slow
def test_a_disk_that_is_full_ends_the_import(tmp_path: Path) -> None:
    """
    One clear line and status 1; once there is room, the next run brings the tables to their end.
    """

    def no_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    path = write_file(tmp_path / "f.csv", some_rows(6000))
    done = run_demo(path, "--rate", 2000, cwd=tmp_path, preexec_fn=no_large_files)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert " rows were not stored: " in done.stderr
    assert int(figures(done.stdout)["rows in"].replace(",", "")) < 6000
    done = run_demo(path, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert run_demo(path, "--database", "clean.sqlite3", cwd=tmp_path).returncode == 0
    assert tables(tmp_path / "flights.sqlite3") == tables(tmp_path / "clean.sqlite3")


def test_a_lock_at_the_start_is_reported(path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """
    When the time is up: one clear line and status 2.
    """
    database = tmp_path / "f.sqlite3"
    assert main([str(write_file(tmp_path / "no.csv", [])), "--database", str(database)]) == 0
    capfd.readouterr()
    with locked(database):
        assert main([str(path), "--database", str(database), "--lock-timeout", "0.01"]) == 2
    assert capfd.readouterr() == ("", f"flights: cannot use the database {str(database)!r}: database is locked\n")


def test_a_lock_that_stays_fails_the_rows_and_the_next_run_stores_them(
    path: Path, tmp_path: Path, clean: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Status 1 says that rows are missing; afterwards the tables are as after one clean run.
    """
    database = tmp_path / "f.sqlite3"
    arguments = [str(path), "--database", str(database), "--lock-timeout", "0.01"]
    with contextlib.ExitStack() as stack, monkeypatch.context() as patch:

        def store_and_lock(*arguments: Any, **options: Any) -> Store:
            store = Store(*arguments, **options)
            stack.enter_context(locked(database))
            return store

        patch.setattr(command_module, "Store", store_and_lock)
        capfd.readouterr()
        assert main(arguments) == 1
    out, err = capfd.readouterr()
    assert err == "flights: 2,000 rows were not stored: database is locked; import the file again\n"
    assert figures(out)["not stored: database is locked"] == "2,000"
    assert main(arguments) == 0
    assert tables(database) == clean


def test_all_connections_are_closed(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Which also takes the journal away.
    """
    stores: List[Store] = []

    def make_store(*arguments: Any, **options: Any) -> Store:
        stores.append(Store(*arguments, **options))
        return stores[-1]

    monkeypatch.setattr(command_module, "Store", make_store)
    assert main([str(path), "--database", str(tmp_path / "f.sqlite3")]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"f.csv", "f.sqlite3"}
    assert len(stores) == 1


# The process


@pytest.mark.slow
def test_killed_half_way_and_run_again(path: Path, tmp_path: Path, clean: Any) -> None:
    """
    ``kill -9``: the tables end exactly as after one clean run.
    """
    database = tmp_path / "flights.sqlite3"
    with started_demo(path, "--rate", 100, cwd=tmp_path) as process:
        wait_for_rows(database, 100)
        status, _, _ = finish(process, signal.SIGKILL)
        assert status == -signal.SIGKILL
    killed = tables(database)
    assert 100 <= len(killed["flights"]) < len(clean["flights"])
    done = run_demo(path, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert figures(done.stdout)["rows in"] == "2,000"
    assert tables(database) == clean


@pytest.mark.slow
def test_killed_again_and_again(tmp_path: Path) -> None:
    """
    At full speed, each time a little later, until it comes through: the tables are those of one clean run.
    """
    path = write_file(tmp_path / "f.csv", some_rows(4000))
    database = tmp_path / "flights.sqlite3"
    kills = 0
    for rows in (1, 500, 1500):
        with started_demo(path, "--rate", 2500, cwd=tmp_path) as process:
            wait_for_rows(database, rows)
            kills += finish(process, signal.SIGKILL)[0] == -signal.SIGKILL
    assert kills > 0
    assert run_demo(path, cwd=tmp_path).returncode == 0
    assert run_demo(path, "--database", "clean.sqlite3", cwd=tmp_path).returncode == 0
    assert tables(database) == tables(tmp_path / "clean.sqlite3")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_drains_reports_and_says_so(
    path: Path, tmp_path: Path, clean: Any, number: signal.Signals
) -> None:
    """
    Whatever was read is stored or rejected, the table says how many, the next run does the rest.
    """
    database = tmp_path / "flights.sqlite3"
    with started_demo(path, "--rate", 200, cwd=tmp_path) as process:
        wait_for_rows(database, 1)
        status, out, err = finish(process, number)
    assert status == 128 + number
    found, report = tables(database), figures(out)
    assert err == f"flights: interrupted after {report['rows in']} of 2,000 rows\n"
    assert report["stored"] == f"{len(found['flights']):,}"
    assert report["rejected"] == f"{len(found['rejected']):,}"
    assert report["rows in"] == f"{len(found['flights']) + len(found['rejected']):,}"
    assert 0 < len(found["flights"]) < len(clean["flights"])
    assert "handle_message" in out
    assert run_demo(path, cwd=tmp_path).returncode == 0
    assert tables(database) == clean


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait(path: Path, tmp_path: Path, clean: Any) -> None:
    """
    While the database is locked, which would hold up the drain: the table comes at once, and nothing is half done.
    """
    database = tmp_path / "flights.sqlite3"
    with started_demo(path, "--rate", 400, "--lock-timeout", 25 * SCALE, cwd=tmp_path) as process:
        wait_for_rows(database, 1)
        with locked(database):
            line = ""
            while " rows, " not in line:
                assert process.stdout is not None
                line = process.stdout.readline()
                assert line, "it ended"
            process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):  # it drains, that is, it waits for the lock
                process.wait(1.0)
            status, out, err = finish(process, signal.SIGINT)
    assert status == 130
    assert err == "flights: stopped before all rows that had been read were stored\n"
    report = figures(out)
    assert report["stored"] == f"{count(database, 'flights'):,}"
    assert run_demo(path, cwd=tmp_path).returncode == 0
    assert tables(database) == clean


@pytest.mark.slow
def test_two_signals_at_once(path: Path, tmp_path: Path, clean: Any) -> None:
    """
    Whether it has drained by then or not: status 130, a table, no traceback, and no harm.
    """
    with started_demo(path, "--rate", 200, cwd=tmp_path) as process:
        wait_for_rows(tmp_path / "flights.sqlite3", 1)
        status, out, err = finish(process, signal.SIGINT, signal.SIGINT)
    assert status == 130
    assert "rows in" in out
    assert err.startswith("flights: ")
    assert err.count("\n") == 1
    assert run_demo(path, cwd=tmp_path).returncode == 0
    assert tables(tmp_path / "flights.sqlite3") == clean


@pytest.mark.slow
def test_a_pipe_gets_plain_lines(path: Path, tmp_path: Path) -> None:
    """
    Also where the environment asks for colours.
    """
    with started_demo(path, "--rate", 1500, cwd=tmp_path, env=environment(FORCE_COLOR="1")) as process:
        status, out, err = finish(process)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"importing 2,000 rows of {path} into flights.sqlite3"
    assert " of 2,000 rows, " in lines[1]
    assert "\x1b" not in out
    assert figures(out)["stored"] == "1,400"


@pytest.mark.slow
def test_a_reader_that_goes_away_does_not_end_the_import(path: Path, tmp_path: Path, clean: Any) -> None:
    """
    ``| head -1``: no traceback, all rows.
    """
    with started_demo(path, "--rate", 2000, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("importing")
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(END) == 0
        process.stdout = None
    assert tables(tmp_path / "flights.sqlite3") == clean


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_output_that_cannot_be_written_is_reported(path: Path, tmp_path: Path, clean: Any) -> None:
    """
    All rows are imported; the status says that the report is missing.
    """
    with open("/dev/full", "w") as full:
        done = run_demo(path, cwd=tmp_path, stdout=full)
    assert (done.returncode, done.stderr) == (1, "flights: cannot write to standard output: No space left on device\n")
    assert tables(tmp_path / "flights.sqlite3") == clean


def test_no_output_at_all(path: Path, tmp_path: Path, clean: Any) -> None:
    """
    ``>&-``: the import does not need it.
    """
    done = run_demo(path, cwd=tmp_path, preexec_fn=lambda: os.close(1), stdout=None)
    assert (done.returncode, done.stderr) == (0, "")
    assert tables(tmp_path / "flights.sqlite3") == clean


def test_names_that_the_terminal_cannot_show(tmp_path: Path) -> None:
    """
    Are shown escaped.
    """
    path = write_file(tmp_path / "é[b].csv", [row()])
    done = run_demo(path, cwd=tmp_path, env=environment(PYTHONIOENCODING="ascii"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\xe9[b].csv" in done.stdout


# The command line


def test_help_says_what_it_does(tmp_path: Path) -> None:
    """
    Options, tables and exit statuses.
    """
    done = run_demo("--help", cwd=tmp_path)
    assert done.returncode == 0
    for word in ("FILE", "--database", "--rate", "--lock-timeout", "flights.sqlite3", "rejected", "delays", "130"):
        assert word in done.stdout


@pytest.mark.parametrize(
    "arguments", [["--rate", "0"], ["--rate", "x"], ["--lock-timeout", "nan"], ["--lock-timeout", "inf"], ["a", "b"]]
)
def test_wrong_arguments_are_refused(arguments: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """
    Before anything is read.
    """
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "Traceback" not in capfd.readouterr().err


def test_without_rich_it_says_what_to_install(tmp_path: Path) -> None:
    """
    The library itself does not need it.
    """
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text("raise ImportError(\"No module named 'rich'\")\n")
    env = environment()
    env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), env["PYTHONPATH"]])
    done = run_demo(cwd=tmp_path, env=env)
    assert done.returncode == 2
    assert done.stderr == "flights: No module named 'rich'; to install it: pip install 'broadway_sync[demo]'\n"


def test_ctrl_c_before_the_start_is_quiet(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    While a large file is checked nothing has been touched yet.
    """

    def interrupt(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_module, "check_file", interrupt)
    assert main([str(path), "--database", str(tmp_path / "f.sqlite3")]) == 130
    assert not (tmp_path / "f.sqlite3").exists()


def test_signal_handlers_are_put_back(path: Path, tmp_path: Path) -> None:
    """
    ``main`` may be called by another program.
    """
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert main([str(path), "--database", str(tmp_path / "f.sqlite3")]) == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.slow
def test_a_database_can_be_read_meanwhile(path: Path, tmp_path: Path) -> None:
    """
    A reader in the middle of a transaction neither waits nor is waited for.
    """
    database = tmp_path / "flights.sqlite3"
    with started_demo(path, "--rate", 2000, cwd=tmp_path) as process:
        wait_for_rows(database, 1)
        connection = sqlite3.connect(str(database), isolation_level=None)
        try:
            connection.execute("BEGIN")
            seen = connection.execute("SELECT count(*) FROM flights").fetchone()
            status, _, err = finish(process)
            assert connection.execute("SELECT count(*) FROM flights").fetchone() == seen
        finally:
            connection.close()
    assert (status, err) == (0, "")
    assert count(database, "flights") == 1400
