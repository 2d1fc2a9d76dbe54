"""
The producer over a client that a test controls: threads, demand, acknowledgements, reconnects, drains, crashes.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, List

import pytest

from broadway_sync import DrainTimeoutError, Message, telemetry
from broadway_sync.connectors.common import events
from broadway_sync.connectors.rabbitmq import connection as connection_module
from broadway_sync.connectors.rabbitmq import settling
from broadway_sync.connectors.rabbitmq.session import Session
from tests.connectors.rabbitmq.fake import FakeClient
from tests.connectors.rabbitmq.support import Seen, bodies, texts
from tests.helpers import BOUND, QUIET, SCALE, Call, assert_quiet, eventually, make_handler

ONE = {"default": {"concurrency": 1, "max_demand": 1}}


@pytest.fixture
def client() -> FakeClient:
    """
    Return a client that connects at once.
    """
    return FakeClient()


@pytest.fixture
def listen() -> Any:
    """
    Return a function that records events of telemetry until the end of the test.
    """
    attached: List[Any] = []

    def attach(*wanted: Any) -> List[Any]:
        heard: List[Any] = []
        telemetry.attach_many(len(attached), wanted, lambda *event: heard.append(event[:3]))
        attached.append(len(attached))
        return heard

    yield attach
    for handler_id in attached:
        telemetry.detach(handler_id)


# ---- deliveries


def test_messages_arrive_and_are_acknowledged(make_pipeline: Any, client: Any) -> None:
    """
    A lot that was handled is acknowledged with one frame.
    """
    processors = {"default": {"concurrency": 1, "max_demand": 20, "min_demand": 0}}
    with make_pipeline(producer=client.producer(), processors=processors):
        link = client.opened()
        link.deliver(*bodies(10))
        assert link.wait_for_frames(1) == [("ack", 10, True)]


def test_threads(make_pipeline: Any, client: Any) -> None:
    """
    The connection has a thread of its own; handlers never run on it.
    """
    threads = set()
    seen = Seen(lambda message: threads.add(threading.current_thread().name))
    with make_pipeline(seen, name="inv", producer=client.producer()):
        link = client.opened()
        link.deliver(*bodies(50))
        seen.wait(bodies(50))
        assert link.thread == "inv.Broadway.Producer_0.IO"
        assert link.name == "inv.Broadway.Producer_0"
    assert threads == {"inv.Broadway.Processor_default_0"}


def test_one_wake_for_each_lot(make_pipeline: Any, client: Any, monkeypatch: Any) -> None:
    """
    The producer's stage is woken for a lot, not for each message in it.
    """
    from broadway_sync.topology.producer_stage import ProducerStage

    wakes: List[int] = []
    monkeypatch.setattr(ProducerStage, "wake", lambda stage, wake=ProducerStage.wake: (wakes.append(1), wake(stage)))
    seen = Seen()
    with make_pipeline(seen, producer=client.producer()):
        link = client.opened()
        for lot in range(5):
            link.deliver(*bodies(100, lot * 100))
        seen.wait(bodies(500))
        link.wait_for_frames(1)
        # Besides: the thread looks again after each lot of acknowledgements, while deliveries wait.
        assert len(wakes) <= 5 + link.wakes


def test_no_more_than_is_demanded(make_pipeline: Any, client: Any, gate: Any) -> None:
    """
    What nobody has asked for waits in the producer.
    """
    seen = Seen(lambda message: gate.wait())
    with make_pipeline(seen, producer=client.producer(), processors=ONE):
        link = client.opened()
        link.deliver(*bodies(30))
        gate.arrived()
        gate.assert_nobody("one message is demanded")
        gate.open()
        seen.wait(bodies(30))


def test_acknowledgements_never_wait_for_the_connection(make_pipeline: Any, client: Any) -> None:
    """
    A processor hands its outcomes over and goes on while the connection's thread is busy, which is woken once for all.
    """
    entered, go_on = threading.Event(), threading.Event()
    seen = Seen(lambda message: entered.wait(10))
    processors = {"default": {"concurrency": 1, "max_demand": 2}}
    with make_pipeline(seen, producer=client.producer(), processors=processors):
        link = client.opened()
        link.deliver(*bodies(20))
        link.command(lambda: (entered.set(), go_on.wait(10)))
        seen.wait(bodies(20))
        assert (link.frames, link.wakes) == ([], 1)
        go_on.set()
        eventually(lambda: any(tag == 20 for _, tag, _ in link.frames), "the last one is sent now")


TWO = {"default": {"concurrency": 2, "max_demand": 1}}


@pytest.fixture
def first_hangs(gate: Any) -> Seen:
    """
    Return a handler that waits at the gate with the first message.
    """
    return Seen(lambda message: gate.wait() if message.data == b"0" else None)


def held(seen: Seen) -> List[int]:
    """
    Return the tags of acknowledgements that wait for an older message.
    """
    messages = list(seen.messages)
    return sorted(messages[0].acknowledger[1].tags.held) if messages else []


def test_one_frame_for_what_waited_for_an_older_one(
    make_pipeline: Any, client: Any, gate: Any, first_hangs: Seen, monkeypatch: Any, listen: Any
) -> None:
    """
    What is finished behind a message that is in work goes with it, and is counted when it goes.
    """
    monkeypatch.setattr(settling, "HOLD_SECONDS", 60.0)
    heard = listen((*events.ACKNOWLEDGE, "stop"))
    with make_pipeline(first_hangs, producer=client.producer(), processors=TWO):
        link = client.opened()
        link.deliver(*bodies(4))
        first_hangs.wait(bodies(4))
        gate.arrived()
        eventually(lambda: held(first_hangs) == [2, 3, 4], "they are held")
        assert (link.frames, heard) == ([], [])
        gate.open()
        assert link.wait_for_frames(1) == [("ack", 4, True)]
    assert [event[2]["count"] for event in heard] == [4]


def test_an_older_one_does_not_hold_others_up(
    make_pipeline: Any, client: Any, gate: Any, first_hangs: Seen, listen: Any
) -> None:
    """
    After a moment they are acknowledged without it.
    """
    heard = listen((*events.ACKNOWLEDGE, "stop"))
    with make_pipeline(first_hangs, producer=client.producer(), processors=TWO):
        link = client.opened()
        link.deliver(*bodies(4))
        gate.arrived()
        assert sorted(link.wait_for_frames(3)) == [("ack", tag, False) for tag in (2, 3, 4)]
        link.deliver(*bodies(2, 4))
        assert sorted(link.wait_for_frames(5)[3:]) == [("ack", tag, False) for tag in (5, 6)]
        gate.open()
        assert link.wait_for_frames(6)[5:] == [("ack", 1, False)]
    eventually(lambda: sum(event[2]["count"] for event in heard) == 6, "each is counted once")


def test_what_waits_for_an_older_one_is_sent_before_the_end(
    make_pipeline: Any, client: Any, gate: Any, first_hangs: Seen, monkeypatch: Any
) -> None:
    """
    Also if that one hangs and is left behind.
    """
    monkeypatch.setattr(settling, "HOLD_SECONDS", 60.0)
    with make_pipeline(first_hangs, producer=client.producer(), processors=TWO) as pipeline:
        link = client.opened()
        link.deliver(*bodies(2))
        gate.arrived()
        eventually(lambda: held(first_hangs) == [2], "it is held")
        with pytest.raises(DrainTimeoutError):
            pipeline.stop(timeout=0.1)
        assert link.wait_for_frames(1) == [("ack", 2, False)]
        gate.open()


def test_what_waits_for_an_older_one_is_lost_with_its_connection(
    make_pipeline: Any, client: Any, gate: Any, first_hangs: Seen, monkeypatch: Any, caplog: Any, listen: Any
) -> None:
    """
    It is counted and said as any acknowledgement that comes too late.
    """
    monkeypatch.setattr(settling, "HOLD_SECONDS", 60.0)
    heard = listen((*events.ACKNOWLEDGE, "exception"))
    with make_pipeline(first_hangs, producer=client.producer(), processors=TWO):
        first = client.opened()
        first.deliver(*bodies(3))
        gate.arrived()
        eventually(lambda: held(first_hangs) == [2, 3], "they are held")
        first.fail(OSError("cut"))
        client.opened()
        gate.open()
        eventually(lambda: sum(event[2]["count"] for event in heard) == 3, "all are counted")
    assert first.frames == []
    assert any("3 messages will be delivered again" in text for text in texts(caplog))


def test_failed_messages(make_pipeline: Any, client: Any) -> None:
    """
    Failures get on_failure, the others of their chunk on_success.
    """

    def fail_odd(message: Message) -> None:
        if int(message.data) % 2:
            message.fail("odd")

    processors = {"default": {"concurrency": 1, "max_demand": 20, "min_demand": 0}}
    source = client.producer(on_failure="reject_and_requeue")
    with make_pipeline(Seen(fail_odd), producer=source, processors=processors):
        link = client.opened()
        link.deliver(*bodies(4))
        eventually(lambda: {tag for _, tag, _ in link.frames} >= {2, 4}, "both failures are sent")
    assert [frame for frame in link.frames if frame[0] != "ack"] == [
        ("reject_and_requeue", 2, False),
        ("reject_and_requeue", 4, False),
    ]


@pytest.mark.parametrize("redelivered", [False, True])
def test_requeue_once(make_pipeline: Any, client: Any, redelivered: bool) -> None:
    """
    A message that came back already is rejected.
    """
    source = client.producer(on_failure="reject_and_requeue_once")
    with make_pipeline(Seen(lambda message: message.fail("no")), producer=source):
        link = client.opened()
        link.deliver(b"x", redelivered=redelivered)
        frames = link.wait_for_frames(1)
    assert frames == [("reject" if redelivered else "reject_and_requeue", 1, False)]


def test_configure_ack_with_a_mistake_fails_one_message(make_pipeline: Any, client: Any) -> None:
    """
    A mistake in configure_ack fails that message alone, and says what is wrong.
    """
    reasons: List[Any] = []

    def configure(message: Message) -> None:
        if message.data == b"bad":
            message.configure_ack(on_failure="drop")

    def handle_failed(messages: List[Message], context: Any) -> List[Message]:
        reasons.extend(str(message.reason) for message in messages)
        return messages

    seen = Seen(configure)
    handler = make_handler(handle_message=seen.handle_message, handle_failed=handle_failed)
    with make_pipeline(handler, producer=client.producer()):
        link = client.opened()
        link.deliver(b"good", b"bad")
        eventually(lambda: {frame[:2] for frame in link.frames} >= {("ack", 1), ("reject", 2)}, "both are settled")
    assert len(reasons) == 1 and reasons[0].startswith("on_failure: expected one of 'ack', 'reject'")


def test_channel_that_somebody_else_uses(make_pipeline: Any, client: Any) -> None:
    """
    When the first tag is not 1, somebody took messages from the channel before: nothing is acknowledged in bulk.
    """
    processors = {"default": {"concurrency": 1, "max_demand": 20, "min_demand": 0}}
    with make_pipeline(producer=client.producer(), processors=processors):
        link = client.opened()
        link.last_tag = 1
        link.deliver(*bodies(5))
        frames = link.wait_for_frames(5)
    assert sorted(frames) == [("ack", tag, False) for tag in range(2, 7)]


# ---- connections that are lost


def test_another_reason_is_said(make_pipeline: Any, caplog: Any) -> None:
    """
    Attempts that fail in the same way are said once; a queue that is there by now and may not be read is news.
    """

    class Closed(Exception):
        """
        As pika has it: one class for all that a broker may say.
        """

        def __init__(self, reply_code: int, text: str) -> None:
            super().__init__(text)
            self.reply_code = reply_code

    client = FakeClient(*(Closed(*reason) for reason in [(404, "no queue")] * 2 + [(403, "refused")] * 2))
    with make_pipeline(Seen(), producer=client.producer()):
        client.opened()
    said = texts(caplog)
    assert len(said) == 2 and "no queue" in said[0] and "refused" in said[1]


def test_reconnects_at_once(make_pipeline: Any, client: Any, caplog: Any, monkeypatch: Any) -> None:
    """
    A connection that served is replaced without a pause; what waited comes from the next one.
    """
    monkeypatch.setattr(connection_module, "SHORT_LIFE", 0.0)
    caplog.set_level(logging.INFO)
    seen = Seen()
    with make_pipeline(seen, producer=client.producer(backoff_min=0.0, backoff_max=3600.0, backoff_type="rand")):
        link = client.opened()
        link.fail(OSError("cut"))
        client.opened().deliver(b"b")
        seen.wait([b"b"])
        assert link.is_closed.is_set()
    assert [text.split("] ")[1] for text in texts(caplog, logging.INFO)] == [
        "no connection: OSError: cut",
        "connected again",
    ]


def test_connection_that_is_lost_at_once(make_pipeline: Any, client: Any) -> None:
    """
    A connection that is lost as soon as it is made counts as a failed attempt: there is a pause, no spin.
    """
    with make_pipeline(producer=client.producer(backoff_min=3600.0)):
        client.opened().fail(OSError("cut"))
        eventually(client.links[0].is_closed.is_set, "it is given up")
        assert_quiet(client.connections, "it waits for an hour")


def test_connections_that_are_lost_at_once_do_not_spin(make_pipeline: Any, client: Any) -> None:
    """
    Nor do they with a shortest pause of 0.
    """
    connect = client.connect

    def connect_and_fail(*arguments: Any) -> Any:
        link = connect(*arguments)
        link.fail(OSError("cut"))
        return link

    client.connect = connect_and_fail
    with make_pipeline(producer=client.producer(backoff_min=0.0, backoff_max=1.0, backoff_type="exp")):
        client.opened()
        time.sleep(QUIET)
        assert client.attempts < 20


def test_pauses_grow(make_pipeline: Any, caplog: Any) -> None:
    """
    Every failed attempt is followed by a pause of the back-off, and all of them are one line in the log.
    """
    client = FakeClient(*(OSError("refused") for _ in range(4)))
    began = time.monotonic()
    with make_pipeline(producer=client.producer(backoff_type="exp", backoff_min=0.01)):
        client.opened()
        assert time.monotonic() - began >= 0.01 + 0.02 + 0.04 + 0.08
    assert client.attempts == 5
    assert len(texts(caplog)) == 1


def test_what_waited_is_dropped_with_its_connection(make_pipeline: Any, client: Any, gate: Any) -> None:
    """
    Deliveries of a lost connection that nobody had asked for are not handled: the broker delivers them again.
    """
    seen = Seen(lambda message: gate.wait() if message.data == b"0" else None)
    with make_pipeline(seen, producer=client.producer(), processors=ONE):
        first = client.opened()
        first.deliver(*bodies(10))
        gate.arrived()
        first.fail(OSError("cut"))
        second = client.opened()
        second.deliver(*bodies(9, 1), redelivered=True)
        gate.open()
        seen.wait(bodies(10))
        second.wait_for_frames(1)
        eventually(lambda: second.frames[-1][1] == 9, "all of the second connection are acknowledged")
    assert seen.duplicates() == 0
    assert first.frames == []


def test_late_acknowledgement_is_dropped(make_pipeline: Any, client: Any, gate: Any, caplog: Any, listen: Any) -> None:
    """
    The outcome of a message of a lost connection is sent nowhere, and that is said and counted.
    """
    heard = listen((*events.ACKNOWLEDGE, "exception"))
    seen = Seen(lambda message: gate.wait())
    with make_pipeline(seen, producer=client.producer(), processors=ONE):
        first = client.opened()
        first.deliver(b"a")
        gate.arrived()
        first.fail(OSError("cut"))
        second = client.opened()
        gate.open()
        eventually(lambda: heard, "it is counted")
        second.deliver(b"b")
        second.wait_for_frames(1)
    assert first.frames == [] and second.frames == [("ack", 1, False)]
    assert heard[0][2]["count"] == 1 and heard[0][2]["connector"] == "rabbitmq"
    assert any("acknowledgements are dropped" in text for text in texts(caplog))


def test_acknowledgement_that_fails(make_pipeline: Any, client: Any, listen: Any) -> None:
    """
    An acknowledgement that cannot be sent ends the connection, and is an exception event.
    """
    heard = listen((*events.ACKNOWLEDGE, "exception"))
    seen = Seen()
    with make_pipeline(seen, producer=client.producer()):
        first = client.opened()
        first.settle_errors.append(OSError("broken pipe"))
        first.deliver(b"a")
        second = client.opened()
        second.deliver(b"a", redelivered=True)
        second.wait_for_frames(1)
    assert first.is_closed.is_set() and first.frames == []
    assert heard[0][2]["action"] == "ack" and heard[0][2]["count"] == 1


def test_options_of_each_connect(make_pipeline: Any, client: Any) -> None:
    """
    merge_options is asked at every connect, so that an address may change; what it raises fails the attempt.
    """
    answers: List[Any] = [{"queue": "a"}, LookupError("no address"), {"queue": "b"}]

    def merge_options(index: int) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with make_pipeline(producer=client.producer(merge_options=merge_options)):
        first = client.opened()
        first.fail(OSError("cut"))
        assert (first.options.queue, client.opened().options.queue) == ("a", "b")


# ---- stops


def test_order_of_a_stop(make_pipeline: Any, client: Any, gate: Any) -> None:
    """
    First the consumer is cancelled, then what waits goes back, then what is finished is sent, then the connection ends.
    """
    seen = Seen(lambda message: gate.wait())
    with make_pipeline(seen, producer=client.producer(), processors=ONE) as pipeline:
        link = client.opened()
        link.deliver(*bodies(4))
        gate.arrived()
        stopping = Call(pipeline.stop)
        link.wait_for_frames(3)
        gate.open()
        stopping.result()
    assert link.calls == ["set_up", "cancel", "settle", "settle", "close"]
    assert link.frames == [("reject_and_requeue", tag, False) for tag in (2, 3, 4)] + [("ack", 1, False)]


def test_last_acknowledgement_is_sent(make_pipeline: Any, client: Any, monkeypatch: Any) -> None:
    """
    What is finished while the connection's thread sends something else, just before the end, is sent too.
    """
    monkeypatch.setattr(connection_module, "CANCEL_PATIENCE", 0.05)
    is_sending, go_on = threading.Event(), threading.Event()
    seen = Seen(lambda message: is_sending.wait(10) if message.data == b"1" else None)
    processors = {"default": {"concurrency": 2, "max_demand": 1}}
    with make_pipeline(seen, producer=client.producer(), processors=processors) as pipeline:
        link = client.opened()
        link.before_settle = lambda: (is_sending.set(), go_on.wait(10))
        link.deliver(*bodies(2))
        assert is_sending.wait(10)
        closing = threading.Event()
        monkeypatch.setattr(connection_module.Connection, "close", _announce(closing))
        stopping = Call(pipeline.stop)
        assert closing.wait(10)
        go_on.set()
        stopping.result()
    assert sorted(link.frames) == [("ack", 1, False), ("ack", 2, False)]
    assert link.calls == ["set_up", "settle", "settle", "close"]


def _announce(event: threading.Event) -> Any:
    """
    Return a ``Connection.close`` that sets *event* when the connection's thread may see that its end is wanted.
    """
    wants = connection_module.Connection._want

    def close(connection: Any, close: Any = connection_module.Connection.close) -> None:
        connection._want = lambda wanted: (wants(connection, wanted), event.set())
        close(connection)

    return close


def test_no_reconnect_during_a_drain(make_pipeline: Any, client: Any, gate: Any) -> None:
    """
    A connection that is lost while the pipeline drains is not replaced: it could acknowledge nothing.
    """
    seen = Seen(lambda message: gate.wait())
    with make_pipeline(seen, producer=client.producer(), processors=ONE) as pipeline:
        link = client.opened()
        link.deliver(b"a")
        gate.arrived()
        stopping = Call(pipeline.stop)
        eventually(lambda: "cancel" in link.calls, "the drain has begun")
        link.fail(OSError("cut"))
        eventually(link.is_closed.is_set, "it is lost")
        assert_quiet(client.connections, "the pipeline drains")
        gate.open()
        stopping.result()
    assert client.attempts == 1 and link.frames == []


def test_broker_that_does_not_answer_the_stop(make_pipeline: Any, client: Any, gates: Any, monkeypatch: Any) -> None:
    """
    A call that hangs is cut off, so that the pipeline and the thread end.
    """
    monkeypatch.setattr(connection_module, "CANCEL_PATIENCE", 0.05)
    monkeypatch.setattr(connection_module, "CLOSE_PATIENCE", 0.05)
    cut = threading.Event()
    with make_pipeline(producer=client.producer()) as pipeline:
        link = client.opened()
        link.cancel_gate = cut
        link.abort = lambda: (link.is_aborted.set(), cut.set())  # type: ignore[method-assign]
        began = time.monotonic()
        pipeline.stop()
        assert time.monotonic() - began < 4 * SCALE
    assert link.is_aborted.is_set()
    eventually(lambda: not any(t.name.endswith(".IO") for t in threading.enumerate()), "the thread has ended")


def test_stop_during_a_pause(make_pipeline: Any) -> None:
    """
    A stop does not wait for the next attempt.
    """
    client = FakeClient(OSError("refused"))
    with make_pipeline(producer=client.producer(backoff_min=3600.0, backoff_max=3600.0)) as pipeline:
        eventually(lambda: client.attempts == 1, "the first attempt has failed")
        began = time.monotonic()
        pipeline.stop()
        assert time.monotonic() - began < 4 * SCALE
    assert client.links == []


def test_stop_before_the_connection_is_there(make_pipeline: Any, client: Any, monkeypatch: Any) -> None:
    """
    A connection that is made after the stop has begun is closed at once: nothing is declared, no callback runs.
    """
    entered, go_on = threading.Event(), threading.Event()
    connect = client.connect

    def slow_connect(*arguments: Any) -> Any:
        entered.set()
        go_on.wait(10)
        return connect(*arguments)

    client.connect = slow_connect
    monkeypatch.setattr(connection_module, "ABORT_PATIENCE", 0.05)
    with make_pipeline(producer=client.producer()) as pipeline:
        assert entered.wait(10)
        pipeline.stop()
        go_on.set()
        link = client.opened()
        eventually(link.is_closed.is_set, "it is closed")
    assert link.calls == ["close"]


def test_no_ack_is_handed_out_at_a_stop(make_pipeline: Any, client: Any, gate: Any) -> None:
    """
    With no_ack the broker has forgotten what waits: a stop handles it.
    """
    seen = Seen(lambda message: gate.wait() if message.data == b"0" else None)
    source = client.producer(consume_options={"no_ack": True})
    with make_pipeline(seen, producer=source, processors=ONE) as pipeline:
        link = client.opened()
        link.deliver(*bodies(10))
        gate.arrived()
        stopping = Call(pipeline.stop)
        eventually(lambda: "cancel" in link.calls, "the drain has begun")
        gate.open()
        stopping.result()
    assert sorted(seen.times) == bodies(10)
    assert (link.calls, link.frames) == (["set_up", "cancel", "close"], [])


def test_no_ack_survives_a_lost_connection(make_pipeline: Any, client: Any, gate: Any) -> None:
    """
    With no_ack nobody delivers again what waited when the connection was lost: it is handled.
    """
    seen = Seen(lambda message: gate.wait() if message.data == b"0" else None)
    with make_pipeline(seen, producer=client.producer(consume_options={"no_ack": True}), processors=ONE):
        link = client.opened()
        link.deliver(*bodies(10))
        gate.arrived()
        link.fail(OSError("cut"))
        client.opened()
        gate.open()
        seen.wait(bodies(10))
    assert seen.duplicates() == 0


def test_no_ack_is_handed_out_though_its_connection_is_lost_just_then(make_pipeline: Any, client: Any) -> None:
    """
    With no_ack what came together with the loss is handed out, and not first with what comes next.
    """
    seen = Seen()
    with make_pipeline(seen, producer=client.producer(consume_options={"no_ack": True})):
        link = client.opened()
        link.fail_with(OSError("cut"), *bodies(3))
        client.opened()
        seen.wait(bodies(3))


def test_no_ack_is_handed_out_if_a_stop_comes_early(make_pipeline: Any, client: Any, monkeypatch: Any) -> None:
    """
    With no_ack what the broker sends before a stop can cancel the consumer is handled, even if that had just begun.
    """
    monkeypatch.setattr(connection_module, "CANCEL_PATIENCE", BOUND)
    entered, go_on = threading.Event(), threading.Event()
    client.during_set_up = lambda: (entered.set(), go_on.wait(BOUND))
    with make_pipeline(seen := Seen(), producer=client.producer(consume_options={"no_ack": True})) as pipeline:
        link = client.opened()
        assert entered.wait(BOUND)
        link.rest = [link.delivery(body) for body in bodies(3)]
        stopping = Call(pipeline.stop)
        eventually(lambda: link.wakes, "the producer drains")
        go_on.set()
        stopping.result()
    assert sorted(seen.times) == bodies(3)


def test_no_ack_and_no_second_attempt(make_pipeline: Any, client: Any, gate: Any) -> None:
    """
    With no_ack what waits when there is to be no other connection is handled, and then the producer crashes.
    """
    seen = Seen(lambda message: gate.wait() if message.data == b"0" else None)
    source = client.producer(consume_options={"no_ack": True}, backoff_type="stop", backoff_min=3600.0)
    processors = {"default": {"concurrency": 1, "max_demand": 10, "min_demand": 0}}
    with make_pipeline(seen, producer=source, processors=processors, resubscribe_interval=0.01):
        link = client.opened()
        link.deliver(*bodies(10))
        gate.arrived()
        link.deliver(*bodies(3, 10))
        link.fail(OSError("cut"))
        eventually(link.is_closed.is_set, "it is lost")
        gate.open()
        client.opened()
        seen.wait(bodies(13))


def test_no_ack_pauses_and_resumes(make_pipeline: Any, client: Any, gate: Any) -> None:
    """
    The consumer is cancelled when buffer_size messages wait, and begins again when half of them are gone.
    """
    seen = Seen(lambda message: gate.wait() if message.data == b"0" else None)
    source = client.producer(consume_options={"no_ack": True}, buffer_size=10)
    with make_pipeline(seen, producer=source, processors=ONE):
        link = client.opened()
        link.deliver(*bodies(9))
        gate.arrived()
        assert link.calls == ["set_up"]
        link.deliver(*bodies(9, 9))
        eventually(lambda: link.calls == ["set_up", "cancel"], "it pauses")
        gate.open()
        eventually(lambda: link.calls == ["set_up", "cancel", "consume"], "it resumes")
        seen.wait(bodies(18))


# ---- crashes


def test_fault_of_the_library(make_pipeline: Any, client: Any, monkeypatch: Any, caplog: Any) -> None:
    """
    An exception that nobody foresaw ends the connection's thread, is logged, and crashes the producer: another begins.
    """
    frames, faults = Session.frames, [RuntimeError("a bug")]

    def fail_once(self: Session, lots: Any) -> Any:
        if faults:
            raise faults.pop()
        return frames(self, lots)

    monkeypatch.setattr(Session, "frames", fail_once)
    seen = Seen()
    with make_pipeline(seen, producer=client.producer(), resubscribe_interval=0.01):
        first = client.opened()
        first.deliver(b"a")
        second = client.opened()
        second.deliver(b"a", redelivered=True)
        second.wait_for_frames(1)
    assert first.is_closed.is_set() and first.frames == []
    crashes = [record for record in caplog.records if "the producer crashed" in record.getMessage()]
    assert len(crashes) == 1 and "a bug" in str(crashes[0].exc_info)


def test_fault_of_the_library_during_a_stop(
    make_pipeline: Any, client: Any, gate: Any, monkeypatch: Any, caplog: Any
) -> None:
    """
    Nobody asks for messages any more, and crashes for it: it is logged all the same.
    """
    with make_pipeline(Seen(lambda message: gate.wait()), producer=client.producer(), processors=ONE) as pipeline:
        link = client.opened()
        link.deliver(b"a")
        gate.arrived()
        stopping = Call(pipeline.stop)
        eventually(lambda: "cancel" in link.calls, "the drain has begun")
        monkeypatch.setattr(Session, "frames", lambda session, lots: _raise(RuntimeError("a bug")))
        gate.open()
        stopping.result()
    logged = [record for record in caplog.records if "a bug" in str(record.exc_info)]
    assert len(logged) == 1 and "the connection's thread has died" in logged[0].getMessage()


def _raise(error: BaseException) -> Any:
    raise error


def test_base_exception_in_after_connect(make_pipeline: Any) -> None:
    """
    What is no Exception, raised by user code while it connects, does not end the thread unseen either.
    """
    client = FakeClient(SystemExit("no"))
    with make_pipeline(producer=client.producer(), resubscribe_interval=0.01):
        client.opened()
    assert client.attempts == 2


def test_garbage(make_pipeline: Any, client: Any) -> None:
    """
    A delivery that makes no sense costs the connection, not the pipeline.
    """
    with make_pipeline(seen := Seen(), producer=client.producer()) as pipeline:
        first = client.opened()
        first.command(lambda: first.on_delivery(None, None, None, b""))
        second = client.opened()
        second.deliver(b"a")
        seen.wait([b"a"])
        assert pipeline.state == "running"


# ---- telemetry


def test_telemetry(make_pipeline: Any, listen: Any) -> None:
    """
    Connects, receives and acknowledgements are spans; the state of the connection is an event.
    """
    spans = [(*event, end) for event in (events.CONNECT, events.RECEIVE, events.ACKNOWLEDGE) for end in ("stop",)]
    heard = listen(*spans, (*events.CONNECT, "exception"), events.CONNECTION_UP, events.CONNECTION_DOWN)
    client = FakeClient(OSError("refused"))
    with make_pipeline(name="inv", producer=client.producer()):
        link = client.opened()
        link.deliver(b"a", b"b")
        eventually(lambda: any(event[0] == (*events.ACKNOWLEDGE, "stop") for event in heard), "it is acknowledged")
    names = [".".join(event[0][1:]) for event in heard]
    assert names[:4] == ["connect.exception", "connection.down", "connect.stop", "connection.up"]
    assert {"receive.stop", "acknowledge.stop"} <= set(names)
    received = [event[2] for event in heard if event[0] == (*events.RECEIVE, "stop")]
    settled = [event[2] for event in heard if event[0] == (*events.ACKNOWLEDGE, "stop")]
    assert sum(metadata["count"] for metadata in received) == 2
    assert sum(metadata["count"] for metadata in settled) == 2
    assert settled[0]["action"] == "ack" and settled[0]["failed"] == 0
    for _, _, metadata in heard:
        expected = {"connector": "rabbitmq", "topology_name": "inv", "name": "inv.Broadway.Producer_0", "index": 0}
        assert {key: metadata[key] for key in expected} == expected


def test_blocked_connection_is_said(make_pipeline: Any, client: Any, caplog: Any) -> None:
    """
    What the client has to say goes to the log, with the pipeline and the stage.
    """
    with make_pipeline(name="inv", producer=client.producer()):
        client.opened()
        client.say("the broker blocks the connection")
    assert "[inv.Broadway.Producer_0] the broker blocks the connection" in texts(caplog)
