"""
The files of the page on deployment: what they say fits together, and they do what they say.
"""

from __future__ import annotations

import argparse
import configparser
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple

import pytest

from broadway_sync.runner import RunOptions, add_run_arguments
from tests.helpers import BOUND, eventually, python_env

FOLDER = Path(__file__).resolve().parent.parent.parent / "docs" / "examples" / "deployment"

# A process that is started for real, imports, and is stopped again: on a machine that is busy with other things.
PATIENCE = 2.5 * BOUND

COMMAND = "/srv/shop/venv/bin/broadway-sync"
PYTHON = f"{sys.executable} -m broadway_sync"

# The library may take this much longer than --shutdown until its process is gone: children of a producer that hang in
# stop(), and threads of others that keep the interpreter from ending.
MARGIN = 7

PIPELINE = '''
"""Endless work; what is taken and what is acknowledged is counted in a file when it ends."""
import os, threading
from broadway_sync import Message, Pipeline, Producer

FOLDER = os.environ["SHOP"]

def say(*words):
    with open(os.path.join(FOLDER, "said"), "a") as stream:
        stream.write(" ".join(map(str, words)) + "\\n")

class Endless(Producer):
    taken = acknowledged = 0
    def init(self):
        say("started", os.getpid())
    def handle_demand(self, demand):
        Endless.taken += 1
        return [Message("x", (self, None, None))]
    def ack(self, ref, successful, failed):
        Endless.acknowledged += len(successful)
    def prepare_for_draining(self):
        say("draining")
        return []
    def terminate(self, reason):
        say("ended", Endless.taken, Endless.acknowledged)

class Handler:
    def handle_message(self, processor, message, context):
        while os.path.exists(os.path.join(FOLDER, "hang")):
            threading.Event().wait(0.05)
        return message
    def handle_batch(self, batcher, messages, batch_info, context):
        return messages

def pipeline():
    return Pipeline(
        Handler(), name="invoices", producer={"module": (Endless, {})}, processors={"default": {"concurrency": 1}},
        batchers={"default": {"batch_timeout": 3600}},
    )
'''


class Shop(NamedTuple):
    """
    The project that is deployed, in a folder of its own.
    """

    folder: Path

    @property
    def env(self) -> Dict[str, str]:
        """
        The environment in which it can be imported.
        """
        return python_env({"SHOP": str(self.folder), "PYTHONUNBUFFERED": "1"})

    def said(self, word: str) -> List[List[str]]:
        """
        Return what its pipelines said that begins with *word*.
        """
        path = self.folder / "said"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [line.split()[1:] for line in lines if line.split()[0] == word]

    def started(self, count: int) -> int:
        """
        Wait until a pipeline has started so many times; return the last process.
        """
        eventually(lambda: len(self.said("started")) >= count, f"{count} starts", PATIENCE)
        return int(self.said("started")[-1][0])

    def assert_drained(self, count: int = 1) -> None:
        """
        Wait until a pipeline has ended so many times: everything that was taken has been acknowledged.
        """
        eventually(lambda: len(self.said("ended")) >= count, f"{count} ends", PATIENCE)
        for taken, acknowledged in self.said("ended"):
            assert taken == acknowledged


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """
    Return a project with an endless pipeline ``shop.invoices:pipeline``.
    """
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "invoices.py").write_text(PIPELINE, encoding="utf-8")
    return Shop(tmp_path)


@pytest.fixture
def spawn() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """
    Return a function that starts a process in a session of its own; whatever is left of that is killed at the end.
    """
    made: List[subprocess.Popen[str]] = []

    def start(command: Any, **options: Any) -> subprocess.Popen[str]:
        made.append(subprocess.Popen(command, text=True, start_new_session=True, **options))
        return made[-1]

    yield start
    for process in made:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def needs(program: str) -> str:
    """
    Return the path of a program, or skip.
    """
    found = shutil.which(program) or shutil.which(program, path=os.path.dirname(sys.executable))
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def text_of(name: str) -> str:
    """
    Return an example file.
    """
    return (FOLDER / name).read_text(encoding="utf-8")


def read_ini(name: str) -> configparser.ConfigParser:
    """
    Return an example in the INI format.
    """
    parser = configparser.ConfigParser(interpolation=None, comment_prefixes=("#", ";"))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text_of(name))
    return parser


def run_options(words: List[str]) -> RunOptions:
    """
    Return the options of a command line, as the runner's own parser sees them.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="+")
    add_run_arguments(parser)
    arguments = parser.parse_args(words[words.index("run") + 1 :])
    assert words[: words.index("run")][-1].endswith("broadway-sync")
    assert arguments.targets == ["shop.invoices:pipeline"]
    return RunOptions.from_arguments(arguments)


def seconds(text: str) -> float:
    """
    Return the seconds of "40", "40s", "1min" or "14m".
    """
    match = re.fullmatch(r"(\d+)(s|m|min)?", text)
    assert match is not None, text
    return int(match[1]) * (60 if match[2] in ("m", "min") else 1)


# systemd


def unit_command(name: str) -> List[str]:
    """
    Return the command line of a unit.
    """
    return shlex.split(read_ini(name)["Service"]["ExecStart"].replace("\\\n", " "))


def verify(folder: Path, *units: str) -> str:
    """
    Return what systemd has to say about units.
    """
    analyze = needs("systemd-analyze")
    paths = [str(folder / unit) for unit in units]
    done = subprocess.run(
        [analyze, "verify", "--man=no", *paths], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    return done.stdout + done.stderr


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """
    Return a folder with the units, whose command is one that is here.
    """
    for name in ("invoices.service", "invoices-health.service", "invoices-health.timer"):
        (tmp_path / name).write_text(text_of(name).replace(COMMAND, PYTHON), encoding="utf-8")
    return tmp_path


def test_systemd_takes_the_units(units: Path) -> None:
    """
    Without a word.
    """
    assert verify(units, "invoices.service", "invoices-health.service", "invoices-health.timer") == ""


def test_systemd_would_say_what_is_wrong(units: Path) -> None:
    """
    The check above can fail.
    """
    path = units / "invoices.service"
    path.write_text(path.read_text(encoding="utf-8").replace("TimeoutStopSec=40", "TimeoutStopSec=x"), encoding="utf-8")
    assert "Failed to parse time value" in verify(units, "invoices.service")


def test_systemd_waits_for_the_drain() -> None:
    """
    And starts again what has left on purpose, but not what cannot start.
    """
    service = read_ini("invoices.service")["Service"]
    options = run_options(unit_command("invoices.service"))
    assert seconds(service["TimeoutStopSec"]) > options.shutdown + MARGIN
    assert options.max_memory is not None
    assert (service["Restart"], service["RestartPreventExitStatus"]) == ("always", "2")
    assert (service["KillSignal"], service["KillMode"]) == ("SIGTERM", "mixed")
    unit = read_ini("invoices.service")["Unit"]
    assert int(unit["StartLimitBurst"]) * (seconds(service["RestartSec"]) + 5) < seconds(unit["StartLimitIntervalSec"])


def test_the_timer_of_systemd_reads_the_file_that_the_runner_writes() -> None:
    """
    In a folder that systemd makes.
    """
    service = read_ini("invoices.service")["Service"]
    file = run_options(unit_command("invoices.service")).health_file
    assert file is not None
    assert os.path.dirname(file) == f"/run/{service['RuntimeDirectory']}"
    checker = read_ini("invoices-health.service")
    assert f"{COMMAND} health --missing-ok {file} ||" in checker["Service"]["ExecStart"]


def test_the_check_of_systemd_restarts_what_is_stalled(tmp_path: Path) -> None:
    """
    With the shell command of the unit, and a systemctl that only says what it is told.
    """
    from broadway_sync.runner.health_file import write_file
    from broadway_sync.runner.health_report import Report

    tell = tmp_path / "systemctl"
    tell.write_text("#!/bin/sh\necho systemctl $*\n", encoding="utf-8")
    tell.chmod(0o755)
    file = tmp_path / "invoices.health"
    words = [word.replace(COMMAND, PYTHON) for word in unit_command("invoices-health.service")]
    words = [word.replace("/run/shop/invoices.health", str(file)) for word in words]
    env = python_env({"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    said = []
    for is_live in (None, True, False):
        if is_live is not None:
            write_file(str(file), Report(live=is_live, ready=is_live))
        said.append(subprocess.run(words, capture_output=True, text=True, env=env, timeout=PATIENCE).stdout)
    assert said == [
        f"ok\nthere is no {file}\n",
        "ok\n",
        "not ok\nsystemctl --no-block try-restart invoices.service\n",
    ]


# Kubernetes


@pytest.fixture
def manifest() -> Dict[str, Any]:
    """
    Return the Deployment.
    """
    yaml = pytest.importorskip("yaml")
    found = list(yaml.safe_load_all(text_of("kubernetes.yaml")))
    assert [each["kind"] for each in found] == ["Deployment"]
    return dict(found[0])


def test_kubernetes_finds_its_pods(manifest: Dict[str, Any]) -> None:
    """
    The labels are those that are selected.
    """
    labels = manifest["spec"]["template"]["metadata"]["labels"]
    assert manifest["spec"]["selector"]["matchLabels"] == labels


def test_kubernetes_waits_for_the_drain(manifest: Dict[str, Any]) -> None:
    """
    The arguments are what the runner takes.
    """
    spec = manifest["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    options = run_options(container["command"] + container["args"])
    assert spec["terminationGracePeriodSeconds"] > options.shutdown + MARGIN


def test_kubernetes_probes_reach_the_runner(manifest: Dict[str, Any]) -> None:
    """
    The port has a name, it is the one that the runner listens on, and not on loopback.
    """
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    options = run_options(container["command"] + container["args"])
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {"health": options.health_port}
    assert options.health_host == "0.0.0.0"
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe["port"] for probe in probes.values()} == {"health"}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }


def test_the_probes_of_kubernetes_for_real(manifest: Dict[str, Any], shop: Shop, spawn: Any) -> None:
    """
    The command of the manifest answers them, stalls, and says so; SIGTERM drains it.
    """
    from tests.health.support import ask

    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    port = free_port()
    changed = {"--health-port=8080": f"--health-port={port}", "--stall-after=120": "--stall-after=0.5"}
    words = [changed.get(word, word) for word in [*container["command"], *container["args"]]]
    process = spawn([sys.executable, "-m", "broadway_sync", *words[1:]], cwd=str(shop.folder), env=shop.env)
    paths = [container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
    shop.started(1)
    eventually(lambda: answers(port, paths) == [200, 200, 200], "the probes are answered", PATIENCE)
    (shop.folder / "hang").touch()
    eventually(lambda: answers(port, paths) == [503, 503, 503], "a stall is seen", PATIENCE)
    assert "invoices.Broadway.Processor_default_0" in ask(port, "/livez").text
    (shop.folder / "hang").unlink()
    eventually(lambda: answers(port, paths) == [200, 200, 200], "the stall is over", PATIENCE)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    shop.assert_drained()


def free_port() -> int:
    """
    Return a port that nobody listens on.
    """
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int, paths: List[str]) -> List[int]:
    """
    Return the status of each path; 0 while nobody listens.
    """
    from tests.health.support import ask

    try:
        return [ask(port, path).status for path in paths]
    except OSError:
        return [0]


# supervisord


def test_supervisord_waits_for_the_drain() -> None:
    """
    And starts again what has left on purpose; the other program reads the file that this one writes.
    """
    config = read_ini("supervisord.conf")
    program = config["program:invoices"]
    options = run_options(shlex.split(program["command"]))
    assert int(program["stopwaitsecs"]) > options.shutdown + MARGIN
    assert (program["stopsignal"], program["autorestart"]) == ("TERM", "true")
    check = f"{COMMAND} health --missing-ok --max-age 300 {options.health_file} ||"
    assert check in config["program:invoices-health"]["command"]


@pytest.fixture
def supervised(shop: Shop, spawn: Any) -> Callable[..., Any]:
    """
    Start supervisord with the example, in the shop's folder; return supervisorctl.
    """
    supervisord, supervisorctl = needs("supervisord"), needs("supervisorctl")
    folder = shop.folder
    config = folder / "supervisord.conf"
    control = f"{supervisorctl} -c {config}"
    text = text_of("supervisord.conf").replace("user=shop\n", "")
    for before, after in (
        (COMMAND, PYTHON),
        ("/srv/shop", str(folder)),
        ("/run/shop", str(folder)),
        ("/var/log/shop", str(folder)),
        ("--stall-after 120", "--stall-after 1"),
        ("sleep 30", "sleep 1"),
        ("supervisorctl", control),
        ("startsecs=5", "startsecs=1"),
    ):
        assert before in text
        text = text.replace(before, after)
    config.write_text(
        f"[supervisord]\nnodaemon=true\nlogfile={folder}/log\npidfile={folder}/pid\nchildlogdir={folder}\n"
        f"[unix_http_server]\nfile={folder}/socket\n"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n"
        f"[supervisorctl]\nserverurl=unix://{folder}/socket\n{text}",
        encoding="utf-8",
    )
    process = spawn([supervisord, "-c", str(config)], env=shop.env, stdout=subprocess.DEVNULL)

    def ctl(*words: str) -> str:
        done = subprocess.run(
            [*control.split(), *words], capture_output=True, text=True, timeout=PATIENCE, env=shop.env, check=False
        )
        return done.stdout

    ctl.process = process  # type: ignore[attr-defined]
    return ctl


@pytest.mark.timeout(300)
def test_supervisord_for_real(shop: Shop, supervised: Any) -> None:
    """
    A restart drains; one that is killed comes back; one that stalls is restarted; the end of supervisord drains.
    """
    first = shop.started(1)
    eventually(lambda: "RUNNING" in supervised("status", "invoices"), "it is taken for started", PATIENCE)
    assert "invoices: started" in supervised("restart", "invoices")
    shop.assert_drained(1)
    second = shop.started(2)
    os.kill(second, signal.SIGKILL)
    third = shop.started(3)
    assert len({first, second, third}) == 3
    assert "not ok" not in (shop.folder / "invoices-health.log").read_text(encoding="utf-8")
    (shop.folder / "hang").touch()
    log = shop.folder / "invoices-health.log"
    eventually(lambda: "not ok" in log.read_text(encoding="utf-8"), "the stall is seen", PATIENCE)
    (shop.folder / "hang").unlink()
    shop.started(4)
    shop.assert_drained(2)
    supervised.process.terminate()
    supervised.process.wait(PATIENCE)
    shop.assert_drained(3)


# Docker


def instructions() -> Dict[str, List[str]]:
    """
    Return the last CMD of the Dockerfile and of its HEALTHCHECK.
    """
    lines = [line for line in text_of("Dockerfile").splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        match = re.fullmatch(r"(CMD|HEALTHCHECK .* CMD)\s+(\[.*\])", line.strip())
        if match:
            found[match[1].split()[0]] = json.loads(match[2])
    return found


def test_docker_has_lists_and_no_shell() -> None:
    """
    The runner is process 1, and gets the signals; the check reads the file that it writes.
    """
    found = instructions()
    file = run_options(found["CMD"]).health_file
    assert found["HEALTHCHECK"] == ["broadway-sync", "health", file]


def test_docker_waits_for_the_drain() -> None:
    """
    Longer than the ten seconds that it gives by default.
    """
    yaml = pytest.importorskip("yaml")
    service = yaml.safe_load(text_of("compose.yaml"))["services"]["invoices"]
    assert seconds(service["stop_grace_period"]) > run_options(instructions()["CMD"]).shutdown + MARGIN


def test_as_process_1_it_drains(shop: Shop, spawn: Any) -> None:
    """
    A process 1 has no default actions of signals: without handlers of its own SIGTERM would do nothing.
    """
    unshare = needs("unshare")
    namespace = [unshare, "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system gives no namespace of processes")
    words = [word.replace("/tmp/invoices.health", str(shop.folder / "health")) for word in instructions()["CMD"]]
    process = spawn([*namespace, sys.executable, "-m", "broadway_sync", *words[1:]], cwd=str(shop.folder), env=shop.env)
    assert shop.started(1) == 1
    (child,) = children(process.pid)
    os.kill(child, signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    shop.assert_drained()


def children(pid: int) -> List[int]:
    """
    Return the children of a process.
    """
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    return [int(child) for child in listed.split()]


# a shell


def test_the_probe_in_plain_shell(tmp_path: Path) -> None:
    """
    Live, not live, old, missing.
    """
    import time

    from broadway_sync.runner.health_file import write_file
    from broadway_sync.runner.health_report import Report

    file = tmp_path / "health"

    def probe() -> int:
        return subprocess.run(
            ["/bin/sh", str(FOLDER / "probe.sh"), str(file)], timeout=PATIENCE, check=False
        ).returncode

    answers = [probe()]
    for is_live in (True, False, True):
        write_file(str(file), Report(live=is_live, ready=False))
        answers.append(probe())
    long_ago = time.time() - 180
    os.utime(str(file), (long_ago, long_ago))
    answers.append(probe())
    assert [bool(answer) for answer in answers] == [True, False, True, False, True]


# cron


def cron_line() -> List[str]:
    """
    Return the fields of the one job in the crontab: five for the time, the user, the command.
    """
    (line,) = [
        line for line in text_of("crontab").splitlines() if re.match(r"[\d*]", line) and not line.startswith("#")
    ]
    return line.split(None, 6)


def test_cron_waits_for_the_drain() -> None:
    """
    The limit comes before the next turn, and SIGKILL after the drain.
    """
    *when, user, command = cron_line()
    assert (when[1:], user) == (["*", "*", "*", "*"], "shop")
    words = shlex.split(command.split("&&")[1])
    options = run_options(words)
    kill_after = seconds(next(word for word in words if word.startswith("--kill-after")).partition("=")[2])
    _, foreground, _, duration = words[words.index("timeout") :][:4]
    assert foreground == "--foreground", "else it sends two signals, and the second one stops at once"
    limit = seconds(duration)
    assert kill_after > options.shutdown + MARGIN
    assert limit + options.shutdown < int(when[0].partition("/")[2]) * 60
    assert "%" not in command, "cron takes it for the end of the line"


def test_cron_for_real(shop: Shop, spawn: Any) -> None:
    """
    The limit drains, however long that takes; a second one leaves while the first one runs.
    """
    needs("flock")
    needs("timeout")
    command = cron_line()[-1].replace("14m", "8").replace("/tmp/invoices.lock", str(shop.folder / "lock"))
    command = command.replace("/srv/shop", str(shop.folder)).replace("venv/bin/broadway-sync", PYTHON)
    (shop.folder / "hang").touch()
    first = spawn(["/bin/sh", "-c", command], env=shop.env, stderr=subprocess.PIPE)
    shop.started(1)
    second = spawn(["/bin/sh", "-c", command], env=shop.env)
    assert second.wait(PATIENCE) == 1
    eventually(lambda: shop.said("draining"), "the limit is there", PATIENCE)
    (shop.folder / "hang").unlink()
    assert (first.wait(PATIENCE), first.stderr.read()) == (124, "")
    shop.assert_drained()
    assert len(shop.said("started")) == 1
