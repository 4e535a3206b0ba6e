"""The fused operations behind attention, as plain functions: public as part of `lwm_fast.ops`."""

from __future__ import annotations

import torch
from torch import Tensor

from lwm_fast.errors import InputError
from lwm_fast.kernels import dropout as _dropout  # type: ignore[import-not-found]
from lwm_fast.kernels import encoder_tail as _encoder_tail
from lwm_fast.kernels import encoder_tail_cls as _encoder_tail_cls
from lwm_fast.kernels import encoder_tail_parts as _tail_parts
from lwm_fast.kernels import mcm_loss as _mcm_loss
from lwm_fast.kernels.runtime import autocast  # type: ignore[import-not-found]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def encoder_tail(
    attn: Tensor,
    x: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    alpha1: Tensor,
    bias1: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    alpha2: Tensor | None = None,
    bias2: Tensor | None = None,
    *,
    residual: float,
    dropout: float = 0.0,
    seed: int = 0,
    epoch: int = 0,
    layer: int = 0,
    sample_id: Tensor | None = None,
    token_id: Tensor | None = None,
    max_seqlen: int | None = None,
) -> Tensor:
    """An encoder layer after its attention: out-projection, residual, Norm, FFN, residual (and Norm), fused.

    a = Norm1(residual * x + drop(w_out attn + b_out)), then without the second Norm (v1.0, residual 1)
    a + drop(w2 drop(relu(w1 a + b1)) + b2), with it (v1.1, residual 2)
    Norm2(a + w2 drop(relu(w1 a + b1)) + b2). (Source: LWM v1.0 and v1.1 releases, ``EncoderLayer``.)

    Args:
        attn: [T, HD] of packed tokens, HD = num_heads * head_dim at most 128 (60 or 128 as released); float32,
            bfloat16 or float16, which is what the operands of the products are rounded to (float64 runs in
            plain torch). Autocast applies.
        x: [T, D], D 64 or 128, the residual stream; the dtype of attn, or float32: in bfloat16 a stream of
            bfloat16 costs v1.0 an error of 1.2e-2 and v1.1 6e-3, one of float32 half of that.
        w_out: [D, HD]; w1: [F, D]; w2: [D, F], F a multiple of 64: cast to the dtype of attn if they differ.
        b_out, b2: [D]; b1: [F]; alpha1, bias1, alpha2, bias2: [D]; never rounded, best kept float32.
        residual: Weight of x, 1.0 or 2.0 as released.
        dropout: Probability in [0, 1); 0 draws nothing. Draws depend on seed (64 bits), epoch (32 bits), layer
            (0..15), sample, token and feature, never on packing (Philox-4x32-10, stream 4).
        sample_id: int64 [T], token_id: int32 [T] (place in its sequence, CLS 0): needed where dropout > 0.
        max_seqlen: The longest sequence, where the caller knows it: with dropout it is checked against the draws
            a layer has, 5,461 tokens of v1.1 and 10,922 of v1.0. Beyond, a layer would share draws with the next.

    Returns:
        [T, D] in the dtype of x, sums in float32. Gradients for attn, x and all weights.

    Raises:
        InputError: A shape, dtype, the dropout, layer, seed or epoch is not as above, ids are missing, or
            max_seqlen has more tokens than a layer has draws.
    """
    weights = (w_out, b_out, alpha1, bias1, w1, b1, w2, b2, alpha2, bias2)
    attn, ready = _prepare("encoder_tail", attn, x, weights)
    if attn.shape[0] != x.shape[0]:
        raise InputError(f"encoder_tail: attn has {attn.shape[0]} rows and x {x.shape[0]}, expected T both")
    if not 0.0 <= dropout < 1.0:
        raise InputError(f"encoder_tail: dropout is {dropout}, expected 0 <= dropout < 1")
    if dropout > 0:
        _check_draws(max_seqlen, x.shape[1], w1.shape[0])
        for name, value, limit in (
            ("layer", layer, _dropout.MAX_LAYERS),
            ("seed", seed, 1 << 64),
            ("epoch", epoch, 1 << 32),
        ):
            if not 0 <= value < limit:
                raise InputError(f"encoder_tail: {name} is {value}, expected 0..{limit - 1}")
        for name, ids, dtype in (
            ("sample_id", sample_id, torch.int64),
            ("token_id", token_id, torch.int32),
        ):
            if ids is None:
                raise InputError(
                    f"encoder_tail: {name} is missing: dropout > 0 draws by it, give {dtype} [T]"
                )
            _check_shape(name, ids, (x.shape[0],))
            if ids.dtype != dtype:
                raise InputError(f"encoder_tail: {name} is {ids.dtype}, expected {dtype}")
    y: Tensor = _encoder_tail.encoder_tail_op(
        attn, x, *ready, sample_id, token_id,
        float(residual), float(dropout), _signed(seed, 64), _signed(epoch, 32), layer,
    )  # fmt: skip
    return y


def encoder_tail_cls(
    attn: Tensor, x: Tensor, cu_seqlens: Tensor, w_out: Tensor, b_out: Tensor, alpha1: Tensor, bias1: Tensor,
    w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, alpha2: Tensor | None = None, bias2: Tensor | None = None,
    *, residual: float,
) -> Tensor:  # fmt: skip
    """:func:`encoder_tail` of the CLS rows alone, for the last layer where only CLS is kept. Inference only.

    Args:
        attn: [B, HD], what :func:`attention_cls` gave, flattened. x: [T, D], all packed tokens.
        cu_seqlens: int32 [B + 1]; row cu_seqlens[b] of x is read in place. An empty sequence's result means nothing.
        The rest as for :func:`encoder_tail`, without dropout.

    Returns:
        [B, D] in the dtype of x. No gradient: train with :func:`encoder_tail`.

    Raises:
        InputError: as :func:`encoder_tail`, or cu_seqlens is not int32 [B + 1].
    """
    weights = (w_out, b_out, alpha1, bias1, w1, b1, w2, b2, alpha2, bias2)
    attn, ready = _prepare("encoder_tail_cls", attn, x, weights)
    if cu_seqlens.dtype != torch.int32 or tuple(cu_seqlens.shape) != (attn.shape[0] + 1,):
        raise InputError(
            f"encoder_tail_cls: cu_seqlens is {cu_seqlens.dtype} {list(cu_seqlens.shape)}, expected int32 "
            f"[{attn.shape[0] + 1}]: one more than attn has rows"
        )
    y: Tensor = _encoder_tail_cls.encoder_tail_cls_op(attn, x, cu_seqlens, *ready, float(residual))
    return y


_MATRICES = (0, 4, 6)  # w_out, w1, w2 among the weights


def _prepare(
    op: str, attn: Tensor, x: Tensor, weights: tuple[Tensor | None, ...]
) -> tuple[Tensor, list[Tensor | None]]:
    """attn as autocast has it, and the weights with matrices of its dtype, once every shape is found right."""
    w_out, b_out, alpha1, bias1, w1, b1, w2, b2, alpha2, bias2 = weights
    if attn.ndim != 2 or x.ndim != 2 or not 1 <= attn.shape[1] <= 128:
        raise InputError(
            f"{op}: attn has shape {list(attn.shape)} and x {list(x.shape)}, expected [T, HD <= 128] and [T, D]"
        )
    attn = autocast(attn)
    if attn.dtype not in _DTYPES or x.dtype not in (attn.dtype, torch.float32):
        raise InputError(
            f"{op}: attn is {attn.dtype} and x {x.dtype}: expected attn of float32, bfloat16 or float16 and x of "
            "the same dtype or float32; cast one"
        )
    dim, ffn = x.shape[1], w1.shape[0] if w1 is not None and w1.ndim else 0
    if dim not in _tail_parts.DIMS or ffn == 0 or ffn % _tail_parts.FFN_MULTIPLE:
        raise InputError(
            f"{op}: D = {dim} and F = {ffn}, expected D of {_tail_parts.DIMS} (x's last axis) "
            f"and F a multiple of {_tail_parts.FFN_MULTIPLE} (w1's first)"
        )
    if (alpha2 is None) != (bias2 is None):
        raise InputError(f"{op}: alpha2 and bias2 belong together: give both (v1.1) or neither (v1.0)")
    matrices = {"w_out": (w_out, (dim, attn.shape[1])), "w1": (w1, (ffn, dim)), "w2": (w2, (dim, ffn))}
    vectors = {"b_out": b_out, "alpha1": alpha1, "bias1": bias1, "b2": b2, "alpha2": alpha2, "bias2": bias2}
    shapes = matrices | {k: (v, (dim,)) for k, v in vectors.items()} | {"b1": (b1, (ffn,))}
    for name, (tensor, shape) in shapes.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise InputError(f"{op}: {name} has shape {list(tensor.shape)}, expected {list(shape)}")
    ready = [w.to(attn.dtype) if i in _MATRICES and w is not None else w for i, w in enumerate(weights)]
    return attn, ready


def _check_draws(max_seqlen: int | None, dim: int, ffn: int) -> None:
    limit = _dropout.max_tokens(2 * dim + ffn)
    if max_seqlen is not None and max_seqlen > limit:
        raise InputError(
            f"encoder_tail: max_seqlen is {max_seqlen}, but a layer has dropout draws for {limit} tokens of a "
            "sequence: use shorter sequences, or dropout=0"
        )


def _signed(value: int, bits: int) -> int:
    """The two's complement reading: an op's integers are signed."""
    return value - (1 << bits) if value >= 1 << (bits - 1) else value


def mcm_loss(
    predicted: Tensor, target: Tensor, mask_cu: Tensor, kind: str = "nmse", *, compat: bool = False
) -> Tensor:
    """Loss of masked channel modelling over the masked patches of a batch.

    Args:
        predicted, target: [M, patch_len], the masked patches of all samples in order; target needs no gradient.
        mask_cu: int32 [B + 1], where each sample's patches begin; 0 first and M last.
        kind: "nmse" (v1.1): mean over samples of ||t - p||^2 / ||t||^2. "mse_var" (v1.0): mean squared error
            over the unbiased variance of all targets. A denominator of zero gives 0.
        compat: "nmse" as released: ||t - p||^2 / ||p||^2, summed over samples. "mse_var" has no other form.

    Returns:
        Scalar float64. Gradient for predicted. (Source: LWM v1.0 and v1.1 releases, training loops.)

    Raises:
        InputError: A shape, dtype or kind is not as above, or target requires a gradient.
    """
    return mcm_loss_of(mcm_totals(predicted, target, mask_cu, compat=compat), kind, compat=compat)


def mcm_totals(predicted: Tensor, target: Tensor, mask_cu: Tensor, *, compat: bool = False) -> Tensor:
    """What `mcm_loss` is made of, as sums that ranks and accumulation steps may add up. Arguments as there.

    With ``pooled`` the sum over ranks, ``mcm_loss_of(local + (pooled - local).detach(), kind)`` has the global
    loss as its value and this rank's share as its gradient: the ranks' gradients are to be added, not averaged.

    Returns:
        float64 [6]: sum of the samples' ratios, samples, squared error, entries, sum of targets, sum of their
        squares.
    """
    if predicted.ndim != 2 or predicted.shape != target.shape:
        raise InputError(
            f"mcm_loss: predicted has shape {list(predicted.shape)} and target {list(target.shape)}, "
            "expected [M, patch_len] both"
        )
    if mask_cu.ndim != 1 or mask_cu.shape[0] == 0 or mask_cu.dtype != torch.int32:
        raise InputError(
            f"mcm_loss: mask_cu is {mask_cu.dtype} {list(mask_cu.shape)}, expected torch.int32 [B + 1]"
        )
    if target.requires_grad:
        raise InputError("mcm_loss: target requires a gradient and has none here: pass target.detach()")
    sums: Tensor = _mcm_loss.totals(predicted, target, mask_cu, compat)
    return sums


def mcm_loss_of(totals: Tensor, kind: str, *, compat: bool = False) -> Tensor:
    """The loss of `mcm_totals`, pooled or not: scalar float64. Raises InputError on an unknown kind."""
    if kind not in _mcm_loss.KINDS:
        raise InputError(f"mcm_loss: kind is {kind!r}, expected one of {_mcm_loss.KINDS}")
    if tuple(totals.shape) != (len(_mcm_loss.TOTALS),):
        raise InputError(
            f"mcm_loss: totals has shape {list(totals.shape)}, expected [{len(_mcm_loss.TOTALS)}]"
        )
    value: Tensor = _mcm_loss.loss(totals, kind, compat)
    return value


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise InputError(f"encoder_tail: {name} has shape {list(tensor.shape)}, expected {list(shape)}")
