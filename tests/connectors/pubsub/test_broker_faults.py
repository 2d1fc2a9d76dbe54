"""
PubSubProducer on Google's emulator under faults: nothing is lost, twice comes only what was in flight.
"""

from __future__ import annotations

import json
import os
import threading
import time
from typing import Any, Callable

import pytest

from broadway_sync import Message
from broadway_sync.connectors.common.events import ACKNOWLEDGE, CONNECT, RECEIVE
from tests.brokers.pubsub import PubSub
from tests.connectors.pubsub.support import LEASE, failures, is_empty, numbers
from tests.connectors.recorder import LONG, Recorder
from tests.helpers import SCALE, Call, Gate, eventually, stage_threads

CONSUMER = "tests.connectors.pubsub.consumer"


def settings(**given: Any) -> str:
    """
    Return the settings of a consumer process.
    """
    return json.dumps(given)


def done(*consumers: Any) -> list[str]:
    """
    Return what consumer processes have done, with repetitions.
    """
    return [line[4:] for consumer in consumers for line in list(consumer.lines) if line.startswith("did ")]


def began(consumer: Any) -> int:
    """
    Return how many messages a consumer process has begun.
    """
    return sum(line.startswith("began ") for line in list(consumer.lines))


def acknowledged(consumer: Any) -> int:
    """
    Return how many acknowledgements of a consumer process were accepted, as far as it could say.
    """
    return sum(int(line.split()[1]) for line in list(consumer.lines) if line.startswith("acknowledged "))


def wait_until_done(data: list[str], *consumers: Any) -> None:
    """
    Wait until the processes have done all of *data*.
    """
    wanted = set(data)
    eventually(lambda: wanted <= set(done(*consumers)), "everything is done by the processes", LONG)


def wait_until_half(data: list[str], consumer: Any) -> None:
    """
    Wait until a process is half way through *data*.
    """
    eventually(lambda: len(done(consumer)) >= len(data) // 2, "half of it is done", LONG)


# ---- processes that die


def test_consumer_is_killed(emulator: PubSub, topic: str, subscription: str, spawn: Callable[..., Any]) -> None:
    """
    Half way, with SIGKILL; another one is started, and does the rest and what was in flight.
    """
    data = numbers(600)
    emulator.publish(topic, data)
    first = spawn(CONSUMER, subscription, settings(pause=0.005))
    wait_until_half(data, first)
    eventually(lambda: acknowledged(first) > 0, "some of it is acknowledged", LONG)
    first.kill()
    second = spawn(CONSUMER, subscription)
    second.wait_for("running")  # it listens to signals, even if there was nothing left to do
    wait_until_done(data, first, second)
    second.terminate()
    assert second.wait() == 0, second.errors
    again = set(done(second)) & {line[6:] for line in first.lines if line.startswith("began ")}
    assert len(again) <= began(first) - acknowledged(first)
    assert len(done(second)) == len(set(done(second)))
    assert is_empty(emulator, subscription)


def test_one_of_several_processes_dies(
    emulator: PubSub, topic: str, subscription: str, spawn: Callable[..., Any]
) -> None:
    """
    Three share the work; the others do what one of them leaves behind.
    """
    data: list[str] = []
    consumers = [spawn(CONSUMER, subscription, settings(pause=0.005)) for _ in range(3)]

    def all_have_worked() -> bool:
        if len(data) < 300 + len(done(*consumers)):  # one that comes late has something to do
            more = numbers(100, start=len(data))
            emulator.publish(topic, more)
            data.extend(more)
        return min(len(done(consumer)) for consumer in consumers) > 20

    eventually(all_have_worked, "all three work", LONG)
    dead, *others = consumers
    dead.kill()
    wait_until_done(data, *consumers)
    for consumer in others:
        consumer.terminate()
        assert consumer.wait() == 0, consumer.errors
    repeated = len(done(*consumers)) - len(set(done(*consumers)))
    assert repeated <= began(dead) - acknowledged(dead)
    assert is_empty(emulator, subscription)


def test_sigterm_with_full_buffers(emulator: PubSub, topic: str, spawn: Callable[..., Any]) -> None:
    """
    What was begun is done and acknowledged, the rest is handed back at once: another process need not wait for leases.
    """
    subscription = emulator.subscription(topic, ack_deadline_seconds=60)
    data = numbers(500)
    emulator.publish(topic, data)
    first = spawn(
        CONSUMER,
        subscription,
        settings(pause=0.02, options={"max_number_of_messages": 1000}, settings={
            "processors": {"default": {"concurrency": 2, "max_demand": 40}}
        }),
    )  # fmt: skip
    eventually(lambda: len(done(first)) >= 20, "it works", LONG)
    stopped = time.monotonic()
    first.terminate()
    assert first.wait() == 0, first.errors
    assert time.monotonic() - stopped < 30 * SCALE  # 80 messages of 0.02 s on two processors, and Python's own end
    assert len(done(first)) == began(first) == acknowledged(first)
    assert len(done(first)) < len(data)
    rest = {received.message.data.decode() for received in emulator.take(subscription)}
    assert rest == set(data) - set(done(first))


def test_a_process_that_ends_during_a_pull(emulator: PubSub, subscription: str, spawn: Callable[..., Any]) -> None:
    """
    Python's own end does not wait for the pull, nor crash over it.
    """
    consumer = spawn(CONSUMER, subscription, settings(options={"receive_timeout": None}))
    consumer.wait_for("running")
    time.sleep(0.5 * SCALE)  # it pulls; nothing says so from outside
    stopped = time.monotonic()
    consumer.terminate()
    assert consumer.wait() == 0, consumer.errors
    assert time.monotonic() - stopped < 15 * SCALE
    assert consumer.lines[-1] == "stopped"
    assert "Traceback" not in consumer.errors and "Fatal" not in consumer.errors


# ---- the service


def test_service_is_killed_and_restarted(
    emulator: PubSub, topic: str, subscription: str, start: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """
    The emulator forgets everything: topic and subscription are made again, and the pipeline goes on by itself.
    """
    caplog.set_level("INFO", logger="broadway_sync")
    first = numbers(100)
    emulator.publish(topic, first)
    recorder = Recorder()
    pipeline = start(subscription, recorder)
    recorder.wait_for_data(first)
    emulator.kill()
    eventually(lambda: failures(caplog, "no connection: ServiceUnavailable"), "the loss is told", LONG)
    emulator.start()
    eventually(lambda: failures(caplog, "no connection: NotFound"), "what is missing is told", LONG)
    emulator.create_topic(topic)
    emulator.create_subscription(subscription, topic, ack_deadline_seconds=LEASE)
    second = numbers(100, start=100)
    emulator.publish(topic, second)
    recorder.wait_for_data(second)
    pipeline.stop()
    assert recorder.duplicates() <= set(first)
    assert is_empty(emulator, subscription)
    assert len(failures(caplog, "no connection: ServiceUnavailable")) == 1
    assert len(failures(caplog, "no connection: NotFound")) == 1
    assert "connected again" in caplog.text


def test_service_is_down_at_the_start(
    emulator: PubSub,
    topic: str,
    subscription: str,
    start: Callable[..., Any],
    hear: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """
    start() does not fail; every attempt is a span, the log says it once; a stop does not wait for it.
    """
    attempts = hear(CONNECT + ("exception",))
    emulator.kill()
    pipeline = start(subscription)
    attempts.wait_for(4)
    assert len(failures(caplog)) == 1
    began_to_stop = time.monotonic()
    pipeline.stop()
    assert time.monotonic() - began_to_stop < 4 * SCALE
    recorder = Recorder()
    pipeline = start(subscription, recorder)
    emulator.start()
    emulator.create_topic(topic)
    emulator.create_subscription(subscription, topic)
    emulator.publish(topic, ["a"])
    recorder.wait_for_data(["a"])


def test_service_hangs(
    emulator: PubSub, topic: str, subscription: str, start: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """
    A port that is open and does not answer is told from an idle subscription.
    """
    caplog.set_level("INFO", logger="broadway_sync")
    recorder = Recorder()
    start(subscription, recorder, options={"receive_timeout": 1.0})
    emulator.publish(topic, ["a"])
    recorder.wait_for_data(["a"])
    emulator.pause()
    eventually(lambda: failures(caplog, "no connection: DeadlineExceeded"), "it is told", LONG)
    emulator.resume()
    eventually(lambda: "connected again" in caplog.text, "it goes on", LONG)
    emulator.publish(topic, ["b"])
    recorder.wait_for_data(["b"])


# ---- the connection


@pytest.fixture
def cut(
    emulator: PubSub,
    topic: str,
    subscription: str,
    start: Callable[..., Any],
    make_proxy: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., None]:
    """
    Return a function that runs a pipeline through a proxy and lets a fault happen half way.
    """

    def run(fault: Callable[[Any], None], **options: Any) -> None:
        proxy = make_proxy(emulator.port)
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{proxy.port}")
        data = numbers(300)
        emulator.publish(topic, data)
        recorder = Recorder(lambda message: time.sleep(0.005))
        pipeline = start(subscription, recorder, options=options)
        recorder.wait_for(lambda: len(recorder.counts) >= 100)
        fault(proxy)
        recorder.wait_for_data(data)
        eventually(lambda: is_empty(emulator, subscription), "everything is acknowledged", LONG)
        pipeline.stop()
        # Two processors of ten messages, the acknowledgements on their way, and a pull of ten that was cut off.
        assert len(recorder.duplicates()) <= 60

    return run


def test_connection_is_dropped(cut: Callable[..., None]) -> None:
    """
    Closed, several times.
    """

    def fault(proxy: Any) -> None:
        for _ in range(3):
            proxy.drop()
            time.sleep(0.1 * SCALE)

    cut(fault)


def test_connection_is_reset(cut: Callable[..., None]) -> None:
    """
    With RST, and refused for a while.
    """

    def fault(proxy: Any) -> None:
        proxy.refuse()
        proxy.reset()
        time.sleep(0.5 * SCALE)
        proxy.accept()

    cut(fault)


def test_connection_stalls(cut: Callable[..., None]) -> None:
    """
    For longer than the lease and every timeout; what came late is refused or repeated.
    """

    def fault(proxy: Any) -> None:
        proxy.stall()
        time.sleep(2 * LEASE * SCALE)
        proxy.resume()

    cut(fault, receive_timeout=1.0)


# ---- slow and stopped


def test_stop_in_the_middle_of_a_long_pull(
    emulator: PubSub, topic: str, start: Callable[..., Any], hear: Callable[..., Any]
) -> None:
    """
    It does not wait for the pull. What the pull still brings is handed back, then the connection is closed.
    """
    subscription = emulator.subscription(topic, ack_deadline_seconds=600)
    pulls = hear(RECEIVE + ("start",))
    pipeline = start(subscription, options={"receive_timeout": None})
    pulls.wait_for(1)
    began_to_stop = time.monotonic()
    pipeline.stop()
    assert time.monotonic() - began_to_stop < 4 * SCALE
    assert [thread.name for thread in stage_threads(pipeline.name)] == [f"{pipeline.name}.Broadway.Producer_0.Receiver"]
    emulator.publish(topic, ["late"])
    eventually(lambda: not stage_threads(pipeline.name), "the pull has returned", LONG)
    assert [received.message.data for received in emulator.take(subscription)] == [b"late"]


def test_stop_hands_back_what_was_not_begun(
    emulator: PubSub, topic: str, start: Callable[..., Any], gates: Callable[[], Gate]
) -> None:
    """
    In full, at once, without waiting for the lease.
    """
    subscription = emulator.subscription(topic, ack_deadline_seconds=600)
    emulator.publish(topic, numbers(100))
    gate = gates()
    recorder = Recorder(lambda message: gate.wait())
    pipeline = start(subscription, recorder, processors={"default": {"concurrency": 2, "max_demand": 2}})
    recorder.wait_for(lambda: len(recorder.order) == 2)
    stop = Call(pipeline.stop)
    eventually(lambda: pipeline.state == "draining", "the stop has begun")
    gate.open()
    stop.result()
    rest = {received.message.data.decode() for received in emulator.take(subscription)}
    assert rest == set(numbers(100)) - set(recorder.order)
    assert recorder.duplicates() == set()


def test_expired_ids(
    emulator: PubSub, topic: str, subscription: str, start: Callable[..., Any], gates: Callable[[], Gate],
    hear: Callable[..., Any], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """
    A message that was held for longer than max_lease comes again, and both copies are handled; no error comes of it.
    """
    emulator.publish(topic, ["a"])
    gate = gates()
    recorder = Recorder(lambda message: gate.wait())
    pipeline = start(
        subscription, recorder, options={"max_lease": 0.5}, processors={"default": {"concurrency": 2, "max_demand": 1}}
    )
    recorder.wait_for(lambda: recorder.counts["a"] == 2)
    gate.open()
    eventually(lambda: is_empty(emulator, subscription), "it is acknowledged", LONG)
    pipeline.stop()
    assert len(failures(caplog, "the leases of 1 messages were lost")) >= 1
    assert failures(caplog, "not accepted") == []


# ---- acknowledgements that fail


class Failing:
    """
    Makes requests of the client library fail.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from google.cloud import pubsub_v1

        self._patch = monkeypatch
        self._class = pubsub_v1.SubscriberClient

    def times(self, count: int, method: str, error: Exception) -> list[Any]:
        """
        Let the next *count* requests fail; return a list of them.
        """
        original = getattr(self._class, method)
        failed: list[Any] = []
        lock = threading.Lock()

        def request(client: Any, *args: Any, **kwargs: Any) -> Any:
            with lock:
                must_fail = len(failed) < count
                if must_fail:
                    failed.append(kwargs)
            if must_fail:
                raise error
            return original(client, *args, **kwargs)

        self._patch.setattr(self._class, method, request)
        return failed


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Failing:
    """
    Return what makes requests fail.
    """
    return Failing(monkeypatch)


def test_acknowledgement_fails_once(
    emulator: PubSub,
    topic: str,
    subscription: str,
    start: Callable[..., Any],
    failing: Failing,
    hear: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """
    It is told, and sent again: nothing comes twice.
    """
    from google.api_core import exceptions

    spans = hear(ACKNOWLEDGE + ("exception",))
    failed = failing.times(1, "acknowledge", exceptions.ServiceUnavailable("for a moment"))
    emulator.publish(topic, numbers(20))
    recorder = Recorder()
    pipeline = start(subscription, recorder)
    recorder.wait_for_data(numbers(20))
    spans.wait_for(1)
    pipeline.stop()
    assert len(failed) == 1
    assert recorder.duplicates() == set()
    assert is_empty(emulator, subscription)
    (said,) = failures(caplog)
    assert "ServiceUnavailable: 503 for a moment" in said


def test_extension_fails_once(
    emulator: PubSub, topic: str, subscription: str, start: Callable[..., Any], failing: Failing
) -> None:
    """
    It is tried again before the lease is over.
    """
    from google.api_core import exceptions

    failed = failing.times(1, "modify_ack_deadline", exceptions.InternalServerError("for a moment"))
    emulator.publish(topic, ["a"])
    recorder = Recorder(lambda message: time.sleep(1.5 * LEASE))
    pipeline = start(subscription, recorder)
    recorder.wait_for_data(["a"])
    pipeline.stop()
    assert len(failed) == 1
    assert recorder.counts["a"] == 1
    assert is_empty(emulator, subscription)


# ---- rights and names


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("Unauthenticated", "401 {}: Request had invalid authentication credentials."),
        ("PermissionDenied", "403 {}: User not authorized to perform this action."),
        ("NotFound", "404 {}: Resource not found (resource=orders)."),
    ],
)
def test_no_rights(
    emulator: PubSub,
    topic: str,
    subscription: str,
    start: Callable[..., Any],
    failing: Failing,
    hear: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    error: str,
    text: str,
) -> None:
    """
    A clear error, once; attempts at the pace of the back-off; when it is mended the pipeline works.
    """
    from google.api_core import exceptions

    kind = getattr(exceptions, error)
    attempts = hear(RECEIVE + ("exception",), CONNECT + ("exception",))
    failing.times(1, "get_subscription", kind(text[8:]))
    failing.times(3, "pull", kind(text[8:]))
    emulator.publish(topic, ["a"])
    recorder = Recorder()
    start(subscription, recorder)
    recorder.wait_for_data(["a"])
    said = failures(caplog, "no connection")
    assert len(said) in (1, 2)  # refused when connecting, and again when pulling, if connecting succeeded in between
    assert all(f"no connection: {error}: {text.format(subscription)}" in line for line in said)
    assert len(attempts.events) in (3, 4)


def test_credentials_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, start: Callable[..., Any], hear: Callable[..., Any], caplog: Any, tmp_path: Any
) -> None:
    """
    A clear error that shows nothing of the file, once; attempts at the pace of the back-off.
    """
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    path = tmp_path / "account.json"
    path.write_text(json.dumps({"type": "service_account", "private_key": "hunter2"}))
    attempts = hear(CONNECT + ("exception",))
    pipeline = start("projects/acme/subscriptions/orders", options={"credentials": str(path)})
    attempts.wait_for(3)
    pipeline.stop()
    (said,) = failures(caplog)
    assert "Service account info was not in the expected format" in said
    assert "hunter2" not in caplog.text


def test_no_service_at_the_endpoint(
    monkeypatch: pytest.MonkeyPatch,
    start: Callable[..., Any],
    hear: Callable[..., Any],
    caplog: Any,
    make_proxy: Callable[..., Any],
) -> None:
    """
    base_url is where it goes, over TLS and with credentials: to a port that refuses.
    """
    from google.auth.credentials import AnonymousCredentials

    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    proxy = make_proxy(1)
    proxy.refuse()
    attempts = hear(CONNECT + ("exception",))
    options = {"base_url": f"https://127.0.0.1:{proxy.port}", "credentials": AnonymousCredentials()}
    pipeline = start("projects/acme/subscriptions/orders", options=options)
    attempts.wait_for(2)
    pipeline.stop()
    (said,) = failures(caplog)
    assert f"127.0.0.1:{proxy.port}" in said and "ServiceUnavailable" in said


def test_backoff_type_stop(emulator: PubSub, start: Callable[..., Any]) -> None:
    """
    Then the pipeline ends with the first error.
    """
    from broadway_sync import ConnectorError, PipelineFailedError

    pipeline = start(
        f"projects/{emulator.project}/subscriptions/missing", options={"backoff_type": "stop"}, max_restarts=0
    )
    with pytest.raises(PipelineFailedError) as caught:
        pipeline.join(LONG)
    assert isinstance(caught.value.__cause__, ConnectorError)
    assert "NotFound: 404" in str(caught.value.__cause__)


# ---- fork


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_pipeline_in_a_forked_child(
    emulator: PubSub, topic: str, subscription: str, spawn: Callable[..., Any]
) -> None:
    """
    The library is imported before the fork, the client is made after it.
    """
    emulator.publish(topic, ["a"])
    source = """
import os, sys, threading
from google.cloud import pubsub_v1
from broadway_sync import Pipeline
from broadway_sync.connectors.pubsub import PubSubProducer

class Handler:
    def handle_message(self, processor, message, context):
        print("did", message.data.decode(), flush=True)
        handled.set()
        return message

handled = threading.Event()
producer = {"module": (PubSubProducer, {"subscription": sys.argv[1], "receive_timeout": 2.0})}
pipeline = Pipeline(Handler(), name="forked", producer=producer, processors={"default": {"concurrency": 1}})
pid = os.fork()
if pid == 0:
    with pipeline:
        handled.wait(20)
    print("stopped", flush=True)
    os._exit(0)
sys.exit(os.waitpid(pid, 0)[1])
"""
    process = spawn(source, subscription)
    assert process.wait() == 0, process.errors
    assert process.lines == ["did a", "stopped"]
    assert is_empty(emulator, subscription)


def test_handlers_that_raise_do_not_disturb_leases(
    emulator: PubSub, topic: str, subscription: str, start: Callable[..., Any]
) -> None:
    """
    A failure of one message lets only its own lease run out.
    """
    emulator.publish(topic, ["bad", "good"])

    def work(message: Message) -> None:
        if message.data == b"bad" and recorder.counts["bad"] == 1:
            raise ValueError("once")
        if message.data == b"good":
            time.sleep(1.5 * LEASE)

    recorder = Recorder(work)
    pipeline = start(subscription, recorder, processors={"default": {"concurrency": 2, "max_demand": 1}})
    recorder.wait_for(lambda: recorder.counts["bad"] == 2 and recorder.counts["good"] == 1)
    pipeline.stop()
    assert recorder.counts["good"] == 1
    assert is_empty(emulator, subscription)
