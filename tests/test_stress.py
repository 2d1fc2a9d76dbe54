"""
Random pipelines with random faults: each message is acknowledged exactly once, order holds, nothing hangs, no more
messages are held than the formula of ``docs/explanation/architecture.rst`` says.

``BROADWAY_STRESS_SEEDS`` is the number of seeds, ``BROADWAY_STRESS_FIRST`` the first one. A failure names its seed;
``BROADWAY_STRESS_FIRST=<seed> BROADWAY_STRESS_SEEDS=1`` runs it again (threads go their own way, so it may take some
runs). See ``tests/stress/`` for what a run is.
"""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from .stress.plan import Plan, make_plan
from .stress.runner import run

SEEDS = int(os.environ.get("BROADWAY_STRESS_SEEDS", "60"))
FIRST = int(os.environ.get("BROADWAY_STRESS_FIRST", "0"))
BLOCK = 20
"""Seeds of one test: enough tests to see how far it is, not thousands of them."""


def seeded_plan(seed: int) -> Plan:
    """
    Return the plan of a seed.
    """
    return make_plan(seed, random.Random(seed).choice)


def check(plan: Plan) -> None:
    """
    Run a plan and fail with everything that was wrong.
    """
    witness = run(plan)
    if witness.faults:
        text = "\n\n".join(witness.faults)
        replay = f"BROADWAY_STRESS_FIRST={plan.seed} BROADWAY_STRESS_SEEDS=1"
        pytest.fail(f"seed {plan.seed} (again: {replay}), {plan}:\n{text}", pytrace=False)


@pytest.mark.parametrize("first", range(FIRST, FIRST + SEEDS, BLOCK))
def test_seeded_pipelines_keep_every_guarantee(first: int) -> None:
    """
    Whatever the topology, the faults and the moment of the stop.
    """
    for seed in range(first, min(first + BLOCK, FIRST + SEEDS)):
        check(seeded_plan(seed))


# A run that fails cannot be shrunk in the time that a test has if it fails by hanging, so this is left to whoever
# looks for the cause: take the phase `shrink` in.
@settings(
    max_examples=max(10, SEEDS // 4),
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_drawn_pipelines_keep_every_guarantee(data: Any) -> None:
    """
    The same with plans that hypothesis draws, which tries the edges more often.
    """
    seed = data.draw(st.integers(0, 10**6), label="seed")
    check(make_plan(seed, lambda options: data.draw(st.sampled_from(options))))
