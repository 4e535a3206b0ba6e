"""The 2025 multi-task challenge on LWM: its data layout, its scores, its limits, its baseline.

from lwm_fast.challenge import composite, score
los = score("los", predictions, labels)["score"]

lwm-fast challenge make --from city_18_denver_3p5 --label-data city_18_denver_28 --out DATA
lwm-fast challenge --data DATA --weights WEIGHTS --out RUN
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lwm_fast.challenge.scoring import TASK_NAMES, composite, score

if TYPE_CHECKING:
    from lwm_fast.challenge.data import ChallengeTask, TaskData, read_task
    from lwm_fast.challenge.limits import HEAD_LIMIT, TOTAL_LIMIT, check_limits
    from lwm_fast.challenge.make import MakeConfig, make_challenge
    from lwm_fast.challenge.run import BASELINES, Baseline, run_challenge
    from lwm_fast.challenge.submission import read_submission, score_submission, write_submission

__all__ = [
    "BASELINES",
    "HEAD_LIMIT",
    "TASK_NAMES",
    "TOTAL_LIMIT",
    "Baseline",
    "ChallengeTask",
    "MakeConfig",
    "TaskData",
    "check_limits",
    "composite",
    "make_challenge",
    "read_submission",
    "read_task",
    "run_challenge",
    "score",
    "score_submission",
    "write_submission",
]

# Training needs torch, scoring does not: these are imported when they are asked for.
_MODULES = {
    "BASELINES": "run",
    "HEAD_LIMIT": "limits",
    "TOTAL_LIMIT": "limits",
    "Baseline": "run",
    "ChallengeTask": "data",
    "MakeConfig": "make",
    "TaskData": "data",
    "check_limits": "limits",
    "make_challenge": "make",
    "read_submission": "submission",
    "read_task": "data",
    "run_challenge": "run",
    "score_submission": "submission",
    "write_submission": "submission",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
