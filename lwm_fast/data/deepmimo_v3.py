"""DeepMIMO v3 scenario folders: params.mat and one or more BS<b>_UE_<start>-<end>.mat per base station."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lwm_fast.data.channels import Channels, Int8Array
from lwm_fast.data.files import reading
from lwm_fast.data.meta import ChannelsMeta
from lwm_fast.data.rays import Float32Array, Int64Array, Rays
from lwm_fast.data.scenarios import choose_base_station
from lwm_fast.data.source import Opened, ReadOptions
from lwm_fast.errors import InputError
from lwm_fast.files import check_file

USER_FILE = re.compile(r"BS(\d+)_UE_(\d+)-(\d+)\.mat")  # the end is exclusive

# Rows of a user's path matrix `p` [8 or 10, num_paths]; rows 8 and 9 (Doppler) are not needed for csi.
_PHASE, _DELAY, _POWER, _AOA_AZ, _AOA_ZEN, _AOD_AZ, _AOD_ZEN, _LOS = range(8)


@dataclass(frozen=True)
class _UserFile:
    path: Path
    start: int
    end: int


@dataclass(frozen=True)
class _Users:
    """Users of one file."""

    paths: Float32Array  # [8, num_rays], users one after another
    counts: Int64Array  # [num_users]
    pos: Float32Array  # [num_users, 3]
    user_index: Int64Array  # [num_users]
    tx_pos: tuple[float, float, float]
    polarisation: str


def is_deepmimo_v3(path: Path) -> bool:
    """True for a folder that holds at least one user file."""
    return path.is_dir() and any(USER_FILE.fullmatch(entry.name) for entry in path.iterdir())


def base_stations_v3(path: Path) -> dict[int, str]:
    """Base-station numbers of a folder with their user counts in words."""
    return {
        number: f"{sum(file.end - file.start for file in files)} users"
        for number, files in _user_files(path).items()
    }


def open_deepmimo_v3(path: Path, options: ReadOptions) -> Opened:
    """Rays, positions and LoS of one base station.

    The channel gain is the file's power minus `transmit_power`; los is 1 if a path has the LoS flag, 0 if
    there are paths without it, -1 without paths. With dual polarisation `key` names the matrix (default
    "channels_VV"). Source: the DeepMIMO v3 scenario format and its generator's conventions.

    Raises:
        InputError: base station unknown or ambiguous; a missing, truncated or inconsistent file.
    """
    options.check_for_rays(str(path), takes_key=True)
    files = _user_files(path)
    number = choose_base_station(base_stations_v3(path), options.base_station, path.name, str(path))
    params_path = check_file(path / "params.mat")
    params = _load_params(params_path)
    parts = [_read_users(file, options.key) for file in files[number]]
    paths = np.concatenate([part.paths for part in parts], axis=1)  # [8, num_rays]
    counts = np.concatenate([part.counts for part in parts])  # [num_users]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    rays = Rays(
        offsets=offsets,
        power_db=paths[_POWER] - np.float32(params["transmit_power"]),
        phase_deg=paths[_PHASE],
        delay_s=paths[_DELAY],
        aod_az_deg=paths[_AOD_AZ],
        aod_zen_deg=paths[_AOD_ZEN],
        aoa_az_deg=paths[_AOA_AZ],
        aoa_zen_deg=paths[_AOA_ZEN],
    )
    version = str(int(params["version"])) if "version" in params else None
    meta = ChannelsMeta(
        source=str(path),
        format="deepmimo_v3",
        format_version=" ".join(part for part in (version, parts[0].polarisation) if part) or None,
        carrier_frequency=params.get("carrier_freq"),
        base_station=number,
        base_station_pos=parts[0].tx_pos,
        num_users_total=counts.size,
    )
    channels = Channels.from_rays(
        rays,
        options.geometry(),
        num_threads=options.num_threads,
        los=_los(paths[_LOS], counts),
        pos=np.concatenate([part.pos for part in parts]),
        user_index=np.concatenate([part.user_index for part in parts]),
        meta=meta,
    )
    return Opened(channels, (params_path, *(file.path for file in files[number])), empty="drop")


def _user_files(path: Path) -> dict[int, list[_UserFile]]:
    found: dict[int, list[_UserFile]] = {}
    for entry in path.iterdir():
        if match := USER_FILE.fullmatch(entry.name):
            number, start, end = (int(text) for text in match.groups())
            found.setdefault(number, []).append(_UserFile(entry, start, end))
    return {number: sorted(found[number], key=lambda file: file.start) for number in sorted(found)}


def _load_params(path: Path) -> dict[str, float]:
    import scipy.io

    with reading(path, "a DeepMIMO v3 params.mat"):
        raw = scipy.io.loadmat(path)
    names = ("version", "carrier_freq", "transmit_power")
    params = {name: float(raw[name].flat[0]) for name in names if name in raw}
    if "transmit_power" not in params:
        raise InputError(f"{path}: transmit_power is missing, so gains are unknown; fetch the scenario again")
    return params


def _read_users(file: _UserFile, key: str | None) -> _Users:
    import scipy.io

    check_file(file.path)
    with reading(file.path, "a DeepMIMO v3 user file"):
        raw = scipy.io.loadmat(file.path)
    name = _channels_key(raw, key, file.path)
    if "rx_locs" not in raw:
        raise InputError(f"{file.path}: rx_locs (user positions) is missing; fetch the scenario again")
    with reading(file.path, "a DeepMIMO v3 user file"):
        users = [user["p"][0, 0] for user in raw[name].ravel()]
        counts = np.array([user.shape[1] if user.size else 0 for user in users], dtype=np.int64)
        filled = [user[:8] for user in users if user.size]
        empty = np.empty((8, 0), dtype=np.float32)
        paths = np.concatenate([empty, *filled], axis=1, dtype=np.float32)  # [8, num_rays]
        pos = np.ascontiguousarray(raw["rx_locs"][:, :3], dtype=np.float32)
        tx_x, tx_y, tx_z = (float(value) for value in raw["tx_loc"].ravel()[:3])
    expected = file.end - file.start
    if not counts.size == len(pos) == expected:
        raise InputError(
            f"{file.path}: the name promises {expected} users, but {name} holds {counts.size} and rx_locs "
            f"{len(pos)}; fetch the scenario again"
        )
    return _Users(
        paths=paths,
        counts=counts,
        pos=pos,
        user_index=np.arange(file.start, file.end, dtype=np.int64),
        tx_pos=(tx_x, tx_y, tx_z),
        polarisation=name.removeprefix("channels").removeprefix("_"),
    )


def _channels_key(raw: dict[str, Any], key: str | None, path: Path) -> str:
    names = [name for name in raw if name.startswith("channels")]
    wanted = key or ("channels" if "channels" in names else "channels_VV")
    if wanted not in names:
        raise InputError(f"{path}: no matrix {wanted!r}; it holds {', '.join(names) or 'none'}: give key=")
    return wanted


def _los(flags: Float32Array, counts: Int64Array) -> Int8Array:
    los = np.where(counts > 0, 0, -1).astype(np.int8)
    los[np.repeat(np.arange(counts.size), counts)[flags > 0]] = 1
    return los
