"""Arms on a GPU: built and checked one by one, timed in interleaved rounds, within a budget of wall time."""

from __future__ import annotations

import dataclasses
import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from bench.gpu.device import Device, Run
from bench.rows import Row
from bench.timing import DisagreementError


class UnavailableError(Exception):
    """A peer cannot run here; the message says why."""


@dataclass
class Budget:
    """Wall time that is left. What does not fit any more becomes a row that says so."""

    seconds: float
    started: float = field(default_factory=time.monotonic)

    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.started)


@dataclass(frozen=True)
class GpuSettings:
    """How a run was asked for. ``copies_bytes``: inputs are copied until they exceed twice the L2 cache."""

    device: Device
    rounds: int
    budget: Budget
    sample_seconds: float = 0.02

    def pick(self, full: int, dry: int) -> int:
        return dry if self.device.dry else full

    def copies(self, num_bytes: int) -> int:
        """How many copies of inputs of this size keep a call from finding its inputs in the L2 cache."""
        return max(1, min(16, math.ceil(2 * self.device.l2_bytes / max(num_bytes, 1))))


@dataclass(frozen=True)
class GpuArm:
    """One implementation of a job. ``make`` builds it (and may raise UnavailableError); ``Run(i)`` works on copy i.

    error: relative, of the result against float64. ours: a limit that is broken stops the case, where a peer's
    becomes its row. graph: timed as a recorded graph too. loop: "graph" where the arm itself replays one.
    """

    name: str
    make: Callable[[], Run]
    error: Callable[[Any], float] | None = None
    limit: float = math.inf
    ours: bool = False
    precision: str = "bfloat16"
    graph: bool = True
    loop: str = "host"
    note: str = ""


@dataclass
class _Built:
    arm: GpuArm
    loop: str
    run: Callable[[int], Any]
    error: float | None
    build_s: float
    peak: float | None
    calls: int = 1  # of run in a sample
    inner: int = 1  # jobs in one call of run
    times: list[float] = field(default_factory=list)  # seconds a job


def compare(
    case: str, unit: str, arms: Sequence[GpuArm], settings: GpuSettings, *, items: int, copies: int,
    tokens: int | None = None, ceiling: float | None = None, **labels: Any,
) -> list[Row]:  # fmt: skip
    """Rows of every arm: ``items`` of ``unit`` (and ``tokens``) a job, rates against ``ceiling`` items a second.

    Ratios are those of our arms to the fastest peer of their precision. Raises DisagreementError where one of ours
    is wrong.
    """
    common = {"case": case, "unit": unit, "device": settings.device.name(), **labels}
    built: list[_Built] = []
    rows: list[Row] = []
    torch._dynamo.reset()  # compiled arms of earlier cases would count against its limit of recompilations
    for arm in arms:
        try:
            built.append(_build(case, arm, settings))
            if arm.graph and arm.loop == "host":
                built.append(_recorded(built[-1], settings, copies))
        except UnavailableError as reason:
            rows.append(_absent(arm, f"not run: {reason}", common))
        finally:
            _forget()
    for number in range(-1, settings.rounds):  # round -1 finds the number of calls and warms up
        for one in built:
            _sample(one, number, settings, copies)
    for one in built:
        rows.append(
            _row(one, _fastest_peer(built, one.arm.precision), settings, common, items, tokens, ceiling)
        )
    return rows


def _build(case: str, arm: GpuArm, settings: GpuSettings) -> _Built:
    """The arm, checked; raises UnavailableError where a peer has no place among the timed ones."""
    if settings.budget.left() < 0 and not arm.ours:
        raise UnavailableError("no time left in this stage; ask for this case alone")
    started = time.monotonic()
    try:
        run = arm.make()
        error = None if arm.error is None else arm.error(run(0))
        build_s = time.monotonic() - started
        if error is not None and not error <= arm.limit:
            raise DisagreementError(
                f"{case}: {arm.name!r} is off by {error:.3g}, allowed are {arm.limit:.3g}"
            )
        return _Built(arm, arm.loop, run, error, build_s, settings.device.peak_mib(run))
    except UnavailableError:
        raise
    except Exception as failure:  # a peer may fail in any way of its own; ours must not
        if arm.ours:
            raise
        raise UnavailableError(_told(failure)) from failure


def _recorded(host: _Built, settings: GpuSettings, copies: int) -> _Built:
    """The same jobs as one graph; raises UnavailableError where they cannot be recorded."""
    try:
        replay = settings.device.recorded(host.run, copies)
    except Exception as failure:
        raise UnavailableError(f"as a graph, {_told(failure)}") from failure
    return dataclasses.replace(host, loop="graph", run=lambda _: replay(), inner=copies, times=[])


def _told(failure: Exception) -> str:
    lines = str(failure).strip().splitlines() or [""]
    return f"{type(failure).__name__}: {lines[0][:200]}"


def _forget() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _sample(one: _Built, number: int, settings: GpuSettings, copies: int) -> None:
    def job(i: int) -> Any:
        return one.run(i % copies)

    if number < 0:
        once = settings.device.seconds(job, max(copies, 3)) / max(copies, 3)
        one.calls = max(1, math.ceil(settings.sample_seconds / max(once, 1e-7)))
        return
    one.times.append(settings.device.seconds(job, one.calls) / (one.calls * one.inner))


def _fastest_peer(built: Sequence[_Built], precision: str) -> _Built | None:
    """Of the same precision, else of any."""
    peers = [one for one in built if not one.arm.ours]
    same = [one for one in peers if one.arm.precision == precision]
    return min(same or peers, key=lambda one: float(np.median(one.times)), default=None)


def _row(
    one: _Built, fastest: _Built | None, settings: GpuSettings, common: dict[str, Any], items: int,
    tokens: int | None, ceiling: float | None,
) -> Row:  # fmt: skip
    times = np.array(one.times)
    median = float(np.median(times))
    ratios = None
    if one.arm.ours and fastest is not None:
        ratios = np.array(fastest.times) / times
    baseline = f"{fastest.arm.name}, {fastest.loop}" if ratios is not None and fastest is not None else ""
    share = None if ceiling is None or one.arm.precision == "float32" else items / median / ceiling
    notes = (common.get("note", ""), one.arm.note)
    return Row(
        arm=one.arm.name,
        baseline=baseline,
        precision=one.arm.precision,
        rounds=settings.rounds,
        median_s_per_item=median / items,
        low_s=float(times.min()) / items,
        high_s=float(times.max()) / items,
        items_per_s=items / median,
        ratio_median=None if ratios is None else float(np.median(ratios)),
        ratio_low=None if ratios is None else float(ratios.min()),
        ratio_high=None if ratios is None else float(ratios.max()),
        error_vs_fp64=one.error,
        peak_memory_mib=one.peak,
        loop=one.loop,
        tokens_per_s=None if tokens is None else tokens / median,
        share_of_ceiling=share,
        build_s=one.build_s,
        **{**common, "note": "; ".join(text for text in notes if text)},
    )


def _absent(arm: GpuArm, reason: str, common: dict[str, Any]) -> Row:
    note = "; ".join(text for text in (common.get("note", ""), reason) if text)
    return Row(arm=arm.name, precision=arm.precision, **{**common, "note": note})
