"""Which row of the position table a packed token takes, and the table's gradient where sequences share rows freely.

Where every sequence begins at row 0, `patch_embed` sums the gradient itself. Where each names its own first row
(grids of several sizes in one batch), programs own rows of the table instead of tokens: a row's sum has one order
and nothing is added from two sides.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lwm_fast.errors import InputError

from .runtime import Variant, jit, tl, triton  # noqa: TID251
from .tuned import lookup  # noqa: TID251

_CHUNKS = 64  # runs of sequences whose sums are added last,
_PARTIAL_ROWS = 1 << 16  # fewer where the table is long: this bounds the partial sums


@jit
def load_rows(
    position: tl.tensor, place: tl.tensor, d: tl.tensor, valid: tl.tensor, num_positions: tl.tensor, D: tl.constexpr
) -> Any:  # fmt: skip
    """Rows `place` [rows] of the table, float32 [rows, padded D]; nothing outside the table is read."""
    inside = valid & (place >= 0) & (place < num_positions)
    return tl.load(position + place[:, None] * D + d, mask=inside[:, None] & (d < D), other=0.0).to(
        tl.float32
    )


@jit
def with_positions(
    base: tl.tensor, position: tl.tensor, position_start: tl.tensor, b: tl.tensor, t: tl.tensor, d: tl.tensor,
    valid: tl.tensor, num_positions: tl.tensor, D: tl.constexpr, STARTS: tl.constexpr,
) -> Any:  # fmt: skip
    """base plus the rows of tokens `t` of sequence `b`; without STARTS base holds them already."""
    if STARTS:
        place = tl.load(position_start + b) + t
        base = base + load_rows(position, place, d, valid, num_positions, D)
    return base


@jit
def _position_grad_kernel(
    dy: tl.tensor, cu_seqlens: tl.tensor, position_start: tl.tensor, out: tl.tensor, batch: tl.tensor,
    chunk: tl.tensor, num_positions: tl.tensor, D: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
) -> None:  # fmt: skip
    """Sums over this program's sequences, in their order: out [chunks, num_positions, D]."""
    first = tl.program_id(1).to(tl.int64) * BLOCK_T
    place = first + tl.arange(0, BLOCK_T)
    d = tl.arange(0, BLOCK_D)[None, :]
    total = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
    for i in range(chunk):
        b = tl.program_id(0).to(tl.int64) * chunk + i
        begin = tl.load(cu_seqlens + b, mask=b < batch, other=0).to(tl.int64)
        length = tl.load(cu_seqlens + b + 1, mask=b < batch, other=0).to(tl.int64) - begin
        start = tl.load(position_start + b, mask=b < batch, other=0).to(tl.int64)
        if (start < first + BLOCK_T) & (first < start + length):
            t = place - start
            here = (t >= 0) & (t < length)
            rows = dy + (begin + t)[:, None] * D + d
            total += tl.load(rows, mask=here[:, None] & (d < D), other=0.0)
    to = out + (tl.program_id(0).to(tl.int64) * num_positions + place)[:, None] * D + d
    tl.store(to, total, mask=(place < num_positions)[:, None] & (d < D))


def position_gradient(dy: Tensor, cu_seqlens: Tensor, position_start: Tensor, num_positions: int) -> Tensor:
    """Gradient of the table: dy float32 [total, D] of the packed tokens -> float32 [num_positions, D]."""
    batch, dim = len(cu_seqlens) - 1, dy.shape[1]
    most = min(_CHUNKS, max(1, _PARTIAL_ROWS // max(1, num_positions)))
    chunk = max(1, triton.next_power_of_2(triton.cdiv(batch, most)))
    block_d = max(64, triton.next_power_of_2(dim))
    tile = lookup("position_gradient", block_d, 4)
    grid = (triton.cdiv(batch, chunk), triton.cdiv(num_positions, tile.rows))
    out = torch.empty((grid[0], num_positions, dim), dtype=torch.float32, device=dy.device)
    if grid[0] and grid[1]:
        _position_grad_kernel[grid](
            dy.contiguous(), cu_seqlens.contiguous(), position_start.contiguous(), out, batch, chunk, num_positions,
            D=dim, BLOCK_T=tile.rows, BLOCK_D=block_d, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return out.sum(0)


def places(cu_seqlens: Tensor, position_start: Tensor | None, total: int) -> Tensor:
    """The row of the position table that every packed token takes: int64 [total]."""
    starts = cu_seqlens[:-1].long()
    lengths = cu_seqlens[1:].long() - starts
    shift = starts if position_start is None else starts - position_start.long()
    return torch.arange(total, device=starts.device) - shift.repeat_interleave(lengths, output_size=total)


def check_places(cu_seqlens: Tensor, position_start: Tensor | None, num_positions: int) -> None:
    """Refuse sequences that leave the table, where looking at them does not wait for a device."""
    if position_start is None or position_start.device.type != "cpu":
        return
    start, length = position_start.long(), cu_seqlens.diff().long()
    bad = ((start < 0) | (start + length > num_positions)).nonzero()
    if len(bad):
        b = int(bad[0])
        raise InputError(
            f"patch_embed: position_start[{b}] = {int(start[b])} puts the {int(length[b])} tokens of sequence {b} "
            f"outside the position table of {num_positions} rows: give the table of all the batch's grids"
        )


def variants(arch: int | None = None) -> list[Variant]:
    """Every shipped compilation: the tables of v1.1's width, which alone knows grids."""
    types = {name: "*fp32" for name in ("dy", "out")} | {
        name: "*i32" for name in ("cu_seqlens", "position_start")
    }
    types |= {name: "i32" for name in ("batch", "chunk", "num_positions")}
    tile = lookup("position_gradient", 128, 4, arch)
    constexprs = {"D": 128, "BLOCK_T": tile.rows, "BLOCK_D": 128}
    name = "position_gradient D=128"
    return [Variant(name, _position_grad_kernel, types, constexprs, tile.warps, tile.stages)]
