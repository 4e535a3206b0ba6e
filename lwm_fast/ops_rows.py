"""Operations on packed rows around the layers: product, pooling, masked head. Public as part of `lwm_fast.ops`."""

from __future__ import annotations

import torch
from torch import Tensor

from lwm_fast.errors import InputError
from lwm_fast.kernels import linear as _linear  # type: ignore[import-not-found]
from lwm_fast.kernels import norm as _norm
from lwm_fast.kernels import pool as _pool
from lwm_fast.kernels.runtime import autocast  # type: ignore[import-not-found]


def norm(x: Tensor, alpha: Tensor, bias: Tensor) -> Tensor:
    """alpha * (x - mean) / (std + 1e-6) + bias over the last axis; std is unbiased. Not ``layer_norm``.

    Args:
        x: [..., D] float32, bfloat16 or float16 (float64 runs in plain torch), D from 8 to 1024.
        alpha, bias: [D], float32 or the dtype of x.

    Returns:
        [..., D] in the dtype of x, computed in float32. Gradients for all three. (Source: LWM v1.0 / v1.1
        release, ``LayerNormalization``.)

    Raises:
        InputError: alpha or bias is not [D], or D is outside 8..1024.
    """
    dim = x.shape[-1] if x.ndim else 0
    if not _norm.MIN_DIM <= dim <= _norm.MAX_DIM:
        raise InputError(
            f"norm: x has shape {list(x.shape)}, its last axis must be {_norm.MIN_DIM}..{_norm.MAX_DIM}"
        )
    for name, tensor in (("alpha", alpha), ("bias", bias)):
        _check_shape("norm", name, tensor, (dim,))
    y: Tensor = _norm.norm_op(x.reshape(-1, dim), alpha, bias)
    return y.view(x.shape)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias in fixed tiles: a row's result is the same whatever rows are beside it.

    Args:
        x: [T, K], the dtype of weight or float32, rounded to that of weight as it is read; K up to 512.
        weight: [N, K] float32, bfloat16 or float16 (float64 runs in plain torch), N up to 512. Autocast applies.
        bias: [N], float32 or the dtype of weight; never rounded.

    Returns:
        [T, N] in the dtype of weight, sums in float32; float32 products are ieee whatever torch's TF32 flags say.
        Gradients for all three; that of weight is a torch product over all rows.

    Raises:
        InputError: a shape or a dtype is not as above.
    """
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[1]:
        raise InputError(
            f"linear: x has shape {list(x.shape)} and weight {list(weight.shape)}, expected [T, K] and [N, K]"
        )
    if max(weight.shape) > _linear.MAX_DEPTH or min(weight.shape) < 1:
        raise InputError(f"linear: weight is {list(weight.shape)}, expected axes of 1..{_linear.MAX_DEPTH}")
    weight = autocast(weight)
    if x.dtype not in (weight.dtype, torch.float32):
        raise InputError(f"linear: x is {x.dtype}, expected {weight.dtype} (as weight) or float32: cast one")
    if bias is not None:
        _check_shape("linear", "bias", bias, (weight.shape[0],))
    y: Tensor = _linear.linear_op(x, weight, bias)
    return y


def pool(x: Tensor, cu_seqlens: Tensor, kind: str, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """One vector a sequence: "cls", "mean" of the patches, or "mean_with_cls".

    Args:
        x: [T, D] packed tokens of any float dtype, D up to 128. cu_seqlens: int32 [B + 1].
        kind: which tokens count. dtype: of the result.

    Returns:
        [B, D], summed in float32 (float64 of float64) in an order that the sequence's own length fixes. The mean
        of no token is NaN, as in torch. Gradient for x.

    Raises:
        InputError: a shape, a dtype or the kind is not as above.
    """
    if kind not in _pool.KINDS:
        raise InputError(f"pool: kind is {kind!r}, expected one of {', '.join(_pool.KINDS)}")
    if x.ndim != 2 or not 1 <= x.shape[1] <= _pool.MAX_DIM or not x.is_floating_point():
        raise InputError(
            f"pool: x is {x.dtype} {list(x.shape)}, expected a float [T, D] with D up to {_pool.MAX_DIM}"
        )
    if cu_seqlens.dtype != torch.int32 or cu_seqlens.ndim != 1 or cu_seqlens.shape[0] < 1:
        raise InputError(
            f"pool: cu_seqlens is {cu_seqlens.dtype} {list(cu_seqlens.shape)}, expected int32 [B + 1]"
        )
    pooled: Tensor = _pool.pool_op(x, cu_seqlens, kind, dtype)
    return pooled


def masked_head(
    x: Tensor, masked_index: Tensor, w_in: Tensor, b_in: Tensor, alpha: Tensor, bias: Tensor, w_out: Tensor,
    decoder_bias: Tensor,
) -> Tensor:  # fmt: skip
    """What masked channel modelling predicts: Linear, ReLU, Norm and decoder on the masked rows of x.

    A composition, not a kernel: see docs/kernels.md for the bytes. Under autocast the products are rounded, and
    so is the result; otherwise everything has the dtype of the weights.

    Args:
        x: [T, D] packed outputs. masked_index: int32 or int64 [M], its rows to predict.
        w_in: [D, D], b_in: [D]. alpha, bias: [D] of the Norm. w_out: [patch_len, D]. decoder_bias: [patch_len].

    Returns:
        [M, patch_len]. Gradients for x and all parameters. (Source: LWM v1.0 / v1.1 release, ``lwm.forward``.)

    Raises:
        InputError: masked_index is not int32 or int64 [M], or a shape does not fit.
    """
    if masked_index.ndim != 1 or masked_index.dtype not in (torch.int32, torch.int64):
        raise InputError(
            f"masked_head: masked_index is {masked_index.dtype} {list(masked_index.shape)}, expected int32 or "
            "int64 [M]"
        )
    rows = x.index_select(0, masked_index).to(w_in.dtype)
    hidden = norm(linear(rows, w_in, b_in).relu(), alpha, bias)
    return linear(hidden, w_out, decoder_bias)


def _check_shape(op: str, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise InputError(f"{op}: {name} has shape {list(tensor.shape)}, expected {list(shape)}")
