"""`python -m bench.cpu`: the encoder on a CPU against the release and the engines people would use instead.

Each arm lives in a process of its own, is checked against float64, and is timed at the fastest of a few settings
in rounds that visit all arms in turn. Rows go to cpu.csv; `python -m bench.report` makes the tables and
`python -m bench.cpu_picture` the picture.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.environment import write_environment
from bench.inputs import BUCKETS, ROOT, CaseSkippedError, Settings
from bench.peers import jobs
from bench.peers.arms import Peer
from bench.peers.latency import cpu_time_rows, latency_rows
from bench.peers.problem import Problem
from bench.peers.process import Subject, Subjects
from bench.rows import Row, read_csv, table, write_csv
from bench.timing import Arm, DisagreementError, compare
from lwm_fast import _C

_TRIALS = 2  # calls of a setting that is tried; the faster counts


def settle(problem: Problem, peer: Peer, subject: Subject, threads: int) -> tuple[int, str]:
    """Leave the subject with its fastest job; returns channels a call and what was chosen."""
    counts = sorted({max(1, budget // problem.seq_len) * threads for budget in peer.budgets})
    if problem.settings.quick:
        counts = [threads]
    choices = [(count, dict(options)) for count in counts for options in peer.variants]

    def prepare(choice: tuple[int, dict[str, str]]) -> None:
        subject.prepare(peer.kind, problem.inputs(peer, choice[0]), threads, choice[1])

    def seconds(choice: tuple[int, dict[str, str]]) -> float:
        prepare(choice)
        subject.run()
        return min(subject.seconds(1) for _ in range(_TRIALS)) / choice[0]

    best = min(choices, key=seconds) if len(choices) > 1 else choices[0]
    prepare(best)
    count, options = best
    chosen = [f"batch {count}", *(value for key, value in options.items() if key != "precision")]
    return count, ", ".join(chosen)


def forward_rows(problem: Problem, subjects: Subjects, threads: int) -> list[Row]:
    """All arms at one size: tokens to the outputs of all tokens."""
    wanted = problem.arms(threads)
    running = [peer for peer in wanted if not peer.absent]
    for peer in running:  # their imports run side by side
        subjects.of(peer.name, peer.environment)
    arms, counts = [], {}
    for peer in running:
        subject = subjects.of(peer.name, peer.environment)
        counts[peer.name], chosen = settle(problem, peer, subject, threads)
        arms.append(
            Arm(
                peer.name,
                subject.run,
                counts[peer.name],
                partial(problem.error, peer),
                peer.limit,
                threads=threads,
                precision=peer.precision,
                baselines=peer.baselines,
                note=chosen,
                timer=subject.seconds,
            )
        )
    settings = problem.settings
    rows = compare(
        "cpu", "channel", arms, rounds=settings.rounds, min_seconds=settings.min_seconds, **problem.labels()
    )
    memory = {peer.name: subjects.of(peer.name, peer.environment).peak_mib() for peer in running}
    rows = [dataclasses.replace(row, batch=counts[row.arm], peak_memory_mib=memory[row.arm]) for row in rows]
    return rows + [_absent(problem, peer, threads) for peer in wanted if peer.absent]


def _absent(problem: Problem, peer: Peer, threads: int) -> Row:
    labels = {**problem.labels(), "note": f"{problem.note}; {peer.absent}"}
    return Row("cpu", peer.name, "channel", threads=threads, precision=peer.precision, **labels)


def run(settings: Settings, threads: Sequence[int]) -> list[Row]:
    rows = []
    sizes = [("1.0", (32, 32)), *(("1.1", size) for size in BUCKETS)]
    with Subjects(jobs.make) as subjects:
        for version, size in sizes[:2] if settings.quick else sizes:
            problem = Problem(version, size, settings, max(threads))
            for count in threads:
                found = forward_rows(problem, subjects, count)
                print(f"{table(found)}\n", flush=True)
                rows += found
            if 1 in threads and (size == (32, 32) or settings.quick):
                found = [*cpu_time_rows(problem, subjects, threads), *latency_rows(problem, subjects)]
                print(f"{table(found)}\n", flush=True)
                rows += found
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 when an arm's output is wrong."""
    cores = _C.cpu_info()["num_threads"]
    parser = argparse.ArgumentParser(prog="python -m bench.cpu", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds, at least 5 (default 7)")
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=sorted({1, cores}),
        help="default: 1 and all; rows of other numbers stay in the file",
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it runs, not how fast")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder for the rows")
    options = parser.parse_args(arguments)
    if options.rounds < 5 and not options.quick:
        parser.error(f"--rounds {options.rounds}: medians and spreads need at least 5 rounds")
    options.out.mkdir(parents=True, exist_ok=True)
    write_environment(options.out)
    settings = Settings(2 if options.quick else options.rounds, options.quick)
    try:
        rows = run(settings, [1] if options.quick else options.threads)
    except CaseSkippedError as reason:
        print(f"cpu: skipped, {reason}", flush=True)
        return 0
    except DisagreementError as error:
        print(f"REFUSED: {error}", file=sys.stderr, flush=True)
        return 1
    command = "python -m bench.cpu" + (" --quick" if options.quick else f" --rounds {options.rounds}")
    rows = [dataclasses.replace(row, command=command) for row in rows]
    path, measured = options.out / "cpu.csv", {(row.case, row.threads) for row in rows}
    before = read_csv(path) if path.exists() and not options.quick else []
    write_csv(path, [*(row for row in before if (row.case, row.threads) not in measured), *rows])
    return 0


if __name__ == "__main__":
    sys.exit(main())
