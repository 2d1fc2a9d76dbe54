"""
The statsd daemon itself (the one of Etsy, for Node.js), from npm, with a backend that writes down what it computes.
"""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any, Iterator

from tests.brokers.broker import JARS, Broker
from tests.brokers.ports import HOST

FOLDER = JARS / "statsd" / "node_modules" / "statsd"

FLUSH_INTERVAL = 50
"""Milliseconds between two flushes of the daemon to its backend."""

# A backend is what sends to Graphite, a file here. Counters and timers are those since the last flush, as any backend
# gets them; timer_data are the percentiles that the daemon computes. Every packet is written down too, as it came.
BACKEND = """
const fs = require("fs");
exports.init = function (startup, config, events) {
  const write = (value) => fs.appendFileSync(config.outputFile, JSON.stringify(value) + "\\n");
  events.on("flush", (time, all) => write({
    counters: all.counters, gauges: all.gauges, timers: all.timers, timer_data: all.timer_data,
  }));
  events.on("packet", (packet) => write({packet: packet.toString("latin1")}));
  return true;
};
"""

# util.log is gone in Node.js 23, and the daemon calls it first of all.
SHIM = 'const util = require("util"); util.log = util.log || ((text) => console.log(text));'


class Statsd(Broker):
    """
    One daemon. What it was told is there by metric: each test has names of its own.
    """

    name = "statsd"

    def __init__(self) -> None:
        super().__init__()
        self.host = HOST
        self._management = self.reserve()
        self.port = self.reserve()
        """Its UDP port."""
        self._reservation = self._ports[-1]

    @classmethod
    def missing(cls) -> str | None:
        """
        Node.js, and the daemon.
        """
        if shutil.which("node") is None:
            return "needs node (Node.js) on PATH"
        return None if (FOLDER / "stats.js").exists() else f"needs statsd in {FOLDER} (make brokers)"

    def prepare(self) -> None:
        """
        Write configuration and backend.
        """
        self._reservation.close()  # it holds the UDP port, which is the daemon's
        (self.folder / "backend.js").write_text(BACKEND)
        (self.folder / "shim.js").write_text(SHIM)
        config = {
            "address": HOST,
            "port": self.port,
            "mgmt_address": HOST,
            "mgmt_port": self._management,
            "backends": [str(self.folder / "backend.js")],
            "outputFile": str(self._output),
            "flushInterval": FLUSH_INTERVAL,
            "percentThreshold": [50, 95, 99],
            "deleteCounters": True,
            "deleteTimers": True,
            "keyNameSanitize": False,  # names are to be seen as they came
            "dumpMessages": False,
        }
        (self.folder / "config.js").write_text(json.dumps(config))

    def command(self) -> list[str]:
        """
        Node.js with the daemon.
        """
        return ["node", "-r", str(self.folder / "shim.js"), str(FOLDER / "stats.js"), str(self.folder / "config.js")]

    def is_ready(self) -> bool:
        """
        Ask its management interface.
        """
        with socket.create_connection((HOST, self._management), 5) as connection:
            connection.sendall(b"health\n")
            return b"up" in connection.recv(100)

    # ---- what it was told

    @property
    def _output(self) -> Path:
        return self.folder / "output"

    def _records(self) -> Iterator[dict[str, Any]]:
        if self._output.exists():
            *lines, _ = self._output.read_text(encoding="utf-8").split("\n")  # the last one may not be complete
            yield from map(json.loads, lines)

    def counters(self, prefix: str) -> dict[str, float]:
        """
        Return the sums of all counters with *prefix*, which is left out.
        """
        sums: dict[str, float] = {}
        for record in self._records():
            for name, value in _below(record.get("counters", {}), prefix):
                sums[name] = sums.get(name, 0) + value
        return sums

    def gauges(self, prefix: str) -> dict[str, float]:
        """
        Return the last value of each gauge.
        """
        last: dict[str, float] = {}
        for record in self._records():
            last.update(_below(record.get("gauges", {}), prefix))
        return last

    def timers(self, prefix: str) -> dict[str, list[float]]:
        """
        Return all values of each timer.
        """
        values: dict[str, list[float]] = {}
        for record in self._records():
            for name, more in _below(record.get("timers", {}), prefix):
                values.setdefault(name, []).extend(more)
        return values

    def timer_data(self, prefix: str) -> dict[str, dict[str, float]]:
        """
        Return what the daemon made of each timer at its last flush: ``mean``, ``upper_95``, ...
        """
        last: dict[str, dict[str, float]] = {}
        for record in self._records():
            last.update(_below(record.get("timer_data", {}), prefix))
        return last

    def packets(self, prefix: str) -> list[str]:
        """
        Return the packets that have something with *prefix*.
        """
        return [record["packet"] for record in self._records() if prefix in record.get("packet", "")]

    def bad_lines(self) -> int:
        """
        Return how many lines the daemon did not understand.
        """
        return int(self.counters("statsd.").get("bad_lines_seen", 0))


def _below(metrics: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in metrics.items():
        if name.startswith(prefix):
            yield name[len(prefix) :], value
