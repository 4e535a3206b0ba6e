"""The rays_to_csi case under pytest-benchmark: 1,024 users at 32x32, with this process's instruction set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.cases.rays_to_csi import arm_of, city_rays, exact_csi, native_job, numpy_job
from bench.under_pytest import measure
from lwm_fast.data import ArrayGeometry, Rays

GEOMETRY = ArrayGeometry()


@pytest.mark.benchmark(group="rays_to_csi 32x32")
@pytest.mark.parametrize("job", [numpy_job, native_job], ids=["numpy", "lwm_fast"])
def test_rays_to_csi(
    benchmark: BenchmarkFixture, job: Callable[[Rays, ArrayGeometry], Callable[[], Any]]
) -> None:
    rays, _ = city_rays(1024)
    arm = arm_of("", job(rays, GEOMETRY), len(rays), exact_csi(rays, GEOMETRY))
    assert measure(benchmark, "rays_to_csi", arm) <= arm.limit
