"""A split by place: whole squares of the map go to one part, so that a user's neighbours go with him."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lwm_fast.errors import InputError
from lwm_fast.tasks.base import Rows

_FEWEST_BLOCKS = 30  # occupied squares, so that shares of a tenth are met
_FEWEST_USERS = 4  # of a square on average; smaller squares would tear neighbours apart


def deal_blocks(
    pos: npt.NDArray[np.float32], shares: Sequence[float], *, seed: int, cell: float | None = None
) -> tuple[list[Rows], float]:
    """Rows of each part, and the side of the squares in metres.

    The squares come in a seeded order, and each goes to the part that lacks most of its share. Users at the
    edge of a square still have neighbours in the next: `distance_to_training` says how near, and the gap of
    `make_split` removes them.

    Args:
        pos: float32 [n, 3] or [n, 2], metres; x and y count.
        shares: of the parts; what they leave of 1 is left out.
        seed: of the order.
        cell: side in metres. None takes ever smaller squares until 30 are occupied, as long as they hold 4 users on
            average.

    Raises:
        InputError: positions that are not finite, a side that is not positive, or so large that a part gets no
            square.
    """
    ground = np.asarray(pos, dtype=np.float64)[:, :2]
    if not np.isfinite(ground).all():
        raise InputError("split by position: some positions are not finite; leave these users out")
    side = choose_cell(ground) if cell is None else float(cell)
    if not (np.isfinite(side) and side > 0):
        raise InputError(f"split by position: cell={cell}: give the side of the squares in metres, above 0")
    block = _block_numbers(ground, side)
    sizes = np.bincount(block)
    goal = np.array([*shares, max(0.0, 1 - sum(shares))]) * len(ground)
    used = goal > 1e-9
    wanted = int(used.sum())
    if sizes.size < wanted:
        raise InputError(
            f"split by position: {sizes.size} squares of {side:g} m for {wanted} parts; give a smaller cell"
        )
    owner = np.empty(sizes.size, dtype=np.int64)
    lacking, waiting = np.where(used, goal, -np.inf), used.copy()
    for dealt, number in enumerate(np.random.default_rng(seed).permutation(sizes.size)):
        must_wait = sizes.size - dealt <= int(waiting.sum())  # the last squares go to parts without one
        part = int(np.where(waiting | (not must_wait), lacking, -np.inf).argmax())
        owner[number] = part
        lacking[part] -= sizes[number]
        waiting[part] = False
    parts = owner[block]
    return [np.flatnonzero(parts == part) for part in range(len(shares))], side


def choose_cell(ground: npt.NDArray[np.float64]) -> float:
    """Side of squares that suit positions float64 [n, 2], in metres."""
    extent = float(np.ptp(ground, axis=0).max()) if len(ground) else 0.0
    if extent == 0:
        return 1.0
    side = extent
    while True:
        smaller = side / math.sqrt(2)
        occupied = int(_block_numbers(ground, smaller).max()) + 1
        if occupied * _FEWEST_USERS > len(ground):
            return side
        side = smaller
        if occupied >= _FEWEST_BLOCKS:
            return side


def distance_to_training(pos: npt.NDArray[np.float32], train: Rows, test: Rows) -> npt.NDArray[np.float64]:
    """Metres on the ground from each test user to the nearest training user, float64 [len(test)]."""
    from scipy.spatial import cKDTree

    ground = np.asarray(pos, dtype=np.float64)[:, :2]
    distance, _ = cKDTree(ground[train]).query(ground[test])
    return np.asarray(distance)


def _block_numbers(ground: npt.NDArray[np.float64], side: float) -> npt.NDArray[np.int64]:
    """0, 1, ... of the occupied square of each user."""
    corner = np.floor((ground - ground.min(axis=0, initial=np.inf)) / side).astype(np.int64)
    _, number = np.unique(corner, axis=0, return_inverse=True)
    return np.asarray(number.reshape(-1), dtype=np.int64)
