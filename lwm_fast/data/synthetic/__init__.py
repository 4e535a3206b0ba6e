"""Synthetic streets: channels without a scenario to download, seeded and consistent in position.

Everything made here is synthetic and says so (`meta.synthetic`, `meta.source`, `meta.format`).

The paths come from textbook ray optics in a town of box buildings: line of sight, the ground, up to three
walls by the image method with Fresnel coefficients of ITU-R P.2040 materials, knife edges (ITU-R P.526) over
the roofs and round vertical corners, and point scatterers by the bistatic radar equation.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lwm_fast.data.channels import Channels
from lwm_fast.data.meta import ChannelsMeta
from lwm_fast.data.rays import (
    LWM_MAX_PATHS,
    LWM_ROTATION,
    RAY_COLUMNS,
    SPEED_OF_LIGHT,
    ArrayGeometry,
    Rays,
)
from lwm_fast.data.synthetic.cell import Cell, draw_cell, draw_map
from lwm_fast.data.synthetic.gains import Paths, gains
from lwm_fast.data.synthetic.streets import F64, StreetLayout
from lwm_fast.errors import InputError

__all__ = ["StreetLayout", "street_map", "synthetic_streets"]

CARRIER_RANGE = (0.5e9, 100e9)  # Hz; P.2040 fits its facades from 1 to 100 GHz, its ground up to 10 GHz
_POINTS_AT_ONCE = 8192  # of the user sequence; bounds memory
_FEWEST_POINTS = 64


def synthetic_streets(
    num_users: int = 10_000,
    *,
    seed: int = 0,
    carrier_frequency: float = 3.5e9,
    num_antennas: int | tuple[int, int] = 32,
    num_subcarriers: int = 32,
    bandwidth: float | None = None,
    rotation: float | tuple[float, float, float] | None = None,
    max_paths: int = LWM_MAX_PATHS,
    layout: StreetLayout | None = None,
) -> Channels:
    """Channels of users in a synthetic street around one base station.

    The same arguments give the same bits (on another kind of processor or NumPy, the same to rounding). Seed
    and layout fix town, base station and user positions: the first n users of a larger call are the users of
    a call for n, and another carrier gives the same users, paths, delays and angles with other gains and
    phases (paths are ranked and cut at 3.5 GHz for all carriers).

    Args:
        num_users: users returned, all of them with a path. Users placed in the streets whose paths are all
            too weak are dropped and counted in `meta.num_dropped`; `user_index` counts all users placed.
        seed: of the town and everything in it, 0 or more.
        carrier_frequency: Hz, 0.5e9 to 100e9.
        num_antennas, num_subcarriers, bandwidth, rotation, max_paths: as in `ArrayGeometry`; rotation None is
            LWM's -135 degrees about z.
        layout: what streets to draw; None means `StreetLayout()`.

    Returns:
        Channels with rays (gain in dB between isotropic antennas; phase -360 degrees times length over
        wavelength, plus reflections; delay = length / c), `los`, `pos` in metres (the town's middle is the
        origin) and `meta.base_station_pos`.

    Raises:
        InputError: an argument out of range, or a layout in which no base station has the wanted share of
            line of sight.
    """
    count = _whole("num_users", num_users, 1)
    seed = _whole("seed", seed, 0)
    low, high = CARRIER_RANGE
    if not low <= carrier_frequency <= high:
        raise InputError(
            f"synthetic_streets: carrier_frequency={carrier_frequency!r}: "
            f"give Hz between {low:g} and {high:g}"
        )
    geometry = ArrayGeometry(
        num_antennas=num_antennas,
        num_subcarriers=num_subcarriers,
        bandwidth=bandwidth,
        rotation=LWM_ROTATION if rotation is None else rotation,
        max_paths=max_paths,
    )
    cell = draw_cell(seed, layout or StreetLayout())
    served = _serve(cell, count, float(carrier_frequency), _POINTS_AT_ONCE)
    x, y, z = (float(v) for v in cell.tracer.station)
    meta = ChannelsMeta(
        source=f"synthetic street, seed {seed}",
        format="synthetic",
        carrier_frequency=float(carrier_frequency),
        base_station=1,
        base_station_pos=(x, y, z),
        num_users_total=served.num_placed,
        num_dropped=served.num_placed - count,
        sha256=_digest(served),
        synthetic=True,
    )
    return Channels.from_rays(
        served.rays, geometry, los=served.los, pos=served.pos, user_index=served.user_index, meta=meta
    )


def street_map(seed: int = 0, layout: StreetLayout | None = None) -> npt.NDArray[np.float32]:
    """Buildings of the town that `synthetic_streets` draws for this seed and layout.

    Returns:
        float32 [num_buildings, 6]: x0, y0, z0, x1, y1, z1 in metres, in the frame of `Channels.pos`.

    Raises:
        InputError: a seed that is not a whole number of at least 0.
    """
    return draw_map(_whole("seed", seed, 0), layout or StreetLayout()).boxes.astype(np.float32)


@dataclass(frozen=True)
class _Served:
    rays: Rays
    los: npt.NDArray[np.int8]
    pos: npt.NDArray[np.float32]
    user_index: npt.NDArray[np.int64]
    num_placed: int


def _serve(cell: Cell, num_users: int, carrier_frequency: float, points_at_once: int) -> _Served:
    """Place users along the cell's sequence until `num_users` have a path, whatever the chunk."""
    rays, los, pos, index = [], [], [], []
    placed, found, start = 0, 0, 0
    while found < num_users:
        # Rarely more than twice the users wanted: a small call should not trace thousands to drop them.
        points = min(points_at_once, max(_FEWEST_POINTS, 3 * (num_users - found)))
        users = cell.users(start, start + points)
        start += points
        paths = cell.paths(users)
        valid = np.unique(paths.user)[: num_users - found]
        if len(valid):
            last = int(valid[-1])
            paths = paths.select(np.flatnonzero(paths.user <= last))
            rays.append(_rays(paths, valid, cell, carrier_frequency))
            los.append(cell.tracer.line_of_sight(users[valid]).astype(np.int8))
            pos.append(users[valid].astype(np.float32))
            index.append(placed + valid)
            found += len(valid)
        placed += last + 1 if found == num_users else len(users)
    return _Served(
        Rays.concatenate(rays), np.concatenate(los), np.concatenate(pos), np.concatenate(index), placed
    )


def _rays(paths: Paths, valid: npt.NDArray[np.int64], cell: Cell, carrier_frequency: float) -> Rays:
    power, phase = gains(paths, cell.town, carrier_frequency)
    offsets = np.append(np.searchsorted(paths.user, valid), len(paths))
    columns: tuple[F64, ...] = (
        power,
        phase,
        paths.length / SPEED_OF_LIGHT,
        paths.departure_azimuth,
        paths.departure_zenith,
        paths.arrival_azimuth,
        paths.arrival_zenith,
    )
    return Rays(offsets, *(column.astype(np.float32) for column in columns))


def _digest(served: _Served) -> str:
    digest = hashlib.sha256()
    for array in (served.pos, served.rays.offsets, *(getattr(served.rays, name) for name in RAY_COLUMNS)):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _whole(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not math.isfinite(value) or int(value) != value or value < least:
        raise InputError(f"synthetic_streets: {name}={value!r}: give a whole number of at least {least}")
    return int(value)
