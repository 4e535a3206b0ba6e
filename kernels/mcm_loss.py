"""Losses of masked channel modelling: per-sample sums in one pass, the rest from six numbers.

One kernel reads predictions and targets once and leaves four sums a sample; both losses, their compat forms
and what ranks exchange follow from those. One program owns a sample, so its sums do not depend on the batch.
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
    uses_triton,
)
from .tuned import Tile, lookup  # noqa: TID251

NUM_SUMS = 4  # per sample: squared error, energy of targets, energy of predictions, sum of targets
TOTALS = ("ratio_sum", "num_samples", "error", "count", "target_sum", "target_energy")
KINDS = ("nmse", "mse_var")
_NUM_SUMS = tl.constexpr(NUM_SUMS)


@jit
def _mcm_sums_fwd_kernel(
    predicted: tl.tensor,
    target: tl.tensor,
    mask_cu: tl.tensor,
    sums: tl.tensor,
    L: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    sample = tl.program_id(0).to(tl.int64)
    first = tl.load(mask_cu + sample).to(tl.int64) * L
    last = tl.load(mask_cu + sample + 1).to(tl.int64) * L
    error = tl.zeros((BLOCK,), tl.float32)
    target_energy = tl.zeros((BLOCK,), tl.float32)
    energy = tl.zeros((BLOCK,), tl.float32)
    target_sum = tl.zeros((BLOCK,), tl.float32)
    for start in range(first, last, BLOCK):
        at = start + tl.arange(0, BLOCK)
        p = tl.load(predicted + at, mask=at < last, other=0.0).to(tl.float32)
        t = tl.load(target + at, mask=at < last, other=0.0).to(tl.float32)
        error += (t - p) * (t - p)
        target_energy += t * t
        energy += p * p
        target_sum += t
    out = sums + sample * _NUM_SUMS
    tl.store(out, tl.sum(error, 0))
    tl.store(out + 1, tl.sum(target_energy, 0))
    tl.store(out + 2, tl.sum(energy, 0))
    tl.store(out + 3, tl.sum(target_sum, 0))


@jit
def _mcm_sums_bwd_kernel(
    grad: tl.tensor,
    predicted: tl.tensor,
    target: tl.tensor,
    mask_cu: tl.tensor,
    dpredicted: tl.tensor,
    L: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    sample = tl.program_id(0).to(tl.int64)
    first = tl.load(mask_cu + sample).to(tl.int64) * L
    last = tl.load(mask_cu + sample + 1).to(tl.int64) * L
    of_error = 2.0 * tl.load(grad + sample * _NUM_SUMS)
    of_energy = 2.0 * tl.load(grad + sample * _NUM_SUMS + 2)
    for start in range(first, last, BLOCK):
        at = start + tl.arange(0, BLOCK)
        p = tl.load(predicted + at, mask=at < last, other=0.0).to(tl.float32)
        t = tl.load(target + at, mask=at < last, other=0.0).to(tl.float32)
        dp = of_error * (p - t) + of_energy * p
        tl.store(dpredicted + at, dp.to(dpredicted.dtype.element_ty), mask=at < last)


def _tile(patch_len: int, itemsize: int, arch: int | None = None) -> Tile:
    return lookup("mcm_loss", 16 if patch_len <= 16 else 32, itemsize, arch)


def _launch_forward(predicted: Tensor, target: Tensor, mask_cu: Tensor) -> Tensor:
    batch = len(mask_cu) - 1
    sums = torch.empty((batch, NUM_SUMS), dtype=torch.float32, device=predicted.device)
    tile = _tile(predicted.shape[1], predicted.element_size())
    if batch:
        _mcm_sums_fwd_kernel[(batch,)](
            predicted.contiguous(), target.contiguous(), mask_cu.contiguous(), sums,
            L=predicted.shape[1], BLOCK=tile.rows, num_warps=tile.warps,
        )  # fmt: skip
    return sums


def _launch_backward(grad: Tensor, predicted: Tensor, target: Tensor, mask_cu: Tensor) -> Tensor:
    batch = len(mask_cu) - 1
    dpredicted = torch.empty(predicted.shape, dtype=predicted.dtype, device=predicted.device)
    tile = _tile(predicted.shape[1], predicted.element_size())
    if batch:
        _mcm_sums_bwd_kernel[(batch,)](
            grad.contiguous(), predicted.contiguous(), target.contiguous(), mask_cu.contiguous(), dpredicted,
            L=predicted.shape[1], BLOCK=tile.rows, num_warps=tile.warps,
        )  # fmt: skip
    return dpredicted


def _plain(predicted: Tensor, target: Tensor, mask_cu: Tensor) -> Tensor:
    dtype = compute_dtype(predicted.dtype, target.dtype)
    p, t = predicted.to(dtype), target.to(dtype)
    rows = torch.stack([(t - p).square().sum(1), t.square().sum(1), p.square().sum(1), t.sum(1)], 1)
    lengths = mask_cu.diff().long()
    sums: Tensor = torch.segment_reduce(rows, "sum", lengths=lengths, unsafe=True, initial=0)
    return sums


def _plain_backward(grad: Tensor, predicted: Tensor, target: Tensor, mask_cu: Tensor) -> Tensor:
    dtype = compute_dtype(predicted.dtype, target.dtype)
    p, t = predicted.to(dtype), target.to(dtype)
    rows = grad.repeat_interleave(mask_cu.diff(), 0, output_size=len(p))  # [M, 4]
    return (2 * rows[:, :1] * (p - t) + 2 * rows[:, 2:3] * p).to(predicted.dtype)


@operator("mcm_sums", "(Tensor predicted, Tensor target, Tensor mask_cu) -> Tensor")
def mcm_sums_op(predicted: Tensor, target: Tensor, mask_cu: Tensor) -> Tensor:
    """[B, 4] float32 (float64 of float64): see NUM_SUMS. Differentiable in `predicted` only."""
    return (_launch_forward if uses_triton(predicted) else _plain)(predicted, target, mask_cu)


@operator("mcm_sums_backward", "(Tensor grad, Tensor predicted, Tensor target, Tensor mask_cu) -> Tensor")
def mcm_sums_backward_op(grad: Tensor, predicted: Tensor, target: Tensor, mask_cu: Tensor) -> Tensor:
    return (_launch_backward if uses_triton(predicted) else _plain_backward)(grad, predicted, target, mask_cu)


@mcm_sums_op.register_fake
def _(predicted: Tensor, target: Tensor, mask_cu: Tensor) -> Tensor:
    dtype = compute_dtype(predicted.dtype, target.dtype)
    return predicted.new_empty((mask_cu.shape[0] - 1, NUM_SUMS), dtype=dtype)


@mcm_sums_backward_op.register_fake
def _(grad: Tensor, predicted: Tensor, target: Tensor, mask_cu: Tensor) -> Tensor:
    return predicted.new_empty(predicted.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return mcm_sums_backward_op(grad, *ctx.saved_tensors), None, None


mcm_sums_op.register_autograd(_backward, setup_context=_setup_context)


def totals(predicted: Tensor, target: Tensor, mask_cu: Tensor, compat: bool) -> Tensor:
    """float64 [6], in the order of TOTALS: what ranks and accumulation steps add up."""
    sums: Tensor = mcm_sums_op(predicted, target, mask_cu)
    error, target_energy, energy, target_sum = sums.double().unbind(1)
    ratio_sum = _ratio(error, energy if compat else target_energy).sum()
    batch, count = (error.new_full((), n) for n in (len(error), predicted.numel()))
    return torch.stack([ratio_sum, batch, error.sum(), count, target_sum.sum(), target_energy.sum()])


def loss(pooled: Tensor, kind: str, compat: bool) -> Tensor:
    """float64 [6] of `totals`, pooled or not -> the scalar loss."""
    ratio_sum, num_samples, error, count, target_sum, target_energy = pooled.unbind()
    if kind == "nmse":
        return ratio_sum if compat else _ratio(ratio_sum, num_samples)
    variance = _ratio(target_energy - _ratio(target_sum.square(), count), count - 1)
    return _ratio(_ratio(error, count), variance)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator, 0 where the denominator is not positive (and so is its gradient)."""
    positive = denominator > 0
    return torch.where(positive, numerator / torch.where(positive, denominator, 1.0), 0.0)


def variants(arch: int | None = None) -> list[Variant]:
    """Every shipped compilation: both patch lengths, predictions of every precision (targets are float32)."""
    found = []
    for patch_len in (16, 32):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            tile = _tile(patch_len, dtype.itemsize, arch)
            constexprs, shape = {"L": patch_len, "BLOCK": tile.rows}, (tile.warps, tile.stages)
            act, name = pointer_type(dtype), f"L={patch_len} {short_name(dtype)}"
            reads = {"predicted": act, "target": "*fp32", "mask_cu": "*i32"}
            forward = {**reads, "sums": "*fp32"}
            backward = {**reads, "grad": "*fp32", "dpredicted": act}
            found += [
                Variant(f"mcm_loss fwd {name}", _mcm_sums_fwd_kernel, forward, constexprs, *shape),
                Variant(f"mcm_loss bwd {name}", _mcm_sums_bwd_kernel, backward, constexprs, *shape),
            ]
    return found
