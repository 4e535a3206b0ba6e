"""Attention over packed sequences written out sequence by sequence, and the comparison against float64."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def packed_case(lengths: list[int], num_heads: int, head_dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """float32 qkv [T, 3, H, d] and its cu_seqlens."""
    rng = np.random.default_rng(seed)
    cu_seqlens = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    qkv = rng.standard_normal((sum(lengths), 3, num_heads, head_dim), dtype=np.float32)
    return torch.from_numpy(qkv), cu_seqlens


def plain_attention(qkv: Tensor, cu_seqlens: Tensor, scale: float | None = None) -> tuple[Tensor, Tensor]:
    """(out [T, H, d], lse [H, T]) in the dtype of qkv."""
    factor = qkv.shape[3] ** -0.5 if scale is None else scale
    outs, sums = [qkv.new_zeros((0, *qkv.shape[2:]))], [qkv.new_zeros((qkv.shape[2], 0))]
    edges = cu_seqlens.tolist()
    for first, last in zip(edges[:-1], edges[1:], strict=True):  # noqa: RUF007  reads as [first, last)
        q, k, v = qkv[first:last].permute(1, 2, 0, 3)  # [H, S, d]
        scores = q @ k.mT * factor
        outs.append((scores.softmax(-1) @ v).transpose(0, 1))
        sums.append(scores.logsumexp(-1))
    return torch.cat(outs), torch.cat(sums, 1)


def all_results(function: object, qkv: Tensor, cotangents: tuple[Tensor, Tensor | None]) -> dict[str, Tensor]:
    """out, lse and the gradients of queries, keys and values under the given cotangents of out and lse."""
    own = qkv.clone().requires_grad_()
    out, lse = function(own)  # type: ignore[operator]
    dout, dlse = (None if c is None else c.to(qkv.dtype) for c in cotangents)
    outputs, grads = ([out, lse], [dout, dlse]) if dlse is not None else ([out], [dout])
    (dqkv,) = torch.autograd.grad(outputs, own, grads)
    names = ("out", "lse", "dq", "dk", "dv")
    return dict(zip(names, (out.detach(), lse.detach(), *dqkv.unbind(1)), strict=True))


def cotangents_of(qkv: Tensor, with_lse: bool, seed: int = 1) -> tuple[Tensor, Tensor | None]:
    rng = np.random.default_rng(seed)
    total, _, num_heads, head_dim = qkv.shape
    dout = rng.standard_normal((total, num_heads, head_dim), dtype=np.float32)
    dlse = rng.standard_normal((num_heads, total), dtype=np.float32)
    return torch.from_numpy(dout), torch.from_numpy(dlse) if with_lse else None


def assert_as_exact_as_plain(
    found: dict[str, Tensor], plain: dict[str, Tensor], exact: dict[str, Tensor], limit: float = 3e-6
) -> None:
    """Each error at most twice plain torch's in the same precision, and a relative error of `limit`.

    Where plain torch happens to be (nearly) exact, one unit in the last place of the whole is allowed.
    """
    for name, value in exact.items():
        size = value.norm()
        if name in ("dq", "dk"):  # exactly 0 for a sequence of one token: measured against dv
            size = torch.maximum(size, exact["dv"].norm())
        error, other = ((x[name].double() - value).norm() for x in (found, plain))
        assert error <= max(2 * other, 2**-23 * size), f"{name}: error {error:.3g}, plain torch {other:.3g}"
        assert error <= limit * size, f"{name}: relative error {error / size:.3g}"
