"""Positions of packed batches: which grids of patches a batch holds, and the table that serves all of them.

Models whose positions go by token number have one table and no grids. Those with rows and columns get the tables
of a batch's distinct grids one after another; a grid alone begins at row 0, and its batch runs as a released
model's does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lwm_fast import reference
from lwm_fast.positions import PATCH_SIDE, has_grid, patch_grids, position_table

Grids: TypeAlias = tuple[tuple[int, int], ...]  # distinct (rows, columns) of patches, ascending
Table: TypeAlias = Callable[[Grids], Tensor]  # of a batch's grids: [1 + rows * columns of each, D]

_COLUMN_BITS = 32


def grids_of(shape: npt.NDArray[np.int32]) -> Grids:
    """The distinct grids of int [B, 2] (antennas, subcarriers)."""
    keys = np.unique(_keys(shape)).tolist()
    return tuple((key >> _COLUMN_BITS, key & ((1 << _COLUMN_BITS) - 1)) for key in keys)


def starts_of(shape: npt.NDArray[np.int32], grids: Grids) -> npt.NDArray[np.int32]:
    """Row of the table of ``grids`` at which each sequence begins: int32 [B]."""
    known = np.array([(rows << _COLUMN_BITS) + columns for rows, columns in grids], dtype=np.int64)
    begins = np.cumsum([0, *(1 + rows * columns for rows, columns in grids)])
    starts: npt.NDArray[np.int32] = begins[np.searchsorted(known, _keys(shape))].astype(np.int32)
    return starts


def live_table(model: reference.LWM) -> Table:
    """Tables through which gradients reach the model's positions."""
    return lambda grids: _made(model, grids)


def frozen_table(model: reference.LWM) -> Table:
    """Float32 copies. A grid's table is made once and kept: recorded graphs read it where it lies."""
    if not has_grid(model):
        weight = _copy(_made(model, ()))
        return lambda grids: weight
    kept: dict[Grids, Tensor] = {}

    def table(grids: Grids) -> Tensor:
        alone: list[Grids] = [(grid,) for grid in grids] or [()]
        for one in alone:
            if one not in kept:
                kept[one] = _copy(_made(model, one))
        tables = [kept[one] for one in alone]
        return tables[0] if len(tables) == 1 else torch.cat(tables)

    return table


def _made(model: reference.LWM, grids: Grids) -> Tensor:
    return position_table(model, PATCH_SIDE * np.array(grids, dtype=np.int32).reshape(-1, 2))[0]


def _copy(table: Tensor) -> Tensor:
    return table.detach().to(torch.float32, copy=True).contiguous()


def _keys(shape: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """One number for each grid, in the order of rows, then columns."""
    grids = patch_grids(shape)
    keys: npt.NDArray[np.int64] = (grids[:, 0] << _COLUMN_BITS) + grids[:, 1]
    return keys
