"""
One job in a process of its own: ``python -m bench.child JOB SETTINGS TIME_LIMIT``; the answer is the last line.
"""

from __future__ import annotations

import faulthandler
import functools
import json
import sys
from typing import Any, Callable, Dict, List


def main(arguments: List[str]) -> int:
    """
    Run the job and print ``{"figures": ...}`` or ``{"skipped": reason}``.

    After the time limit, in seconds, the process ends itself and shows where its threads were.
    """
    job, settings, time_limit = arguments[0], json.loads(arguments[1]), float(arguments[2])
    faulthandler.dump_traceback_later(time_limit, exit=True)
    print(json.dumps(_answer(job, settings)), flush=True)
    faulthandler.cancel_dump_traceback_later()
    return 0


def _answer(job: str, settings: Dict[str, Any]) -> Dict[str, Any]:
    from . import connectors, jobs
    from .meter import OtherLoad
    from .settings import Settings

    load = OtherLoad(connectors.target_here().get("pid"))
    try:
        figures = _job(job)(Settings(**settings))
    except jobs.SkippedError as reason:
        return {"skipped": str(reason)}
    return {"figures": {**figures, "other_load": load.read()}}


def _job(name: str) -> Callable[[Any], Dict[str, Any]]:
    from . import connectors, jobs, peers

    if name in peers.PEERS:
        return functools.partial(peers.run, name)
    if name in connectors.JOBS:
        return functools.partial(connectors.run, name)
    return jobs.JOBS[name]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
