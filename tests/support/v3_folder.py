"""Writes tiny DeepMIMO v3 scenario folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.io

from support.ray_data import PaddedRays

TX_POS = (1.5, -2.5, 6.0)


def write_params(
    folder: Path, *, carrier: float = 3.5e9, transmit_power: float = 0.0, num_bs: int = 1
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(
        folder / "params.mat",
        {
            "version": np.array([[2]], dtype=np.int32),
            "carrier_freq": carrier,
            "transmit_power": transmit_power,
            "num_BS": np.array([[num_bs]], dtype=np.int32),
            "user_grids": np.array([[1.0, 3.0, 4.0]]),
            "dual_polar_available": 0,
            "doppler_available": 0,
        },
    )


def write_users(
    folder: Path,
    rays: PaddedRays,
    *,
    base_station: int = 1,
    start: int = 0,
    stop: int | None = None,
    key: str = "channels",
    doppler_rows: bool = False,
    transmit_power: float = 0.0,
    name: str | None = None,
) -> Path:
    """Users `start:stop` of `rays` in one file whose name carries the same numbers."""
    stop = len(rays.power) if stop is None else stop
    channels = np.empty((1, stop - start), dtype=object)
    locations = np.zeros((stop - start, 5), dtype=np.float32)
    for row, user in enumerate(range(start, stop)):
        count = int(rays.counts[user])
        columns = [
            rays.phase[user],
            rays.delay[user],
            rays.power[user] + np.float32(transmit_power),
            rays.aoa_az[user],
            rays.aoa_el[user],
            rays.aod_az[user],
            rays.aod_el[user],
            (rays.inter[user] == 0).astype(np.float32),
        ]
        if doppler_rows:
            columns += [np.full_like(rays.power[user], 7.0)] * 2
        channels[0, row] = {"p": np.stack([column[:count] for column in columns]).astype(np.float32)}
        locations[row, :3] = rays.pos[user]
    path = folder / (name or f"BS{base_station}_UE_{start}-{stop}.mat")
    content = {key: channels, "rx_locs": locations, "tx_loc": np.array([TX_POS], dtype=np.float32)}
    scipy.io.savemat(path, content)
    return path


def write_v3_folder(folder: Path, rays: PaddedRays, num_bs: int = 1) -> Path:
    """A complete scenario in which every base station sees the same rays."""
    write_params(folder, num_bs=num_bs)
    for number in range(1, num_bs + 1):
        write_users(folder, rays, base_station=number)
    return folder
