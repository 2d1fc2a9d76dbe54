"""
The most messages that a pipeline can hold: here the bounds of ``tests/stress/plan.py`` are reached, message by message, so
that they are neither too low nor made up. That they are never exceeded is for the stress test to show.
"""

from __future__ import annotations

import threading
from typing import Any, Callable, Dict, Iterable, List

import pytest

from broadway_sync import Message, NoopAcknowledger, Producer

from ..helpers import NEVER, QUIET, Call, Gate, eventually, get, make_handler
from ..stress.plan import BatcherPlan, Plan, capacity, make_plan

Make = Callable[..., Any]


def plain(**changes: Any) -> Plan:
    """
    Return a plan of which only the sizes count.
    """
    return make_plan(0, lambda options: options[0])._replace(**{"batchers": (), "keys": ("default",), **changes})


def plan_of_batcher(**changes: Any) -> BatcherPlan:
    """
    Return a batcher of which only the sizes count.
    """
    numbers: Dict[str, Any] = {"concurrency": 1, "size": 1, "is_function": False, "max_demand": 1}
    return BatcherPlan(**{**numbers, "timeout": NEVER, "is_partitioned": False, **changes})


class Endless(Producer):
    """
    Gives whatever it is asked for, and counts it.
    """

    def __init__(self, made: List[int]) -> None:
        self._made = made

    def handle_demand(self, demand: int) -> Iterable[Message]:
        """
        Return *demand* messages.
        """
        self._made += [1] * demand
        return [Message(None, NoopAcknowledger.init()) for _ in range(demand)]


def settled(made: List[int]) -> int:
    """
    Wait until nothing more is made, and return how many messages were.
    """
    count, calm = -1, threading.Event()
    while count != len(made):
        count = len(made)
        calm.wait(QUIET)
    return count


@pytest.mark.parametrize("producers", [1, 3])
@pytest.mark.parametrize(("processors", "max_demand", "min_demand"), [(1, 1, 0), (2, 10, 5), (3, 4, 3)])
def test_processors_that_hang_hold_what_was_demanded(
    make_pipeline: Make, gate: Gate, producers: int, processors: int, max_demand: int, min_demand: int
) -> None:
    """
    For each producer and processor *max_demand* messages, exactly.
    """
    made: List[int] = []
    make_pipeline(
        make_handler(handle_message=lambda processor, message, context: gate.wait() or message),
        producer={"module": (Endless, {"made": made}), "concurrency": producers},
        processors={"p": {"concurrency": processors, "max_demand": max_demand, "min_demand": min_demand}},
    ).start()
    plan = plain(producers=producers, processors=processors, max_demand=max_demand, min_demand=min_demand)
    assert settled(made) == capacity(plan) == producers * processors * max_demand


def test_a_long_poll_that_ends_late_and_a_full_buffer_add_up(make_pipeline: Make, gates: Callable[[], Gate]) -> None:
    """
    A producer is asked for all there is, and while it sits in its poll its other thread emits: what processors have in
    hand and a full buffer. Then the poll brings what was asked for.
    """
    handling, polling, instances = gates(), gates(), []

    class Both(Producer):
        buffer_size = 3

        def init(self) -> None:
            instances.append(self)

        def handle_demand(self, demand: int) -> Iterable[Message]:
            polling.wait(demand)
            return messages(demand)

    made: List[int] = []

    def messages(count: int) -> List[Message]:
        made.extend([1] * count)
        return [Message(None, NoopAcknowledger.init()) for _ in range(count)]

    make_pipeline(
        make_handler(handle_message=lambda processor, message, context: handling.wait() or message),
        producer={"module": (Both, {})},
        processors={"p": {"concurrency": 2, "max_demand": 4, "min_demand": 2}},
    ).start()
    assert polling.arrived() == 8
    for _ in range(2):  # a chunk for each processor
        instances[0].stage.emit(messages(2))
        handling.arrived()
    instances[0].stage.emit(messages(2))
    instances[0].stage.emit(messages(5))
    polling.open()
    plan = plain(processors=2, max_demand=4, min_demand=2, emitters=1, emit_length=5, buffer_size=3)
    assert settled(made) == capacity(plan) == 8 + (4 + 3 - 1 + 5)


@pytest.mark.parametrize("processors", [1, 2, 4])
def test_a_batcher_that_is_held_up_while_its_batch_processor_hangs(
    make_pipeline: Make, gates: Callable[[], Gate], processors: int
) -> None:
    """
    One message is missing to shut the gate when a step hangs (the ``batch_size`` function of its message). Each processor
    that is free leaves its chunks to whoever runs the steps until there are too many, and waits with one more.
    """
    handling, sizing, made = gates(), gates(), []
    before = processors  # one batch is handled, and one less than what shuts the gate waits
    steps: List[int] = []

    def batch_size(message: Message, accumulator: Any) -> Any:
        steps.append(1)
        if len(steps) == before + 1:
            sizing.wait()
        return ("emit", accumulator)

    tickets = threading.Semaphore(0)

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        tickets.acquire()
        return message

    pipeline = make_pipeline(
        make_handler(
            handle_message=handle_message,
            handle_batch=lambda batcher, messages, info, context: handling.wait() or messages,
        ),
        producer={"module": (Endless, {"made": made})},
        processors={"p": {"concurrency": processors, "max_demand": 1, "min_demand": 0}},
        batchers={"b": {"batch_size": (0, batch_size), "max_demand": 1, "batch_timeout": NEVER}},
    ).start()
    try:
        tickets.release(before)
        handling.arrived()
        batcher = pipeline._run._topology._batchers["b"]
        eventually(lambda: batcher._accumulator.waiting == before - 1, "one less than what shuts the gate")
        tickets.release(10**6)
        sizing.arrived()
        eventually(lambda: len(batcher._room.parked) == processors - 1, "all other processors wait for the steps")
        sizing.open()
        plan = plain(processors=processors, max_demand=1, min_demand=0, batchers=(plan_of_batcher(),))
        reached = processors + (processors - 1 + 2 * processors) + 1
        # A single processor runs the steps itself: there is nobody to leave chunks to them.
        assert settled(made) == (capacity(plan) if processors > 1 else capacity(plan) - 1)
        assert capacity(plan) == reached
    finally:
        tickets.release(10**6)


def test_open_batches_add_up_by_key_and_partition(make_pipeline: Make, gate: Gate) -> None:
    """
    All but one message of a batch for each of them, while the producer is asked for more.
    """
    keys, partitions, size = ["a", "b", "default"], 2, 4
    per_lane = size - 1
    lanes = [(key, partition) for key in keys for partition in range(partitions)]
    plan = [lane for lane in lanes for _ in range(per_lane)]
    acked: List[Any] = []
    more = Call(lambda: None)
    more.result()

    class Plan(Producer):
        poll_interval = NEVER

        def handle_demand(self, demand: int) -> Iterable[Message]:
            taken, plan[:] = plan[:demand], plan[demand:]
            return [Message(lane, NoopAcknowledger.init()) for lane in taken]

    pipeline = make_pipeline(
        make_handler(
            handle_message=lambda processor, message, context: message.put_batch_key(message.data[0]),
            handle_batch=lambda batcher, messages, info, context: acked.append(info) or messages,
        ),
        producer={"module": (Plan, {})},
        processors={"p": {"concurrency": 1, "max_demand": 2}},
        batchers={
            "b": {
                "batch_size": size,
                "batch_timeout": NEVER,
                "concurrency": partitions,
                "partition_by": lambda message: message.data[1],
            }
        },
    ).start()
    batcher = pipeline._run._topology._batchers["b"]
    eventually(lambda: not plan or get, "the plan is handed over")
    eventually(
        lambda: sum(len(b.messages) for b in batcher._accumulator.unfinished()) == len(lanes) * per_lane,
        "all messages are in open batches",
    )
    assert acked == []
