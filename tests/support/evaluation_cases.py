"""A small town for evaluations: channels of a few paths whose line of sight shows in power and delay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from lwm_fast import LWM, Channels, LWMConfig
from lwm_fast.evaluation import Sweep

NUM_ANTENNAS, NUM_SUBCARRIERS = 8, 16  # 8 patches of LWM v1.1


def town(users: int = 60, seed: int = 0, *, carrier: float = 3.5e9) -> Channels:
    """csi [users, 8, 16] of one direct or of three late, weak paths, with positions and LoS."""
    rng = np.random.default_rng(seed)
    los = (np.arange(users) % 2).astype(np.int8)
    distance = rng.uniform(20, 200, users)
    azimuth = rng.uniform(-1.4, 1.4, users)
    csi = np.zeros((users, NUM_ANTENNAS, NUM_SUBCARRIERS), np.complex128)
    antennas, subcarriers = np.arange(NUM_ANTENNAS)[:, None], np.arange(NUM_SUBCARRIERS)
    for user in range(users):
        for path in range(1 if los[user] else 3):
            far = distance[user] * (1.0 if los[user] else 1.5 + path)
            gain = 3e-3 / far * (1.0 if los[user] else 0.1)
            sine = np.sin(azimuth[user]) * (1 - 0.3 * path)
            turn = np.pi * antennas * sine - 2 * np.pi * subcarriers * 30e3 * far / 3e8
            csi[user] += gain * np.exp(1j * (turn + 2 * np.pi * carrier / 1e9 * user * path))
    pos = np.column_stack([distance * np.cos(azimuth), distance * np.sin(azimuth), np.full(users, 1.5)])
    channels = Channels.from_arrays(csi, los=los, pos=pos)
    channels.meta = replace(channels.meta, carrier_frequency=carrier, num_users_total=users)
    return channels


def write_town(path: Path, users: int = 60, seed: int = 0, *, carrier: float = 3.5e9) -> str:
    """A file of `town` that `load_channels` reads."""
    return str(town(users, seed, carrier=carrier).save(path))


def write_weights(folder: Path, seed: int = 5) -> str:
    """Weights of a one-layer LWM v1.1 with random numbers."""
    return str(LWM.random(LWMConfig.v1_1(num_layers=1), seed=seed).save_pretrained(folder).parent)


def small_sweep(folder: Path, **changes: object) -> Sweep:
    """A sweep of seconds on a town of 60 users, which is written into `folder` where it is not there yet."""
    data, weights = folder / "town.h5", folder / "weights"
    if not data.exists():
        write_town(data)
    if not weights.exists():
        weights.mkdir()
        write_weights(weights)
    settings: dict[str, object] = {
        "task": "los", "data": (str(data),), "weights": str(weights), "inputs": ("cls",), "counts": (10,),
        "heads": ("linear",), "seeds": (0, 1), "epochs": 3, "baselines": False,
    }  # fmt: skip
    return Sweep(**{**settings, **changes})  # type: ignore[arg-type]
