"""DeepMIMO v4 scenario folders: params.json and padded arrays per transmitter and receiver set."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lwm_fast.data.channels import Channels, Int8Array
from lwm_fast.data.files import reading
from lwm_fast.data.meta import ChannelsMeta
from lwm_fast.data.rays import Rays
from lwm_fast.data.scenarios import choose_base_station
from lwm_fast.data.source import Opened, ReadOptions
from lwm_fast.errors import InputError
from lwm_fast.files import check_file

Array = npt.NDArray[Any]

_POWER_FILE = re.compile(r"power_t(\d+)_tx(\d+)_r(\d+)\.(npz|mat|npy)")
_REQUIRED = ("power", "phase", "delay", "aod_az", "aod_el")
_OPTIONAL = ("aoa_az", "aoa_el", "inter", "rx_pos", "tx_pos")


@dataclass(frozen=True)
class _Transmitter:
    """One base station: a point of a transmitter set, and the receiver sets traced for it."""

    set_id: int
    point: int
    rx_sets: tuple[int, ...]


def is_deepmimo_v4(path: Path) -> bool:
    """True for a folder with params.json or at least one power array."""
    if not path.is_dir():
        return False
    return (path / "params.json").is_file() or any(_POWER_FILE.fullmatch(e.name) for e in path.iterdir())


def base_stations_v4(path: Path) -> dict[int, str]:
    """Base-station numbers (1, 2, ... in order of transmitter set and point) with a description."""
    stations = _transmitters(path, _load_params(path))
    return {number: f"set {tx.set_id}, point {tx.point}" for number, tx in stations.items()}


def open_deepmimo_v4(path: Path, options: ReadOptions) -> Opened:
    """Rays, positions and LoS of one base station and all its receive-only sets, in order of set id.

    The gain is `power` as it stands: v4 stores dBW received for 0 dBW transmitted. `aod_el`/`aoa_el` are
    zenith angles. los comes from `inter`: 1 if a path has no interaction, 0 if none is direct, -1 without
    paths.

    Raises:
        InputError: base station unknown or ambiguous; a missing, truncated or inconsistent file; a scenario
            with several scenes.
    """
    options.check_for_rays(str(path))
    params = _load_params(path)
    stations = _transmitters(path, params)
    described = {number: f"set {tx.set_id}, point {tx.point}" for number, tx in stations.items()}
    scenario = path.name
    number = choose_base_station(described, options.base_station, scenario, str(path))
    tx = stations[number]
    files = [_params_path(path)] if _params_path(path) else []
    parts = []
    for rx_set in tx.rx_sets:
        arrays: dict[str, Array] = {}
        for key in (*_REQUIRED, *_OPTIONAL):
            name = f"{key}_t{tx.set_id:03}_tx{tx.point:03}_r{rx_set:03}"
            file = _find_array(path, name)
            if file is None and key in _REQUIRED:
                raise InputError(f"{path}: {name}.npz (or .mat, .npy) is missing; fetch the scenario again")
            if file is not None:
                arrays[key] = _load_array(file, key)
                files.append(file)
        parts.append(arrays)
    frequency = params.get("rt_params", {}).get("frequency")
    version = params.get("version")
    meta = ChannelsMeta(
        source=str(path),
        format="deepmimo_v4",
        format_version=None if version is None else str(version),
        carrier_frequency=None if frequency is None else float(frequency),
        base_station=number,
    )
    channels = channels_from_v4(parts, meta, options)
    return Opened(channels, tuple(file for file in files if file is not None), empty="drop")


def channels_from_v4(parts: list[dict[str, Array]], meta: ChannelsMeta, options: ReadOptions) -> Channels:
    """Channels from v4 arrays, one dict per receiver set, users one set after another.

    Args:
        parts: `power` [dBW], `phase` [deg], `delay` [s], `aod_az`, `aod_el` [deg] (all [num_users,
            max_paths], NaN where there is no path), and where known `aoa_az`, `aoa_el`, `inter`, `rx_pos`
            [num_users, 3], `tx_pos`.
        meta: without counts and base-station position, which are filled in.
        options: geometry and threads.
    """
    rays = Rays.concatenate([_rays(arrays, f"{meta.source}") for arrays in parts])
    los = [_los(arrays) for arrays in parts if "inter" in arrays]
    pos = [np.asarray(arrays["rx_pos"]).reshape(-1, 3) for arrays in parts if "rx_pos" in arrays]
    tx_pos = parts[0].get("tx_pos")
    if tx_pos is not None:
        x, y, z = (float(value) for value in np.asarray(tx_pos).ravel()[:3])
    record = {
        **vars(meta),
        "num_users_total": len(rays),
        "base_station_pos": None if tx_pos is None else (x, y, z),
    }
    return Channels.from_rays(
        rays,
        options.geometry(),
        num_threads=options.num_threads,
        los=np.concatenate(los) if len(los) == len(parts) else None,
        pos=np.concatenate(pos) if len(pos) == len(parts) else None,
        meta=ChannelsMeta(**record),
    )


def _rays(arrays: dict[str, Array], place: str) -> Rays:
    power = np.asarray(arrays["power"])  # [num_users, max_paths]
    unknown = np.full(power.shape, np.nan, dtype=np.float32)
    for key in _REQUIRED:
        values = np.asarray(arrays[key])
        if values.shape != power.shape:
            raise InputError(
                f"{place}: {key} has shape {values.shape} but power {power.shape}; the arrays of a scenario "
                "must agree: fetch it again"
            )
    return Rays.from_padded(
        power,
        phase_deg=arrays["phase"],
        delay_s=arrays["delay"],
        aod_az_deg=arrays["aod_az"],
        aod_zen_deg=arrays["aod_el"],
        aoa_az_deg=arrays.get("aoa_az", unknown),
        aoa_zen_deg=arrays.get("aoa_el", unknown),
    )


def _los(arrays: dict[str, Array]) -> Int8Array:
    present = np.isfinite(np.asarray(arrays["power"]))  # [num_users, max_paths]
    direct = present & (np.asarray(arrays["inter"]) == 0)
    return np.where(present.any(axis=1), direct.any(axis=1), -1).astype(np.int8)


def _params_path(path: Path) -> Path | None:
    """params.json of the folder, or of its parent when the folder is one scene of a time-varying scenario."""
    for folder in (path, path.parent):
        if (folder / "params.json").is_file():
            return folder / "params.json"
    return None


def _load_params(path: Path) -> dict[str, Any]:
    file = _params_path(path)
    if file is None:
        return {}
    check_file(file)
    with reading(file, "a DeepMIMO v4 params.json"):
        params = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(params, dict):
        raise InputError(f"{file}: holds {type(params).__name__}, not an object; fetch the scenario again")
    return params


def _transmitters(path: Path, params: dict[str, Any]) -> dict[int, _Transmitter]:
    traced: dict[tuple[int, int], list[int]] = {}
    for entry in path.iterdir():
        if match := _POWER_FILE.fullmatch(entry.name):
            tx_set, point, rx_set = (int(match.group(i)) for i in (1, 2, 3))
            traced.setdefault((tx_set, point), []).append(rx_set)
    if not traced:
        scenes = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and is_deepmimo_v4(entry))
        if scenes:
            raise InputError(
                f"{path}: a time-varying DeepMIMO v4 scenario of {len(scenes)} scenes; give the folder of "
                f"one scene: {', '.join(scenes[:8])}"
            )
        raise InputError(
            f"{path}: has params.json but no power_t<set>_tx<point>_r<set>.npz; it is an incomplete "
            "DeepMIMO v4 scenario: fetch it again"
        )
    sets = params.get("txrx_sets", {}).values()
    transmitting = {int(s["id"]) for s in sets if s.get("is_tx")} or {tx_set for tx_set, _ in traced}
    stations = [
        # Links between base stations are traced too; users are the sets that only receive.
        _Transmitter(tx_set, point, tuple(sorted(set(rx_sets) - transmitting) or sorted(rx_sets)))
        for (tx_set, point), rx_sets in sorted(traced.items())
    ]
    return dict(enumerate(stations, start=1))


def _find_array(path: Path, name: str) -> Path | None:
    return next((f for suffix in ("mat", "npz", "npy") if (f := path / f"{name}.{suffix}").exists()), None)


def _load_array(file: Path, key: str) -> Array:
    check_file(file)
    with reading(file, "a DeepMIMO v4 array"):
        if file.suffix == ".mat":
            import scipy.io

            return np.asarray(scipy.io.loadmat(file)[key])
        loaded = np.load(file, allow_pickle=False)
        return np.asarray(loaded if file.suffix == ".npy" else loaded[key])
