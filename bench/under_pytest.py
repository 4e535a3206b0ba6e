"""A case's arm under pytest-benchmark: the same gate and threads as in the ratio runs."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from bench.timing import Arm, check, cpu_threads


def measure(benchmark: BenchmarkFixture, case: str, arm: Arm) -> float:
    """Check the arm's output, then time its calls; returns the error of the output (0 where there is none).

    ``extra_info`` holds the items of a call. Raises DisagreementError before anything is timed.
    """
    error = check(case, arm)
    benchmark.extra_info |= {"items_per_call": arm.items, "error": error}
    with cpu_threads(arm.threads):
        benchmark(arm.run)
    return error or 0.0
