"""The encode case under pytest-benchmark: 8 channels of 32x32, one thread."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.cases.encode import arms
from bench.inputs import csi_of_size
from bench.timing import Arm
from bench.under_pytest import measure

CSI, _ = csi_of_size(32, 32, 8)


@pytest.mark.benchmark(group="encode v1.0", min_rounds=3)
@pytest.mark.parametrize("arm", arms("1.0", CSI, 8), ids=lambda arm: arm.name)
def test_encode_v1_0(benchmark: BenchmarkFixture, arm: Arm) -> None:
    assert measure(benchmark, "encode", arm) <= arm.limit


@pytest.mark.benchmark(group="encode v1.1", min_rounds=3)
@pytest.mark.parametrize("arm", arms("1.1", CSI, 8), ids=lambda arm: arm.name)
def test_encode_v1_1(benchmark: BenchmarkFixture, arm: Arm) -> None:
    assert measure(benchmark, "encode", arm) <= arm.limit
