"""
Outlives the test process by a moment: kills the process groups and removes the folders that it left behind.

Run by ``process.Guardian`` in a session of its own, so that no signal meant for the tests reaches it. It reads one
entry a line from its standard input: ``+group 123``, ``-group 123``, ``+folder /tmp/x``, ``-folder /tmp/x``. When
the input ends, or the parent is another one than at the start (a forked child of the tests may keep the input open),
it clears up what is entered, and ends. The standard library only: it is started as ``python -S -E``.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys

CHECK_INTERVAL = 0.5
"""Seconds between two looks at who the parent is."""


def run(parent: int) -> None:
    """
    Keep the entries until the test process is gone; then clear up.
    """
    entries = {"group": set(), "folder": set()}
    rest = b""
    while os.getppid() == parent:
        if not select.select([0], [], [], CHECK_INTERVAL)[0]:
            continue
        read = os.read(0, 65536)
        if not read:
            break
        *lines, rest = (rest + read).split(b"\n")
        for line in lines:
            enter(entries, line.decode("utf-8"))
    clear_up(entries)


def enter(entries: dict, line: str) -> None:
    """
    Add or remove one entry.
    """
    kind, _, what = line[1:].partition(" ")
    if line.startswith("+"):
        entries[kind].add(what)
    else:
        entries[kind].discard(what)


def clear_up(entries: dict) -> None:
    """
    Kill the groups, then remove the folders, which a process that still runs would fill again.
    """
    for group in entries["group"]:
        try:
            os.killpg(int(group), signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # it ended by itself
    for folder in entries["folder"]:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)  # what a dying process wrote meanwhile


if __name__ == "__main__":
    run(int(sys.argv[1]))
