"""One vector a sequence: its CLS token, the mean of its patches, or of all its tokens.

A program owns a sequence and walks its tokens in fixed tiles, so its sum has one order, whatever is packed
beside it. It reads [T, D] once and writes [B, D]: folded into the last encoder_tail, tiles of tokens would straddle
sequences and their sums would need a second pass in any case.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .runtime import (  # noqa: TID251
    Variant,
    compute_dtype,
    jit,
    operator,
    pointer_type,
    short_name,
    tl,
    triton,
    uses_triton,
)
from .tuned import lookup  # noqa: TID251

# First token that counts, and whether it alone does.
KINDS = {"cls": (0, True), "mean": (1, False), "mean_with_cls": (0, False)}
MAX_DIM = 128


@jit
def _pool_kernel(
    x: tl.tensor, cu_seqlens: tl.tensor, out: tl.tensor, first: tl.tensor, D: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_T: tl.constexpr, ONE: tl.constexpr,
) -> None:  # fmt: skip
    sequence = tl.program_id(0).to(tl.int64)
    begin = tl.load(cu_seqlens + sequence).to(tl.int64) + first
    end = tl.load(cu_seqlens + sequence + 1).to(tl.int64)
    d = tl.arange(0, BLOCK_D)
    if ONE:
        end = tl.minimum(end, begin + 1)
    total = tl.zeros((BLOCK_D,), tl.float32)
    for start in range(begin, end, BLOCK_T):
        row = start + tl.arange(0, BLOCK_T)
        mask = (row < end)[:, None] & (d < D)[None, :]
        values = tl.load(x + row[:, None] * D + d[None, :], mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(values, 0)
    count = tl.maximum(end - begin, 0).to(tl.float32)
    mean = total / count  # of nothing: not a number, as in torch
    tl.store(out + sequence * D + d, mean.to(out.dtype.element_ty), mask=d < D)


def _counts(cu_seqlens: Tensor, kind: str) -> Tensor:
    """Tokens that count, of each sequence: int64 [B]."""
    first, one = KINDS[kind]
    lengths = cu_seqlens.diff().long()
    return lengths.clamp(max=1) if one else (lengths - first).clamp(min=0)


def _members(x: Tensor, cu_seqlens: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """(sequence int64 [T], whether the token counts bool [T]) of every packed row."""
    first, one = KINDS[kind]
    lengths = cu_seqlens.diff().long()
    starts = cu_seqlens[:-1].long()
    sequence = torch.arange(len(lengths), device=x.device).repeat_interleave(lengths, output_size=len(x))
    place = torch.arange(len(x), device=x.device) - starts[sequence]
    return sequence, (place == 0) if one else (place >= first)


@operator("pool", "(Tensor x, Tensor cu_seqlens, str kind, ScalarType dtype) -> Tensor")
def pool_op(x: Tensor, cu_seqlens: Tensor, kind: str, dtype: torch.dtype) -> Tensor:
    batch, dim = cu_seqlens.shape[0] - 1, x.shape[1]
    if uses_triton(x):
        first, one = KINDS[kind]
        out = torch.empty((batch, dim), dtype=dtype, device=x.device)
        block_d = max(64, triton.next_power_of_2(dim))
        tile = lookup("pool", block_d, x.element_size())
        if batch:
            _pool_kernel[(batch,)](
                x.contiguous(), cu_seqlens.contiguous(), out, first, D=dim, BLOCK_D=block_d, BLOCK_T=tile.rows,
                ONE=one, num_warps=tile.warps, num_stages=tile.stages,
            )  # fmt: skip
        return out
    wide = compute_dtype(x.dtype, dtype)
    sequence, counted = _members(x, cu_seqlens, kind)
    total = x.new_zeros((batch, dim), dtype=wide)
    total.index_add_(0, sequence[counted], x[counted].to(wide))
    return (total / _counts(cu_seqlens, kind)[:, None]).to(dtype)


@operator("pool_backward", "(Tensor grad, Tensor x, Tensor cu_seqlens, str kind) -> Tensor")
def pool_backward_op(grad: Tensor, x: Tensor, cu_seqlens: Tensor, kind: str) -> Tensor:
    sequence, counted = _members(x, cu_seqlens, kind)
    share = grad.to(compute_dtype(grad.dtype)) / _counts(cu_seqlens, kind)[:, None]
    return torch.where(counted[:, None], share[sequence], 0.0).to(x.dtype)


@pool_op.register_fake
def _(x: Tensor, cu_seqlens: Tensor, kind: str, dtype: torch.dtype) -> Tensor:
    return x.new_empty((cu_seqlens.shape[0] - 1, x.shape[1]), dtype=dtype)


@pool_backward_op.register_fake
def _(grad: Tensor, x: Tensor, cu_seqlens: Tensor, kind: str) -> Tensor:
    return x.new_empty(x.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, str, torch.dtype], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.kind = inputs[2]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    return pool_backward_op(grad, *ctx.saved_tensors, ctx.kind), None, None, None


pool_op.register_autograd(_backward, setup_context=_setup_context)


def variants(arch: int | None = None) -> list[Variant]:
    """Every shipped compilation: means of both models' tokens, and CLS; float32 results."""
    found = []
    for dim in (64, 128):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            tile = lookup("pool", dim, dtype.itemsize, arch)
            types = {"x": pointer_type(dtype), "cu_seqlens": "*i32", "out": "*fp32", "first": "i32"}
            for kind, one in (("mean", False), ("cls", True)):
                sizes = {"D": dim, "BLOCK_D": dim, "BLOCK_T": tile.rows, "ONE": one}
                label = f"pool {kind} D={dim} {short_name(dtype)}"
                found.append(Variant(label, _pool_kernel, types, sizes, tile.warps, tile.stages))
    return found
