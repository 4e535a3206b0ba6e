"""The tokenize case under pytest-benchmark: 64 channels of 32x32."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.cases.tokenize import arms
from bench.inputs import csi_of_size
from bench.timing import Arm
from bench.under_pytest import measure

CSI, _ = csi_of_size(32, 32, 64)


@pytest.mark.benchmark(group="tokenize v1.0")
@pytest.mark.parametrize("arm", arms(CSI, "1.0"), ids=lambda arm: arm.name)
def test_tokenize_v1_0(benchmark: BenchmarkFixture, arm: Arm) -> None:
    assert measure(benchmark, "tokenize", arm) <= arm.limit


@pytest.mark.benchmark(group="tokenize v1.1")
@pytest.mark.parametrize("arm", arms(CSI, "1.1"), ids=lambda arm: arm.name)
def test_tokenize_v1_1(benchmark: BenchmarkFixture, arm: Arm) -> None:
    assert measure(benchmark, "tokenize", arm) <= arm.limit
