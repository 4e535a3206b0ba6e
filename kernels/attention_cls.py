"""Attention of the CLS query alone, for the last layer where only CLS is kept: `lwm_fast::attention_cls`.

Keys and values are read once and one row a sequence is written; by the arithmetic of `attention`'s own CLS row.
Inference only: no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .attention import (  # noqa: TID251
    LOG2E,
    MAX_HEAD_DIM,
    by_head,
    check_cu_seqlens,
    cls_query,
    equal_runs,
    grid_of,
    padded_head_dim,
    shipped,
)
from .runtime import (  # noqa: TID251
    Variant,
    compute_dtype,
    jit,
    operator,
    pointer_type,
    tl,
    uses_triton,
)
from .tuned import lookup  # noqa: TID251


@jit
def _attention_cls_kernel(
    qkv: tl.tensor, out: tl.tensor, cu_seqlens: tl.tensor, score_scale: tl.tensor, H: tl.constexpr,
    HEAD_DIM: tl.constexpr, D: tl.constexpr, BLOCK_N: tl.constexpr,
) -> None:  # fmt: skip
    """Axis 0: sequence * H + head."""
    pair = tl.program_id(0)
    head = pair % H
    begin = tl.load(cu_seqlens + pair // H)
    length = tl.load(cu_seqlens + pair // H + 1) - begin
    q_at = qkv + begin.to(tl.int64) * (3 * H * HEAD_DIM) + head * HEAD_DIM
    out_at = out + pair.to(tl.int64) * HEAD_DIM
    if length > 0:
        cls_query(
            q_at, q_at + H * HEAD_DIM, q_at + 2 * H * HEAD_DIM, out_at, out_at, length, score_scale,
            3 * H * HEAD_DIM, HEAD_DIM, D, BLOCK_N, False,
        )  # fmt: skip
    else:
        e = tl.arange(0, D)
        tl.store(out_at + e, tl.zeros((D,), out.dtype.element_ty), mask=e < HEAD_DIM)


def _plain(qkv: Tensor, cu_seqlens: Tensor, scale: float) -> Tensor:
    dtype = compute_dtype(qkv.dtype)
    _, _, num_heads, head_dim = qkv.shape
    rows = [qkv.new_zeros(0, num_heads, head_dim)]
    for first, last, length in equal_runs(cu_seqlens):
        q, k, v = (by_head(x, length) for x in qkv[first:last].to(dtype).unbind(1))
        rows.append(((q[:, :, :1] @ k.mT * scale).softmax(-1) @ v)[:, :, 0].to(qkv.dtype))
    out = qkv.new_zeros(cu_seqlens.shape[0] - 1, num_heads, head_dim)
    out[cu_seqlens.diff() > 0] = torch.cat(rows)
    return out


def _launch(qkv: Tensor, cu_seqlens: Tensor, scale: float) -> Tensor:
    _, _, num_heads, head_dim = qkv.shape
    batch, padded = cu_seqlens.numel() - 1, padded_head_dim(head_dim)
    out = torch.empty((batch, num_heads, head_dim), dtype=qkv.dtype, device=qkv.device)
    tile = lookup("attention", padded, qkv.element_size())
    if batch:
        grid = grid_of("attention_cls", batch, num_heads, 1, 1)
        _attention_cls_kernel[grid](
            qkv.contiguous(), out, cu_seqlens.contiguous(), scale * LOG2E, H=num_heads, HEAD_DIM=head_dim,
            D=padded, BLOCK_N=tile.steps, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return out


@operator("attention_cls", "(Tensor qkv, Tensor cu_seqlens, float scale) -> Tensor")
def attention_cls_op(qkv: Tensor, cu_seqlens: Tensor, scale: float) -> Tensor:
    """[B, H, d]: zeros for an empty sequence."""
    if not cu_seqlens.is_cuda:
        check_cu_seqlens(cu_seqlens, qkv.shape[0], qkv.shape[0])
    return (_launch if uses_triton(qkv) else _plain)(qkv, cu_seqlens, scale)


@attention_cls_op.register_fake
def _(qkv: Tensor, cu_seqlens: Tensor, scale: float) -> Tensor:
    return qkv.new_empty((cu_seqlens.shape[0] - 1, *qkv.shape[2:]))


def variants(arch: int | None = None) -> list[Variant]:
    """Every shipped compilation."""
    found = []
    for name, dtype, sizes, tile in shipped("attention", arch):
        if name.endswith("short") or sizes["HEAD_DIM"] == MAX_HEAD_DIM:
            continue
        act = pointer_type(dtype)
        types = {"qkv": act, "out": act, "cu_seqlens": "*i32", "score_scale": "fp32"}
        constexprs = {**{k: sizes[k] for k in ("H", "HEAD_DIM", "D")}, "BLOCK_N": tile.steps}
        label = f"attention_cls {name}"
        found.append(Variant(label, _attention_cls_kernel, types, constexprs, tile.warps, tile.stages))
    return found
