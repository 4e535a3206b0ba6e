"""What channels are, in words: for `print(channels)` and for `lwm-fast inspect`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lwm_fast.data.ray_statistics import RayStatistics, free_space_gain_db, ray_statistics
from lwm_fast.data.source import ReadOptions
from lwm_fast.errors import InputError

if TYPE_CHECKING:
    from lwm_fast.data.channels import Channels


@dataclass(frozen=True)
class Description:
    """What a path holds and what would be embedded, or what is wrong with it.

    Args:
        path: as given.
        format: reader, None if no reader knows the path.
        format_version: version written in the source.
        shape: (num_users, num_antennas, num_subcarriers) that would be embedded; None if that is unknown.
        num_users_total: users in the source.
        num_empty: users without a path, which are left out; None if that needs a pass over the data.
        los_counts: users by "LoS", "NLoS", "no path"; empty if unknown.
        carrier_frequency: Hz.
        carrier_range: Hz, lowest and highest carrier of a ray store.
        shards: of a ray store; None for other sources.
        rays: statistics of the paths; None where the source holds no rays.
        base_station: number that would be used.
        base_stations: number -> description.
        problem: the error that loading would raise; None if it can be loaded.
    """

    path: str
    format: str | None = None
    format_version: str | None = None
    shape: tuple[int, int, int] | None = None
    num_users_total: int | None = None
    num_empty: int | None = None
    los_counts: Mapping[str, int] = field(default_factory=dict)
    carrier_frequency: float | None = None
    carrier_range: tuple[float, float] | None = None
    shards: int | None = None
    rays: RayStatistics | None = None
    base_station: int | None = None
    base_stations: Mapping[int, str] = field(default_factory=dict)
    problem: str | None = None

    def __str__(self) -> str:
        rows = [("path", self.path), ("format", _joined(self.format or "unknown", self.format_version))]
        if self.base_stations:
            listing = ", ".join(f"{number} ({text})" for number, text in self.base_stations.items())
            rows.append(("base stations", listing))
        if self.shape is not None:
            users, num_antennas, num_subcarriers = self.shape
            if self.base_station is not None:
                rows.append(("base station", str(self.base_station)))
            if self.carrier_frequency is not None:
                rows.append(("carrier", _hertz(self.carrier_frequency)))
            elif self.carrier_range is not None:
                rows.append(("carriers", " to ".join(_hertz(carrier) for carrier in self.carrier_range)))
            if self.shards is not None:
                rows.append(("shards", str(self.shards)))
            rows.append(("users", f"{self.num_users_total} in the source, {users} to embed"))
            if self.los_counts:
                rows.append(("LoS", ", ".join(f"{count} {name}" for name, count in self.los_counts.items())))
            if self.rays is not None:
                rows.extend(self.rays.rows())
            rows.append(("size", f"{num_antennas} antennas x {num_subcarriers} subcarriers"))
        if self.problem is not None:
            rows.append(("problem", self.problem))
        return _aligned(rows)


def describe(path: str | os.PathLike[str], **options: object) -> Description:
    """Says what a path holds; never raises for bad data.

    Of HDF5, .npy and zarr data only the shapes are read, of a DeepMIMO folder the rays of one base station.

    Args:
        path: file or folder.
        options: `base_station`, `num_antennas`, `num_subcarriers`, `key`, `layout`, ... as in
            `load_channels`.
    """
    from lwm_fast.data.formats import find_format
    from lwm_fast.data.ray_store import RayStore, is_ray_store

    place = Path(path).expanduser()
    wishes = ReadOptions(**{**options, "in_memory": False})  # type: ignore[arg-type]
    found = None
    stations: dict[int, str] = {}
    try:
        found = find_format(place)
        if found.base_stations is not None:
            stations = found.base_stations(place)
        channels = found.open(place, wishes).channels
    except InputError as error:
        return Description(
            str(path), format=found.name if found else None, base_stations=stations, problem=str(error)
        )
    store = RayStore.open(place) if is_ray_store(place) else None
    empty = None if channels.rays is None else int((channels.rays.num_paths == 0).sum())
    users, num_antennas, num_subcarriers = channels.shape
    return Description(
        str(path),
        format=channels.meta.format,
        format_version=channels.meta.format_version,
        shape=(users - (empty or 0), num_antennas, num_subcarriers),
        num_users_total=channels.meta.num_users_total,
        num_empty=empty,
        los_counts=los_counts(channels),
        carrier_frequency=channels.meta.carrier_frequency,
        carrier_range=store.carrier_range if store else None,
        shards=len(store) if store else None,
        rays=None
        if channels.rays is None
        else ray_statistics(channels.rays, channels.los, _free_space(store or [channels])),
        base_station=channels.meta.base_station,
        base_stations=stations,
    )


def _free_space(parts: Iterable[Channels]) -> npt.NDArray[np.float64] | None:
    """Free-space gain of each user: every shard of a store has its own base station and carrier."""
    gains = [free_space_gain_db(part) for part in parts]
    known = [gain for gain in gains if gain is not None]
    return np.concatenate(known) if len(known) == len(gains) else None


def los_counts(channels: Channels) -> dict[str, int]:
    """Users by "LoS", "NLoS" and "no path"; empty if the source does not say."""
    if channels.los is None:
        return {}
    names = {"LoS": 1, "NLoS": 0, "no path": -1}
    return {name: int((channels.los == code).sum()) for name, code in names.items()}


def summary(channels: Channels) -> str:
    """Several aligned lines about channels."""
    meta = channels.meta
    users, num_antennas, num_subcarriers = channels.shape
    kind = "synthetic channels" if meta.synthetic else "channels"
    rows = [
        ("source", f"{meta.source}{' (synthetic)' if meta.synthetic else ''}"),
        ("format", _joined(meta.format, meta.format_version)),
        ("users", f"{users} kept of {meta.num_users_total} ({meta.num_dropped} without a path dropped)"),
    ]
    if counts := los_counts(channels):
        rows.append(("LoS", ", ".join(f"{count} {name}" for name, count in counts.items())))
    rows.append(("size", f"{num_antennas} antennas x {num_subcarriers} subcarriers"))
    geometry = channels.geometry
    if geometry is not None:
        rows.append(
            ("rays", f"up to {geometry.max_paths} per user, bandwidth {_hertz(geometry.bandwidth_hz)}")
        )
    if meta.carrier_frequency is not None:
        rows.append(("carrier", _hertz(meta.carrier_frequency)))
    if meta.base_station is not None:
        position = meta.base_station_pos
        where = "" if position is None else f" at ({', '.join(f'{value:.6g}' for value in position)}) m"
        rows.append(("base station", f"{meta.base_station}{where}"))
    rows.append(
        ("median |H|", f"{channels.median_gain():.3g} linear gain, before the {meta.scale:.6g} scale")
    )
    return f"Channels: {users} {kind}\n{_aligned(rows, indent='  ')}"


def _aligned(rows: list[tuple[str, str]], indent: str = "") -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{indent}{name:<{width}}  {text}" for name, text in rows)


def _joined(name: str, version: str | None) -> str:
    return name if version is None else f"{name}, version {version}"


def _hertz(value: float) -> str:
    scaled = np.array([1e9, 1e6, 1e3, 1.0])
    unit = int(np.argmax(value >= scaled)) if value >= 1 else 3
    return f"{value / scaled[unit]:.6g} {('GHz', 'MHz', 'kHz', 'Hz')[unit]}"
