"""One channel at a time, and what a second thread costs in processor time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.peers.arms import CLEAN, COLLAPSED, OPENVINO, ORT, SDPA, Peer
from bench.peers.problem import Problem
from bench.peers.process import Subjects
from bench.rows import Row
from bench.timing import Arm, compare

_CALLS = 40  # single calls an arm and round
_P95 = 95.0


def latency_rows(problem: Problem, subjects: Subjects) -> list[Row]:
    """Batch 1, one thread: median, fastest and 95th percentile (in ``high_s``) of single calls.

    In processor time: calls shorter than a slice of the scheduler would win on a machine that others share.
    """
    names = _names(problem, (CLEAN, SDPA, ORT, OPENVINO))
    wanted = [peer for peer in _running(problem) if peer.name in names]
    running = {peer.name: subjects.of(peer.name, peer.environment) for peer in wanted}
    for peer in wanted:
        running[peer.name].prepare(peer.kind, problem.inputs(peer, 1), 1, dict(peer.variants[0]))
        running[peer.name].run()
    calls = 2 if problem.settings.quick else _CALLS
    times: dict[str, list[float]] = {peer.name: [] for peer in wanted}
    for _ in range(problem.settings.rounds):
        for name, subject in running.items():
            times[name] += subject.each(calls)
    rows = []
    for peer in wanted:
        seconds = np.array(times[peer.name])
        labels = problem.labels()
        labels["note"] += f"; {len(seconds)} calls, processor time, high is the 95th percentile"
        median = float(np.median(seconds))
        rows.append(
            Row(
                "cpu latency", peer.name, "channel", batch=1, threads=1, precision=peer.precision,
                rounds=problem.settings.rounds, median_s_per_item=median, low_s=float(seconds.min()),
                high_s=float(np.percentile(seconds, _P95)), items_per_s=1 / median,
                error_vs_fp64=problem.error(peer, running[peer.name].run()), **labels,
            )
        )  # fmt: skip
    return rows


def cpu_time_rows(problem: Problem, subjects: Subjects, threads: Sequence[int]) -> list[Row]:
    """Processor seconds a channel of the native arms; the ratio falls below 1 by what more threads cost."""
    rows = []
    for peer in [peer for peer in _running(problem) if peer.kind == "native" and not peer.environment]:
        arms, items = [], problem.settings.pick(len(problem.csi), 1)
        for count in threads:
            name = f"{peer.name}, {count} threads"
            subject = subjects.of(name, peer.environment)
            subject.prepare(peer.kind, problem.inputs(peer, items), count, dict(peer.variants[0]))
            first = f"{peer.name}, {threads[0]} threads"
            arms.append(
                Arm(
                    name,
                    subject.run,
                    items,
                    threads=count,
                    precision=peer.precision,
                    baselines=() if name == first else (first,),
                    note="processor time",
                    timer=subject.cpu_seconds,
                )
            )
        settings = problem.settings
        rows += compare(
            "cpu time", "channel", arms, rounds=settings.rounds, min_seconds=settings.min_seconds,
            batch=items, **problem.labels(),
        )  # fmt: skip
    return rows


def _running(problem: Problem) -> list[Peer]:
    return [peer for peer in problem.arms(1) if not peer.absent]


def _names(problem: Problem, wanted: Sequence[str]) -> set[str]:
    """The arms of those names (on the collapsed graph where there is one) and the native ones."""
    found = {peer.name: peer for peer in _running(problem)}
    chosen = {name + COLLAPSED if name + COLLAPSED in found else name for name in wanted}
    return chosen | {name for name, peer in found.items() if peer.kind == "native" and not peer.environment}
