"""
The tests' own brokers, proxies and processes: what they promise, and that nothing of them is left behind.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from tests.brokers import fixtures
from tests.brokers.broker import Broker, BrokerError
from tests.brokers.elasticmq import ElasticMQ
from tests.brokers.kafka import Kafka
from tests.brokers.kafka_mock import OFFSET_COMMIT, PRODUCE, KafkaMock
from tests.brokers.ministack import MiniStack
from tests.brokers.ports import HOST, Port
from tests.brokers.postgresql import PostgreSQL
from tests.brokers.proxy import Proxy
from tests.brokers.pubsub import PubSub
from tests.brokers.rabbitmq import RabbitMQ
from tests.brokers.statsd import Statsd
from tests.helpers import BOUND, Call, assert_quiet, eventually, python_env

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")

ROOT = Path(__file__).resolve().parent.parent
REAL = ["rabbitmq", "kafka", "elasticmq", "ministack", "pubsub", "postgresql"]


# ---- a small broker, so that most tests need none of the big ones

ECHO = """
import signal, socketserver, subprocess, sys, time
from pathlib import Path

mode, port = sys.argv[1], int(sys.argv[2])
if mode == "broken":
    sys.exit("no such option: --broken")
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path("helper").write_text(str(helper.pid))
with open("starts", "a") as starts:
    starts.write("x")
time.sleep(0.2)  # ready later than started

class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        while True:
            data = self.request.recv(1000)
            if not data:
                return
            self.request.sendall(data.upper())

class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

Server(("127.0.0.1", port), Handler).serve_forever()
"""


class Echo(Broker):
    """
    A server that answers in capitals, counts its starts in a file and leaves a helper process running.
    """

    name = "Echo"

    def __init__(self, mode: str = "normal") -> None:
        super().__init__()
        self.mode = mode
        self.port = self.reserve()

    @classmethod
    def missing(cls) -> str | None:
        """
        Nothing.
        """
        return None

    def command(self) -> list[str]:
        """
        The server.
        """
        return [sys.executable, "-c", ECHO, self.mode, str(self.port)]

    def is_ready(self) -> bool:
        """
        Whether it answers.
        """
        return ask(self.port) == b"READY?"

    @property
    def starts(self) -> int:
        """
        How often it was started on this data.
        """
        return len((self.folder / "starts").read_text())

    @property
    def helper(self) -> int:
        """
        The id of the process that it left running.
        """
        return int((self.folder / "helper").read_text())


def ask(port: int, data: bytes = b"ready?", timeout: float = BOUND) -> bytes:
    """
    Send *data* to a port of this machine and return the first answer.
    """
    with socket.create_connection((HOST, port), timeout) as connection:
        connection.sendall(data)
        return connection.recv(1000)


def is_running(pid: int) -> bool:
    """
    Whether a process exists and is no zombie.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def echo() -> Iterator[Echo]:
    """
    Return the small broker, started.
    """
    with Echo() as broker:
        yield broker


# ---- the verbs


def test_started_broker_answers(echo: Echo) -> None:
    """
    ``start()`` returns when the broker answers; a second one does nothing.
    """
    assert ask(echo.port, b"hello") == b"HELLO"
    pid = echo.pid
    echo.start()
    assert (echo.pid, echo.starts) == (pid, 1)


@pytest.mark.parametrize("hard", [False, True])
def test_restart_keeps_port_and_data(echo: Echo, hard: bool) -> None:
    """
    A restarted broker is a new process on the same port and folder.
    """
    port, pid, helper = echo.port, echo.pid, echo.helper
    echo.restart(hard=hard)
    assert echo.port == port and echo.pid != pid and echo.starts == 2
    assert ask(port) == b"READY?"
    assert not is_running(pid) and not is_running(helper)


@pytest.mark.parametrize("verb", ["stop", "kill"])
def test_broker_is_down(echo: Echo, verb: str) -> None:
    """
    After ``stop()`` and ``kill()`` nobody listens, nothing runs, the data is there; twice does nothing.
    """
    pid, helper = echo.pid, echo.helper
    getattr(echo, verb)()
    getattr(echo, verb)()
    assert not echo.is_running and not is_running(pid) and not is_running(helper)
    with pytest.raises(ConnectionRefusedError):
        ask(echo.port)
    assert echo.starts == 1


def test_stop_ends_what_ignores_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A broker that ignores SIGTERM is killed when its time is over.
    """
    monkeypatch.setattr("tests.brokers.broker.END_BOUND", 0.2)
    with Echo("stubborn") as broker:
        pid = broker.pid
        broker.stop()
        assert not is_running(pid)


def test_paused_broker_hangs(echo: Echo) -> None:
    """
    A paused broker accepts connections and answers nothing, until it is resumed.
    """
    echo.pause()
    with pytest.raises(socket.timeout):
        ask(echo.port, timeout=0.2)
    answer = Call(ask, echo.port)
    echo.resume()
    assert answer.result() == b"READY?"


@pytest.mark.parametrize("verb", ["stop", "kill", "close"])
def test_paused_broker_can_be_ended(echo: Echo, verb: str) -> None:
    """
    A paused broker is ended like any other.
    """
    pid = echo.pid
    echo.pause()
    getattr(echo, verb)()
    assert not is_running(pid)


@pytest.mark.parametrize("harm", ["stop", "kill", "pause", "nothing", "crash"])
def test_revive(echo: Echo, harm: str) -> None:
    """
    A broker that a test left stopped, paused or crashed serves again; one that runs is left alone.
    """
    pid = echo.pid
    if harm == "crash":
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not echo.is_running, "the broker crashed")
    elif harm != "nothing":
        getattr(echo, harm)()
    echo.revive()
    assert ask(echo.port) == b"READY?"
    assert (echo.pid == pid) == (harm in ("pause", "nothing"))


def test_close_removes_everything(echo: Echo) -> None:
    """
    After ``close()`` there is no process, no folder, and the port is free for others.
    """
    pid, helper, folder = echo.pid, echo.helper, echo.folder
    echo.close()
    assert not is_running(pid) and not is_running(helper) and not folder.exists()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as reservation:
        reservation.bind((HOST, echo.port))


def test_broker_that_ends_says_why() -> None:
    """
    A broker that ends at once is an error with the end of its output; its folder is removed.
    """
    broker = Echo("broken")
    with pytest.raises(BrokerError, match="Echo ended before it was ready:\n.*no such option: --broken"), broker:
        pass
    assert not broker.folder.exists()


def test_broker_that_is_never_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A broker that does not answer in time is an error, and does not run on.
    """
    monkeypatch.setattr("tests.brokers.broker.READY_BOUND", 0.5)
    monkeypatch.setattr(Echo, "is_ready", lambda self: False)
    broker = Echo()
    with pytest.raises(BrokerError, match="was not ready in 0.5 s"):
        broker.start()
    assert not broker.is_running
    broker.close()


# ---- ports


def test_ports_are_not_those_of_outgoing_connections() -> None:
    """
    A port is none that the system would give to an outgoing connection, nor one that is reserved or listened on.
    """
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = [Port() for _ in range(20)]
    assert len({port.number for port in ports}) == 20
    assert not any(first <= port.number <= last for port in ports)
    for port in ports:
        port.close()


def test_port_in_use_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Ports that are reserved, or that somebody listens on, are passed over; a closed reservation is free again.
    """
    reserved, other = Port(), Port()
    other.close()
    with socket.create_server((HOST, other.number)):
        monkeypatch.setattr("random.SystemRandom.sample", lambda *_: [reserved.number, other.number])
        with pytest.raises(OSError, match="no free port"):
            Port()
        reserved.close()
        again = Port()
    assert again.number == reserved.number
    again.close()


# ---- nothing is left behind

VICTIM = """
import os, signal, sys, threading, time
from tests.test_brokers import Echo
from tests.brokers.spawn import Spawned

how = sys.argv[1]
broker = Echo().start()
spawned = Spawned("print('up', flush=True)\\nimport time; time.sleep(600)")
spawned.wait_for("up")
if how == "paused":
    broker.pause()
if how == "forked" and os.fork() == 0:  # holds every pipe of its parent open
    time.sleep(600)
print(broker.pid, broker.helper, spawned.pid, broker.folder, flush=True)
if how == "ends":
    sys.exit()
threading.Event().wait()
"""


@pytest.mark.parametrize("how", ["kill", "paused", "forked", "terminate", "ends"])
def test_nothing_outlives_the_tests(how: str) -> None:
    """
    However the process of the tests ends, its brokers, their helpers, spawned processes and folders are gone.
    """
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, how], stdout=subprocess.PIPE, env=python_env(), start_new_session=True
    )
    assert victim.stdout is not None
    *pids, folder = victim.stdout.readline().decode().split()
    try:
        if how != "ends":
            assert all(is_running(int(pid)) for pid in pids)
            victim.send_signal(signal.SIGTERM if how == "terminate" else signal.SIGKILL)
        victim.wait(BOUND)
        eventually(lambda: not any(is_running(int(pid)) for pid in pids), f"the processes {pids} are gone", 2 * BOUND)
        eventually(lambda: not Path(folder).exists(), "the folder is gone")
    finally:
        victim.stdout.close()
        try:
            os.killpg(victim.pid, signal.SIGKILL)  # the forked child
        except ProcessLookupError:
            pass


def test_process_starts_only_when_the_guardian_knows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    If the tests die between the start of a process and its entry at the guardian, its command never runs.
    """
    from tests.brokers.process import Guardian, Process

    monkeypatch.setattr(Process, "_open_gate", lambda self: None)  # died here
    entered = []
    monkeypatch.setattr(Guardian, "enter", lambda kind, what: entered.append((kind, what)))
    process = Process(["touch", str(tmp_path / "ran")], env=os.environ, cwd=tmp_path, stdout=subprocess.DEVNULL)
    assert entered == [("group", process.pid)]
    assert process.is_alive
    assert process.popen.stdin is not None
    process.popen.stdin.close()
    assert process.wait(BOUND) != 0
    assert not (tmp_path / "ran").exists()


# ---- the proxy


class Line:
    """
    A connection to the small broker through the proxy.
    """

    def __init__(self, proxy: Proxy) -> None:
        self.socket = socket.create_connection((HOST, proxy.port), BOUND)

    def ask(self, data: bytes = b"hello") -> bytes:
        """
        Send something and return the answer; empty when the other side has closed.
        """
        self.socket.sendall(data)
        return self.socket.recv(1000)


@pytest.fixture
def proxy(echo: Echo, make_proxy: Callable[..., Proxy]) -> Proxy:
    """
    Return a proxy before the small broker.
    """
    return make_proxy(echo.port)


@pytest.fixture
def connect(proxy: Proxy) -> Iterator[Callable[[], Line]]:
    """
    Return a function that connects through the proxy.
    """
    made: list[Line] = []

    def make() -> Line:
        made.append(Line(proxy))
        return made[-1]

    yield make
    for line in made:
        line.socket.close()


def test_proxy_passes_on(proxy: Proxy, connect: Callable[[], Line]) -> None:
    """
    What goes in comes out, for several connections at once; the proxy counts them.
    """
    lines = [connect() for _ in range(3)]
    assert [line.ask(b"x%d" % number) for number, line in enumerate(lines)] == [b"X0", b"X1", b"X2"]
    assert (proxy.connections, proxy.accepted) == (3, 3)
    lines[0].socket.close()
    eventually(lambda: proxy.connections == 2, "the closed connection is counted no more")


def test_proxy_passes_on_much(proxy: Proxy, connect: Callable[[], Line]) -> None:
    """
    Megabytes come through complete and in order, also when the receiver is slow to read.
    """
    line, data = connect(), bytes(range(97, 123)) * 200_000
    sending = Call(line.socket.sendall, data)
    received = bytearray()
    while len(received) < len(data):
        received += line.socket.recv(1_000_000)
    sending.result()
    assert bytes(received) == data.upper()


def test_proxy_drops(proxy: Proxy, connect: Callable[[], Line]) -> None:
    """
    ``drop()`` closes what is open: both sides see the end of the stream. New connections work.
    """
    line = connect()
    assert line.ask() == b"HELLO"
    proxy.drop()
    assert proxy.connections == 0
    assert line.socket.recv(1000) == b""
    assert connect().ask() == b"HELLO"


def test_proxy_resets(proxy: Proxy, connect: Callable[[], Line]) -> None:
    """
    ``reset()`` makes the next read an error. New connections work.
    """
    line = connect()
    assert line.ask() == b"HELLO"
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        line.socket.recv(1000)
    assert connect().ask() == b"HELLO"


def test_proxy_refuses(proxy: Proxy, connect: Callable[[], Line]) -> None:
    """
    ``refuse()`` refuses new connections and leaves the others; ``accept()`` ends it. Either may be repeated.
    """
    line = connect()
    assert line.ask() == b"HELLO"
    proxy.refuse()
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect()
    assert line.ask(b"still") == b"STILL"
    proxy.accept()
    proxy.accept()
    assert connect().ask() == b"HELLO"


def test_proxy_stalls(proxy: Proxy, connect: Callable[[], Line]) -> None:
    """
    While stalled nothing passes, in old and new connections; ``resume()`` lets through what came meanwhile.
    """
    old = connect()
    assert old.ask() == b"HELLO"
    proxy.stall()
    new = connect()
    for line in (old, new):
        line.socket.settimeout(0.2)
        with pytest.raises(socket.timeout):
            line.ask(b"late")
        line.socket.settimeout(BOUND)
    proxy.resume()
    assert old.socket.recv(1000) == new.socket.recv(1000) == b"LATE"


@pytest.mark.parametrize("verb", ["drop", "reset"])
def test_stalled_connections_can_be_cut(proxy: Proxy, connect: Callable[[], Line], verb: str) -> None:
    """
    Connections that are stalled, with data in them, can be dropped and reset.
    """
    line = connect()
    assert line.ask() == b"HELLO"
    proxy.stall()
    line.socket.sendall(b"lost")
    getattr(proxy, verb)()
    assert proxy.connections == 0
    proxy.resume()
    assert connect().ask() == b"HELLO"


def test_proxy_before_a_broker_that_is_down(echo: Echo, proxy: Proxy, connect: Callable[[], Line]) -> None:
    """
    Behind a proxy, a broker that is down is a connection that is reset at once; after its restart all is well.
    """
    echo.stop()
    with pytest.raises(ConnectionResetError):
        connect().socket.recv(1000)
    echo.start()
    assert connect().ask() == b"HELLO"


def test_broker_that_dies_behind_the_proxy(echo: Echo, proxy: Proxy, connect: Callable[[], Line]) -> None:
    """
    The end of the broker ends the connections through the proxy.
    """
    line = connect()
    assert line.ask() == b"HELLO"
    echo.kill()
    try:
        assert line.socket.recv(1000) == b""
    except ConnectionResetError:
        pass
    eventually(lambda: proxy.connections == 0, "the connection is gone")


def test_proxy_is_gone_after_close(proxy: Proxy) -> None:
    """
    A closed proxy leaves no thread and no listener; closing it twice does nothing.
    """
    proxy.close()
    proxy.close()
    assert not [t for t in threading.enumerate() if t.name == f"proxy {proxy.port}"]
    with pytest.raises(ConnectionRefusedError):
        ask(proxy.port)


def test_proxy_listens_where_it_is_told(echo: Echo, make_proxy: Callable[..., Proxy]) -> None:
    """
    A proxy can listen on a given port: the one that a broker tells its clients.
    """
    port = echo.reserve()
    assert make_proxy(echo.port, listen=port).port == port
    assert ask(port) == b"READY?"


# ---- processes

COUNTER = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("terminated"), sys.exit(3)))
print("arguments", *sys.argv[1:])
for number in range(int(sys.argv[1])):
    print("number", number)
print("oops", file=sys.stderr)
while True:
    time.sleep(0.1)  # a signal right before a sleep is handled after it
"""


def test_spawned_lines_can_be_awaited(spawn: Callable[..., Any]) -> None:
    """
    Lines come in order; what was passed over is not returned again, and stays in ``lines``.
    """
    process = spawn(COUNTER, 5, "b c")
    assert process.line() == "arguments 5 b c"
    assert process.wait_for("number 1") == "number 1"
    assert process.wait_for(lambda line: line.endswith("3")) == "number 3"
    assert process.line() == "number 4"
    assert process.lines == ["arguments 5 b c", *(f"number {n}" for n in range(5))]
    eventually(lambda: process.errors == "oops\n", "the errors are there")


def test_spawned_is_terminated(spawn: Callable[..., Any]) -> None:
    """
    SIGTERM reaches the handler of the process; its last words and its return code are seen.
    """
    process = spawn(COUNTER, 1)
    process.wait_for("number 0")
    process.terminate()
    assert process.wait() == 3
    assert process.lines[-1] == "terminated"
    assert not process.is_alive


def test_spawned_is_killed(spawn: Callable[..., Any]) -> None:
    """
    A killed process is gone at once, whatever it handles.
    """
    process = spawn(COUNTER, 1)
    process.wait_for("number 0")
    process.kill()
    assert not is_running(process.pid)
    assert process.wait() == -signal.SIGKILL
    assert "terminated" not in process.lines


def test_spawned_is_paused(spawn: Callable[..., Any]) -> None:
    """
    A paused process does nothing until it is resumed.
    """
    process = spawn("import itertools, time\nfor n in itertools.count(): print(n); time.sleep(0.01)")
    process.wait_for("3")
    process.pause()
    eventually(lambda: Path(f"/proc/{process.pid}/stat").read_text().split(") ")[1][0] == "T", "it is stopped")
    process._queue.queue.clear()
    seen = len(process.lines)
    assert_quiet(process._queue, "nothing comes from a paused process")
    assert len(process.lines) == seen
    process.resume()
    process.line()


def test_spawned_that_says_something_else(spawn: Callable[..., Any]) -> None:
    """
    A line that does not come in time, or not at all, is a failure that shows the output.
    """
    running = spawn(COUNTER, 1)
    running.wait_for("number 0")
    with pytest.raises(AssertionError, match="no line with 'number 7' in 0.1 s; output:\narguments 1\nnumber 0"):
        running.wait_for("number 7", timeout=0.1)
    ended = spawn("print('only this')\nraise SystemExit('bad')")
    with pytest.raises(AssertionError, match="(?s)ended without a line with 'x'; output:\nonly this.*errors:\nbad"):
        ended.wait_for("x")
    assert ended.wait() == 1


def test_spawned_module_and_file(spawn: Callable[..., Any], tmp_path: Path) -> None:
    """
    A module that can be imported here, or a file, can be run as well as source code.
    """
    (tmp_path / "program.py").write_text("import sys, broadway_sync\nprint('file', sys.argv[1:])")
    assert spawn("tests.brokers.guardian", 0).wait() == 0
    assert spawn(str(tmp_path / "program.py"), "x").line() == "file ['x']"


def test_spawned_is_gone_at_the_end(spawn: Callable[..., Any]) -> None:
    """
    The fixture's end kills what still runs.
    """
    process = spawn(COUNTER, 1)
    process.wait_for("number 0")
    process.close()
    assert not is_running(process.pid)


# ---- fixtures


def test_missing_broker_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What is missing skips a test with what there is to do.
    """
    monkeypatch.delenv("BROADWAY_REQUIRE_BROKERS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="needs java"):
        fixtures.require("needs java")
    fixtures.require(None)


def test_missing_broker_is_a_failure_where_brokers_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    With ``BROADWAY_REQUIRE_BROKERS=1`` what is missing fails the test.
    """
    monkeypatch.setenv("BROADWAY_REQUIRE_BROKERS", "1")
    with pytest.raises(pytest.fail.Exception, match="BROADWAY_REQUIRE_BROKERS=1, but needs java"):
        fixtures.require("needs java")


@pytest.mark.parametrize("broker_class", [RabbitMQ, Kafka, KafkaMock, ElasticMQ, MiniStack, PubSub, PostgreSQL, Statsd])
def test_each_broker_says_what_is_missing(broker_class: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """
    On a machine that has nothing, each broker names what has to be installed.
    """
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("BROADWAY_PUBSUB_EMULATOR", str(tmp_path))
    monkeypatch.setenv("BROADWAY_POSTGRESQL", str(tmp_path))
    for module in ("kafka", "elasticmq", "ministack"):
        monkeypatch.setattr(f"tests.brokers.{module}.JARS", tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert (broker_class.missing() or "").startswith("needs ")


CHOICE = """
import pytest
def test_{name}(rabbitmq, spawn): pass
def test_{name}_bare(spawn): pass
@pytest.mark.parametrize("name", ["kafka"])
def test_{name}_named(request, name): pass
"""


@pytest.mark.parametrize(
    "choice, expected",
    [
        (
            "all",
            {"broker_contract", "broker_contract_bare", "broker_contract_named[kafka]"}
            | {"faults", "faults_bare", "faults_named[kafka]"},
        ),
        ("contract", {"broker_contract", "broker_contract_bare", "broker_contract_named[kafka]", "faults_bare"}),
    ],
)
def test_choice_of_broker_tests(tmp_path: Path, choice: str, expected: set[str]) -> None:
    """
    ``BROADWAY_BROKER_TESTS=contract`` leaves out the tests with brokers outside the contract suites, and no others.
    """
    for name in ("broker_contract", "faults"):
        (tmp_path / f"test_{name}.py").write_text(CHOICE.format(name=name))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = collect(tmp_path, choice)
    found = {line.split("::test_")[1] for line in done.stdout.splitlines() if "::" in line}
    assert found == expected, done.stdout


def test_choice_that_does_not_exist(tmp_path: Path) -> None:
    """
    Another value is an error, not a run of everything or nothing.
    """
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = collect(tmp_path, "some")
    assert "BROADWAY_BROKER_TESTS: expected all or contract, got: 'some'" in done.stdout + done.stderr


def collect(folder: Path, choice: str) -> Any:
    """
    Run pytest's collection under this project's fixtures.
    """
    root = str(Path(__file__).resolve().parent.parent)
    env = python_env({"BROADWAY_BROKER_TESTS": choice, "PYTEST_ADDOPTS": ""})
    options = ["-p", "tests.brokers.fixtures", "-p", "no:cacheprovider", "--collect-only", "-q"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(folder)],
        capture_output=True, text=True, timeout=60, cwd=str(folder),
        env={**env, "PYTHONPATH": f"{root}{os.pathsep}{env['PYTHONPATH']}"},
    )  # fmt: skip


# ---- the real ones


@pytest.fixture(params=REAL)
def broker(request: pytest.FixtureRequest) -> Any:
    """
    Return each of the real brokers in turn.
    """
    return request.getfixturevalue(request.param)


def test_real_broker_listens_on_this_machine_only(broker: Any) -> None:
    """
    Every TCP port of the broker's processes is one of 127.0.0.1.
    """
    listening = [line for line in sockets_of(broker.pid) if not line.startswith("0100007F:")]
    # Erlang and Java may listen on the IPv6 form of the same address, ::ffff:127.0.0.1.
    assert [line for line in listening if not line.startswith("0000000000000000FFFF00000100007F:")] == []


def sockets_of(group: int) -> list[str]:
    """
    Return the local addresses, as the kernel writes them, of the listening TCP sockets of a process group.
    """
    inodes = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[2]) == group:
                inodes |= {os.readlink(str(link)) for link in (folder / "fd").iterdir()}
        except OSError:
            pass  # it ended meanwhile
    rows = [row.split() for name in ("tcp", "tcp6") for row in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes]


def test_real_broker_hangs(broker: Any) -> None:
    """
    A paused broker does not answer; after ``resume()`` it does.
    """
    broker.pause()
    answer = Call(answers, broker)
    assert_quiet(answer._outcome, "a paused broker is silent")
    broker.resume()
    answer.result()


def answers(broker: Any) -> None:
    """
    Return when the broker answers.
    """
    deadline = time.monotonic() + BOUND
    while not broker._answers():
        assert time.monotonic() < deadline


@pytest.mark.parametrize("hard", [False, True])
def test_rabbitmq_keeps_messages(rabbitmq: RabbitMQ, hard: bool) -> None:
    """
    Persistent messages are there after a restart; the helpers agree about their number.
    """
    queue = rabbitmq.queue()
    rabbitmq.publish(queue, ["a", b"b"], headers={"n": 1})
    if hard:
        rabbitmq.sync()
    rabbitmq.restart(hard=hard)
    assert rabbitmq.ready_count(queue) == 2
    assert rabbitmq.counts(queue) == (2, 0)
    taken = rabbitmq.take(queue)
    assert [body for body, _, _ in taken] == [b"a", b"b"]
    assert taken[0][1].headers == {"n": 1}
    rabbitmq.delete_queue(queue)
    with pytest.raises(BrokerError, match="there is no queue"):
        rabbitmq.counts(queue)


def test_rabbitmq_virtual_hosts_are_apart(rabbitmq: RabbitMQ) -> None:
    """
    A new virtual host can be used at once, and knows nothing of the other's queues.
    """
    import pika.exceptions

    queue = rabbitmq.queue()
    with rabbitmq.channel(rabbitmq.url_of(vhost=rabbitmq.vhost())) as channel:
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="no queue"):
            channel.queue_declare(queue, passive=True)


@pytest.mark.parametrize("version", ["kafka", "kafka41"])
def test_kafka_keeps_records_and_offsets(version: str, request: pytest.FixtureRequest) -> None:
    """
    Records and committed offsets are there after a crash; the helpers agree about them.
    """
    kafka = request.getfixturevalue(version)
    topic, group = kafka.topic(3), kafka.group()
    kafka.produce(topic, [(str(n), f"value {n}") for n in range(30)])
    assert kafka.committed(group, topic) == {0: None, 1: None, 2: None}
    consume(kafka, topic, 30, group_id=group)
    kafka.restart(hard=True)
    assert sorted(kafka.values(topic)) == sorted(b"value %d" % n for n in range(30))
    assert kafka.committed(group, topic) == kafka.end_offsets(topic)
    kafka.delete_topic(topic)


def consume(kafka: Kafka, topic: str, count: int, **config: Any) -> None:
    """
    Consume *count* records of a topic, and commit if there is a group.
    """
    with kafka.consumer(**config) as consumer:
        consumer.subscribe([topic])
        seen, deadline = 0, time.monotonic() + 3 * BOUND
        while seen < count:
            assert time.monotonic() < deadline, f"{seen} of {count} records"
            seen += sum(len(records) for records in consumer.poll(timeout_ms=100).values())
        if "group_id" in config:
            consumer.commit()


def test_kafka_through_the_proxy(kafka: Kafka, make_proxy: Callable[..., Proxy]) -> None:
    """
    Every connection of a client that starts at the proxy goes through it.
    """
    topic = kafka.topic()
    kafka.produce(topic, ["a"], partition=0)
    proxy = make_proxy(kafka.proxied_port, listen=kafka.proxy_port)
    consume(kafka, topic, 1, bootstrap_servers=kafka.proxy_bootstrap)
    assert proxy.accepted >= 2  # the first one for the addresses, then that of the broker


@pytest.mark.parametrize("password, is_right", [(Kafka.password, True), ("wrong", False)])
def test_kafka_with_credentials(kafka: Kafka, password: str, is_right: bool) -> None:
    """
    The listener with SASL takes the right password and no other.
    """
    from kafka.errors import KafkaError

    topic = kafka.topic()
    kafka.produce(topic, ["a"])
    config = {"bootstrap_servers": kafka.sasl_bootstrap, "security_protocol": "SASL_PLAINTEXT"}
    config.update(sasl_mechanism="PLAIN", sasl_plain_username=kafka.user, sasl_plain_password=password)
    if is_right:
        consume(kafka, topic, 1, **config)
    else:
        with pytest.raises(KafkaError):
            consume(kafka, topic, 1, **config, bootstrap_timeout_ms=2000)


def test_kafka_mock_fails_as_told(make_kafka_mock: Callable[..., KafkaMock]) -> None:
    """
    Injected errors reach the client, which copes with those that pass.
    """
    from kafka import KafkaConsumer, KafkaProducer, TopicPartition
    from kafka.errors import KafkaError

    mock = make_kafka_mock()
    topic, config = mock.topic(2), {"bootstrap_servers": mock.bootstrap, **mock.client_config}
    mock.fail(PRODUCE, "NOT_LEADER_OR_FOLLOWER", "REQUEST_TIMED_OUT")
    producer = KafkaProducer(**config)
    producer.send(topic, b"a", partition=0).get(timeout=BOUND)
    producer.close()
    consumer = KafkaConsumer(topic, group_id=mock.group(), auto_offset_reset="earliest", **config)
    seen: list[bytes] = []
    while not seen:
        for records in consumer.poll(timeout_ms=100).values():
            seen += [record.value for record in records]
    assert seen == [b"a"]
    mock.fail(OFFSET_COMMIT, "GROUP_AUTHORIZATION_FAILED")
    with pytest.raises(KafkaError, match="GroupAuthorization"):
        consumer.commit()
    mock.clear(OFFSET_COMMIT)
    consumer.commit()
    assert consumer.committed(TopicPartition(topic, 0)) == 1
    consumer.close()


def test_kafka_mock_moves_leaders(make_kafka_mock: Callable[..., KafkaMock]) -> None:
    """
    Clients are told where a partition has gone.
    """
    from kafka import KafkaAdminClient

    mock = make_kafka_mock(brokers=3)
    topic = mock.topic(replicas=3)
    admin = KafkaAdminClient(bootstrap_servers=mock.bootstrap, **mock.client_config)
    for broker in (1, 2, 3):
        mock.set_leader(topic, 0, broker)
        (described,) = admin.describe_topics([topic])
        assert [partition.get("leader", partition.get("leader_id")) for partition in described["partitions"]] == [
            broker
        ]
    admin.close()


def test_kafka_mock_goes_down_and_up(make_kafka_mock: Callable[..., KafkaMock]) -> None:
    """
    One broker without the others, which clients find connected or refused.
    """
    mock = make_kafka_mock(brokers=2)
    addresses = [(HOST, int(address.rpartition(":")[2])) for address in mock.bootstrap.split(",")]

    def are_up() -> list[bool]:
        return [is_up(address) for address in addresses]

    def is_up(address: tuple[str, int]) -> bool:
        try:
            socket.create_connection(address, timeout=BOUND).close()
        except ConnectionRefusedError:
            return False
        return True

    assert are_up() == [True, True]
    mock.down(2)
    eventually(lambda: are_up() == [True, False], "the second broker is down")
    mock.up(2)
    eventually(lambda: are_up() == [True, True], "the second broker is up")


@pytest.mark.parametrize("name, hard", [("elasticmq", False), ("elasticmq", True), ("ministack", False)])
def test_sqs_keeps_messages(name: str, hard: bool, request: pytest.FixtureRequest) -> None:
    """
    Queues and messages are there after a restart (ministack: an orderly one); the helpers agree about them.
    """
    server = request.getfixturevalue(name)
    plain, fifo = server.queue(VisibilityTimeout=30), server.queue(fifo=True)
    server.send(plain, [str(n) for n in range(12)])
    server.send(fifo, [str(n) for n in range(12)], group="g")
    server.restart(hard=hard)
    assert server.counts(plain) == (12, 0, 0)
    assert sorted(message["Body"] for message in server.take(plain)) == sorted(str(n) for n in range(12))
    assert sorted(message["Body"] for message in server.take(fifo)) == sorted(str(n) for n in range(12))
    assert server.counts(plain) == server.counts(fifo) == (0, 0, 0)
    assert plain.rpartition("/")[2] in server.arn(plain)


def test_elasticmq_is_ready_when_it_has_its_queues_back(elasticmq: ElasticMQ) -> None:
    """
    It serves before it has read its file: with many queues in it, the next call used to miss one.
    """
    queues = [elasticmq.queue() for _ in range(200)]
    elasticmq.send(queues[0], ["first"])
    elasticmq.send(queues[-1], ["last"])
    for _ in range(3):
        elasticmq.restart(hard=True)
        assert elasticmq.counts(queues[0]) == elasticmq.counts(queues[-1]) == (1, 0, 0)
    elasticmq.send(queues[1], ["new"])
    assert elasticmq.is_ready()


def test_pubsub_messages(pubsub: PubSub) -> None:
    """
    What is published is pulled; after a restart everything is gone and can be made again under the same names.
    """
    topic = pubsub.topic()
    subscription = pubsub.subscription(topic, enable_message_ordering=True)
    pubsub.publish(topic, ["a", b"b"], ordering_key="k", colour="red")
    taken = pubsub.take(subscription)
    assert [(item.message.data, dict(item.message.attributes)) for item in taken] == [
        (b"a", {"colour": "red"}),
        (b"b", {"colour": "red"}),
    ]
    pubsub.restart()
    pubsub.create_topic(topic)
    pubsub.create_subscription(subscription, topic)
    assert pubsub.pull(subscription) == []


# ---- make brokers

MVN = """#!/bin/sh
for argument; do
  case $argument in -DoutputDirectory=*) folder=${argument#*=};; esac
done
[ -z "$MVN_FAILS" ] || exit 1
mkdir -p "$folder" && touch "$folder/some.jar"
"""

JARS = ("kafka-3.9", "kafka-4.1", "elasticmq")


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make_brokers(folder: Path, *, mvn: str | None, **env: str) -> str:
    """
    Run ``make brokers`` into *folder* with a *mvn* of this content, and without a Python for ministack.
    """
    programs = folder.parent / "programs"
    programs.mkdir(exist_ok=True)
    for name in ("sh", "touch", "mkdir", "mv", "rm", "make", "dirname"):
        (programs / name).exists() or (programs / name).symlink_to(str(shutil.which(name)))
    if mvn is not None:
        (programs / "mvn").write_text(mvn)
        (programs / "mvn").chmod(0o755)
    done = subprocess.run(
        ["make", "brokers", f"BROKERS={folder}", "PYTHON=false"],
        cwd=str(ROOT), capture_output=True, text=True, timeout=60, env={"PATH": str(programs), **env},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ministack: could not be installed" in done.stdout
    return done.stdout


@needs_make
def test_make_brokers_fetches_once(tmp_path: Path) -> None:
    """
    ``make brokers`` puts each broker's jars into its folder, and has nothing to do the next time.
    """
    output = make_brokers(tmp_path / "brokers", mvn=MVN)
    for name in JARS:
        assert f"{name}: fetched into" in output
        assert (tmp_path / "brokers" / name / "some.jar").exists()
    assert "fetched" not in make_brokers(tmp_path / "brokers", mvn=MVN)


@needs_make
def test_make_brokers_without_maven(tmp_path: Path) -> None:
    """
    Without Maven, or when it fails, ``make brokers`` says so and goes on; what was there before stays.
    """
    folder = tmp_path / "brokers"
    (folder / "kafka-3.9").mkdir(parents=True)
    (folder / "kafka-3.9" / "old.jar").touch()
    output = make_brokers(folder, mvn=None)
    assert [f"{name}: not fetched, that needs mvn (Maven)" in output for name in JARS] == [True] * 3
    output = make_brokers(folder, mvn=MVN, MVN_FAILS="1")
    assert [f"{name}: could not be fetched" in output for name in JARS] == [True] * 3
    assert (folder / "kafka-3.9" / "old.jar").exists()
