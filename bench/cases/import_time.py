"""Seconds that importing the package takes beyond torch, each in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

from bench.inputs import ROOT, Settings
from bench.rows import Row
from bench.timing import Arm, compare

TORCH = "import torch"
_PUBLIC = "from lwm_fast import LWM, Channels, load_channels, tokenize"
# arm -> (untimed statements, timed statement)
_STATEMENTS = {
    TORCH: ("", TORCH),
    "import lwm_fast, after torch": (TORCH, "import lwm_fast"),
    "its main names, after torch": (TORCH, _PUBLIC),
    "all that encode needs, after torch": (TORCH, f"{_PUBLIC}; import lwm_fast.encode, lwm_fast.encoder"),
}


def run(settings: Settings) -> list[Row]:
    arms = [_arm(name, before, timed) for name, (before, timed) in _STATEMENTS.items()]
    return compare("import_time", "import", arms, rounds=settings.pick(settings.rounds, 1), min_seconds=0.0)


def _arm(name: str, before: str, timed: str) -> Arm:
    def seconds(calls: int) -> float:
        return sum(_import_seconds(before, timed) for _ in range(calls))

    return Arm(name, lambda: None, 1, timer=seconds, note=timed)


def _import_seconds(before: str, timed: str) -> float:
    lines = ("import time", before, "t = time.perf_counter()", timed, "print(time.perf_counter() - t)")
    answer = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return float(answer.stdout)
