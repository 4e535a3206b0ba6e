"""Writes tiny DeepMIMO v4 scenario folders: padded arrays and params.json, as the package stores them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from support.ray_data import PaddedRays

TX_POS = (1.5, -2.5, 6.0)


def txrx_set(number: int, *, is_tx: bool, is_rx: bool, num_points: int) -> dict[str, Any]:
    return {
        "name": f"set{number}",
        "id_orig": number,
        "id": number,
        "is_tx": is_tx,
        "is_rx": is_rx,
        "num_points": num_points,
        "num_active_points": num_points,
        "num_ant": 1,
        "dual_pol": False,
        "ant_rel_positions": [[0, 0, 0]],
        "array_orientation": [0, 0, 0],
        "grid_spacing": None,
    }


def write_params(folder: Path, sets: Mapping[int, dict[str, Any]], *, num_scenes: int = 1) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    params = {
        "version": "4.0.5",
        "rt_params": {
            "frequency": 3.5e9,
            "raytracer_name": "Sionna Ray Tracing",
            "raytracer_version": "2.0.1",
        },
        "scene": {"num_scenes": num_scenes, "n_objects": 0},
        "txrx_sets": {f"txrx_set_{number}": entry for number, entry in sets.items()},
        "materials": {},
    }
    (folder / "params.json").write_text(json.dumps(params), encoding="utf-8")
    (folder / "objects.json").write_text("[]", encoding="utf-8")
    np.savez_compressed(folder / "vertices.npz", vertices=np.zeros((0, 3), dtype=np.float32))


def write_arrays(
    folder: Path, rays: PaddedRays, *, tx_set: int = 0, point: int = 0, rx_set: int = 1, fmt: str = "npz"
) -> None:
    """The arrays of one transmitter point and one receiver set."""
    arrays = {
        name: getattr(rays, name)
        for name in ("power", "phase", "delay", "aod_az", "aod_el", "aoa_az", "aoa_el", "inter")
    }
    arrays["inter_pos"] = np.full((*rays.power.shape, 1, 3), np.nan, dtype=np.float32)
    arrays["rx_pos"] = rays.pos
    arrays["tx_pos"] = np.array([TX_POS], dtype=np.float32)
    for key, values in arrays.items():
        path = folder / f"{key}_t{tx_set:03}_tx{point:03}_r{rx_set:03}.{fmt}"
        if fmt == "npz":
            np.savez_compressed(path, **{key: values})
        elif fmt == "mat":
            scipy.io.savemat(path, {key: values})
        else:
            np.save(path, values)


def write_v4_folder(folder: Path, rays: PaddedRays, *, num_tx: int = 1, fmt: str = "npz") -> Path:
    """A scenario with one transmitter set of `num_tx` points and one user set; every point sees the same
    rays."""
    write_params(
        folder,
        {
            0: txrx_set(0, is_tx=True, is_rx=False, num_points=num_tx),
            1: txrx_set(1, is_tx=False, is_rx=True, num_points=len(rays.power)),
        },
    )
    for point in range(num_tx):
        write_arrays(folder, rays, point=point, fmt=fmt)
    return folder
