"""The plain torch twin of `patch_embed`: what it computes, forward and backward, on any device and in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from .norm import NORM_EPS, centre, centre_backward  # noqa: TID251
from .patches import Patches, gather_tokens  # noqa: TID251
from .positions import places  # noqa: TID251
from .runtime import compute_dtype  # noqa: TID251


def forward_plain(
    patches: Patches, total: int, weight: Tensor, bias: Tensor, position: Tensor, alpha: Tensor,
    norm_bias: Tensor, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """Embedded tokens [total, D] in ``dtype``."""
    wide = compute_dtype(weight.dtype, dtype)
    _, _, y = _embed_plain(patches, total, weight, bias, position, wide)
    z, std = centre(y)
    return (alpha.to(wide) * z / (std + NORM_EPS) + norm_bias.to(wide)).to(dtype)


def backward_plain(
    patches: Patches, grad: Tensor, weight: Tensor, bias: Tensor, position: Tensor, alpha: Tensor,
    need_values: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of the five parameters, then of the tokens (no rows unless asked for)."""
    dtype = compute_dtype(weight.dtype, grad.dtype)
    x, kept, y = _embed_plain(patches, len(grad), weight, bias, position, dtype)
    z, std = centre(y)
    g = grad.to(dtype)
    dy = centre_backward(g * alpha.to(dtype), z, std)
    dposition = torch.zeros_like(position, dtype=dtype, memory_format=torch.contiguous_format)
    dposition.index_add_(0, places(patches.cu_seqlens, patches.position_start, len(grad)), dy)
    dvalues = torch.where(kept, dy @ weight.to(dtype), 0.0) if need_values else dy.new_empty(0, x.shape[1])
    return (
        (dy.T @ x).to(weight.dtype),
        dy.sum(0).to(bias.dtype),
        dposition.to(position.dtype),
        (g * z / (std + NORM_EPS)).sum(0).to(alpha.dtype),
        g.sum(0).to(alpha.dtype),
        dvalues.to(patches.values.dtype),
    )


def _embed_plain(
    patches: Patches, total: int, weight: Tensor, bias: Tensor, position: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, kept, projected tokens before the Norm) in the dtype that the twin computes in."""
    x, kept = gather_tokens(patches, total, weight.shape[1])
    x = x.to(dtype)
    place = places(patches.cu_seqlens, patches.position_start, total)
    y = x @ weight.to(dtype).T + bias.to(dtype) + position.to(dtype)[place]
    return x, kept, y
