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


def plain_reflections(
    station: F64, user: F64, boxes: F64, most_bounces: int
) -> list[tuple[tuple[int, ...], float]]:
    """All (buildings in order, length in the plan) of up to `most_bounces`, every sequence of walls tried."""
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

    def in_front(point: F64, wall: Wall) -> bool:
        return bool((point[wall[0]] - wall[1]) * wall[2] > 0)

    def hit(source: F64, target: F64, wall: Wall) -> F64 | None:
        """Where source -> target crosses the wall from behind to its front, or None."""
        axis, coordinate, _, low, high, _ = wall
        if in_front(source, wall) or source[axis] == coordinate or not in_front(target, wall):
            return None
        point = source + (coordinate - source[axis]) / (target[axis] - source[axis]) * (target - source)
        return point if low < point[1 - axis] < high else None

    def ray(sequence: list[Wall], images: list[F64]) -> list[F64] | None:
        """The corners of the ray from the user back to the station, or None where a wall is missed."""
        points = [user]
        for wall, source in zip(reversed(sequence), reversed(images), strict=True):
            point = hit(source, points[-1], wall)
            if point is None:
                return None
            points.append(point)
        for point, wall in zip(points[2:], reversed(sequence[1:]), strict=False):
            if not in_front(point, wall):
                return None
        return [*points, station]

    found: list[tuple[tuple[int, ...], float]] = []

    def follow(sequence: list[Wall], images: list[F64]) -> None:
        points = ray(sequence, images) if sequence else None
        if points and not any(plain_blocked(p, q, boxes) for p, q in itertools.pairwise(points)):
            found.append((tuple(wall[5] for wall in sequence), float(np.hypot(*(user - images[-1])))))
        source = images[-1] if images else station
        if len(sequence) < most_bounces:
            for wall in walls:
                if in_front(source, wall) and wall not in sequence[-1:]:
                    follow([*sequence, wall], [*images, image(source, wall)])

    follow([], [])
    return found
