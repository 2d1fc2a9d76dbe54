"""
Messages: fields, methods, immediate acknowledgement, configuration of the acknowledger; and ``BatchInfo``.
"""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest

from broadway_sync import (
    AckConfigurationError,
    BatchInfo,
    CallerAcknowledger,
    Message,
    NoopAcknowledger,
    ack_immediately,
)
from tests.helpers import BOUND, Batches, Call, ConfigurableAcknowledger, RecordingAcknowledger, get, make_handler


def message(data: Any = 1, **options: Any) -> Message:
    """
    Return a message that nobody acknowledges.
    """
    return Message(data, NoopAcknowledger.init(), **options)


# Fields


def test_defaults() -> None:
    """
    A message has the default batcher, key and mode, empty metadata, is ok and has no reason.
    """
    m = Message("data", ("acknowledger", "ref", "ack data"))
    assert (m.data, m.acknowledger) == ("data", ("acknowledger", "ref", "ack data"))
    assert (m.metadata, m.batcher, m.batch_key, m.batch_mode) == ({}, "default", "default", "bulk")
    assert (m.status, m.reason) == ("ok", None)


def test_given_fields() -> None:
    """
    Everything else is given by keyword.
    """
    m = message(metadata={"a": 1}, batcher="s3", batch_key=("k", 2), batch_mode="flush")
    assert (m.metadata, m.batcher, m.batch_key, m.batch_mode) == ({"a": 1}, "s3", ("k", 2), "flush")
    with pytest.raises(TypeError):
        Message(1, NoopAcknowledger.init(), {"a": 1})  # type: ignore[misc]


def test_metadata_is_not_shared() -> None:
    """
    Each message has metadata of its own.
    """
    first, second = message(), message()
    first.metadata["a"] = 1
    assert second.metadata == {}


def test_messages_are_slotted() -> None:
    """
    A misspelt attribute is an error.
    """
    with pytest.raises(AttributeError):
        message().dta = 1  # type: ignore[attr-defined]
    assert not hasattr(message(), "__dict__")


def test_messages_are_compared_by_identity() -> None:
    """
    Two messages with equal fields are different, and messages are hashable whatever their data.
    """
    first, second = message([1]), message([1])
    assert first != second
    assert first == first  # noqa: PLR0124
    assert len({first, second}) == 2


def test_attributes_are_plain() -> None:
    """
    Data, metadata, batcher, key and mode may be assigned.
    """
    m = message()
    m.data, m.metadata, m.batcher, m.batch_key, m.batch_mode = 2, {"b": 1}, "s3", "k", "flush"
    assert (m.data, m.metadata, m.batcher, m.batch_key, m.batch_mode) == (2, {"b": 1}, "s3", "k", "flush")


def test_repr() -> None:
    """
    A message is shown by its public attributes, also when it contains itself.
    """
    acknowledger = NoopAcknowledger.init()
    m = Message(1, acknowledger, batcher="s3")
    rest = "batcher='s3', batch_key='default', batch_mode='bulk', status='ok', reason=None)"
    assert repr(m) == f"Message(data=1, acknowledger={acknowledger!r}, metadata={{}}, {rest}"
    m.metadata["host"] = "a"
    m.ack_immediately()
    assert repr(m) == f"Message(data=1, acknowledger={acknowledger!r}, metadata={{'host': 'a'}}, {rest}"
    assert repr(m.put_data(m)).startswith("Message(data=Message(...), ")


# Methods


def test_methods_change_in_place_and_chain() -> None:
    """
    Every method changes the message and returns it.
    """
    m = message(1)
    chained = m.put_data(2).update_data(lambda d: d + 1).put_batcher("s3").put_batch_key("k").put_batch_mode("flush")
    assert chained.fail("why").ack_immediately() is m
    assert (m.data, m.batcher, m.batch_key, m.batch_mode) == (3, "s3", "k", "flush")
    assert (m.status, m.reason) == ("failed", "why")


def test_update_data_that_raises() -> None:
    """
    When the function raises, so does ``update_data``, and the data stays.
    """
    m = message(1)
    with pytest.raises(ZeroDivisionError):
        m.update_data(lambda d: d / 0)
    assert m.data == 1


@pytest.mark.parametrize("mode", ["bulky", None, 1])
def test_wrong_batch_mode(mode: Any) -> None:
    """
    A batch mode is ``"bulk"`` or ``"flush"``.
    """
    m = message()
    with pytest.raises((ValueError, TypeError)):
        m.put_batch_mode(mode)
    assert m.batch_mode == "bulk"


@pytest.mark.parametrize("key", [[1], {}, {1}, ("a", [])], ids=repr)
def test_unhashable_batch_key(key: Any) -> None:
    """
    A batch key must be hashable; the one that is not is refused where it is put.
    """
    m = message()
    with pytest.raises(TypeError):
        m.put_batch_key(key)
    assert m.batch_key == "default"


class Mean:
    """
    A key that cannot be hashed or compared when it matters.
    """

    def __init__(self, broken: str) -> None:
        self.broken = broken

    def __hash__(self) -> int:
        if self.broken == "hash":
            raise ValueError("no hash")
        return 7

    def __eq__(self, other: Any) -> bool:
        if self.broken == "eq":
            raise ValueError("no comparison")
        return self is other


@pytest.mark.parametrize("key", [[1], Mean("hash"), Mean("eq")], ids=["list", "hash", "eq"])
def test_bad_batch_key_by_assignment(make_pipeline: Any, acks: Any, key: Any) -> None:
    """
    A key that was assigned past the check fails its own message, not the batcher's thread or its neighbours.
    """

    def handle_message(processor: str, m: Message, context: Any) -> Message:
        m.batch_key = key if m.data == 1 else "good"
        return m

    handler = make_handler(handle_message=handle_message)
    with make_pipeline(handler, batchers={"default": {"batch_timeout": 3600}}) as pipeline:
        pipeline.push_messages(acks.messages(range(4)))
    assert sorted(acks.all_data()) == [0, 1, 2, 3]
    assert sorted(m.data for ack in acks.acks for m in ack.successful if m.data != 1) == [0, 2, 3]


# Immediate acknowledgement


def test_ack_immediately_outside_a_pipeline() -> None:
    """
    A message is acknowledged on the spot by its present status, once.
    """
    acks = RecordingAcknowledger()
    good, bad = acks.message("good"), acks.message("bad").fail("x")
    good.ack_immediately()
    bad.ack_immediately()
    assert [ack.data for ack in acks.acks] == [(["good"], []), ([], ["bad"])]
    assert acks.acks[0].successful[0] is good
    good.ack_immediately()
    good.fail("later").ack_immediately()
    assert len(acks.acks) == 2


def test_ack_immediately_of_several() -> None:
    """
    The function groups by acknowledger and reference, keeps the order, and leaves out what was acknowledged before.
    """
    acks, others = RecordingAcknowledger(), RecordingAcknowledger()
    messages = [
        Message(0, acks.init("a")),
        Message(1, acks.init("b")),
        Message(2, acks.init("a")).fail("x"),
        Message(3, acks.init("a")),
        Message(4, others.init("a")),
        Message(5, acks.init("a")),
    ]
    messages[5].ack_immediately()
    acks.acks.clear()
    returned = ack_immediately(messages)
    assert list(returned) == messages
    assert sorted((ack.ref, *ack.data) for ack in acks.acks) == [("a", [0, 3], [2]), ("b", [1], [])]
    assert [(ack.ref, *ack.data) for ack in others.acks] == [("a", [4], [])]


def test_ack_immediately_twice_in_one_call() -> None:
    """
    A message that stands twice in the list is acknowledged once.
    """
    acks = RecordingAcknowledger()
    m = acks.message(1)
    ack_immediately([m, m])
    assert [ack.data for ack in acks.acks] == [([1], [])]


def test_ack_immediately_from_many_threads() -> None:
    """
    However many threads acknowledge a message at the same moment, one of them does.
    """
    acks = RecordingAcknowledger()
    for number in range(100):
        m, barrier = acks.message(number), threading.Barrier(4)

        def acknowledge(m: Message = m, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(BOUND)
            m.ack_immediately()

        for call in [Call(acknowledge) for _ in range(4)]:
            call.result()
    assert sorted(acks.all_data()) == list(range(100))


def test_acknowledger_that_raises_in_ack_immediately(make_pipeline: Any) -> None:
    """
    An acknowledger that raises has acknowledged: the message is not acknowledged again at the end of its step.
    """
    calls: queue.Queue[Any] = queue.Queue()

    class Broken:
        def ack(self, ack_ref: Any, successful: Any, failed: Any) -> None:
            calls.put((len(successful), len(failed)))
            raise RuntimeError("cannot acknowledge")

    def handle_message(processor: str, m: Message, context: Any) -> Message:
        return m.ack_immediately()

    with make_pipeline(make_handler(handle_message=handle_message)) as pipeline:
        pipeline.push_messages([Message(1, (Broken(), "ref", None))])
        assert get(calls) == (1, 0)
    assert calls.empty()


@pytest.mark.parametrize("then", ["return", "raise", "fail", "return none"])
@pytest.mark.parametrize("batchers", [{}, {"default": {}}], ids=["no batchers", "batchers"])
def test_ack_immediately_in_handle_message(make_pipeline: Any, acks: Any, then: str, batchers: Any) -> None:
    """
    Whatever comes after an immediate acknowledgement, a raise included, acknowledges nothing.
    """

    def handle_message(processor: str, m: Message, context: Any) -> Any:
        if m.data == 1:
            m.ack_immediately()
            if then == "raise":
                raise ValueError
            if then == "fail":
                m.fail("late")
            if then == "return none":
                return None
        return m

    with make_pipeline(make_handler(handle_message=handle_message), batchers=batchers) as pipeline:
        pipeline.push_messages(acks.messages(range(3)))
    assert acks.acks[0].data == ([1], [])
    assert sorted(acks.all_data()) == [0, 1, 2]


def test_message_that_is_acknowledged_goes_on(make_pipeline: Any, acks: Any) -> None:
    """
    A message that was acknowledged early still goes through its batch.
    """
    batches = Batches()
    handler = make_handler(handle_message=lambda p, m, c: m.ack_immediately(), handle_batch=batches)
    with make_pipeline(handler, batchers={"default": {"batch_size": 2}}) as pipeline:
        pipeline.push_messages(acks.messages(range(2)))
        assert batches.next()[0] == [0, 1]
    assert sorted(acks.all_data()) == [0, 1]


def test_ack_immediately_in_handle_batch(make_pipeline: Any, acks: Any) -> None:
    """
    Messages acknowledged early in ``handle_batch`` are left out of the batch's acknowledgement, also when it raises.
    """

    def handle_batch(batcher: str, messages: list[Message], batch_info: Any, context: Any) -> list[Message]:
        ack_immediately(messages[:2])
        raise ValueError

    with make_pipeline(make_handler(handle_batch=handle_batch), batchers={"default": {"batch_size": 4}}) as p:
        p.push_messages(acks.messages(range(4)))
    assert [ack.data for ack in acks.acks] == [([0, 1], []), ([], [2, 3])]


# configure_ack


def test_configure_ack() -> None:
    """
    ``configure_ack`` gives the acknowledger the options and puts the ack data that it returns into the message.
    """
    acks = ConfigurableAcknowledger()
    m = Message(1, acks.init("ref", "old"))
    assert m.configure_ack(on_failure="reject", requeue=False) is m
    new = {"ref": "ref", "before": "old", "options": {"on_failure": "reject", "requeue": False}}
    assert m.acknowledger == (acks, "ref", new)


def test_configure_ack_without_configure() -> None:
    """
    An acknowledger without ``configure`` cannot be configured, says so, and leaves the message as it was.
    """
    acks = RecordingAcknowledger()
    m = acks.message(1)
    with pytest.raises(AckConfigurationError, match="RecordingAcknowledger"):
        m.configure_ack(on_failure="reject")
    assert m.acknowledger == acks.init()


def test_configure_ack_of_the_caller_acknowledger() -> None:
    """
    The caller acknowledger reports the options and goes on working.
    """
    calls: queue.Queue[Any] = queue.Queue()
    m = Message(1, CallerAcknowledger.init(calls, "ref"))
    m.configure_ack(on_failure="reject")
    assert get(calls) == ("configure", "ref", {"on_failure": "reject"})
    m.ack_immediately()
    kind, ref, successful, failed = get(calls)
    assert (kind, ref, list(successful), list(failed)) == ("ack", "ref", [m], [])


def test_configure_ack_in_a_pipeline(make_pipeline: Any) -> None:
    """
    What was configured in a callback is what the acknowledger sees.
    """
    acks = ConfigurableAcknowledger()
    handler = make_handler(handle_message=lambda p, m, c: m.configure_ack(on_failure="x"))
    with make_pipeline(handler) as pipeline:
        pipeline.push_messages(acks.messages([1]))
        (m,), _ = acks.collect(1)
    assert m.acknowledger[2]["options"] == {"on_failure": "x"}


# BatchInfo


def test_batch_info_is_a_frozen_value() -> None:
    """
    ``BatchInfo`` is a value: equal by its fields, and not to be changed.
    """
    fields = {"batcher": "s3", "batch_key": "k", "partition": 1, "size": 2, "trigger": "size"}
    info = BatchInfo(**fields)
    assert info == BatchInfo(**fields)
    assert {name: getattr(info, name) for name in fields} == fields
    with pytest.raises(AttributeError):
        info.size = 3  # type: ignore[misc]
