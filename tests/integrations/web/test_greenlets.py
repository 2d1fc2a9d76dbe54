"""
gevent and eventlet: what works in a process that they have patched, what is refused, and what is said.
"""

from __future__ import annotations

from typing import Any, Callable, Iterator, List

import pytest

from tests.helpers import run_python
from tests.integrations.web.support import Server, is_installed, requests, require

PATCH = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import warnings; warnings.simplefilter('ignore'); import eventlet; eventlet.monkey_patch()",
}


def needs(patcher: str) -> Any:
    """
    Return the marks for tests with *patcher*.
    """
    return pytest.param(
        patcher, marks=pytest.mark.skipif(not is_installed(patcher), reason=f"{patcher} is not installed")
    )


both = pytest.mark.parametrize("patcher", [needs("gevent"), needs("eventlet")])

PIPELINE = """
import logging, threading, time
logging.basicConfig(format="%(levelname)s %(message)s")
from broadway_sync import Buffer, BufferProducer, Pipeline

class Handler:
    def handle_message(self, processor, message, context):
        time.sleep(0.01)
        return message.put_data(threading.get_ident())

    def handle_batch(self, batcher, messages, batch_info, context):
        return messages

buffer = Buffer(maxsize=10)

def make(name):
    return Pipeline(
        Handler(), name=name, producer={"module": (BufferProducer, {"buffer": buffer})},
        processors={"default": {"concurrency": 3}},
        batchers={"default": {"batch_size": 10, "batch_timeout": 0.05, "concurrency": 2}},
    )
"""

WORKS = """
for name in ("one", "two"):
    pipeline = make(name).start()
    good, bad = pipeline.test_batch(range(55)).collect(55, 10)
    print(len(good), len(bad), len({message.data for message in good}))
    for number in range(50):  # more than it holds
        buffer.push(number, timeout=10)
    pipeline.stop()
    print(pipeline.state, len(buffer))
pipeline.start()
buffer.push(1)
buffer.close()
print(pipeline.join(10), [thread.name for thread in threading.enumerate() if ".Broadway." in thread.name])
"""


@both
def test_a_pipeline_works(patcher: str) -> None:
    """
    With greenlets for threads: handling, batches by size and by time, back-pressure, stop, start again, natural end.
    """
    done = run_python(f"{PATCH[patcher]}\n{PIPELINE}\n{WORKS}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "55 0 3\nstopped 0\n" * 2 + "True []\n"


@both
def test_the_log_says_once_what_that_means(patcher: str) -> None:
    """
    At the first start.
    """
    done = run_python(f"{PATCH[patcher]}\n{PIPELINE}\nfor name in 'ab': make(name).start().stop()")
    assert done.stderr == (
        f"WARNING [a] {patcher} has replaced the threads of this process: stages are greenlets that take turns on one "
        "thread. A callback that computes, or waits in a library written in C, stops all of them, and the requests "
        'that this process serves; see "Use a pipeline in a web process" in the manual\n'
    )


@both
def test_a_patch_that_comes_too_late_is_refused(patcher: str) -> None:
    """
    A stage that waits on a queue that was made for real threads would stop the whole process for ever.
    """
    done = run_python(f"{PIPELINE}\n{PATCH[patcher]}\nmake('late').start()")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        f"broadway_sync.errors.ConfigurationError: pipeline 'late' cannot run in this process: {patcher} has patched "
        "it after broadway_sync was imported, or without its queues. Patch first, before anything else is imported; "
        'see "Use a pipeline in a web process" in the manual'
    )


@both
def test_a_process_that_is_not_patched(patcher: str) -> None:
    """
    Is none of our business, even if the library is loaded.
    """
    module = "gevent.monkey" if patcher == "gevent" else "eventlet.patcher"
    quiet = "import warnings; warnings.simplefilter('ignore')"
    done = run_python(f"{quiet}\nimport {module}\n{PIPELINE}\n{WORKS}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not is_installed("gevent"), reason="gevent is not installed")
def test_gevent_without_threads() -> None:
    """
    Threads that were left alone are real ones: nothing is said.
    """
    done = run_python(f"from gevent import monkey; monkey.patch_all(thread=False, queue=False)\n{PIPELINE}\n{WORKS}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def servers() -> Iterator[Callable[..., Server]]:
    """
    Return a function that makes a server.
    """
    made: List[Server] = []

    def make(**options: Any) -> Server:
        made.append(Server(**options))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.mark.skipif(not is_installed("gevent"), reason="gevent is not installed")
def test_gunicorn_with_gevent(servers: Any) -> None:
    """
    gunicorn's gevent workers run the example of the manual, and lose nothing on a graceful stop.
    """
    require("gunicorn", is_installed("gunicorn"))
    server = servers()
    server.start_gunicorn("--worker-class", "gevent", "clicks:application")
    assert server.log.count("gevent has replaced the threads of this process") == 2
    with requests(server) as clients:
        clients.wait_for(200)
        assert server.stop() == 0, server.log
    assert set(clients.stop()) <= set(server.stored()), server.log
    assert "Traceback" not in server.log, server.log
