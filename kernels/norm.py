"""LWM's Norm: alpha * (x - mean) / (std + eps) + bias with the unbiased standard deviation.

A row fits in registers whole, so forward and backward each read it once; the backward recomputes mean and
std from it, which costs no bytes, where saved ones would.
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
from .tuned import Tile, lookup  # noqa: TID251

NORM_EPS = 1e-6
_EPS = tl.constexpr(NORM_EPS)  # added to the standard deviation, not to the variance

MIN_DIM, MAX_DIM = 8, 1024


@jit
def centre_rows(x: tl.tensor, valid: tl.tensor, D: tl.constexpr) -> Any:
    """x [rows, padded D] float32, valid [1, padded D] -> (x - mean, std [rows], 1 / (std + eps) [rows])."""
    mean = tl.sum(tl.where(valid, x, 0.0), 1) / D
    z = tl.where(valid, x - mean[:, None], 0.0)
    std = tl.sqrt(tl.sum(z * z, 1) / (D - 1))
    return z, std, 1.0 / (std + _EPS)


@jit
def norm_rows_backward(
    g: tl.tensor, z: tl.tensor, std: tl.tensor, r: tl.tensor, valid: tl.tensor, D: tl.constexpr
) -> Any:
    """Gradient of the rows: g = dy * alpha, and what `centre_rows` gave. std = 0 passes none, as in torch."""
    mean_g = tl.sum(g, 1) / D
    along = tl.sum(g * z, 1) * r * r / ((D - 1) * tl.where(std > 0.0, std, 1.0))
    along = tl.where(std > 0.0, along, 0.0)
    return tl.where(valid, r[:, None] * (g - mean_g[:, None]) - along[:, None] * z, 0.0)


@jit
def _norm_fwd_kernel(
    x: tl.tensor, alpha: tl.tensor, bias: tl.tensor, y: tl.tensor, num_rows: tl.tensor,
    D: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
) -> None:  # fmt: skip
    d = tl.arange(0, BLOCK_D)[None, :]
    row = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    valid = d < D
    mask = (row < num_rows)[:, None] & valid
    at = row[:, None] * D + d
    z, _, r = centre_rows(tl.load(x + at, mask=mask, other=0.0).to(tl.float32), valid, D)
    a = tl.load(alpha + d, mask=valid, other=0.0).to(tl.float32)
    b = tl.load(bias + d, mask=valid, other=0.0).to(tl.float32)
    tl.store(y + at, (a * z * r[:, None] + b).to(y.dtype.element_ty), mask=mask)


@jit
def _norm_bwd_kernel(
    grad: tl.tensor, x: tl.tensor, alpha: tl.tensor, dx: tl.tensor, partial: tl.tensor, num_rows: tl.tensor,
    D: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr, STEPS: tl.constexpr,
) -> None:  # fmt: skip
    """partial: float32 [num_programs, 2, D], this program's sums for alpha and bias."""
    d = tl.arange(0, BLOCK_D)[None, :]
    valid = d < D
    a = tl.load(alpha + d, mask=valid, other=0.0).to(tl.float32)
    program = tl.program_id(0).to(tl.int64)
    dalpha = tl.zeros((BLOCK_D,), tl.float32)
    dbias = tl.zeros((BLOCK_D,), tl.float32)
    for step in range(STEPS):
        row = (program * STEPS + step) * BLOCK_T + tl.arange(0, BLOCK_T)
        mask = (row < num_rows)[:, None] & valid
        at = row[:, None] * D + d
        z, std, r = centre_rows(tl.load(x + at, mask=mask, other=0.0).to(tl.float32), valid, D)
        dy = tl.load(grad + at, mask=mask, other=0.0).to(tl.float32)
        dalpha += tl.sum(dy * z * r[:, None], 0)
        dbias += tl.sum(dy, 0)
        rows = norm_rows_backward(dy * a, z, std, r, valid, D)
        tl.store(dx + at, rows.to(dx.dtype.element_ty), mask=mask)
    column = tl.arange(0, BLOCK_D)
    tl.store(partial + program * 2 * D + column, dalpha, mask=column < D)
    tl.store(partial + program * 2 * D + D + column, dbias, mask=column < D)


# ------------------------------------------------------------------------------------- plain torch twin


def centre(x: Tensor) -> tuple[Tensor, Tensor]:
    """(x - mean, std [..., 1]) over the last axis, std unbiased."""
    z = x - x.mean(-1, keepdim=True)
    return z, (z.square().sum(-1, keepdim=True) / (x.shape[-1] - 1)).sqrt()


def centre_backward(g: Tensor, z: Tensor, std: Tensor) -> Tensor:
    """Gradient of x, where g is that of z / (std + eps); std = 0 passes none on, as in torch."""
    r = 1 / (std + NORM_EPS)
    along = (g * z).sum(-1, keepdim=True) * r * r / ((z.shape[-1] - 1) * std)
    return r * (g - g.mean(-1, keepdim=True)) - torch.where(std > 0, along, 0.0) * z


def _norm_plain(x: Tensor, alpha: Tensor, bias: Tensor) -> Tensor:
    dtype = compute_dtype(x.dtype, alpha.dtype)
    z, std = centre(x.to(dtype))
    return (alpha.to(dtype) * z / (std + NORM_EPS) + bias.to(dtype)).to(x.dtype)


def _norm_backward_plain(grad: Tensor, x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dtype = compute_dtype(x.dtype, alpha.dtype)
    z, std = centre(x.to(dtype))
    dy = grad.to(dtype)
    dx = centre_backward(dy * alpha.to(dtype), z, std)
    dalpha = (dy * z / (std + NORM_EPS)).sum(0)
    return dx.to(x.dtype), dalpha.to(alpha.dtype), dy.sum(0).to(alpha.dtype)


# ------------------------------------------------------------------------------------ launchers and op


def _tile(dim: int, itemsize: int, arch: int | None = None) -> tuple[Tile, int]:
    """The tile and BLOCK_D for rows of `dim`."""
    block_d = max(32, triton.next_power_of_2(dim))
    return lookup("norm", block_d, itemsize, arch), block_d


def _launch_forward(x: Tensor, alpha: Tensor, bias: Tensor) -> Tensor:
    num_rows, dim = x.shape
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    tile, block_d = _tile(dim, x.element_size())
    if num_rows:
        _norm_fwd_kernel[(triton.cdiv(num_rows, tile.rows),)](
            x.contiguous(), alpha.contiguous(), bias.contiguous(), y, num_rows,
            D=dim, BLOCK_T=tile.rows, BLOCK_D=block_d, num_warps=tile.warps,
        )  # fmt: skip
    return y


def _launch_backward(grad: Tensor, x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    num_rows, dim = x.shape
    tile, block_d = _tile(dim, x.element_size())
    programs = triton.cdiv(num_rows, tile.rows * tile.steps)
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    partial = torch.empty((programs, 2, dim), dtype=torch.float32, device=x.device)
    if num_rows:
        _norm_bwd_kernel[(programs,)](
            grad.contiguous(), x.contiguous(), alpha.contiguous(), dx, partial, num_rows,
            D=dim, BLOCK_T=tile.rows, BLOCK_D=block_d, STEPS=tile.steps, num_warps=tile.warps,
        )  # fmt: skip
    dalpha, dbias = partial.sum(0).to(alpha.dtype).unbind(0)
    return dx, dalpha.clone(), dbias.clone()  # clones: an op's outputs may not share memory


@operator("norm", "(Tensor x, Tensor alpha, Tensor bias) -> Tensor")
def norm_op(x: Tensor, alpha: Tensor, bias: Tensor) -> Tensor:
    return (_launch_forward if uses_triton(x) else _norm_plain)(x, alpha, bias)


@operator("norm_backward", "(Tensor grad, Tensor x, Tensor alpha) -> (Tensor, Tensor, Tensor)")
def norm_backward_op(grad: Tensor, x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return (_launch_backward if uses_triton(x) else _norm_backward_plain)(grad, x, alpha)


@norm_op.register_fake
def _(x: Tensor, alpha: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@norm_backward_op.register_fake
def _(grad: Tensor, x: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), alpha.new_empty(alpha.shape), alpha.new_empty(alpha.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    gradients: tuple[Tensor, Tensor, Tensor] = norm_backward_op(grad, *ctx.saved_tensors)
    return gradients


norm_op.register_autograd(_backward, setup_context=_setup_context)


def variants(arch: int | None = None) -> list[Variant]:
    """Every shipped compilation: both model widths, in every precision."""
    found = []
    for dim in (64, 128):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            tile, block_d = _tile(dim, dtype.itemsize, arch)
            sizes = {"D": dim, "BLOCK_T": tile.rows, "BLOCK_D": block_d}
            act, name = pointer_type(dtype), f"D={dim} {short_name(dtype)}"
            weights = {"alpha": "*fp32", "num_rows": "i32"}
            forward = {"x": act, "y": act, "bias": "*fp32", **weights}
            backward = {"grad": act, "x": act, "dx": act, "partial": "*fp32", **weights}
            steps = {**sizes, "STEPS": tile.steps}
            shape = tile.warps, tile.stages
            found.append(Variant(f"norm fwd {name}", _norm_fwd_kernel, forward, sizes, *shape))
            found.append(Variant(f"norm bwd {name}", _norm_bwd_kernel, backward, steps, *shape))
    return found
