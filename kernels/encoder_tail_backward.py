"""Backward of `encoder_tail`: one kernel recomputes the tile and gives every gradient but the three matrices'.

For those it writes the factors a, drop(h), d pre-activation, d output and d projection, and torch multiplies
them: long thin products over all tokens, which cuBLAS splits well. Fusing them too would need a partial
[F, D] sum of every program in memory; the simple form stands until a measurement asks for the other.
Gradients of vectors are summed per tile and the tiles in order, so no atomics: the same batch gives the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .dropout import Dropout, keep_block, keep_plain  # noqa: TID251
from .encoder_tail_parts import (  # noqa: TID251
    Weights,
    attention_half,
    draw_arguments,
    drop_plain,
    dropout_rows,
    shipped,
    sizes,
)
from .norm import NORM_EPS, centre, centre_backward, centre_rows, norm_rows_backward  # noqa: TID251
from .runtime import Variant, compute_dtype, jit, operator, tl, triton, uses_triton  # noqa: TID251
from .tuned import lookup  # noqa: TID251


@jit
def _encoder_tail_bwd_kernel(
    grad: tl.tensor, attn: tl.tensor, x: tl.tensor, w_out: tl.tensor, b_out: tl.tensor, alpha1: tl.tensor,
    bias1: tl.tensor, w1: tl.tensor, b1: tl.tensor, w2: tl.tensor, b2: tl.tensor, alpha2: tl.tensor,
    bias2: tl.tensor, dattn: tl.tensor, dx: tl.tensor, du_out: tl.tensor, a_out: tl.tensor,
    dout_out: tl.tensor, h_out: tl.tensor, dpre_out: tl.tensor, partial: tl.tensor, num_tokens: tl.tensor,
    residual: tl.tensor, sample_id: tl.tensor, token_id: tl.tensor, seed: tl.tensor, epoch: tl.tensor,
    stream_layer: tl.tensor, threshold: tl.tensor, keep_scale: tl.tensor, HD: tl.constexpr,
    HD_PAD: tl.constexpr, D: tl.constexpr, F: tl.constexpr, NORM2: tl.constexpr, DROPOUT: tl.constexpr,
    DOT: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_F: tl.constexpr,
) -> None:  # fmt: skip
    """partial: float32 [programs, 6 D + F]: b_out, alpha1, bias1, b2, alpha2, bias2, b1."""
    column = tl.arange(0, D)
    d = column[None, :]
    f = tl.arange(0, BLOCK_F)
    program = tl.program_id(0).to(tl.int64)
    row = program * BLOCK_T + tl.arange(0, BLOCK_T)
    valid = row < num_tokens
    rows = valid[:, None]
    at = row[:, None] * D + d
    sums = partial + program * (6 * D + F)
    act = dattn.dtype.element_ty  # of the products
    sample, block = dropout_rows(sample_id, token_id, row, valid, stream_layer, D, F, DROPOUT)
    z1, std1, r1 = attention_half(
        attn, x, w_out, b_out, row, valid, row, valid, d, residual, sample, block, seed, epoch, threshold,
        keep_scale, HD, HD_PAD, D, BLOCK_T, DROPOUT, DOT,
    )  # fmt: skip
    scale1 = tl.load(alpha1 + d).to(tl.float32)
    a = scale1 * z1 * r1[:, None] + tl.load(bias1 + d).to(tl.float32)
    rounded = a.to(DOT)
    tl.store(a_out + at, a.to(act), mask=rows)

    dout = tl.load(grad + at, mask=rows, other=0.0).to(tl.float32)  # of y, then of the FFN's output
    if NORM2:
        out = a + tl.load(b2 + d).to(tl.float32)
        for f0 in range(0, F, BLOCK_F):
            weight = tl.load(w1 + (f0 + f)[None, :] * D + column[:, None]).to(DOT)  # [D, BLOCK_F]
            h = tl.dot(rounded, weight, input_precision="ieee") + tl.load(b1 + f0 + f)[None, :].to(tl.float32)
            h = tl.maximum(h, 0.0)
            if DROPOUT:
                kept = keep_block(sample, block + (D + f0) // 4, seed, epoch, threshold, BLOCK_T, BLOCK_F)
                h = tl.where(kept, h * keep_scale, 0.0)
            weight = tl.load(w2 + d * F + (f0 + f)[:, None]).to(DOT)  # [BLOCK_F, D]
            out = tl.dot(h.to(DOT), weight, out, input_precision="ieee")
        z2, std2, r2 = centre_rows(out, d < D, D)
        tl.store(sums + 4 * D + column, tl.sum(dout * z2 * r2[:, None], 0))
        tl.store(sums + 5 * D + column, tl.sum(dout, 0))
        dout = norm_rows_backward(dout * tl.load(alpha2 + d).to(tl.float32), z2, std2, r2, d < D, D)
        da = dout
    else:
        tl.store(sums + 4 * D + column, tl.zeros((D,), tl.float32))
        tl.store(sums + 5 * D + column, tl.zeros((D,), tl.float32))
        da = dout
        if DROPOUT:
            kept = keep_block(sample, block + (D + F) // 4, seed, epoch, threshold, BLOCK_T, D)
            dout = tl.where(kept, dout * keep_scale, 0.0)
    tl.store(sums + 3 * D + column, tl.sum(dout, 0))
    dout_rounded = dout.to(DOT)
    tl.store(dout_out + at, dout.to(act), mask=rows)

    for f0 in range(0, F, BLOCK_F):
        weight = tl.load(w1 + (f0 + f)[:, None] * D + d).to(DOT)  # [BLOCK_F, D]
        pre = tl.dot(rounded, tl.trans(weight), input_precision="ieee")
        pre += tl.load(b1 + f0 + f)[None, :].to(tl.float32)
        back = tl.load(w2 + column[:, None] * F + (f0 + f)[None, :]).to(DOT)  # [D, BLOCK_F]
        dpre = tl.dot(dout_rounded, back, input_precision="ieee")
        live = pre > 0.0
        factor = 1.0
        if DROPOUT:
            live &= keep_block(sample, block + (D + f0) // 4, seed, epoch, threshold, BLOCK_T, BLOCK_F)
            factor = keep_scale
        dpre = tl.where(live, dpre * factor, 0.0)
        hidden = row[:, None] * F + (f0 + f)[None, :]
        tl.store(h_out + hidden, tl.where(live, pre * factor, 0.0).to(act), mask=rows)
        tl.store(dpre_out + hidden, dpre.to(act), mask=rows)
        tl.store(sums + 6 * D + f0 + f, tl.sum(dpre, 0))
        da = tl.dot(dpre.to(DOT), weight, da, input_precision="ieee")

    tl.store(sums + D + column, tl.sum(da * z1 * r1[:, None], 0))
    tl.store(sums + 2 * D + column, tl.sum(da, 0))
    du = norm_rows_backward(da * scale1, z1, std1, r1, d < D, D)
    tl.store(dx + at, (residual * du).to(dx.dtype.element_ty), mask=rows)
    if DROPOUT:
        du = tl.where(keep_block(sample, block, seed, epoch, threshold, BLOCK_T, D), du * keep_scale, 0.0)
    tl.store(sums + column, tl.sum(du, 0))
    tl.store(du_out + at, du.to(act), mask=rows)
    k = tl.arange(0, HD_PAD)[None, :]
    weight = tl.load(w_out + column[:, None] * HD + k, mask=(k < HD) & (column[:, None] < D), other=0.0).to(
        DOT
    )
    values = tl.dot(du.to(DOT), weight, input_precision="ieee")  # [BLOCK_T, HD_PAD]
    tl.store(dattn + row[:, None] * HD + k, values.to(act), mask=rows & (k < HD))


_Factors = tuple[Tensor, ...]  # dattn, dx, du, a, dout, h, dpre, sums


def _launch_backward(
    grad: Tensor, attn: Tensor, x: Tensor, w: Weights, residual: float, draws: Dropout | None
) -> _Factors:
    num_tokens, dim = x.shape
    ffn = len(w.b1)
    tile = lookup("encoder_tail_backward", dim, attn.element_size())
    programs = triton.cdiv(num_tokens, tile.rows)
    widths = (attn.shape[1], dim, dim, dim, dim, ffn, ffn)
    outputs = [torch.empty((num_tokens, n), dtype=attn.dtype, device=x.device) for n in widths]
    outputs[1] = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    partial = torch.empty((programs, 6 * dim + ffn), dtype=torch.float32, device=x.device)
    if num_tokens:
        _encoder_tail_bwd_kernel[(programs,)](
            grad.contiguous(), attn.contiguous(), x.contiguous(), *w.tensors(), *outputs, partial, num_tokens,
            residual, *draw_arguments(draws, x), **sizes(attn, x, w), DROPOUT=draws is not None,
            BLOCK_T=tile.rows, BLOCK_F=tile.steps, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return *outputs, partial.sum(0)


def _plain_backward(
    grad: Tensor, attn: Tensor, x: Tensor, w: Weights, residual: float, draws: Dropout | None
) -> _Factors:
    dtype = compute_dtype(attn.dtype, x.dtype, w.w_out.dtype)
    w = w.to(dtype)
    dim, ffn = x.shape[1], len(w.b1)
    words = 2 * dim + ffn
    u = drop_plain(attn.to(dtype) @ w.w_out.T + w.b_out, draws, 0, words)
    z1, std1 = centre(residual * x.to(dtype) + u)
    a = w.alpha1 * z1 / (std1 + NORM_EPS) + w.bias1
    pre = a.to(attn.dtype).to(dtype) @ w.w1.T + w.b1
    h = drop_plain(torch.relu(pre), draws, dim, words)
    dout = grad.to(dtype)
    dalpha2 = dbias2 = dout.new_zeros(dim)
    if w.alpha2 is not None:
        z2, std2 = centre(a + h @ w.w2.T + w.b2)
        dalpha2, dbias2 = (dout * z2 / (std2 + NORM_EPS)).sum(0), dout.sum(0)
        dout = centre_backward(dout * w.alpha2, z2, std2)
        da = dout
    else:
        da = dout
        dout = drop_plain(dout, draws, dim + ffn, words)
    live = pre > 0
    if draws is not None:
        live &= keep_plain(draws, dim, ffn, words)
    dpre = torch.where(live, (dout @ w.w2) * (1.0 if draws is None else draws.scale), 0.0)
    da = da + dpre @ w.w1
    dr = centre_backward(da * w.alpha1, z1, std1)
    du = drop_plain(dr, draws, 0, words)
    rows = (du, da * z1 / (std1 + NORM_EPS), da, dout)
    sums = torch.cat([*(r.sum(0) for r in rows), dalpha2, dbias2, dpre.sum(0)])
    factors = (du @ w.w_out, residual * dr, du, a, dout, h, dpre)
    dtypes = (x.dtype if i == 1 else attn.dtype for i in range(len(factors)))
    return *(t.to(d) for t, d in zip(factors, dtypes, strict=True)), sums


@operator(
    "encoder_tail_backward",
    (
        "(Tensor grad, Tensor attn, Tensor x, Tensor w_out, Tensor b_out, Tensor alpha1, Tensor bias1, "
        "Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor? alpha2, Tensor? bias2, Tensor? sample_id, "
        "Tensor? token_id, float residual, float dropout, int seed, int epoch, int layer) -> "
        "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
)
def encoder_tail_backward_op(
    grad: Tensor, attn: Tensor, x: Tensor, w_out: Tensor, b_out: Tensor, alpha1: Tensor, bias1: Tensor,
    w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, alpha2: Tensor | None, bias2: Tensor | None,
    sample_id: Tensor | None, token_id: Tensor | None, residual: float, dropout: float, seed: int, epoch: int,
    layer: int,
) -> _Factors:  # fmt: skip
    """(dattn, dx, dw_out, dw1, dw2, sums [6 D + F]: b_out, alpha1, bias1, b2, alpha2, bias2, b1)."""
    w = Weights(w_out, b_out, alpha1, bias1, w1, b1, w2, b2, alpha2, bias2)
    draws = None
    if dropout > 0 and sample_id is not None and token_id is not None:
        draws = Dropout(dropout, seed, epoch, layer, sample_id, token_id)
    parts = _launch_backward if uses_triton(x) else _plain_backward
    dattn, dx, du, a, dout, h, dpre, sums = parts(grad, attn, x, w, residual, draws)
    products = ((du, attn, w_out), (dpre, a, w1), (dout, h, w2))
    return dattn, dx, *((left.T @ right).to(weight.dtype) for left, right, weight in products), sums


@encoder_tail_backward_op.register_fake
def _(
    grad: Tensor, attn: Tensor, x: Tensor, w_out: Tensor, b_out: Tensor, alpha1: Tensor, bias1: Tensor,
    w1: Tensor, b1: Tensor, w2: Tensor, *rest: Any,
) -> _Factors:  # fmt: skip
    dtype = compute_dtype(attn.dtype, x.dtype, w_out.dtype)
    sums = x.new_empty(6 * x.shape[1] + w1.shape[0], dtype=dtype)
    return *(
        torch.empty_like(t, memory_format=torch.contiguous_format) for t in (attn, x, w_out, w1, w2)
    ), sums


def variants(arch: int | None = None) -> list[Variant]:
    """Every shipped compilation of the backward."""
    found = []
    for name, dtype, types, constexprs in shipped():
        tile = lookup("encoder_tail_backward", constexprs["D"], dtype.itemsize, arch)
        factors = ("dattn", "du_out", "a_out", "dout_out", "h_out", "dpre_out")
        types = types | dict.fromkeys(factors, types["attn"]) | dict.fromkeys(("grad", "dx"), types["x"])
        types |= {"partial": "*fp32"}
        for dropout in (False, True):
            flags = {"DROPOUT": dropout, "BLOCK_T": tile.rows, "BLOCK_F": tile.steps}
            label = f"encoder_tail bwd {name}{' dropout' if dropout else ''}"
            found.append(
                Variant(label, _encoder_tail_bwd_kernel, types, constexprs | flags, tile.warps, tile.stages)
            )
    return found
