"""A plain image method without any pruning, to test the synthetic street tracer against."""

from __future__ import annotations

import itertools

import numpy as np

from lwm_fast.data.synthetic.streets import F64

Wall = tuple[int, float, int, float, float, int]  # axis, at, outward, low, high, building


def plain_blocked(a: F64, b: F64, boxes: F64) -> bool:
    """Slab test of one segment against all boxes, float64."""
    for x0, y0, _, x1, y1, _ in boxes:
        enter, leave = 0.0, 1.0
        for axis, low, high in ((0, x0 + 0.01, x1 - 0.01), (1, y0 + 0.01, y1 - 0.01)):
            step = b[axis] - a[axis]
            if step == 0:
                enter, leave = (enter, leave) if low < a[axis] < high else (1.0, 0.0)
                continue
            one, two = sorted(((low - a[axis]) / step, (high - a[axis]) / step))
            enter, leave = max(enter, one), min(leave, two)
        if enter < leave:
            return True
    return False


def plain_reflections(station: F64, user: F64, boxes: F64) -> list[tuple[int, int, float]]:
    """All (first building, second building or -1, length in the plan), wall by wall, without any pruning."""
    walls: list[Wall] = []
    for k, (x0, y0, _, x1, y1, _) in enumerate(boxes):
        walls += [
            (0, x0, -1, y0, y1, k),
            (0, x1, 1, y0, y1, k),
            (1, y0, -1, x0, x1, k),
            (1, y1, 1, x0, x1, k),
        ]

    def image(point: F64, wall: Wall) -> F64:
        out = point.copy()
        out[wall[0]] = 2 * wall[1] - out[wall[0]]
        return out

    def hit(source: F64, target: F64, wall: Wall) -> F64 | None:
        """Where source -> target crosses the wall from behind to its front, or None."""
        axis, coordinate, outward, low, high, _ = wall
        if (source[axis] - coordinate) * outward >= 0 or (target[axis] - coordinate) * outward <= 0:
            return None
        point = source + (coordinate - source[axis]) / (target[axis] - source[axis]) * (target - source)
        return point if low < point[1 - axis] < high else None

    def crossed(*points: F64) -> bool:
        return any(plain_blocked(p, q, boxes) for p, q in itertools.pairwise(points))

    found = []
    for one in walls:
        if (station[one[0]] - one[1]) * one[2] <= 0:
            continue
        first = image(station, one)
        early = hit(first, user, one)
        if early is not None and not crossed(station, early, user):
            found.append((one[5], -1, float(np.hypot(*(user - first)))))
        for two in walls:
            if two is one or (first[two[0]] - two[1]) * two[2] <= 0:
                continue
            second = image(first, two)
            late = hit(second, user, two)
            early = None if late is None else hit(first, late, one)
            if late is None or early is None or (early[two[0]] - two[1]) * two[2] <= 0:
                continue
            if not crossed(station, early, late, user):
                found.append((one[5], two[5], float(np.hypot(*(user - second)))))
    return found
