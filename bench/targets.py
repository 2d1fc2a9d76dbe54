"""
What the benchmark should reach, and what Broadway itself reached where it was measured.
"""

from __future__ import annotations

from typing import Dict, Mapping, Optional, Tuple

import attrs


@attrs.frozen
class Target:
    """
    A bound for the median of one figure.
    """

    figure: str
    at_least: Optional[float] = None
    at_most: Optional[float] = None

    def is_met(self, value: float) -> bool:
        """
        Whether *value* keeps the bound.
        """
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        sign, bound = (">=", self.at_least) if self.at_least is not None else ("<=", self.at_most)
        return f"{LABELS.get(self.figure, self.figure)} {sign} {bound:g}"


LABELS = {
    "ratio": "ratio",
    "memory_ratio": "memory",
    "share_of_ideal": "share",
    "p50_us": "p50",
    "p99_us": "p99",
    "most_in_a_window": "window",
    "cpu_percent": "cpu %",
    "wake_ups_per_second": "wake-ups/s",
    "milliseconds": "ms",
    "growth_mb": "growth MB",
}


def _ratio(at_least: float) -> Tuple[Target, ...]:
    return (Target("ratio", at_least=at_least),)


_MANY_KEYS = (*_ratio(0.60), Target("memory_ratio", at_most=1.5))
_IO = (Target("share_of_ideal", at_least=0.97),)

TARGETS: Mapping[str, Tuple[Target, ...]] = {
    "proc concurrency=2 max_demand=10": _ratio(0.61),
    "proc concurrency=10 max_demand=10": _ratio(0.60),
    "proc_tuned concurrency=2 max_demand=1000": _ratio(0.80),
    "batch max_demand=10": _ratio(0.60),
    "batch max_demand=100": _ratio(0.65),
    "batch_tuned max_demand=1000": _ratio(0.70),
    "batch_keys keys=1000 max_demand=10": _ratio(0.50),
    "batch_keys keys=1000 max_demand=1000": _ratio(0.65),
    "batch_keys keys=100000 max_demand=10": _MANY_KEYS,
    "batch_keys keys=100000 max_demand=1000": _MANY_KEYS,
    "partition max_demand=10": _ratio(0.60),
    "partition max_demand=1000": _ratio(0.75),
    "io max_demand=1": _IO,
    "io max_demand=10": _IO,
    "cpu concurrency=2": _ratio(1.75),
    "latency batch_size=0": (Target("p50_us", at_most=30), Target("p99_us", at_most=300)),
    "latency batch_size=100": (Target("p50_us", at_most=60), Target("p99_us", at_most=300)),
    "rate allowed_messages=1000 interval=0.1": (
        Target("share_of_ideal", at_least=0.995),
        Target("most_in_a_window", at_most=1000),
    ),
    "telemetry max_demand=10": _ratio(0.75),
    "telemetry max_demand=1000": _ratio(0.75),
    "failures fail_every=100": _ratio(0.95),
    "failures fail_every=1": _ratio(0.40),
    "idle": (Target("cpu_percent", at_most=0.2), Target("wake_ups_per_second", at_most=20)),
    "start_stop": (Target("milliseconds", at_most=60),),
    "soak messages=10000000": (Target("growth_mb", at_most=2),),
    "pinned max_demand=10": _ratio(1.0),
    **{f"rabbitmq batch_size={size}": _ratio(0.9) for size in (0, 100)},
    **{f"kafka batch_size=0 max_demand={demand}": _ratio(0.9) for demand in (10, 100)},
    "kafka batch_size=500 max_demand=1000": _ratio(0.9),
    **{f"sqs batch_size={size}": _ratio(0.9) for size in (0, 10)},
    **{f"pubsub batch_size={size}": _ratio(0.9) for size in (0, 500)},
}

# Broadway 1.3 (Elixir 1.14, OTP 25) on a machine with 2 cores, medians of 3 or more undisturbed runs of 1,000,000
# messages, over the rate of a bare Python loop measured in the same minutes; the same figure as that of the target.
BROADWAY: Dict[str, float] = {
    "proc concurrency=2 max_demand=10": 0.61,
    "proc concurrency=10 max_demand=10": 0.79,
    "proc_tuned concurrency=2 max_demand=1000": 0.52,
    "batch max_demand=10": 0.51,
    "batch_tuned max_demand=1000": 0.58,
    "batch_keys keys=1000 max_demand=10": 0.40,
    "batch_keys keys=1000 max_demand=1000": 0.56,
    "batch_keys keys=100000 max_demand=10": 0.44,
    "batch_keys keys=100000 max_demand=1000": 0.53,
    "partition max_demand=10": 0.53,
    "partition max_demand=1000": 0.69,
    "io max_demand=10": 0.83,
    "latency batch_size=100": 19,
    "rate allowed_messages=1000 interval=0.1": 0.992,
    "telemetry max_demand=10": 0.93,
    "telemetry max_demand=1000": 0.86,
}


def targets_of(name: str) -> Tuple[Target, ...]:
    """
    Return the targets of the case *name*, none if it has none.
    """
    return TARGETS.get(name, ())
