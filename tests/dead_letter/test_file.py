"""
Letters in a file.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from broadway_sync import ConfigurationError
from broadway_sync.dead_letter import FileLetters
from tests.dead_letter.support import letter
from tests.helpers import BOUND, SCALE, python_env, run_python


def lines(path: Path) -> list[Any]:
    """
    Return what is in the file.
    """
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_line_for_each_letter(tmp_path: Path) -> None:
    """
    With everything that a letter has.
    """
    path = tmp_path / "dead.jsonl"
    FileLetters(path).write([letter(b"one", topic="a"), letter(b"\xff")])
    FileLetters(str(path)).write([letter("zwei")])
    first, second, third = lines(path)
    assert first["body"] == "one"
    assert first["origin"] == {"topic": "a"}
    assert first["reason"] == "reason"
    assert second["body_base64"] == "/w=="
    assert (third["body"], third["content_type"]) == ("zwei", "text/plain; charset=utf-8")
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0  # not for everybody to read


@pytest.mark.parametrize("path", ["", None, 3])
def test_a_path_is_needed(path: Any) -> None:
    """
    Of a file.
    """
    with pytest.raises(ConfigurationError, match="path: expected the path of a file"):
        FileLetters(path)


@pytest.mark.parametrize("mode", ["a", "0640", None, True, -1])
def test_a_mode_is_permissions(tmp_path: Path, mode: Any) -> None:
    """
    And not how a file is opened.
    """
    with pytest.raises(ConfigurationError, match="mode: expected permissions, such as 0o640, got: "):
        FileLetters(tmp_path / "dead.jsonl", mode=mode)


def test_a_missing_folder_is_not_made(tmp_path: Path) -> None:
    """
    It may be a disk that is not mounted.
    """
    with pytest.raises(FileNotFoundError):
        FileLetters(tmp_path / "no" / "dead.jsonl").write([letter()])


def test_a_line_that_was_torn_is_left_alone(tmp_path: Path) -> None:
    """
    Somebody was killed in the middle of it: the next line begins on a line of its own.
    """
    path = tmp_path / "dead.jsonl"
    path.write_text('{"body": "ha')
    FileLetters(path).write([letter(b"whole")])
    torn, whole = path.read_text().splitlines()
    assert torn == '{"body": "ha'
    assert json.loads(whole)["body"] == "whole"


def test_a_file_may_be_renamed_at_any_time(tmp_path: Path) -> None:
    """
    The next letter makes another one.
    """
    path = tmp_path / "dead.jsonl"
    writer = FileLetters(path)
    writer.write([letter(b"old")])
    path.rename(tmp_path / "dead.jsonl.1")
    writer.write([letter(b"new")])
    assert [line["body"] for line in lines(path)] == ["new"]


FULL = """
import resource, signal, sys
from tests.dead_letter.support import letter
from broadway_sync.dead_letter import FileLetters
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
writer = FileLetters(sys.argv[1])
writer.write([letter(b"fits")])
try:
    writer.write([letter(b"x" * 5000)])
except OSError as error:
    print(type(error).__name__, error.errno)
writer.write([letter(b"fits too")])
"""


def test_a_lot_that_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    """
    A disk that is full has taken a part of it: that is taken back.
    """
    path = tmp_path / "dead.jsonl"
    done = run_python(f"import sys; sys.argv = ['', {str(path)!r}]\n{FULL}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("OSError")
    assert [line["body"] for line in lines(path)] == ["fits", "fits too"]


def test_a_letter_that_does_not_get_to_the_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: Any) -> None:
    """
    Some file systems say only then that they are full: what is tried again must not be there several times.
    """
    path = tmp_path / "dead.jsonl"
    writer = FileLetters(path)
    writer.write([letter(b"before")])
    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", mock.Mock(side_effect=OSError(errno.ENOSPC, "full")))
        for _ in range(3):
            with pytest.raises(OSError, match="full"):
                writer.write([letter(b"again")])
    writer.write([letter(b"again")])
    assert [line["body"] for line in lines(path)] == ["before", "again"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_the_error_is_that_of_the_write() -> None:
    """
    And not that nothing can be taken back from a device.
    """
    with pytest.raises(OSError, match="No space left"):
        FileLetters("/dev/full").write([letter()])


def test_a_folder_that_cannot_be_synchronised(tmp_path: Path, monkeypatch: Any) -> None:
    """
    The letter is in the file; an error would have it written again.
    """
    sync = os.fsync

    def refuse(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "not this file system")
        sync(file)

    monkeypatch.setattr("os.fsync", refuse)
    FileLetters(tmp_path / "dead.jsonl").write([letter(b"once")])
    assert [line["body"] for line in lines(tmp_path / "dead.jsonl")] == ["once"]


WRITER = """
import sys, threading
from tests.dead_letter.support import letter
from broadway_sync.dead_letter import FileLetters
path, process = sys.argv[1:]
writer = FileLetters(path)
def write(thread):
    for number in range(20):
        writer.write([letter(f"{process} {thread} {number} {part} " + "x" * 3000) for part in range(3)])
threads = [threading.Thread(target=write, args=(thread,)) for thread in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_several_threads_and_processes_write_to_one_file(tmp_path: Path) -> None:
    """
    Every letter is there, once, on a line of its own, the letters of a lot together.
    """
    path = tmp_path / "dead.jsonl"
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(number)], env=python_env())
        for number in range(3)
    ]
    assert [process.wait(30 * SCALE) for process in processes] == [0, 0, 0]
    bodies = [line["body"].rsplit(" ", 1)[0] for line in lines(path)]
    wanted = {f"{p} {t} {n} {part}" for p in range(3) for t in range(3) for n in range(20) for part in range(3)}
    assert set(bodies) == wanted
    assert len(bodies) == len(wanted)
    lots = [bodies[at : at + 3] for at in range(0, len(bodies), 3)]
    assert all(len({body.rsplit(" ", 1)[0] for body in lot}) == 1 for lot in lots)


def test_a_child_of_a_fork_waits_for_its_parent(tmp_path: Path) -> None:
    """
    The lock belongs to the open file, which the child does not share: a file is opened for each lot.
    """
    path = tmp_path / "dead.jsonl"
    done = run_python(f"""
import os
from tests.dead_letter.support import letter
from broadway_sync.dead_letter import FileLetters
writer = FileLetters({str(path)!r})
writer.write([letter(b"before")])
child = os.fork()
for number in range(50):
    writer.write([letter(b"x" * 2000), letter(b"y" * 2000)])
if not child:
    os._exit(0)
print(os.waitpid(child, 0)[1])
""")
    assert done.stdout.strip() == "0", done.stderr
    assert len(lines(path)) == 201


def test_nothing_is_left_open(tmp_path: Path) -> None:
    """
    No file, no thread, also after a failure.
    """
    before = set(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else set()
    writer = FileLetters(tmp_path / "dead.jsonl")
    threads = [threading.Thread(target=writer.write, args=([letter()],)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    with pytest.raises(OSError, match="dead"):
        FileLetters(tmp_path / "dead.jsonl" / "dead").write([letter()])
    if before:
        assert len(os.listdir("/proc/self/fd")) == len(before)
