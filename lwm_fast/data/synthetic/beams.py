"""Visibility in the plan, and the beams of reflected rays (image method)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lwm_fast.data.synthetic.streets import F32, F64, I64, Bool

_SKIN = np.float32(0.01)  # m: boxes shrink by this, so that a ray ending on a wall is not blocked by it
_SEGMENTS_AT_ONCE = 1024  # keeps the [buildings, segments] temporaries in the second-level cache
_BEAMS_AT_ONCE = 32  # likewise for [beams, users]
_WINDOW_SAMPLES = 33  # points per wall at which windows are sought


class Blockage:
    """Tells which segments of the plan cross a building (separating axis test, float32)."""

    def __init__(self, boxes: F64) -> None:
        low, high = boxes[:, 0:2].T, boxes[:, 3:5].T
        self._centre: F32 = ((low + high) / 2).astype(np.float32)[:, :, None]  # [2, buildings, 1]
        self._half: F32 = ((high - low) / 2).astype(np.float32)[:, :, None] - _SKIN

    def __call__(self, ax: F64, ay: F64, bx: F64, by: F64) -> Bool:
        """Whether the segment from (ax, ay) to (bx, by) is blocked; arrays [segments] in metres."""
        ax, ay, bx, by = np.broadcast_arrays(ax, ay, bx, by)
        out = np.empty(ax.shape, np.bool_)
        for start in range(0, len(out), _SEGMENTS_AT_ONCE):
            part = slice(start, start + _SEGMENTS_AT_ONCE)
            out[part] = self._blocked(ax[part], ay[part], bx[part], by[part])
        return out

    def _blocked(self, ax: F64, ay: F64, bx: F64, by: F64) -> Bool:
        # [buildings, segments]: long rows, over which numpy's loops cost least
        half_x, half_y = ((bx - ax) / 2).astype(np.float32), ((by - ay) / 2).astype(np.float32)
        to_x = self._centre[0] - ((ax + bx) / 2).astype(np.float32)
        to_y = self._centre[1] - ((ay + by) / 2).astype(np.float32)
        long_x, long_y = np.abs(half_x), np.abs(half_y)
        hit: Bool = np.abs(half_x * to_y - half_y * to_x) < self._half[0] * long_y + self._half[1] * long_x
        hit &= np.abs(to_x) < self._half[0] + long_x
        hit &= np.abs(to_y) < self._half[1] + long_y
        return np.asarray(hit.any(0))


@dataclass(frozen=True)
class Walls:
    """The four walls of every building, arrays [4 * num_buildings].

    Attributes:
        axis: 0 when the wall lies at constant x, 1 at constant y.
        at: that constant, metres.
        outward: +1.0 or -1.0, the direction along `axis` that leads out of the building.
        low, high: the wall's ends along the other axis, metres.
        building: row of the building.
    """

    axis: I64
    at: F64
    outward: F64
    low: F64
    high: F64
    building: I64


def walls_of(boxes: F64) -> Walls:
    """List the walls of the boxes, building by building."""
    num_buildings = len(boxes)
    x0, y0, _, x1, y1, _ = boxes.T
    return Walls(
        axis=np.tile(np.array([0, 0, 1, 1]), num_buildings),
        at=np.stack((x0, x1, y0, y1), 1).ravel(),
        outward=np.tile(np.array([-1.0, 1.0, -1.0, 1.0]), num_buildings),
        low=np.stack((y0, y0, x0, x0), 1).ravel(),
        high=np.stack((y1, y1, x1, x1), 1).ravel(),
        building=np.repeat(np.arange(num_buildings), 4),
    )


@dataclass(frozen=True)
class Beams:
    """Rays that leave the base station and reflect at one wall after another; arrays [beams].

    Seen from behind the last wall, they come straight from the mirrored base station through a window of
    that wall. The windows are found by sampling and widened by one sample, so they only save work: every
    ray is tested exactly afterwards.

    Attributes:
        walls: int64 [beams, bounces], the walls in order.
        images: float64 [beams, bounces, 2], the base station mirrored in the walls up to each, metres.
        low, high: the window along the last wall, metres.
    """

    walls: I64
    images: F64
    low: F64
    high: F64

    def __len__(self) -> int:
        return len(self.walls)


def mirror(points: F64, walls: Walls, index: I64) -> F64:
    """Mirror points [n, 2] in the walls of that index [n]."""
    out = points.copy()
    row = np.arange(len(out))
    axis = walls.axis[index]
    out[row, axis] = 2 * walls.at[index] - out[row, axis]
    return out


def crossing(source: F64, target: F64, walls: Walls, index: I64) -> tuple[F64, F64]:
    """Where segments source -> target [n, 2] cross the lines of walls [n].

    Returns the point along the wall in metres, and the fraction of the segment before it.
    """
    row = np.arange(len(source))
    axis = walls.axis[index]
    reach = target[row, axis] - source[row, axis]
    with np.errstate(divide="ignore", invalid="ignore"):
        fraction = (walls.at[index] - source[row, axis]) / reach
        along = source[row, 1 - axis] + fraction * (target[row, 1 - axis] - source[row, 1 - axis])
    return along, fraction


def point_on(walls: Walls, index: I64, along: F64) -> F64:
    """The points [n, 2] at the coordinate `along` [n] of walls [n]."""
    out = np.empty((len(index), 2))
    row = np.arange(len(index))
    out[row, walls.axis[index]] = walls.at[index]
    out[row, 1 - walls.axis[index]] = along
    return out


def in_front(points: F64, walls: Walls, index: I64) -> Bool:
    """Whether points [n, 2] lie on the outer side of walls [n]."""
    reach = points[np.arange(len(points)), walls.axis[index]] - walls.at[index]
    return np.asarray(reach * walls.outward[index] > 0)


def find_beams(station: F64, walls: Walls, blocked: Blockage, most_bounces: int) -> list[Beams]:
    """Find the beams of 1, 2, ... `most_bounces` reflections from a base station at `station` [2], in metres."""
    facing = np.flatnonzero(
        in_front(np.broadcast_to(station, (len(walls.at), 2)), walls, np.arange(len(walls.at)))
    )
    wall, along, step = _samples(walls, facing)
    points = point_on(walls, wall, along)
    seen = ~blocked(station[0], station[1], points[:, 0], points[:, 1])
    once, low, high = _windows(seen, along, step)
    first = facing[once]
    image = mirror(np.broadcast_to(station, (len(first), 2)), walls, first)
    found = [Beams(first[:, None], image[:, None], low, high)]
    while len(found) < most_bounces:
        found.append(_reflected_again(found[-1], walls, blocked))
    return found


def users_in_beams(beams: Beams, walls: Walls, users: F64) -> tuple[I64, I64]:
    """All (beam, user) where the straight line from the beam's image to the user passes its window.

    Users are [n, 2 or 3] in metres. In float32, to be tested exactly afterwards.
    """
    found_beams: list[I64] = [np.zeros(0, np.int64)]
    found_users: list[I64] = [np.zeros(0, np.int64)]
    wall, images = beams.walls[:, -1], beams.images[:, -1]
    for axis in (0, 1):
        ahead: F32 = users[:, axis].astype(np.float32)
        across: F32 = users[:, 1 - axis].astype(np.float32)
        chosen = np.flatnonzero(walls.axis[wall] == axis)
        for start in range(0, len(chosen), _BEAMS_AT_ONCE):
            part = chosen[start : start + _BEAMS_AT_ONCE]
            sign, image = walls.outward[wall[part]], images[part]
            depth = sign * (walls.at[wall[part]] - image[:, axis])  # image to wall, > 0
            low, high = (
                (beams.low[part] - image[:, 1 - axis]) / depth,
                (beams.high[part] - image[:, 1 - axis]) / depth,
            )
            table: F32 = np.stack(
                (sign, sign * image[:, axis], depth, image[:, 1 - axis], low, high), 0
            ).astype(np.float32)
            sign32, origin, wall_depth, side, left, right = table[:, :, None]  # [beams, 1] each
            reach = sign32 * ahead - origin  # [beams, users], from the image along the wall's normal
            drift = across - side
            inside: Bool = (reach > wall_depth) & (drift > left * reach) & (drift < right * reach)
            beam, user = np.nonzero(inside)
            found_beams.append(part[beam])
            found_users.append(user)
    return np.concatenate(found_beams), np.concatenate(found_users)


def _reflected_again(beams: Beams, walls: Walls, blocked: Blockage) -> Beams:
    """The beams that these become by one more reflection."""
    num_walls = len(walls.at)
    last, images = beams.walls[:, -1], beams.images[:, -1]
    parent = np.repeat(np.arange(len(beams)), num_walls)
    wall = np.tile(np.arange(num_walls), len(beams))
    ends = np.stack([point_on(walls, np.arange(num_walls), end) for end in (walls.low, walls.high)])
    reach = np.zeros(len(wall), np.bool_)
    for end in ends:  # the next wall must lie, at least in part, in front of the last
        reach |= in_front(end[wall], walls, last[parent])
    reach &= in_front(images[parent], walls, wall) & (last[parent] != wall)
    parent, wall = parent[reach], wall[reach]

    pair = np.repeat(np.arange(len(wall)), _WINDOW_SAMPLES)
    target, along, step = _samples(walls, wall)
    points = point_on(walls, target, along)
    beam = parent[pair]
    back, fraction = crossing(images[beam], points, walls, last[beam])
    ok = (fraction > 0) & (fraction < 1) & (back > beams.low[beam]) & (back < beams.high[beam])
    chosen = np.flatnonzero(ok)
    start = point_on(walls, last[beam[chosen]], back[chosen])
    clear = in_front(start, walls, target[chosen])
    chosen, start = chosen[clear], start[clear]
    ok[:] = False
    ok[chosen] = ~blocked(start[:, 0], start[:, 1], points[chosen, 0], points[chosen, 1])
    row, low, high = _windows(ok, along, step)
    parent, wall = parent[row], wall[row]
    image = mirror(images[parent], walls, wall)
    return Beams(
        np.concatenate((beams.walls[parent], wall[:, None]), 1),
        np.concatenate((beams.images[parent], image[:, None]), 1),
        low,
        high,
    )


def _samples(walls: Walls, index: I64) -> tuple[I64, F64, F64]:
    """Sample points of walls: wall [n * samples], coordinate along it [n, samples] flattened, spacing [n]."""
    fraction = (np.arange(_WINDOW_SAMPLES) + 0.5) / _WINDOW_SAMPLES
    length = walls.high[index] - walls.low[index]
    along = walls.low[index][:, None] + length[:, None] * fraction
    return np.repeat(index, _WINDOW_SAMPLES), along.ravel(), length / _WINDOW_SAMPLES


def _windows(seen: Bool, along: F64, step: F64) -> tuple[I64, F64, F64]:
    """Rows with a visible sample, and the span of these samples widened by one step either way."""
    seen, along = seen.reshape(-1, _WINDOW_SAMPLES), along.reshape(-1, _WINDOW_SAMPLES)
    row = np.flatnonzero(seen.any(1))
    low = np.where(seen, along, np.inf).min(1)[row] - step[row]
    high = np.where(seen, along, -np.inf).max(1)[row] + step[row]
    return row, low, high
