"""Places the base station and the users: a disc in the streets with the wanted line-of-sight share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lwm_fast.data.rays import SPEED_OF_LIGHT
from lwm_fast.data.synthetic.gains import Paths, gains
from lwm_fast.data.synthetic.streets import F64, Bool, StreetLayout, Town, draw_town, inside_boxes
from lwm_fast.data.synthetic.trace import Tracer
from lwm_fast.errors import InputError

REFERENCE_CARRIER = 3.5e9  # Hz; at this carrier paths are ranked and cut, for every carrier alike

_STATION_TRIES = 100
_STATION_POINTS = 512  # tried for each
_PROBE_USERS = 1024
_FEWEST_PROBES = 256  # with a path within the radius, or the share would be a guess
_CLEARLY_DB = 0.01  # above the threshold, so that rounding cannot decide
_NEAREST_USER = 3.0  # m from the base station
# Steps of the plane-filling sequence that spreads users evenly at any number of them: with g the real root
# of g^3 = g + 1, the k-th point is (k / g, k / g^2) modulo 1, a two-dimensional golden-ratio sequence.
_PLASTIC = 1.324717957244746
_STEPS = (1 / _PLASTIC, 1 / _PLASTIC**2)


@dataclass(frozen=True)
class Cell:
    """One base station in a town and where its users may be.

    Attributes:
        layout, town: what was drawn.
        tracer: traces paths from the base station.
        radius: of the disc that holds the users, metres.
        offset: start of the user sequence in the unit square.
    """

    layout: StreetLayout
    town: Town
    tracer: Tracer
    radius: float
    offset: tuple[float, float]

    def users(self, start: int, stop: int) -> F64:
        """Outdoor positions [n, 3] among points start:stop of the sequence, metres, float32 values."""
        k = np.arange(start, stop, dtype=np.float64)
        station, plan = self.tracer.station, []
        for axis in (0, 1):
            turn = self.offset[axis] + k * _STEPS[axis]
            plan.append(station[axis] + self.radius * (2 * (turn - np.floor(turn)) - 1))
        x, y = (v.astype(np.float32).astype(np.float64) for v in plan)
        distance = np.sqrt((x - station[0]) ** 2 + (y - station[1]) ** 2)
        keep = (distance < self.radius) & (distance > _NEAREST_USER) & ~inside_boxes(x, y, self.town.boxes)
        keep &= (np.abs(x) < self.town.extent[0]) & (np.abs(y) < self.town.extent[1])
        height = np.full(int(keep.sum()), np.float64(np.float32(self.layout.user_height)))
        return np.stack((x[keep], y[keep], height), 1)

    def paths(self, users: F64) -> Paths:
        """Paths of users [n, 3] that are strong enough, by user and strongest first at 3.5 GHz."""
        paths = self.tracer(users)
        gain, _ = gains(paths, self.town, REFERENCE_CARRIER)
        strong = np.flatnonzero(gain >= self.layout.min_gain_db)
        user, gain = paths.user[strong], gain[strong]
        order = np.lexsort((-gain, user))
        strong, user, gain = strong[order], user[order], gain[order]
        first = np.searchsorted(user, user)
        return paths.select(strong[gain >= gain[first] - self.layout.dynamic_range_db])

    def reached(self, users: F64, seen: Bool) -> Bool:
        """Which users [n, 3] have a path in `paths`, given which of them the base station sees.

        A direct path that is strong enough answers for its user without tracing the others.
        """
        step = users - self.tracer.station
        length = np.sqrt((step * step).sum(1))
        wavelength = SPEED_OF_LIGHT / REFERENCE_CARRIER
        free_space_db = 20 * np.log10(wavelength / (4 * np.pi * length))
        valid: Bool = seen & (free_space_db >= self.layout.min_gain_db + _CLEARLY_DB)
        rest = np.flatnonzero(~valid)
        valid[rest[self.paths(users[rest]).user]] = True
        return valid


def draw_cell(seed: int, layout: StreetLayout) -> Cell:
    """Draw a town and place a base station whose users have the wanted line-of-sight share.

    Raises:
        InputError: no place and radius of this layout give the share.
    """
    rng = np.random.default_rng(seed)
    town = draw_town(rng, layout)
    target = rng.uniform(*layout.los_share)
    offset = (float(rng.random()), float(rng.random()))
    low, high = layout.cell_radius
    for _ in range(_STATION_TRIES):
        tracer = Tracer(town, _draw_station(rng, town, layout))
        for outer in (high, np.sqrt(low * high)):  # a small cell needs probes that lie closer
            radius = _radius_for_share(Cell(layout, town, tracer, outer, offset), target)
            if radius is not None:
                return Cell(layout, town, tracer, radius, offset)
    raise InputError(
        f"synthetic_streets(seed={seed}): no base station in this town has a line-of-sight share of "
        f"{target:.2f} within a radius of {layout.cell_radius} m: widen StreetLayout.cell_radius or "
        "los_share, or use another seed"
    )


def draw_map(seed: int, layout: StreetLayout) -> Town:
    """The town of a seed, without placing a base station."""
    return draw_town(np.random.default_rng(seed), layout)


def _draw_station(rng: np.random.Generator, town: Town, layout: StreetLayout) -> F64:
    """A point in the streets of the town's middle, 1 m or more from any wall; float32 values."""
    x, y = (rng.uniform(-half / 3, half / 3, _STATION_POINTS) for half in town.extent)
    outside = np.flatnonzero(~inside_boxes(x, y, town.boxes, margin=1.0))
    if not len(outside):
        raise InputError(
            f"StreetLayout.blocks is {layout.blocks}: buildings fill the town's middle, where the base "
            "station stands; use more blocks"
        )
    at = outside[0]
    return np.array((x[at], y[at], layout.base_station_height), np.float32).astype(np.float64)


def _radius_for_share(cell: Cell, target: float) -> float | None:
    """The widest radius with the target share of line of sight, or nearly; None if none is in range."""
    users = _first_users(cell, _PROBE_USERS)
    seen = cell.tracer.line_of_sight(users)
    valid = cell.reached(users, seen)
    distance = np.sqrt(
        (users[:, 0] - cell.tracer.station[0]) ** 2 + (users[:, 1] - cell.tracer.station[1]) ** 2
    )
    order = np.argsort(distance, kind="stable")
    order = order[valid[order]]
    count = np.arange(1, len(order) + 1)
    share = np.cumsum(seen[order]) / count
    low, high = cell.layout.los_share
    fits = (count >= _FEWEST_PROBES) & (distance[order] >= cell.layout.cell_radius[0])
    fitting = np.flatnonzero(fits & (share >= low) & (share <= high))
    if not len(fitting):
        return None
    above = fitting[share[fitting] >= target]
    chosen = above[-1] if len(above) else fitting[np.argmax(share[fitting])]
    return float(distance[order[chosen]])


def _first_users(cell: Cell, num_users: int) -> F64:
    """The first outdoor users of the cell's sequence."""
    users, start = cell.users(0, 0), 0
    while len(users) < num_users:
        users = np.concatenate((users, cell.users(start, start + num_users)))
        start += num_users
    return users[:num_users]
