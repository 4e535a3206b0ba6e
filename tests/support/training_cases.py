"""Tiny pre-training runs: data of two buckets, a one-layer model, a few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lwm_fast.data import ArrayGeometry, Channels, ChannelsMeta, Rays
from lwm_fast.training import TrainConfig

MODEL = {"num_layers": 1, "embed_dim": 16, "num_heads": 2, "head_dim": 8, "ffn_dim": 64}


def correlated_csi(
    count: int, num_antennas: int, num_subcarriers: int, seed: int
) -> npt.NDArray[np.complex64]:
    """Plane waves, so that neighbouring patches tell of each other; |H| about 1e-6 to 1e-5."""
    rng = np.random.default_rng(seed)
    angle, delay = rng.uniform(-1, 1, (2, count, 1))
    gain = 10 ** rng.uniform(-6, -5, (count, 1, 1)) * np.exp(2j * np.pi * rng.random((count, 1, 1)))
    a = np.exp(1j * np.pi * angle * np.arange(num_antennas))
    f = np.exp(-0.5j * np.pi * delay * np.arange(num_subcarriers))
    return (gain * a[:, :, None] * f[:, None, :]).astype(np.complex64)


def write_data(folder: Path, version: str = "1.1", count: int = 30) -> list[Path]:
    """Two .npy stores: 17 and 33 tokens (v1.1), or 129 tokens (v1.0)."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = [(32, 32), (32, 32)] if version == "1.0" else [(8, 32), (8, 64)]
    paths = []
    for i, (num_antennas, num_subcarriers) in enumerate(sizes):
        paths.append(folder / f"part{i}.npy")
        np.save(paths[-1], correlated_csi(count, num_antennas, num_subcarriers, seed=i))
    return paths


def write_street(path: Path, users: int = 60) -> Path:
    """Rays of users with a strong early path (LoS) or weak late ones."""
    rng = np.random.default_rng(5)
    los = rng.integers(0, 2, users).astype(np.int8)
    offsets = np.arange(users + 1) * 2
    power = rng.uniform(-120, -110, 2 * users) + 30 * np.repeat(los, 2)
    delay = rng.uniform(1e-7, 2e-7, 2 * users) + 1e-6 * np.repeat(1 - los, 2)
    angles = [rng.uniform(-180, 180, 2 * users), rng.uniform(60, 120, 2 * users)]
    phase = rng.uniform(-180, 180, 2 * users)
    columns = [column.astype(np.float32) for column in (power, phase, delay, *angles, *angles)]
    rays = Rays(offsets, *columns)
    meta = ChannelsMeta(carrier_frequency=3.5e9)
    Channels.from_rays(rays, ArrayGeometry(8, 32), los=los, meta=meta).save(path)
    return path


def tiny_config(version: str = "1.1", **sections: dict[str, Any]) -> TrainConfig:
    """Five or six steps an epoch, two epochs; sections change single settings."""
    values: dict[str, dict[str, Any]] = {
        "model": {"lwm_version": version, **MODEL},
        "data": {"validation": 0.2, "sizes": [[32, 32]] if version == "1.0" else [[8, 32], [8, 64]]},
        "masking": {"loss": "mse_var" if version == "1.0" else "nmse"},
        "optimizer": {"name": "adam" if version == "1.0" else "adamw", "lr": 1e-3, "batch_size": 10},
        "schedule": {"epochs": 2, "warmup_steps": 2},
        "run": {"checkpoint_every": 2, "tensorboard": False},
    }
    for name, changes in sections.items():
        values[name] |= changes
    return TrainConfig.from_dict(values)
