"""A case's arm under pytest-benchmark: the same gate and threads as in the ratio runs."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from bench.timing import Arm, check, cpu_threads


def measure(benchmark: BenchmarkFixture, case: str, arm: Arm) -> None:
    """Check the arm's output, then time its calls; ``extra_info`` holds the items of a call."""
    benchmark.extra_info |= {"items_per_call": arm.items, "error": check(case, arm)}
    with cpu_threads(arm.threads):
        benchmark(arm.run)
