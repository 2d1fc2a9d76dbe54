"""
SQSProducer over a source in memory: what the machinery of polling connectors must do under faults, stops and copies.
"""

from __future__ import annotations

import random
import threading
import time
from typing import Any, Callable

import pytest

from broadway_sync import Message, NoopAcknowledger
from broadway_sync.connectors.common import polling
from broadway_sync.connectors.common.events import LEASE_LOST
from broadway_sync.connectors.common.polling_client import Action, Delivery, Refusal
from broadway_sync.connectors.sqs import SQSProducer
from tests.connectors.common.fake_source import FakeSource, Item
from tests.connectors.recorder import Recorder
from tests.connectors.sqs.support import failures
from tests.helpers import BOUND, QUIET, SCALE, eventually, stage_threads

URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/invoices"
QUICK: dict[str, Any] = {"receive_interval": 0.0, "backoff_min": 0.01, "backoff_max": 0.03}


class SQSLike(FakeSource):
    """
    A source with the identities of SQS, and its treacherous answer to old handles: accepted, and nothing is done.
    """

    def _deliver(self, item: Item) -> Delivery:
        delivery = super()._deliver(item)
        delivery.identity = f"message {item.data}"
        return delivery

    def settle(self, action: Action, handles: list[str]) -> list[Refusal]:
        """
        Do one action; nothing is ever refused.
        """
        super().settle(action, handles)
        return []

    def make_visible(self, data: Any) -> None:
        """
        Let the lease on a message run out now.
        """
        with self._changed:
            for item in self.items:
                if item.data == data:
                    item.visible_at = 0.0
            self._changed.notify_all()


@pytest.fixture
def start(make_pipeline: Callable[..., Any]) -> Callable[..., Any]:
    """
    Return a function that starts a pipeline on a source.
    """

    def start(source: FakeSource, handler: Any, options: dict[str, Any] | None = None, **settings: Any) -> Any:
        given = {"queue_url": URL, "client": source.client, **QUICK, **(options or {})}
        return make_pipeline(handler, producer={"module": (SQSProducer, given)}, **settings).start()

    return start


@pytest.mark.parametrize("first_fails", [False, True])
@pytest.mark.parametrize("second_fails", [False, True])
def test_message_received_twice_is_told_by_its_newest_handle(
    start: Callable[..., Any], gates: Callable[[], Any], first_fails: bool, second_fails: bool
) -> None:
    """
    Handled well by either copy it is deleted, and what becomes of the other one changes nothing.
    """
    source = SQSLike()
    source.publish("x")
    hold = [gates(), gates()]

    def work(message: Any) -> None:
        count = message.metadata["count"]
        if count <= 2:
            hold[count - 1].wait()
        if (count == 1 and first_fails) or (count == 2 and second_fails):
            raise ValueError("failed")

    recorder = Recorder(work)
    pipeline = start(source, recorder, {"on_failure": "nack"}, processors={"default": {"concurrency": 3}})
    hold[0].arrived()
    source.make_visible("x")
    hold[1].arrived()
    hold[0].open()
    if not first_fails:
        source.wait_until(lambda: source.acked == ["x"])
    hold[1].open()
    if first_fails and second_fails:
        recorder.wait_for(lambda: len(recorder.order) == 3)
    source.wait_until(lambda: source.acked == ["x"])
    pipeline.stop()
    expected = [("nack", 1), ("ack", 1)] if first_fails and second_fails else [("ack", 1)]
    assert [request for request in source.requests if request[0] != "extend"] == expected
    assert not source.items


def test_copies_in_a_group_are_not_handled_after_the_first_succeeded(start: Callable[..., Any], gate: Any) -> None:
    """
    They wait behind it, and are passed over: the group goes on as if nothing had happened.
    """
    source = SQSLike()
    for number in range(4):
        source.publish(number, group="g")
    recorder = Recorder(gate.wait)
    pipeline = start(source, recorder, {"max_number_of_messages": 2})
    gate.arrived()
    for number in range(4):  # as after an outage that was longer than the lease
        source.make_visible(number)
    eventually(lambda: source.received[0] == 2, "the head of the group comes again")
    gate.open()
    source.wait_until(lambda: len(source.acked) == 4)
    pipeline.stop()
    assert recorder.order == source.acked == [0, 1, 2, 3]


def test_message_that_is_made_anew_when_it_is_done_with_costs_nothing_else(
    start: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """
    Two messages with one acknowledger: the other messages of the step are deleted all the same.
    """
    source = SQSLike()
    source.publish(*map(str, range(10)))
    recorder = Recorder()
    handle = recorder.handle_message

    def make_anew(processor: str, message: Any, context: Any) -> Any:
        message = handle(processor, message, context)
        if message.data != "3":
            return message
        message.ack_immediately()
        return Message(message.data, message.acknowledger)

    recorder.handle_message = make_anew  # type: ignore[method-assign]
    pipeline = start(source, recorder)
    source.wait_until(lambda: len(source.acked) == 10)
    pipeline.stop()
    assert recorder.duplicates() == set()
    assert failures(caplog) == []


def test_answer_that_is_late_is_no_lost_lease(
    start: Callable[..., Any], hear: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """
    A lease that is refused because its message was just deleted was not lost.
    """
    source = FakeSource(lease=2.0 * SCALE)
    refused = threading.Event()
    settle = source.settle

    def slow_answers(action: Action, handles: list[str]) -> list[Refusal]:
        refusals = settle(action, handles)
        if action[0] == "ack":
            assert refused.wait(BOUND)
        elif refusals:
            refused.set()
        return refusals

    source.settle = slow_answers  # type: ignore[method-assign]
    lost = hear(LEASE_LOST)
    source.publish("x")
    pipeline = start(source, Recorder())
    assert refused.wait(BOUND)
    pipeline.stop()
    assert source.acked == ["x"]
    assert lost.events == []
    assert failures(caplog) == []


def test_message_that_is_to_come_again_is_extended_no_more(start: Callable[..., Any]) -> None:
    """
    Not even while the source has not been told: an extension would put off what was asked for.
    """
    source = FakeSource(lease=2.0 * SCALE)

    def take_longer_than_an_extension_is_due(call: str, argument: Any) -> None:
        if call == "nack":
            time.sleep(1.2 * SCALE)

    source.before = take_longer_than_an_extension_is_due
    source.publish("x")
    pipeline = start(source, Recorder(lambda message: message.fail("no")), {"on_failure": ("nack", 600)})
    source.wait_until(lambda: source.requests)
    pipeline.stop()
    assert source.requests == [("nack", 1)]
    assert source.items[0].visible_at > time.monotonic() + 500


def test_lost_lease_is_said(start: Callable[..., Any], hear: Callable[..., Any], gate: Any) -> None:
    """
    Refused for another reason, it was.
    """
    source = FakeSource(lease=2.0 * SCALE)
    settle = source.settle
    source.settle = lambda action, handles: (  # type: ignore[method-assign]
        [Refusal(handle, "expired", True) for handle in handles] if action[0] == "extend" else settle(action, handles)
    )
    lost = hear(LEASE_LOST)
    source.publish("x")
    start(source, Recorder(gate.wait))
    lost.wait_for(1)
    assert lost.events[0][1:] == (
        {"count": 1},
        {"connector": "sqs", "topology_name": lost.events[0][2]["topology_name"], "name": lost.events[0][2]["name"],
         "index": 0, "reason": "expired"},
    )  # fmt: skip


@pytest.mark.parametrize("is_fifo", [False, True])
@pytest.mark.parametrize("moment", range(14))
def test_stop_at_every_point(start: Callable[..., Any], moment: int, is_fifo: bool) -> None:
    """
    Whichever request has just begun: what was handled is deleted, what was not is free again, and nothing hangs.
    """
    source = FakeSource(wait=0.02)
    pipelines: list[Any] = []
    started, calls = threading.Event(), []

    def stop_at_the_moment(call: str, argument: Any) -> None:
        calls.append(call)
        if len(calls) == moment + 1:
            assert started.wait(BOUND)
            pipelines[0].request_stop()

    source.before = stop_at_the_moment
    for number in range(40):
        source.publish(number, group=str(number % 3) if is_fifo else None)
    recorder = Recorder()
    batchers = {"default": {"batch_size": 4, "batch_timeout": 0.01}}
    pipelines.append(start(source, recorder, processors={"default": {"concurrency": 2}}, batchers=batchers))
    started.set()
    assert pipelines[0].join(BOUND)
    eventually(lambda: not stage_threads(pipelines[0].name), "its threads have ended")
    assert all(client.closed.is_set() for client in source.clients)
    assert sorted(source.acked) == sorted(recorder.order)
    assert source.free() == 40 - len(source.acked)
    assert recorder.duplicates() == set()


def test_stop_while_threads_are_being_started(
    start: Callable[..., Any], gate: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """
    Those that start too late end at once.
    """

    class SlowStart(polling.StageThread):
        def start(self) -> None:
            if self.name.endswith(".Settler"):
                gate.wait()
            super().start()

    monkeypatch.setattr(polling, "StageThread", SlowStart)
    source = FakeSource(wait=0.0)
    pipeline = start(source, Recorder())
    gate.arrived()
    pipeline.stop()
    gate.open()
    eventually(lambda: not stage_threads(pipeline.name), "its threads have ended")
    assert [client.closed.is_set() for client in source.clients] == [True]
    assert failures(caplog) == []


@pytest.mark.parametrize("role", ["Receiver", "Settler", "Leases"])
def test_system_that_refuses_a_thread(start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    """
    Crashes the producer, which is made again; nothing of the first attempt is left.
    """
    refusals = ["can't start new thread"]

    class Refused(polling.StageThread):
        def start(self) -> None:
            if self.name.endswith(role) and refusals:
                raise RuntimeError(refusals.pop())
            super().start()

    monkeypatch.setattr(polling, "StageThread", Refused)
    source = FakeSource(wait=0.0)
    source.publish(*range(20))
    pipeline = start(source, Recorder())
    source.wait_until(lambda: len(source.acked) == 20)
    pipeline.stop()
    assert set(source.received.values()) == {1}
    assert [client.closed.is_set() for client in source.clients] == [True, True]
    assert not stage_threads(pipeline.name)


@pytest.mark.parametrize("seed", range(3))
def test_faults_everywhere(start: Callable[..., Any], seed: int) -> None:
    """
    One request in four fails, some are slow, one message in five fails, and the pipeline is stopped and started again:
    everything is handled, groups in order, and nothing is left.
    """
    choices = random.Random(seed)
    source = FakeSource(lease=0.5, wait=0.01)
    is_faulty = True

    def misbehave(call: str, argument: Any) -> None:
        luck = choices.random()
        if is_faulty and luck < 0.25:
            raise OSError(f"{call} failed")
        if is_faulty and luck < 0.35:
            time.sleep(0.02)  # a slow service

    source.before = misbehave
    expected = [(group, number) for number in range(40) for group in "abc"]
    for group, number in expected:
        source.publish((group, number), group=group if group != "c" else None)

    def work(message: Any) -> None:
        if choices.random() < 0.2:
            raise ValueError("bad luck")

    recorder = Recorder(work)
    succeeded: list[Any] = []
    recorder.handle_batch = lambda batcher, messages, info, context: (  # type: ignore[method-assign]
        succeeded.extend(message.data for message in messages) or messages
    )
    pipeline = start(
        source, recorder, {"on_failure": "nack"}, processors={"default": {"concurrency": 4, "max_demand": 4}},
        batchers={"default": {"batch_size": 3, "batch_timeout": 0.01}},
    )  # fmt: skip
    for _ in range(3):
        before = len(source.acked)
        source.wait_until(lambda before=before: len(source.acked) >= min(before + 30, 120))
        pipeline.stop()
        assert not source.items or source.free() >= 0
        pipeline.start()
    is_faulty = False
    source.wait_until(lambda: not source.items)
    pipeline.stop()
    assert sorted(source.acked) == sorted(expected)
    for group in "ab":
        firsts = list(dict.fromkeys(number for name, number in succeeded if name == group))
        assert firsts == list(range(40))


def test_receives_follow_demand(start: Callable[..., Any]) -> None:
    """
    Twenty messages for one processor come in receives of 10, 5 and 5, as in the original.
    """
    source = FakeSource(wait=0.0)
    counts: list[int] = []
    source.before = lambda call, argument: counts.append(argument) if call == "receive" else None
    source.publish(*range(20))
    permits = threading.Semaphore(0)
    start(source, Recorder(lambda message: permits.acquire(timeout=BOUND)), {"receive_interval": 3600.0})
    for number in (1, 2, 3):
        eventually(lambda number=number: len(counts) == number, f"receive number {number}")  # type: ignore[misc]
        for _ in range(5):
            permits.release()
    for _ in range(5):
        permits.release()
    source.wait_until(lambda: len(source.acked) == 20)
    assert counts[:3] == [10, 5, 5]


def test_interval_holds_after_an_empty_receive_alone(start: Callable[..., Any]) -> None:
    """
    A receive that brought less than was asked for is followed by the next at once.
    """
    source = FakeSource(wait=0.0)
    receives: list[int] = []
    source.before = lambda call, argument: receives.append(argument) if call == "receive" else None
    source.publish(*range(3))
    start(source, Recorder(), {"receive_interval": 3600.0, "max_number_of_messages": 2})
    eventually(lambda: len(receives) == 3, "two receives that bring something and an empty one")
    source.publish("later")
    time.sleep(QUIET)  # it must not come: nothing can say that it does not
    assert len(receives) == 3
    assert sorted(source.acked) == [0, 1, 2]


def test_push_during_a_long_poll(start: Callable[..., Any]) -> None:
    """
    Does not wait for it.
    """
    source = FakeSource(wait=0.0)
    in_poll, end_poll = threading.Event(), threading.Event()

    def before(call: str, argument: Any) -> None:
        if call == "receive":
            in_poll.set()
            assert end_poll.wait(BOUND)

    source.before = before
    recorder = Recorder()
    pipeline = start(source, recorder)
    assert in_poll.wait(BOUND)
    pipeline.push_messages([Message("pushed", NoopAcknowledger.init())])
    recorder.wait_for_data(["pushed"])
    end_poll.set()
