"""A scenario folder to csi in memory, for the three cities: against scipy reading the same files and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from bench.inputs import CITIES, Settings, golden, need_data, relative_error
from bench.rows import Row
from bench.timing import Arm, compare
from lwm_fast import Channels, load_channels
from lwm_fast.data.scenarios import lwm_base_station

READ_ONLY = "scipy.io.loadmat alone"
_LIMIT = 1e-5  # csi of 8 users against the released generator's


def run(settings: Settings) -> list[Row]:
    scenarios = need_data() / "scenarios"
    rows = []
    for city, name in CITIES.items():
        rows += compare(
            "load",
            "city",
            _arms(scenarios / name, golden(f"labels_{name.removesuffix('_3p5')}")),
            rounds=settings.rounds,
            min_seconds=settings.min_seconds,
            num_antennas=32,
            num_subcarriers=32,
            note=f"real {city} 3.5 GHz; error: csi of 8 users against the released generator's",
        )
    return rows


def _arms(folder: Path, labels: dict[str, NDArray[Any]]) -> list[Arm]:
    number = lwm_base_station(folder.name)
    files = sorted(folder.glob(f"BS{number}_UE_*.mat"))

    def load() -> Channels:
        channels = load_channels(folder)
        channels.csi.sum()
        return channels

    def error(channels: Channels) -> float:
        pairs = ((channels.user_index, labels["user_index"]), (channels.los, labels["los"]))
        if not all(own is not None and np.array_equal(own, right) for own, right in pairs):
            return float("inf")
        return relative_error(channels.csi[:8], labels["channel_first8"])

    def own(threads: int) -> Arm:
        name = f"load_channels + csi, {threads} thread{'s' if threads > 1 else ''}"
        return Arm(name, load, 1, error, _LIMIT, threads=threads, baselines=(READ_ONLY,))

    return [Arm(READ_ONLY, lambda: [scipy.io.loadmat(file) for file in files], 1), own(1), own(2)]
