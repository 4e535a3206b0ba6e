"""Positions of a batch's tokens: one table by token number, or one for every grid of patches that the batch holds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lwm_fast import reference
from lwm_fast.errors import InputError

if TYPE_CHECKING:
    from lwm_fast.config import LWMConfig

PATCH_SIDE = 4  # antennas and subcarriers of a v1.1 patch

Shapes: TypeAlias = npt.NDArray[np.int32]  # [B, 2] (num_antennas, num_subcarriers)
Positions: TypeAlias = Callable[["Shapes | None", int], Tensor]  # see `dense_positions`


def has_grid(model: reference.LWM) -> bool:
    """Whether the model's positions are those of rows and columns, which need the channels' sizes."""
    return isinstance(model.embedding.pos_embed, reference.GridPositions)


def patch_grids(shape: Shapes) -> npt.NDArray[np.int64]:
    """int [B, 2] (num_antennas, num_subcarriers) -> int64 [B, 2] (rows, columns) of patches."""
    return -(-np.asarray(shape, np.int64) // PATCH_SIDE)


def position_table(model: reference.LWM, shape: Shapes) -> tuple[Tensor, npt.NDArray[np.int32]]:
    """(table [P, D], start int32 [B]): token t of sequence b has the position table[start[b] + t].

    shape: int [B, 2], the channels' (num_antennas, num_subcarriers). For positions by token number the table is the
    model's own; for a grid it holds the tables of the batch's distinct grids, ascending, and gradients reach rows,
    columns and CLS through it. Raises InputError for a grid that the model has no positions for.
    """
    return _table_of(model.embedding.pos_embed, shape)


def _table_of(positions: nn.Module, shape: Shapes) -> tuple[Tensor, npt.NDArray[np.int32]]:
    if not isinstance(positions, reference.GridPositions):
        assert isinstance(positions, nn.Embedding)
        return positions.weight, np.zeros(len(shape), np.int32)
    grids = patch_grids(shape)
    if len(grids) == 0:
        return positions.cls[None], np.zeros(0, np.int32)
    if (grids == grids[0]).all():
        return _table(positions, grids[0]), np.zeros(len(grids), np.int32)
    distinct, which = np.unique(grids, axis=0, return_inverse=True)
    begins = np.concatenate([[0], np.cumsum(1 + distinct.prod(1))])
    table = torch.cat([_table(positions, grid) for grid in distinct])
    return table, begins[which.reshape(-1)].astype(np.int32)


def dense_positions(model: reference.LWM, shape: Shapes | None, seq_len: int) -> Tensor:
    """Positions of sequences of one length: [S, D] where they are the same for all, else [B, S, D].

    shape: as in `position_table`; models with positions by token number take None.
    Raises InputError where a model with a grid is given no shape.
    """
    return _dense(model.embedding.pos_embed, shape, seq_len)


def frozen_positions(model: reference.LWM) -> Positions:
    """`dense_positions` with the bias of the patch projection added, of float32 copies."""
    positions, bias = copy.deepcopy(model.embedding.pos_embed), model.embedding.proj.bias
    whole = (positions.cls, positions.rows) if has_grid(model) else (positions.weight,)
    with torch.no_grad():
        for part in whole:
            part.add_(bias)
    positions = positions.requires_grad_(False).float()
    return lambda shape, seq_len: _dense(positions, shape, seq_len)


def _dense(positions: nn.Module, shape: Shapes | None, seq_len: int) -> Tensor:
    if isinstance(positions, nn.Embedding):
        return positions.weight[:seq_len]
    table, start = _table_of(positions, needed_shape(shape))
    if len(table) == seq_len or len(start) == 0:
        return table
    which = torch.from_numpy(start // seq_len).to(table.device)
    return table.view(-1, seq_len, table.shape[1]).index_select(0, which)


def needed_shape(shape: Shapes | None) -> Shapes:
    """The shape itself; InputError where there is none."""
    if shape is None:
        raise InputError(
            "shape is missing: this model's positions are rows and columns of patches, which tokens alone do not "
            "tell; pass shape=(num_antennas, num_subcarriers) of the channels that were tokenised"
        )
    return shape


def batch_shape(config: LWMConfig, shape: Any, batch: int, seq_len: int) -> npt.NDArray[np.int32] | None:
    """What a forward was given as ``shape``, as int32 [B, 2]; None for positions by token number.

    shape: (num_antennas, num_subcarriers) of the whole batch, or int [B, 2].
    Raises InputError for a shape that is missing, has another form, does not give seq_len tokens, or is too large.
    """
    if config.positions == "index":
        return None
    values = np.asarray(needed_shape(shape))
    if values.dtype.kind not in "iu" or values.shape not in ((2,), (batch, 2)) or (values < 1).any():
        raise InputError(
            f"shape={shape!r}: two positive integers (num_antennas, num_subcarriers), or an integer array "
            f"({batch}, 2) of them, were expected"
        )
    for num_antennas, num_subcarriers in np.unique(values.reshape(-1, 2), axis=0):
        check_grid(int(num_antennas), int(num_subcarriers), config)
        rows, columns = patch_grids(np.array([num_antennas, num_subcarriers], np.int32))
        if 1 + rows * columns != seq_len:
            raise InputError(
                f"shape={num_antennas}x{num_subcarriers} gives {1 + rows * columns} tokens ({rows} x {columns} patches "
                f"and CLS), and input_ids holds {seq_len}; pass the shape of the channels that were tokenised"
            )
    return np.ascontiguousarray(np.broadcast_to(values, (batch, 2)), np.int32)


def check_grid(num_antennas: int, num_subcarriers: int, config: LWMConfig, place: str = "") -> None:
    """Raises InputError for a channel with more rows or columns of patches than a model with a grid has."""
    rows, columns = (-(-size // PATCH_SIDE) for size in (num_antennas, num_subcarriers))
    if config.positions == "grid" and (rows > config.max_rows or columns > config.max_columns):
        raise InputError(_too_large(place, rows, columns, config.max_rows, config.max_columns))


def length_remedy(config: LWMConfig, length: int | str) -> str:
    """The call that lets a model take longer sequences."""
    grid = config.positions == "grid"
    return f"model.resize_grid(max_len={length})" if grid else f"model.resize_positions({length})"


def interpolated(table: Tensor, count: int) -> Tensor:
    """Rows [n, D] stretched linearly to [count, D], the first and the last one kept."""
    stretched = F.interpolate(table.t()[None], size=count, mode="linear", align_corners=True)
    return stretched[0].t().contiguous()


def _table(positions: reference.GridPositions, grid: npt.NDArray[np.int64]) -> Tensor:
    rows, columns = map(int, grid)
    if rows > len(positions.rows) or columns > len(positions.columns):
        raise InputError(_too_large("", rows, columns, len(positions.rows), len(positions.columns)))
    table: Tensor = positions(rows, columns)
    return table


def _too_large(place: str, rows: int, columns: int, max_rows: int, max_columns: int) -> str:
    return (
        f"{place}a channel of {rows} x {columns} patches (4 antennas x 4 subcarriers each), and the model has "
        f"positions for {max_rows} x {max_columns}; use fewer antennas or subcarriers, or "
        f"model.resize_grid({max(rows, max_rows)}, {max(columns, max_columns)})"
    )
