"""What the cases work on: real data where it is present, labelled substitutes elsewhere."""

from __future__ import annotations

import os
import runpy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lwm_fast import LWM, Channels, LWMConfig, load_channels
from lwm_fast.data.synthetic import synthetic_streets

ROOT = Path(__file__).resolve().parents[1]
CITIES = {
    "denver": "city_18_denver_3p5",
    "fortworth": "city_12_fortworth_3p5",
    "santaclara": "city_11_santaclara_3p5",
}
WEIGHTS = {"1.0": "weights/lwm_v1.0_model_weights.pth", "1.1": "weights/lwm_v1.1_seeded_random.pth"}
# The plain float32 model's own error, per tensor: the release reaches 2.3e-6 on v1.0.
PLAIN_LIMIT = 5e-6
# (num_antennas, num_subcarriers) of the v1.1 buckets with 17, 33, 65, 129, 257 and 513 tokens.
BUCKETS = ((8, 32), (16, 32), (32, 32), (32, 64), (64, 64), (128, 64))


class CaseSkippedError(Exception):
    """A case cannot run here; the message says what is missing."""


@dataclass(frozen=True)
class Settings:
    """How a run was asked for."""

    rounds: int = 7
    quick: bool = False

    def pick(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    @property
    def min_seconds(self) -> float:
        return 0.001 if self.quick else 0.1


def shared_data() -> Path | None:
    """Folder of the released weights, cities and golden vectors: LWM_FAST_TEST_DATA, or beside the checkout."""
    folder = Path(os.environ.get("LWM_FAST_TEST_DATA", ROOT.parent / "shared" / "data"))
    return folder if (folder / "golden").is_dir() else None


def need_data() -> Path:
    folder = shared_data()
    if folder is None:
        raise CaseSkippedError("needs the released data: set LWM_FAST_TEST_DATA to its folder")
    return folder


def golden(name: str) -> dict[str, NDArray[Any]]:
    with np.load(need_data() / "golden" / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


@cache
def channels(city: str = "denver") -> tuple[Channels, str]:
    """Users of a city with their rays, and a label; a synthetic street where the city is absent."""
    folder = shared_data()
    if folder is None:
        return synthetic_streets(2000), "synthetic street"
    return load_channels(folder / "scenarios" / CITIES[city]), f"real {city} 3.5 GHz"


def csi_of_size(num_antennas: int, num_subcarriers: int, count: int) -> tuple[NDArray[np.complex64], str]:
    """``count`` channels of a size from rays, evenly spread over the users (repeated where they are fewer)."""
    users, label = channels()
    seen = users.with_geometry(num_antennas=num_antennas, num_subcarriers=num_subcarriers)
    return seen[np.linspace(0, len(users) - 1, count).astype(np.int64)].csi, label


@cache
def model(version: str) -> tuple[LWM, Path | None, str]:
    """A model, its weights file, and a label."""
    folder = shared_data()
    if folder is None:
        config = LWMConfig.v1_0() if version == "1.0" else LWMConfig.v1_1()
        return LWM.random(config), None, "random weights"
    path = folder / WEIGHTS[version]
    label = "released weights" if version == "1.0" else "seeded random weights"
    return LWM.from_pretrained(path), path, label


@cache
def ceiling(version: str, precision: str) -> float:
    """Largest error allowed to an encoder path, from the one table that the tests use."""
    table = runpy.run_path(str(ROOT / "tests" / "numerics.py"))["ENCODER"]
    return float(table[version, precision])


def relative_error(value: Any, expected: Any) -> float:
    """Frobenius norm of the difference over that of ``expected``, in double precision."""
    a, b = (np.asarray(x.cpu() if isinstance(x, torch.Tensor) else x) for x in (value, expected))
    if a.shape != b.shape:
        return float("inf")
    wide = np.complex128 if np.iscomplexobj(b) else np.float64
    return float(
        np.linalg.norm((a.astype(wide) - b.astype(wide)).ravel()) / np.linalg.norm(b.ravel().astype(wide))
    )


def worst_user_error(value: Any, expected: Any) -> float:
    """The largest relative error of one user (first axis)."""
    return max(relative_error(a, b) for a, b in zip(value, expected, strict=True))


def different(value: Any, expected: Any) -> float:
    """0 where both hold the same values bit for bit, else infinity."""
    same = np.array_equal(np.asarray(value), np.asarray(expected))
    return 0.0 if same else float("inf")
