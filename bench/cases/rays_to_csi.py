"""Rays to channel matrices on one core: numpy against the C++ kernel on every instruction set here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import plain
from bench.inputs import CITIES, Settings, channels, relative_error, shared_data
from bench.rows import Row
from bench.timing import Arm, compare
from bench.worker import Worker
from lwm_fast import _C
from lwm_fast.data import ArrayGeometry, Rays

NUMPY = "numpy"
_CHECKED = 256  # users
_NUMPY_USERS = 32  # at once: larger temporaries leave the caches and cost numpy up to twice the time
_LIMIT = 2e-6  # float32 sums of at most 40 products; the kernel reaches 1.8e-7
# (num_antennas, num_subcarriers, users a call)
SIZES = ((32, 32, 4096), (8, 1024, 512), (128, 64, 512))


def numpy_job(rays: Rays, geometry: ArrayGeometry) -> Callable[[], NDArray[Any]]:
    parts = [rays.select(slice(first, first + _NUMPY_USERS)) for first in range(0, len(rays), _NUMPY_USERS)]
    return lambda: np.concatenate([plain.rays_to_csi(part, geometry) for part in parts])


def native_job(rays: Rays, geometry: ArrayGeometry) -> Callable[[], NDArray[Any]]:
    out = np.full((len(rays), geometry.size, geometry.num_subcarriers), np.nan, np.complex64)
    return lambda: rays.to_csi(geometry, out, num_threads=1)


def exact_csi(rays: Rays, geometry: ArrayGeometry) -> NDArray[Any]:
    """Of the first users, in float64."""
    return plain.rays_to_csi(rays.select(slice(0, _CHECKED)), geometry, np.complex128)


def arm_of(name: str, run: Callable[[], Any], items: int, exact: NDArray[Any], **options: Any) -> Arm:
    """An arm whose output is compared with ``exact``."""

    def error(csi: NDArray[Any]) -> float:
        return relative_error(csi[: len(exact)], exact)

    return Arm(name, run, items, error, _LIMIT, **options)


def city_rays(count: int) -> tuple[Rays, str]:
    """Users of the three cities together, evenly spread."""
    if shared_data() is None:
        users, label = channels()
        parts = [users.rays]
    else:
        parts, label = [channels(city)[0].rays for city in CITIES], "real rays of 3 cities"
    together = Rays.concatenate([rays for rays in parts if rays is not None])
    picked = together.select(np.linspace(0, len(together) - 1, count).astype(np.int64))
    return picked, f"{label}, {picked.num_rays / len(picked):.1f} a user"


def full_rays(count: int) -> tuple[Rays, str]:
    """20 random rays a user, the most that LWM uses."""
    rng = np.random.default_rng(3)
    ranges = ((-160, -60), (-180, 180), (0.0, 5e-6), (-180, 180), (0, 180), (-180, 180), (0, 180))
    columns = (rng.uniform(low, high, 20 * count).astype(np.float32) for low, high in ranges)
    return Rays(20 * np.arange(count + 1), *columns), "random rays, 20 a user"


def run(settings: Settings) -> list[Row]:
    rows = []
    for num_antennas, num_subcarriers, users in SIZES[:1] if settings.quick else SIZES:
        geometry = ArrayGeometry(num_antennas=num_antennas, num_subcarriers=num_subcarriers)
        makers = (city_rays,) if settings.quick else (city_rays, full_rays)
        for rays, label in (make(settings.pick(users, 16)) for make in makers):
            rows += _compare(rays, label, geometry, settings)
    return rows


def _compare(rays: Rays, label: str, geometry: ArrayGeometry, settings: Settings) -> list[Row]:
    exact = exact_csi(rays, geometry)
    with contextlib.ExitStack() as stack:
        arms = []
        for isa in (None, *_C.cpu_info()["available_isas"]):
            worker = Worker(native_job if isa else numpy_job, rays, geometry, isa=isa)
            stack.callback(worker.close)
            name, baselines = (f"lwm_fast, {isa}", (NUMPY,)) if isa else (NUMPY, ())
            options = {"baselines": baselines, "timer": worker.seconds}
            arms.append(arm_of(name, worker.run, len(rays), exact, **options))
        return compare(
            "rays_to_csi",
            "user",
            arms,
            rounds=settings.rounds,
            min_seconds=settings.min_seconds,
            num_antennas=geometry.size,
            num_subcarriers=geometry.num_subcarriers,
            batch=len(rays),
            note=label,
        )
