"""Attention over packed sequences; public as `lwm_fast.ops.attention` and `attention_weights`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lwm_fast.errors import InputError
from lwm_fast.kernels import attention as _attention  # type: ignore[import-not-found]
from lwm_fast.kernels import attention_backward as _attention_backward  # noqa: F401  registers the gradient
from lwm_fast.kernels import attention_cls as _attention_cls
from lwm_fast.kernels.runtime import autocast  # type: ignore[import-not-found]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def attention(
    qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """softmax(scale Q K^T) V within each of the packed sequences, every token attending to all of its own.

    Args:
        qkv: [T, 3, H, d], queries, keys and values of T packed tokens; float32, bfloat16 or float16 (float64
            runs in plain torch), d from 3 to 64. Autocast applies.
        cu_seqlens: int32 [B + 1], rising from 0 to T: sequence b has the rows cu_seqlens[b]..cu_seqlens[b+1]-1,
            its CLS token first. Empty sequences are passed over.
        max_seqlen: the longest length, a host int. On a GPU it is trusted: longer sequences would keep rows
            unwritten.
        scale: multiplies the scores; default 1/sqrt(d).

    Returns:
        out [T, H, d] in the dtype of qkv, and lse float32 [H, T], the natural log of the sum of
        exp(scale q k) over the keys of each query. Sums are float32. Both have gradients; the same bits
        for a sequence whatever is packed beside it. (Source: LWM v1.0 / v1.1 release,
        ``ScaledDotProductAttention``; CLS is split off so that 2^k patches tile exactly.)

    Raises:
        InputError: a shape or a dtype is not as above, scale is not a finite number above 0 or, where
            cu_seqlens lies on the host, it does not cut T rows or a sequence is longer than max_seqlen.
    """
    _check("attention", qkv, cu_seqlens)
    if max_seqlen < 0:
        raise InputError(f"attention: max_seqlen is {max_seqlen}, expected the longest length")
    out: tuple[Tensor, Tensor] = _attention.attention_op(
        autocast(qkv), cu_seqlens, max_seqlen, _scale(qkv, scale)
    )
    return out


def attention_cls(qkv: Tensor, cu_seqlens: Tensor, scale: float | None = None) -> Tensor:
    """What :func:`attention` gives the CLS token of each sequence, without the other queries. Inference only.

    Args:
        qkv, cu_seqlens, scale: as for :func:`attention`; queries of other tokens are not read.

    Returns:
        [B, H, d] in the dtype of qkv; zeros for an empty sequence. No gradient: train with :func:`attention`.

    Raises:
        InputError: as :func:`attention`.
    """
    _check("attention_cls", qkv, cu_seqlens)
    out: Tensor = _attention_cls.attention_cls_op(autocast(qkv), cu_seqlens, _scale(qkv, scale))
    return out


def attention_weights(
    qkv: Tensor, lse: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float | None = None, *,
    first: int = 0, last: int | None = None,
) -> Tensor:  # fmt: skip
    """The attention weights of sequences first..last-1, from the log-sum-exp that :func:`attention` returned.

    Args:
        qkv, cu_seqlens, max_seqlen, scale: as given to :func:`attention`; lse: what it returned, [H, T].
        first, last: which sequences, as in a slice; default all B. Memory grows with their number.

    Returns:
        [last - first, H, max_seqlen, max_seqlen] (query, key) in the dtype of lse, zero past a sequence's end.

    Raises:
        InputError: a shape or a dtype is not as above, or first..last is not within 0..B.
    """
    _check("attention_weights", qkv, cu_seqlens)
    batch = cu_seqlens.shape[0] - 1
    stop = batch if last is None else last
    if not 0 <= first <= stop <= batch:
        raise InputError(f"attention_weights: sequences {first}..{stop} asked for, the batch has 0..{batch}")
    expected = (qkv.shape[2], qkv.shape[0])
    if tuple(lse.shape) != expected:
        raise InputError(
            f"attention_weights: lse has shape {list(lse.shape)}, expected {list(expected)}: "
            "pass the second result of attention on this qkv"
        )
    token = torch.arange(max_seqlen, device=qkv.device)
    begin, end = (cu_seqlens[i + first : i + stop].long()[:, None] for i in (0, 1))
    valid = begin + token < end  # [n, S]
    row = torch.where(valid, begin + token, 0)
    if qkv.shape[0] == 0:
        return lse.new_zeros((stop - first, qkv.shape[2], max_seqlen, max_seqlen))
    q, k = (qkv[:, i].to(lse.dtype)[row].transpose(1, 2) for i in (0, 1))  # [n, H, S, d]
    row_lse = lse.T[row].transpose(1, 2)[..., None]
    weights = (q @ k.mT * _scale(qkv, scale) - row_lse).exp()
    return torch.where((valid[:, :, None] & valid[:, None, :])[:, None], weights, 0.0)


def _check(op: str, qkv: Tensor, cu_seqlens: Tensor) -> None:
    widths = _attention.MIN_HEAD_DIM, _attention.MAX_HEAD_DIM
    if qkv.ndim != 4 or qkv.shape[1] != 3 or not widths[0] <= qkv.shape[3] <= widths[1]:
        raise InputError(
            f"{op}: qkv has shape {list(qkv.shape)}, expected [T, 3, H, d] with d from {widths[0]} to "
            f"{widths[1]}: flatten the batch into T"
        )
    if qkv.dtype not in _DTYPES:
        raise InputError(f"{op}: qkv is {qkv.dtype}, expected float32, bfloat16, float16 or float64")
    if cu_seqlens.dtype != torch.int32 or cu_seqlens.ndim != 1 or cu_seqlens.shape[0] < 1:
        raise InputError(
            f"{op}: cu_seqlens is {cu_seqlens.dtype} {list(cu_seqlens.shape)}, expected int32 [B + 1]"
        )


def _scale(qkv: Tensor, scale: float | None) -> float:
    if scale is None:
        return 1.0 / math.sqrt(qkv.shape[3])
    if not (math.isfinite(scale) and scale > 0.0):
        raise InputError(f"attention: scale is {scale}, expected a finite number above 0")
    return scale
