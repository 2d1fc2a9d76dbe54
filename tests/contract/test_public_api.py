"""
The names of the public contract, the tree of errors, and what importing the library does not do.
"""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest

import broadway_sync
from tests.helpers import run_python

NAMES = """
    Pipeline all_running get_pipeline
    ProducerOptions ProcessorOptions BatcherOptions RateLimiting PipelineOptions
    Handler Message BatchInfo ack_immediately
    Producer EndOfStream DummyProducer IterableProducer Buffer BufferProducer
    NoopAcknowledger CallerAcknowledger
    partition_key TestRef telemetry
    BroadwayError ConfigurationError AlreadyStartedError NotRunningError RateLimitingNotEnabledError
    AckConfigurationError InvalidReturnError UnknownBatcherError DrainTimeoutError PipelineFailedError ConnectorError
""".split()

ERRORS = {
    "ConfigurationError": ValueError,
    "AlreadyStartedError": RuntimeError,
    "NotRunningError": RuntimeError,
    "RateLimitingNotEnabledError": RuntimeError,
    "AckConfigurationError": TypeError,
    "InvalidReturnError": TypeError,
    "UnknownBatcherError": ValueError,
    "DrainTimeoutError": TimeoutError,
    "PipelineFailedError": RuntimeError,
    "ConnectorError": Exception,
}


@pytest.mark.parametrize("name", NAMES)
def test_name_is_public(name: str) -> None:
    """
    Every name of the contract is importable from the package itself and listed in ``__all__``.
    """
    assert hasattr(broadway_sync, name)
    assert name in broadway_sync.__all__


def test_all_names_exist() -> None:
    """
    ``__all__`` lists nothing that is not there.
    """
    assert [name for name in broadway_sync.__all__ if not hasattr(broadway_sync, name)] == []


@pytest.mark.parametrize(("name", "base"), ERRORS.items())
def test_error_tree(name: str, base: type[Exception]) -> None:
    """
    Every error is a ``BroadwayError`` and also the kind of built-in error that a Python user would catch.
    """
    error = getattr(broadway_sync, name)
    assert issubclass(error, broadway_sync.BroadwayError)
    assert issubclass(error, base)


def test_end_of_stream_is_no_error_of_the_library() -> None:
    """
    ``EndOfStream`` is a plain exception: it ends a stream and is no failure.
    """
    assert issubclass(broadway_sync.EndOfStream, Exception)
    assert not issubclass(broadway_sync.EndOfStream, broadway_sync.BroadwayError)


def test_public_names_have_docstrings() -> None:
    """
    Every public class and function says what it is.
    """
    assert [n for n in NAMES if not (getattr(broadway_sync, n).__doc__ or "").strip()] == []


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_errors_survive_a_pickle(duplicate: Any) -> None:
    """
    A worker process can raise them to its parent.
    """
    error = broadway_sync.DrainTimeoutError("2 messages were left", 2, {"thread": "stack"})
    for name in ERRORS:
        given = error if name == "DrainTimeoutError" else getattr(broadway_sync, name)("the text")
        found = duplicate(given)
        assert (type(found), str(found)) == (type(given), str(given))
    found = duplicate(error)
    assert (found.left_behind, found.threads) == (2, {"thread": "stack"})


IMPORT_PROBE = """
import json, sys, threading
before = set(sys.modules)
import broadway_sync
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
standard = getattr(sys, "stdlib_module_names", loaded) if hasattr(sys, "stdlib_module_names") else None
print(json.dumps({
    "threads": len(threading.enumerate()),
    "foreign": None if standard is None else sorted(n for n in loaded if n not in standard),
    "clients": sorted(loaded & {"pika", "kafka", "confluent_kafka", "boto3", "botocore", "google", "statsd",
                                "django", "flask", "requests", "pytest"}),
    "connectors": sorted(n for n in sys.modules if n.startswith(("broadway_sync.connectors",
                                                                 "broadway_sync.integrations"))),
}))
"""


def test_import_loads_no_client_library_and_starts_no_thread() -> None:
    """
    Importing the package loads attrs and nothing else from outside, no connector, starts no thread and prints nothing.
    """
    done = run_python(IMPORT_PROBE)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["threads"] == 1
    assert found["clients"] == []
    assert found["connectors"] == []
    if found["foreign"] is not None:
        assert set(found["foreign"]) <= {"broadway_sync", "attr", "attrs"}


def test_import_configures_no_logging() -> None:
    """
    Importing adds no log handler that writes anything and sets no level.
    """
    probe = """
import logging, broadway_sync
logger = logging.getLogger("broadway_sync")
handlers = [h for h in logger.handlers + logging.getLogger().handlers if not isinstance(h, logging.NullHandler)]
print(handlers, logger.level, logger.propagate)
"""
    done = run_python(probe)
    assert (done.stdout.strip(), done.stderr) == ("[] 0 True", "")


def test_import_touches_no_signal_and_no_hook() -> None:
    """
    Importing replaces no signal handler and no exception hook of the program.
    """
    probe = """
import signal, sys, threading
before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)], sys.excepthook, threading.excepthook
import broadway_sync
after = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)], sys.excepthook, threading.excepthook
print(before == after)
"""
    done = run_python(probe)
    assert (done.stdout.strip(), done.stderr) == ("True", "")


def test_import_works_with_warnings_as_errors() -> None:
    """
    Importing uses nothing that this Python deprecates.
    """
    done = run_python("import broadway_sync", flags=["-W", "error"])
    assert (done.returncode, done.stderr) == (0, "")
