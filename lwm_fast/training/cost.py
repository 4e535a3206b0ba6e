"""What a run costs: processor time, and energy as the machine counts it or as an estimate."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WATTS_PER_CORE = 10.0
"""Assumed where no counter can be read: a busy server core with its share of package and memory (packages of 200 to
350 W hold 24 to 64 cores: 4 to 12 W each)."""
_COUNTERS = Path("/sys/class/powercap")


class CostMeter:
    """Processor seconds of this process since a run began, and joules of the machine's packages.

    `read` goes on from what an earlier part of the run had, so that resumed runs add up. Counters of packages (Intel
    RAPL) count all that runs on the machine; they turn over, so they are to be read every few minutes.
    """

    def __init__(self, before: Mapping[str, Any] | None = None, *, counters: Path = _COUNTERS) -> None:
        self._cpu_seconds = float(before["cpu_seconds"]) if before else 0.0
        earlier = before["package_joules"] if before else 0.0
        self._packages = _packages(counters)
        self._joules = float(earlier) if self._packages and earlier is not None else None
        self._cpu = time.process_time()
        self._levels = [_number(package / "energy_uj") for package in self._packages]

    def read(self) -> dict[str, float | None]:
        """``cpu_seconds`` and ``package_joules`` (None where the machine does not tell) so far."""
        now = time.process_time()
        self._cpu_seconds += now - self._cpu
        self._cpu = now
        if self._joules is not None:
            for i, package in enumerate(self._packages):
                level, before = _number(package / "energy_uj"), self._levels[i]
                if level is None or before is None:
                    self._joules = None
                    break
                turn = _number(package / "max_energy_range_uj") or 0 if level < before else 0
                self._joules += (level - before + turn) * 1e-6
                self._levels[i] = level
        return {"cpu_seconds": self._cpu_seconds, "package_joules": self._joules}


def energy(cost: Mapping[str, float | None]) -> dict[str, Any]:
    """``energy_wh`` of `CostMeter.read` and, in words, how it was found."""
    joules, cpu_seconds = cost["package_joules"], cost["cpu_seconds"] or 0.0
    if joules is not None:
        return {
            "energy_wh": joules / 3600,
            "energy_from": "the packages' counters, all work on the machine included",
        }
    return {
        "energy_wh": cpu_seconds * WATTS_PER_CORE / 3600,
        "energy_from": f"an estimate: {WATTS_PER_CORE:g} W for every second of a processor core",
    }


def _packages(folder: Path) -> list[Path]:
    """Folders of the packages' counters that can be read; those inside a package (cores, memory) are part of it."""
    if not folder.is_dir():
        return []
    found = [path for path in sorted(folder.glob("intel-rapl:*")) if path.name.count(":") == 1]
    return [path for path in found if _number(path / "energy_uj") is not None]


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
