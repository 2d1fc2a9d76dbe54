"""
Runs a plan, and says what was wrong.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import traceback
from collections import Counter
from typing import Any, Dict, Iterator, List, Optional

from broadway_sync import DrainTimeoutError, Pipeline, PipelineFailedError, telemetry

from ..helpers import SCALE, unique_name
from .actors import (
    Emitter,
    Pusher,
    Script,
    StressAcknowledger,
    StressProducer,
    make_batch_size,
    make_handler,
    make_partition_by,
)
from .plan import BatcherPlan, Plan
from .witness import Witness

BOUND = 15.0 * SCALE
"""Seconds after which a run hangs."""

SHORT = 3.0 * SCALE
"""Seconds for the rest of a run that hangs: its seed must be told before the test's own time is over."""

EVENTS = [
    ("broadway", *stage, moment)
    for stage in (("processor",), ("processor", "message"), ("batcher",), ("batch_processor",), ("handle_failed",))
    for moment in ("start", "stop", "exception")
]


def run(plan: Plan) -> Witness:
    """
    Run *plan* to its end and return the witness, with the faults.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(plan.switch_interval)
    try:
        return _Run(plan).run()
    finally:
        sys.setswitchinterval(interval)


class _Run:
    """
    One run.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._name = unique_name("stress")
        self._witness = witness = Witness(plan, self._name)
        self._acknowledger = acknowledger = StressAcknowledger(witness)
        self._unfinished = plan.producers
        self._lock = threading.Lock()  # guards _unfinished
        self._scripts = [Script(n, witness, acknowledger, self._exhausted) for n in range(plan.producers)]
        self._pipeline = acknowledger.pipeline = Pipeline(make_handler(witness), **self._options())
        self._is_over = threading.Event()
        self._threads: List[threading.Thread] = self._make_threads()

    def _exhausted(self) -> None:
        with self._lock:
            self._unfinished -= 1
            is_last = not self._unfinished
        if is_last:
            self._witness.is_ending.set()

    def _options(self) -> Dict[str, Any]:
        plan = self._plan
        partition_by = make_partition_by(self._witness)
        rate = plan.rate and {"allowed_messages": plan.rate[0], "interval": plan.rate[1]}
        return {
            "name": self._name,
            "producer": {
                "module": (StressProducer, {"scripts": self._scripts}),
                "concurrency": plan.producers,
                "transformer": (lambda event: event.message) if plan.has_transformer else None,
                "rate_limiting": rate,
            },
            "processors": {
                "main": {
                    "concurrency": plan.processors,
                    "max_demand": plan.max_demand,
                    "min_demand": plan.min_demand,
                    "partition_by": partition_by if plan.is_partitioned else None,
                }
            },
            "batchers": {f"b{n}": self._batcher(b, partition_by) for n, b in enumerate(plan.batchers)},
            "shutdown": BOUND,
            "max_restarts": plan.max_restarts,
            "max_seconds": 60.0,
            "resubscribe_interval": 0.001,
        }

    def _batcher(self, plan: BatcherPlan, partition_by: Any) -> Dict[str, Any]:
        return {
            "concurrency": plan.concurrency,
            "batch_size": make_batch_size(self._witness, plan.size) if plan.is_function else plan.size,
            "batch_timeout": plan.timeout,
            "max_demand": plan.max_demand,
            "partition_by": partition_by if plan.is_partitioned else None,
        }

    def _make_threads(self) -> List[threading.Thread]:
        plan = self._plan
        emitters = [
            Emitter(number, self._scripts[number % plan.producers], self._acknowledger, self._is_over)
            for number in range(plan.emitters * plan.producers)
        ]
        pushers = [Pusher(self._witness, self._acknowledger, self._pipeline, self._is_over)] if plan.pushes else []
        stoppers = [threading.Thread(target=self._stop_then, name="stopper", daemon=True) for _ in range(self._stops())]
        return [*emitters, *pushers, *stoppers]

    def _stops(self) -> int:
        return {"main": 1, "thread": 1, "two threads": 2}.get(self._plan.stop_by, 0)

    def _stop_then(self) -> None:
        self._witness.stop_now.wait()
        self._stop()

    def _stop(self, timeout: Optional[float] = None) -> None:
        self._witness.is_ending.set()
        try:
            self._pipeline.stop(timeout)
        except DrainTimeoutError as error:
            self._witness.fault(f"the stop did not drain: {error}")

    def run(self) -> Witness:
        """
        Start, wait for the end, and look at what there is.
        """
        with _quiet_log(self._witness), _observed(self._plan.is_observed, self._witness):
            self._pipeline.start()
            for thread in self._threads:
                thread.start()
            self._wait()
        if not self._witness.faults:
            self._witness.check_end()
        return self._witness

    def _wait(self) -> None:
        has_ended = self._has_ended()
        if not has_ended:
            self._witness.fault(f"hangs, {self._witness.count_acknowledged()} messages were acknowledged:\n{stacks()}")
        self._is_over.set()
        self._witness.stop_now.set()
        self._stop(None if has_ended else SHORT)  # of a pipeline that has ended: does nothing, raises nothing
        library = [t for t in threading.enumerate() if t.name.startswith(f"{self._name}.Broadway.")]
        for thread in [*self._threads, *library]:
            thread.join(BOUND if has_ended else SHORT)
            if thread.is_alive():
                self._witness.fault(f"the thread {thread.name} is left:\n{stacks()}")
                return

    def _has_ended(self) -> bool:
        try:
            if not self._pipeline.join(BOUND):
                return False
            expected = "stopped"
        except PipelineFailedError:
            expected = "failed" if self._plan.crash_rate else "stopped"
        if self._pipeline.state != expected:
            self._witness.fault(f"the pipeline is {self._pipeline.state}, and should be {expected}")
        return True


def stacks() -> str:
    """
    Return where all threads are.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"{names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    )


class _Alarm(logging.Handler):
    """
    Takes the log of the library, of which a fault of the library itself is a fault of the run.
    """

    def __init__(self, witness: Witness) -> None:
        super().__init__()
        self._witness = witness

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if any(words in text for words in ("thread of the library died", "supervisor died", "did not drain")):
            error = record.exc_info and record.exc_info[1]
            trace = "".join(traceback.format_exception(type(error), error, error.__traceback__)) if error else ""
            self._witness.fault(f"in the log: {text}\n{trace}")


@contextlib.contextmanager
def _quiet_log(witness: Witness) -> Iterator[None]:
    """
    Keep thousands of planned failures out of the log.
    """
    logger = logging.getLogger("broadway_sync")
    alarm, before = _Alarm(witness), logger.propagate
    logger.propagate = False
    logger.addHandler(alarm)
    try:
        yield
    finally:
        logger.removeHandler(alarm)
        logger.propagate = before


@contextlib.contextmanager
def _observed(is_observed: bool, witness: Witness) -> Iterator[None]:
    """
    Attach telemetry handlers; each start must have had one end.
    """
    if not is_observed:
        yield
        return
    counts: Counter[Any] = Counter()
    lock = threading.Lock()

    def count(event: Any, measurements: Any, metadata: Any, config: Any) -> None:
        with lock:
            counts[event] += 1

    telemetry.attach_many("stress", EVENTS, count)
    try:
        yield
    finally:
        telemetry.detach("stress")
    for *stage, moment in EVENTS:
        ends = counts[(*stage, "stop")] + counts[(*stage, "exception")]
        if moment == "start" and counts[(*stage, "start")] != ends:
            witness.fault(f"{counts[(*stage, 'start')]} starts and {ends} ends of {stage}")
