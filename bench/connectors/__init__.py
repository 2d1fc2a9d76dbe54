"""
The scenarios of connectors: for each broker the client's own tightest loop, our pipeline, and what else people use.

A job has three parts. ``prepare`` fills a queue, in the process that runs all jobs; ``run`` empties it, in a process of
its own; ``check`` looks afterwards whether all was acknowledged. Every ``run`` measures the same stretch: from the
moment at which a tenth of the messages has been received (connections are made then, code is loaded and caches are
filled) to the acknowledgement of the last one.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from typing import Dict, Iterator, List

from .. import brokers
from ..jobs import Figures
from ..settings import Settings
from . import kafka, kafka_peers, pubsub, rabbitmq, rabbitmq_peers, sqs
from .job import BrokerJob, Target

JOBS: Dict[str, BrokerJob] = {
    **rabbitmq.JOBS,
    **rabbitmq_peers.JOBS,
    **kafka.JOBS,
    **kafka_peers.JOBS,
    **sqs.JOBS,
    **pubsub.JOBS,
}

PEERS: List[str] = [*rabbitmq_peers.JOBS, *kafka_peers.JOBS]

VARIABLE = "BROADWAY_BENCH_TARGET"


@contextmanager
def target_of(name: str, settings: Settings) -> Iterator[Dict[str, str]]:
    """
    Prepare the job *name* and yield what its process needs in its environment; check at the end. Others need nothing.

    Raises:
        brokers.MissingBrokerError: Its broker cannot be started here.
    """
    if name not in JOBS:
        yield {}
        return
    job = JOBS[name]
    broker = brokers.get(job.broker)
    target = {**job.prepare(broker, settings), "pid": broker.pid}
    try:
        yield {VARIABLE: json.dumps(target)}
        job.check(broker, target)
    finally:
        job.clear(broker, target)


def target_here() -> Target:
    """
    Return what the process that started this one prepared; empty if this is no job of a connector.
    """
    target: Target = json.loads(os.environ.get(VARIABLE) or "{}")
    return target


def run(name: str, settings: Settings) -> Figures:
    """
    Run the job *name* on what was prepared.
    """
    return JOBS[name].run(target_here(), settings)
