"""
The client: messages as files, one folder for each state. Knows nothing of broadway_sync.

``new/<id>.<attempts>`` waits, ``taken/<id>.<attempts>.<token>`` is being handled, ``failed/`` is for people to look at.
Renaming is atomic: of several consumers that want a file, in whatever process, one gets it. The modification time of a
taken file is when its lease ends; the token keeps a consumer whose lease ended from touching the file of the next one.
"""

import os
import time
import uuid
from collections import namedtuple

Taken = namedtuple("Taken", "name id attempts data")


class Spool:
    """
    A folder of messages. Thread-safe; every method raises ``OSError`` when the folder is out of reach.
    """

    def __init__(self, folder, lease=30.0):
        self.folder = folder
        self.lease = lease

    def path(self, state, name=""):
        return os.path.join(self.folder, state, name)

    def create(self):
        for state in ("tmp", "new", "taken", "failed"):
            os.makedirs(self.path(state), exist_ok=True)

    def put(self, data):
        """
        Add a message of bytes.
        """
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex}.0"
        with open(self.path("tmp", name), "wb") as file:
            file.write(data)
        os.rename(self.path("tmp", name), self.path("new", name))

    def take(self, count):
        """
        Return up to *count* messages, the oldest first; they are ours for the time of the lease.
        """
        taken = []
        for name in sorted(os.listdir(self.path("new"))):
            if len(taken) == count:
                break
            try:
                taken.append(self._take(name))
            except FileNotFoundError:  # another consumer was quicker
                continue
            except OSError:
                if not taken:
                    raise
                break  # what was taken must be returned; the next call raises
        return taken

    def _take(self, name):
        message_id, attempts = name.split(".")
        target = f"{message_id}.{int(attempts) + 1}.{uuid.uuid4().hex[:8]}"
        self._set_lease("new", name)  # before it is taken: an old file would look like a lease that has ended
        os.rename(self.path("new", name), self.path("taken", target))
        with open(self.path("taken", target), "rb") as file:
            return Taken(target, message_id, int(attempts) + 1, file.read())

    def extend(self, name):
        self._set_lease("taken", name)

    def delete(self, name):
        os.remove(self.path("taken", name))

    def release(self, name):
        """
        Put a message back; its attempts are kept.
        """
        os.rename(self.path("taken", name), self.path("new", name.rpartition(".")[0]))

    def reject(self, name):
        os.rename(self.path("taken", name), self.path("failed", name))

    def release_expired(self):
        """
        Put back what consumers held that are gone.
        """
        for name in os.listdir(self.path("taken")):
            try:
                if os.stat(self.path("taken", name)).st_mtime < time.time():
                    self.release(name)
            except FileNotFoundError:  # done in this moment
                continue

    def remaining(self):
        return len(os.listdir(self.path("new"))) + len(os.listdir(self.path("taken")))

    def _set_lease(self, state, name):
        end = time.time() + self.lease  # the clock of the wall: other processes read it
        os.utime(self.path(state, name), (end, end))
