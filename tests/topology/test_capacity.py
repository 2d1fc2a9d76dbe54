"""
The most messages that a pipeline can hold: here the bounds of ``tests/stress/plan.py`` are reached, message by message,
so that they are neither too low nor made up. That they are never exceeded is for the stress test to show.
"""

from __future__ import annotations

import itertools
import threading
from typing import Any, Callable, Dict, Iterable, List

import pytest

from broadway_sync import Message, NoopAcknowledger, Producer

from ..helpers import BOUND, NEVER, QUIET, Gate, eventually, make_handler
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
    One message is missing to shut the gate when a step hangs (the ``batch_size`` function of its message). The
    processors that are free leave as many chunks as there are processors to whoever runs the steps, pass the gate once
    more, and are through with one more chunk each when the gate has been shut.
    """
    handling, sizing, late, made = gates(), gates(), gates(), []
    before = processors  # one batch is handled, and one message less than what shuts the gate waits
    left_behind = 1 + processors  # the one whose step hangs, and the steps that are left to that thread
    handled, sized = itertools.count(), itertools.count()
    go_on = threading.Event()

    def handle_message(processor: str, message: Message, context: Any) -> Message:
        number = next(handled)
        if number >= before:
            go_on.wait(BOUND)
        if number >= before + left_behind:
            late.wait()
        return message

    def batch_size(message: Message, accumulator: Any) -> Any:
        if next(sized) == before:
            sizing.wait()
        return ("emit", accumulator)

    pipeline = make_pipeline(
        make_handler(
            handle_message=handle_message,
            handle_batch=lambda batcher, messages, info, context: handling.wait() or messages,
        ),
        producer={"module": (Endless, {"made": made})},
        processors={"p": {"concurrency": processors, "max_demand": 1, "min_demand": 0}},
        batchers={"default": {"batch_size": (0, batch_size), "max_demand": 1, "batch_timeout": NEVER}},
    ).start()
    handling.arrived()
    batcher = pipeline._run._topology._batchers["default"]
    eventually(lambda: batcher._accumulator.waiting == before - 1, "one less than what shuts the gate")
    go_on.set()
    sizing.arrived()
    for _ in range(processors - 1):
        late.arrived()
    sizing.open()
    # A single processor runs the steps itself, and stops before the gate with its next chunk.
    more = left_behind if processors > 1 else 1
    eventually(lambda: batcher._accumulator.waiting == before - 1 + more, "the steps are run")
    assert batcher.is_full
    late.open()
    plan = plain(processors=processors, max_demand=1, min_demand=0, batchers=(plan_of_batcher(),))
    assert capacity(plan) == processors + (processors - 1 + 2 * processors) + 1
    assert settled(made) == (capacity(plan) if processors > 1 else capacity(plan) - 1)


def test_open_batches_add_up_by_key_and_partition(make_pipeline: Make, gate: Gate) -> None:
    """
    All but one message of a batch for each of them wait for what completes it; beside these terms (and one batch for
    each batch processor) the formula does not depend on the size.
    """
    keys, partitions, size = ("a", "b", "default"), 2, 4
    lanes = [(key, partition) for key in keys for partition in range(partitions)] * (size - 1)
    batches: List[Any] = []

    class Lanes(Producer):
        poll_interval = NEVER

        def handle_demand(self, demand: int) -> Iterable[Message]:
            taken, lanes[:] = lanes[:demand], lanes[demand:]
            return [Message(lane, NoopAcknowledger.init()) for lane in taken]

    pipeline = make_pipeline(
        make_handler(
            handle_message=lambda processor, message, context: message.put_batch_key(message.data[0]),
            handle_batch=lambda batcher, messages, info, context: batches.append(info) or messages,
        ),
        producer={"module": (Lanes, {})},
        processors={"p": {"concurrency": 1, "max_demand": 2}},
        batchers={
            "default": {
                "batch_size": size,
                "batch_timeout": NEVER,
                "concurrency": partitions,
                "partition_by": lambda message: message.data[1],
            }
        },
    ).start()
    accumulator = pipeline._run._topology._batchers["default"]._accumulator
    expected = len(keys) * partitions * (size - 1)
    eventually(lambda: sum(len(b.messages) for b in accumulator.unfinished()) == expected, "all are in open batches")
    assert batches == []
    one = plan_of_batcher(concurrency=partitions, size=size, is_partitioned=True)
    none = one._replace(size=1)
    bounds = [capacity(plain(keys=keys, batchers=(batcher,))) for batcher in (one, none)]
    assert bounds[0] - bounds[1] == expected + partitions * (size - 1)
