"""Arms, their correctness gate, and interleaved rounds."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.rows import Row

_WARM_BELOW = 0.25  # seconds


class DisagreementError(Exception):
    """An arm's output is wrong: its case reports nothing."""


@dataclass(frozen=True)
class Arm:
    """One implementation of a case's job.

    run: does the job for ``items`` items and returns its output.
    error: of that output against the reference; must not exceed ``limit``. None where there is no output.
    timer: seconds that a number of calls take, for arms that run in another process. None: calls ``run``.
    """

    name: str
    run: Callable[[], Any]
    items: int
    error: Callable[[Any], float] | None = None
    limit: float = 0.0
    threads: int = 1
    precision: str = "float32"
    baselines: tuple[str, ...] = ()
    note: str = ""
    timer: Callable[[int], float] | None = None

    def seconds(self, calls: int) -> float:
        if self.timer is not None:
            return self.timer(calls)
        return time_calls(self.run, calls)


def time_calls(run: Callable[[], Any], calls: int) -> float:
    """Wall time of ``calls`` calls."""
    started = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - started


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let torch and the native code use ``count`` threads."""
    before, variable = torch.get_num_threads(), os.environ.get("LWM_FAST_NUM_THREADS")
    torch.set_num_threads(count)
    os.environ["LWM_FAST_NUM_THREADS"] = str(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        del os.environ["LWM_FAST_NUM_THREADS"]
        if variable is not None:
            os.environ["LWM_FAST_NUM_THREADS"] = variable


def check(case: str, arm: Arm) -> float | None:
    """The arm's error; raises DisagreementError when it is over the limit (or not a number)."""
    if arm.error is None:
        return None
    with cpu_threads(arm.threads):
        error = arm.error(arm.run())
    if not error <= arm.limit:
        raise DisagreementError(
            f"{case}: {arm.name!r} is off by {error:.3g} where {arm.limit:.3g} is allowed; "
            "nothing is reported for this case until that is mended"
        )
    return error


def interleave(arms: Sequence[Arm], rounds: int, min_seconds: float) -> dict[str, NDArray[np.float64]]:
    """Seconds an item for each arm and round; a sample lasts ``min_seconds`` or one call."""
    calls: dict[str, int] = {}
    times: dict[str, NDArray[np.float64]] = {arm.name: np.zeros(rounds) for arm in arms}
    for arm in arms:
        calls[arm.name] = 1 if min_seconds == 0 else _calls_for(arm, min_seconds)
    for number in range(rounds):
        for arm in arms:
            with cpu_threads(arm.threads):
                if calls[arm.name] > 1:  # short: another arm has used the caches since
                    arm.seconds(1)
                times[arm.name][number] = arm.seconds(calls[arm.name]) / (calls[arm.name] * arm.items)
    return times


def _calls_for(arm: Arm, min_seconds: float) -> int:
    with cpu_threads(arm.threads):
        once = arm.seconds(1)
        if once < _WARM_BELOW:  # the first call may have built something
            once = arm.seconds(1)
    return max(1, math.ceil(min_seconds / max(once, 1e-9)))


def compare(
    case: str, unit: str, arms: Sequence[Arm], *, rounds: int, min_seconds: float, **labels: Any
) -> list[Row]:
    """Check every arm, time them all, and give one row for each arm and baseline."""
    errors = {arm.name: check(case, arm) for arm in arms}
    times = interleave(arms, rounds, min_seconds)
    rows = []
    for arm in arms:
        seconds = times[arm.name]
        note = "; ".join(text for text in (labels.get("note", ""), arm.note) if text)
        for baseline in arm.baselines or ("",):
            ratios = times[baseline] / seconds if baseline else None
            row = Row(
                case=case,
                arm=arm.name,
                unit=unit,
                baseline=baseline,
                threads=arm.threads,
                precision=arm.precision,
                rounds=rounds,
                median_s_per_item=float(np.median(seconds)),
                low_s=float(seconds.min()),
                high_s=float(seconds.max()),
                items_per_s=float(1 / np.median(seconds)),
                ratio_median=None if ratios is None else float(np.median(ratios)),
                ratio_low=None if ratios is None else float(ratios.min()),
                ratio_high=None if ratios is None else float(ratios.max()),
                error_vs_fp64=errors[arm.name],
                **{**labels, "note": note},
            )
            rows.append(row)
    return rows
