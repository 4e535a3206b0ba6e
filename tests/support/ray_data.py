"""Random rays for tests, padded as DeepMIMO v4 stores them, and csi from them by the textbook sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PaddedRays:
    """Arrays [num_users, max_paths], NaN where there is no path; strongest first."""

    power: FloatArray
    phase: FloatArray
    delay: FloatArray
    aod_az: FloatArray
    aod_el: FloatArray
    aoa_az: FloatArray
    aoa_el: FloatArray
    inter: FloatArray
    pos: FloatArray  # [num_users, 3]

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        return np.asarray(np.isfinite(self.power).sum(axis=1))

    @property
    def los(self) -> npt.NDArray[np.int8]:
        direct = (self.inter == 0).any(axis=1)
        return np.where(self.counts > 0, direct, -1).astype(np.int8)


def random_rays(num_users: int = 12, max_paths: int = 6, seed: int = 0, min_paths: int = 0) -> PaddedRays:
    """Users with `min_paths`..`max_paths` paths; about half have a direct one."""
    rng = np.random.default_rng(seed)
    shape = (num_users, max_paths)
    counts = rng.integers(min_paths, max_paths + 1, num_users)
    if num_users > 2 and min_paths == 0:
        counts[:3] = (max_paths, 0, 1)
    absent = np.arange(max_paths) >= counts[:, None]

    def padded(values: npt.NDArray[np.float64]) -> FloatArray:
        return np.where(absent, np.nan, values).astype(np.float32)

    inter = rng.integers(1, 4, shape).astype(np.float64)
    inter[:, 0] *= rng.random(num_users) < 0.5
    return PaddedRays(
        power=padded(-np.sort(rng.uniform(60, 120, shape), axis=1)),
        phase=padded(rng.uniform(-180, 180, shape)),
        delay=padded(rng.uniform(1e-7, 3e-6, shape)),
        aod_az=padded(rng.uniform(-180, 180, shape)),
        aod_el=padded(rng.uniform(40, 140, shape)),
        aoa_az=padded(rng.uniform(-180, 180, shape)),
        aoa_el=padded(rng.uniform(40, 140, shape)),
        inter=padded(inter),
        pos=rng.uniform(-100, 100, (num_users, 3)).astype(np.float32),
    )


def reference_csi(
    rays: PaddedRays,
    num_antennas: int = 32,
    num_subcarriers: int = 32,
    bandwidth: float | None = None,
    rotation: float = -135.0,
    max_paths: int = 20,
) -> npt.NDArray[np.complex128]:
    """csi of an N x 1 array rotated about z, in float64, path by path as the formula is written."""
    band = 30e3 * num_subcarriers if bandwidth is None else bandwidth
    antenna = np.arange(num_antennas)[:, None]
    subcarrier = np.arange(num_subcarriers)[None, :]
    csi = np.zeros((len(rays.power), num_antennas, num_subcarriers), dtype=np.complex128)
    for user, count in enumerate(rays.counts):
        for path in range(min(int(count), max_paths)):
            power, phase, delay, azimuth, zenith = (
                float(column[user, path])
                for column in (rays.power, rays.phase, rays.delay, rays.aod_az, rays.aod_el)
            )
            if delay * band >= num_subcarriers:
                continue
            amplitude = np.sqrt(10 ** (power / 10) / num_subcarriers) * np.exp(1j * np.deg2rad(phase))
            sine = np.sin(np.deg2rad(zenith)) * np.sin(np.deg2rad(azimuth - rotation))
            steering = np.exp(1j * np.pi * antenna * sine)
            csi[user] += (
                amplitude * steering * np.exp(-2j * np.pi * subcarrier * delay * band / num_subcarriers)
            )
    return csi


def relative_error(value: npt.NDArray[Any], reference: npt.NDArray[Any]) -> float:
    """Frobenius norm of the difference over that of the reference."""
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))


def random_csi(
    num_users: int = 5, num_antennas: int = 8, num_subcarriers: int = 16, seed: int = 0
) -> npt.NDArray[np.complex64]:
    """complex64 csi of the size of a real 3.5 GHz city."""
    rng = np.random.default_rng(seed)
    parts = rng.standard_normal((2, num_users, num_antennas, num_subcarriers))
    return np.asarray(2e-5 * (parts[0] + 1j * parts[1]), dtype=np.complex64)
