"""Everything of an encoder layer after its attention, for a tile of tokens in one kernel.

    a = Norm1(residual * x + drop(W_o attn + b_o))
    v1.0: y = a + drop(W2 drop(relu(W1 a + b1)) + b2)        residual 1
    v1.1: y = Norm2(a + W2 drop(relu(W1 a + b1)) + b2)       residual 2, as released

A tile of attn and x is read once and y written once; a and the hidden layer never leave the chip. The hidden
layer goes through registers in blocks of BLOCK_F features. Each row sees the same products in the same order
wherever its tile is, so a token's result does not depend on packing.

The dtype of attn is that of the products; x and y, the residual stream, share a dtype of their own, so that
bfloat16 products can keep a float32 stream. `encoder_tail_cls` runs the same kernel on the CLS rows alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .dropout import Dropout, keep_block  # noqa: TID251
from .encoder_tail_backward import encoder_tail_backward_op  # noqa: TID251
from .encoder_tail_parts import (  # noqa: TID251
    Weights,
    attention_half,
    draw_arguments,
    drop_plain,
    dropout_rows,
    shipped,
    sizes,
)
from .norm import NORM_EPS, centre, centre_rows  # noqa: TID251
from .runtime import Variant, compute_dtype, jit, operator, tl, triton, uses_triton  # noqa: TID251
from .tuned import lookup  # noqa: TID251


@jit
def _encoder_tail_fwd_kernel(
    attn: tl.tensor, x: tl.tensor, w_out: tl.tensor, b_out: tl.tensor, alpha1: tl.tensor, bias1: tl.tensor,
    w1: tl.tensor, b1: tl.tensor, w2: tl.tensor, b2: tl.tensor, alpha2: tl.tensor, bias2: tl.tensor,
    y: tl.tensor, cu_seqlens: tl.tensor, num_x: tl.tensor, num_tokens: tl.tensor, residual: tl.tensor,
    sample_id: tl.tensor, token_id: tl.tensor, seed: tl.tensor, epoch: tl.tensor, stream_layer: tl.tensor,
    threshold: tl.tensor, keep_scale: tl.tensor, HD: tl.constexpr, HD_PAD: tl.constexpr, D: tl.constexpr,
    F: tl.constexpr, NORM2: tl.constexpr, DROPOUT: tl.constexpr, CLS: tl.constexpr, DOT: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_F: tl.constexpr,
) -> None:  # fmt: skip
    """Row i of attn and y goes with row i of x or, if CLS, with row cu_seqlens[i] of its num_x."""
    d = tl.arange(0, D)[None, :]
    f = tl.arange(0, BLOCK_F)
    row = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    valid = row < num_tokens
    sample, block = dropout_rows(sample_id, token_id, row, valid, stream_layer, D, F, DROPOUT)
    x_row = row
    x_valid = valid
    if CLS:
        x_row = tl.load(cu_seqlens + row, mask=valid, other=0).to(tl.int64)
        x_valid = valid & (x_row < num_x)  # an empty last sequence begins past the end
    z, _, r = attention_half(
        attn, x, w_out, b_out, row, valid, x_row, x_valid, d, residual, sample, block, seed, epoch, threshold,
        keep_scale, HD, HD_PAD, D, BLOCK_T, DROPOUT, DOT,
    )  # fmt: skip
    a = tl.load(alpha1 + d).to(tl.float32) * z * r[:, None] + tl.load(bias1 + d).to(tl.float32)
    rounded = a.to(DOT)
    out = tl.zeros((BLOCK_T, D), tl.float32)
    for f0 in range(0, F, BLOCK_F):
        weight = tl.load(w1 + (f0 + f)[None, :] * D + tl.arange(0, D)[:, None]).to(DOT)  # [D, BLOCK_F]
        h = tl.dot(rounded, weight, input_precision="ieee") + tl.load(b1 + f0 + f)[None, :].to(tl.float32)
        h = tl.maximum(h, 0.0)
        if DROPOUT:
            kept = keep_block(sample, block + (D + f0) // 4, seed, epoch, threshold, BLOCK_T, BLOCK_F)
            h = tl.where(kept, h * keep_scale, 0.0)
        weight = tl.load(w2 + d * F + (f0 + f)[:, None]).to(DOT)  # [BLOCK_F, D]
        out = tl.dot(h.to(DOT), weight, out, input_precision="ieee")
    out += tl.load(b2 + d).to(tl.float32)
    if NORM2:
        z, _, r = centre_rows(a + out, d < D, D)
        out = tl.load(alpha2 + d).to(tl.float32) * z * r[:, None] + tl.load(bias2 + d).to(tl.float32)
    else:
        if DROPOUT:
            kept = keep_block(sample, block + (D + F) // 4, seed, epoch, threshold, BLOCK_T, D)
            out = tl.where(kept, out * keep_scale, 0.0)
        out += a
    tl.store(y + row[:, None] * D + d, out.to(y.dtype.element_ty), mask=valid[:, None])


def launch_forward(
    attn: Tensor,
    x: Tensor,
    w: Weights,
    residual: float,
    draws: Dropout | None,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """y, one row for each of attn."""
    y = torch.empty((len(attn), x.shape[1]), dtype=x.dtype, device=x.device)
    tile = lookup("encoder_tail", x.shape[1], attn.element_size())
    if len(y):
        _encoder_tail_fwd_kernel[(triton.cdiv(len(y), tile.rows),)](
            attn.contiguous(), x.contiguous(), *w.tensors(), y,
            x if cu_seqlens is None else cu_seqlens.contiguous(), len(x), len(y), residual,
            *draw_arguments(draws, x), **sizes(attn, x, w), DROPOUT=draws is not None,
            CLS=cu_seqlens is not None, BLOCK_T=tile.rows, BLOCK_F=tile.steps, num_warps=tile.warps,
            num_stages=tile.stages,
        )  # fmt: skip
    return y


def plain_forward(attn: Tensor, x: Tensor, w: Weights, residual: float, draws: Dropout | None) -> Tensor:
    """The twin rounds where the kernel does: the operands of products, to the dtype of attn."""
    dtype = compute_dtype(attn.dtype, x.dtype, w.w_out.dtype)
    w = w.to(dtype)
    dim, ffn = x.shape[1], w.w1.shape[0]
    words = 2 * dim + ffn
    u = drop_plain(attn.to(dtype) @ w.w_out.T + w.b_out, draws, 0, words)
    z, std = centre(residual * x.to(dtype) + u)
    a = w.alpha1 * z / (std + NORM_EPS) + w.bias1
    h = drop_plain(torch.relu(a.to(attn.dtype).to(dtype) @ w.w1.T + w.b1), draws, dim, words)
    out = h.to(attn.dtype).to(dtype) @ w.w2.T + w.b2
    if w.alpha2 is None or w.bias2 is None:
        return (a + drop_plain(out, draws, dim + ffn, words)).to(x.dtype)
    z, std = centre(a + out)
    return (w.alpha2 * z / (std + NORM_EPS) + w.bias2).to(x.dtype)


WEIGHTS_SCHEMA = (
    "Tensor w_out, Tensor b_out, Tensor alpha1, Tensor bias1, Tensor w1, Tensor b1, Tensor w2, Tensor b2, "
    "Tensor? alpha2, Tensor? bias2, "
)


@operator(
    "encoder_tail",
    f"(Tensor attn, Tensor x, {WEIGHTS_SCHEMA}Tensor? sample_id, Tensor? token_id, float residual, float dropout, "
    "int seed, int epoch, int layer) -> Tensor",
)
def encoder_tail_op(
    attn: Tensor, x: Tensor, w_out: Tensor, b_out: Tensor, alpha1: Tensor, bias1: Tensor, w1: Tensor, b1: Tensor,
    w2: Tensor, b2: Tensor, alpha2: Tensor | None, bias2: Tensor | None, sample_id: Tensor | None,
    token_id: Tensor | None, residual: float, dropout: float, seed: int, epoch: int, layer: int,
) -> Tensor:  # fmt: skip
    w = Weights(w_out, b_out, alpha1, bias1, w1, b1, w2, b2, alpha2, bias2)
    draws = None
    if dropout > 0 and sample_id is not None and token_id is not None:
        draws = Dropout(dropout, seed, epoch, layer, sample_id, token_id)
    return (launch_forward if uses_triton(x) else plain_forward)(attn, x, w, residual, draws)


@encoder_tail_op.register_fake
def _(attn: Tensor, x: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(x.shape)


_NUM_TENSORS = 14


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:_NUM_TENSORS])
    ctx.numbers = inputs[_NUM_TENSORS:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    tensors = ctx.saved_tensors
    dattn, dx, dw_out, dw1, dw2, sums = encoder_tail_backward_op(grad, *tensors, *ctx.numbers)
    b_out, alpha1, bias1, b1, b2, alpha2, bias2 = (tensors[i] for i in (3, 4, 5, 7, 9, 10, 11))
    dim = len(alpha1)
    rows = sums.split([dim] * 6 + [len(b1)])  # as the backward lays them out
    vectors = zip(rows, (b_out, alpha1, bias1, b2, alpha2, bias2, b1), strict=True)
    d_out, da1, dbias1, db2, da2, dbias2, db1 = (None if v is None else g.to(v.dtype) for g, v in vectors)
    none = (None,) * (len(tensors) - 12 + len(ctx.numbers))
    return dattn, dx, dw_out, d_out, da1, dbias1, dw1, db1, dw2, db2, da2, dbias2, *none


encoder_tail_op.register_autograd(_backward, setup_context=_setup_context)


def variants(arch: int | None = None) -> list[Variant]:
    """Every shipped compilation of the forward; CLS rows are inference, without dropout."""
    found = []
    for name, dtype, types, constexprs in shipped():
        tile = lookup("encoder_tail", constexprs["D"], dtype.itemsize, arch)
        types = types | {"y": types["x"], "cu_seqlens": "*i32", "num_x": "i32"}
        for kind, dropout, cls in (("fwd", False, False), ("fwd", True, False), ("cls", False, True)):
            flags = {"DROPOUT": dropout, "CLS": cls, "BLOCK_T": tile.rows, "BLOCK_F": tile.steps}
            label = f"encoder_tail {kind} {name}{' dropout' if dropout else ''}"
            found.append(
                Variant(label, _encoder_tail_fwd_kernel, types, constexprs | flags, tile.warps, tile.stages)
            )
    return found
