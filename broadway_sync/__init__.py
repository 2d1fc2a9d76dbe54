"""
Broadway for programs that run on threads: producers, processors and batchers with back-pressure, batching,
acknowledgement, partitioning, rate limiting, graceful shutdown and supervised restarts.

Importing this package imports no client library, starts no thread and opens nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import telemetry
from .acknowledger import Acknowledger, CallerAcknowledger, NoopAcknowledger, ack_immediately
from .around import Around, Call, add_around, remove_around
from .batch_info import BatchInfo
from .buffer import Buffer, BufferProducer
from .errors import (
    AckConfigurationError,
    AlreadyStartedError,
    BroadwayError,
    ConfigurationError,
    ConnectorError,
    DrainTimeoutError,
    EndOfStream,
    InvalidReturnError,
    NotRunningError,
    PipelineFailedError,
    RateLimitingNotEnabledError,
    UnknownBatcherError,
)
from .handler import Handler
from .health import Health, StageHealth
from .in_process import DummyProducer, IterableProducer
from .message import Message
from .options import BatcherOptions, PipelineOptions, ProcessorOptions, ProducerOptions, RateLimiting
from .partition import partition_key
from .pipeline import Pipeline
from .producer import Producer, Stage
from .registry import all_running, get_pipeline
from .retry import Retry
from .statistics import StageStatistics, Statistics
from .test_ref import TestRef

if TYPE_CHECKING:
    from .runner.signals import run_until_signal

__all__ = [
    # the pipeline
    "Pipeline",
    "all_running",
    "get_pipeline",
    # its options
    "PipelineOptions",
    "ProducerOptions",
    "ProcessorOptions",
    "BatcherOptions",
    "RateLimiting",
    # callbacks and what they get
    "Handler",
    "Message",
    "BatchInfo",
    "ack_immediately",
    "Retry",
    "partition_key",
    # around callbacks
    "Around",
    "Call",
    "add_around",
    "remove_around",
    # in scripts
    "run_until_signal",
    # what goes on
    "Health",
    "StageHealth",
    "Statistics",
    "StageStatistics",
    # producers
    "Producer",
    "Stage",
    "DummyProducer",
    "IterableProducer",
    "Buffer",
    "BufferProducer",
    # acknowledgers
    "Acknowledger",
    "NoopAcknowledger",
    "CallerAcknowledger",
    # tests and telemetry
    "TestRef",
    "telemetry",
    # errors
    "BroadwayError",
    "ConfigurationError",
    "AlreadyStartedError",
    "NotRunningError",
    "RateLimitingNotEnabledError",
    "AckConfigurationError",
    "InvalidReturnError",
    "UnknownBatcherError",
    "DrainTimeoutError",
    "PipelineFailedError",
    "ConnectorError",
    "EndOfStream",
]


def __getattr__(name: str) -> Any:
    """
    Import what most programs do not use when it is asked for: the runner brings an HTTP server and more.
    """
    if name == "run_until_signal":
        from .runner.signals import run_until_signal

        return run_until_signal
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
