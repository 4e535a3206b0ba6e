"""`encoder_tail` on the CLS rows alone: the last layer where nothing but CLS is kept. Inference only."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .encoder_tail import WEIGHTS_SCHEMA, launch_forward, plain_forward  # noqa: TID251
from .encoder_tail_parts import Weights  # noqa: TID251
from .runtime import operator, uses_triton  # noqa: TID251


@operator(
    "encoder_tail_cls",
    f"(Tensor attn, Tensor x, Tensor cu_seqlens, {WEIGHTS_SCHEMA}float residual) -> Tensor",
)
def encoder_tail_cls_op(
    attn: Tensor, x: Tensor, cu_seqlens: Tensor, w_out: Tensor, b_out: Tensor, alpha1: Tensor, bias1: Tensor,
    w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, alpha2: Tensor | None, bias2: Tensor | None, residual: float,
) -> Tensor:  # fmt: skip
    """attn [B, HD], x [T, D] -> [B, D]: the kernel reads row cu_seqlens[b] of x, so nothing is gathered before."""
    w = Weights(w_out, b_out, alpha1, bias1, w1, b1, w2, b2, alpha2, bias2)
    if uses_triton(x):
        return launch_forward(attn, x, w, residual, None, cu_seqlens)
    return plain_forward(attn, x[cu_seqlens[:-1].long().clamp(max=len(x) - 1)], w, residual, None)


@encoder_tail_cls_op.register_fake
def _(attn: Tensor, x: Tensor, *rest: Any) -> Tensor:
    return x.new_empty((attn.shape[0], x.shape[1]))
