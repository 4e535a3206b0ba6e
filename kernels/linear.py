"""x W^T + b in fixed tiles: a row's bits depend on the row alone, whatever the batch, which cuBLAS does not promise.

A row of x is short (D of the model), so the product is bound by memory and a plain tile loses little. x may be
float32 beside 16-bit weights: it is rounded on its way in, and no rounded copy of it is ever stored. The gradient
of x is the same kernel with the weight read the other way; that of the weight is torch's product.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .runtime import (  # noqa: TID251
    Variant,
    compute_dtype,
    dot_dtype,
    jit,
    operator,
    pointer_type,
    short_name,
    tl,
    triton,
    uses_triton,
)
from .tuned import Tile, lookup  # noqa: TID251

_DEPTH = 64  # terms of the product taken at a time
MAX_DEPTH = 512


@jit
def _linear_kernel(
    x: tl.tensor, weight: tl.tensor, bias: tl.tensor, y: tl.tensor, num_rows: tl.tensor, K: tl.constexpr,
    N: tl.constexpr, STRIDE_K: tl.constexpr, STRIDE_N: tl.constexpr, BIAS: tl.constexpr, DOT: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
) -> None:  # fmt: skip
    """y [T, N] = x [T, K] weight + bias; weight (k, n) lies at k * STRIDE_K + n * STRIDE_N."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    valid = (row < num_rows)[:, None]
    acc = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
    for k0 in range(0, K, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        a = tl.load(x + row[:, None] * K + k[None, :], mask=valid & (k < K)[None, :], other=0.0)
        inside = (k < K)[:, None] & (n < N)[None, :]
        w = tl.load(weight + k[:, None] * STRIDE_K + n[None, :] * STRIDE_N, mask=inside, other=0.0)
        a = a.to(
            weight.dtype.element_ty
        )  # the interpreter multiplies in float32, of the same rounded operands
        acc = tl.dot(a.to(DOT), w.to(DOT), acc, input_precision="ieee")
    if BIAS:
        acc += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[None, :]
    tl.store(y + row[:, None] * N + n[None, :], acc.to(y.dtype.element_ty), mask=valid & (n < N)[None, :])


def _tile(depth: int, itemsize: int, arch: int | None = None) -> Tile:
    return lookup("linear", max(64, triton.next_power_of_2(depth)), itemsize, arch)


def _launch(x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool, dtype: torch.dtype) -> Tensor:
    """x times the transpose of weight [N, K] (or, transposed, weight itself) in tiles."""
    out_features, in_features = weight.shape
    depth, width = (out_features, in_features) if transposed else (in_features, out_features)
    strides = (in_features, 1) if transposed else (1, in_features)
    y = torch.empty((len(x), width), dtype=dtype, device=x.device)
    tile = _tile(depth, weight.element_size())
    if len(x):
        _linear_kernel[(triton.cdiv(len(x), tile.rows), triton.cdiv(width, tile.steps))](
            x.contiguous(), weight.contiguous(), weight if bias is None else bias.contiguous(), y, len(x),
            K=depth, N=width, STRIDE_K=strides[0], STRIDE_N=strides[1], BIAS=bias is not None,
            DOT=dot_dtype(weight.dtype), BLOCK_T=tile.rows, BLOCK_N=tile.steps, BLOCK_K=_DEPTH,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return y


@operator("linear", "(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
def linear_op(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[T, N] in the dtype of weight."""
    if uses_triton(x):
        return _launch(x, weight, bias, False, weight.dtype)
    dtype = compute_dtype(x.dtype, weight.dtype)
    y = x.to(weight.dtype).to(dtype) @ weight.to(dtype).T
    return (y if bias is None else y + bias.to(dtype)).to(weight.dtype)


@operator("linear_backward", "(Tensor grad, Tensor x, Tensor weight) -> (Tensor, Tensor, Tensor)")
def linear_backward_op(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(dx in the dtype of x, dweight in that of weight, dbias float32 or wider)"""
    dtype = compute_dtype(x.dtype, weight.dtype)
    dbias = grad.sum(0, dtype=dtype)
    dweight = grad.T @ x.to(weight.dtype)
    if uses_triton(x):
        return _launch(grad, weight, None, True, x.dtype), dweight, dbias
    return (grad.to(dtype) @ weight.to(dtype)).to(x.dtype), dweight, dbias


@linear_op.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return weight.new_empty((x.shape[0], weight.shape[0]))


@linear_backward_op.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dbias = weight.new_empty(weight.shape[0], dtype=compute_dtype(x.dtype, weight.dtype))
    return x.new_empty(x.shape), weight.new_empty(weight.shape), dbias


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.bias_dtype = None if inputs[2] is None else inputs[2].dtype


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    dx, dweight, dbias = linear_backward_op(grad, *ctx.saved_tensors)
    return dx, dweight, None if ctx.bias_dtype is None else dbias.to(ctx.bias_dtype)


linear_op.register_autograd(_backward, setup_context=_setup_context)


def variants(arch: int | None = None) -> list[Variant]:
    """The QKV products of both models, forward and the gradient of x, beside the models' float32 stream."""
    found = []
    for version, dim, width in (("v1.0", 64, 180), ("v1.1", 128, 384)):
        for products in (torch.float32, torch.bfloat16, torch.float16):
            wide, narrow = "*fp32", pointer_type(products)
            for way, depth, out, x, y in (
                ("fwd", dim, width, wide, narrow),
                ("dx", width, dim, narrow, wide),
            ):
                tile = _tile(depth, products.itemsize, arch)
                constexprs = {
                    "K": depth, "N": out, "STRIDE_K": 1 if way == "fwd" else dim,
                    "STRIDE_N": dim if way == "fwd" else 1, "BIAS": way == "fwd", "DOT": dot_dtype(products),
                    "BLOCK_T": tile.rows, "BLOCK_N": tile.steps, "BLOCK_K": _DEPTH,
                }  # fmt: skip
                types = {"x": x, "weight": narrow, "bias": "*fp32", "y": y, "num_rows": "i32"}
                name = f"linear {way} {version} {short_name(products)}"
                found.append(Variant(name, _linear_kernel, types, constexprs, tile.warps, tile.stages))
    return found
