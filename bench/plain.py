"""Vectorised numpy: what a careful user would write without this package."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lwm_fast import reference
from lwm_fast.data import ArrayGeometry, Rays


def tokenize(csi: NDArray[np.complex64], version: str, scale: float = 1e6) -> NDArray[np.float32]:
    """csi [batch, N, SC] -> float32 [batch, seq_len, patch_len], for v1.1 sizes that need no padding."""
    batch, num_antennas, num_subcarriers = csi.shape
    parts = np.ascontiguousarray(csi).view(np.float32).reshape(batch, num_antennas, num_subcarriers, 2)
    if version == "1.0":
        patches = parts.transpose(0, 3, 1, 2).reshape(batch, -1, 16)
    else:
        grid = parts.reshape(batch, num_antennas // 4, 4, num_subcarriers // 4, 8)
        patches = grid.transpose(0, 1, 3, 2, 4).reshape(batch, -1, 32)
    tokens = np.empty((batch, 1 + patches.shape[1], patches.shape[2]), np.float32)
    tokens[:, 0] = reference.CLS_VALUE
    np.multiply(patches, np.float32(scale), out=tokens[:, 1:])
    return tokens


def rays_to_csi(
    rays: Rays, geometry: ArrayGeometry, dtype: type[np.complexfloating] = np.complex64
) -> NDArray[np.complexfloating]:
    """The DeepMIMO generator's sum over rays as one batched matrix product, N x 1 arrays turned about z.

    Angles are float64; steering [U, N, P] and response [U, P, SC] are ``dtype``.
    """
    counts = np.minimum(rays.num_paths, geometry.max_paths)
    width = int(counts.max(initial=1))
    present = np.arange(width) < counts[:, None]  # [U, P]
    rows = np.where(present, rays.offsets[:-1, None] + np.arange(width), 0)
    num_subcarriers = geometry.num_subcarriers
    power, phase, delay, zenith, azimuth = (
        getattr(rays, name)[rows].astype(np.float64)
        for name in ("power_db", "phase_deg", "delay_s", "aod_zen_deg", "aod_az_deg")
    )
    turns = delay * geometry.bandwidth_hz / num_subcarriers  # of the phase from a subcarrier to the next
    present &= turns < 1
    gain = np.where(present, np.sqrt(10 ** (power / 10) / num_subcarriers), 0) * np.exp(
        1j * np.deg2rad(phase)
    )
    rotation = geometry.rotation
    assert isinstance(rotation, float)
    sines = np.sin(np.deg2rad(zenith)) * np.sin(np.deg2rad(azimuth - rotation))
    antenna = np.arange(geometry.size)[:, None]
    steering = np.exp(2j * np.pi * geometry.spacing * antenna * sines[:, None, :]) * gain[:, None, :]
    response = np.exp(-2j * np.pi * turns[:, :, None] * np.arange(num_subcarriers))
    csi: NDArray[np.complexfloating] = steering.astype(dtype) @ response.astype(dtype)
    return csi
