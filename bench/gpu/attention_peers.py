"""Other people's attention for packed qkv [T, 3, H, d] -> [T, H, d], each in the setting that suits it best.

The flash kernels want head_dim in steps of 8, so 5 is padded to 8 and the scale is kept in the queries; that
padding is part of their time, as a user would pay it.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.gpu.device import Device
from bench.gpu.layout import Layout
from bench.gpu.timing import UnavailableError

Attend = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AttentionPeer:
    """``make`` gives the function for a layout and a head_dim, or raises UnavailableError."""

    name: str
    make: Callable[[Layout, int, Device], Attend]
    mixed: bool  # takes sequences of several lengths at once


def _dense(layout: Layout) -> None:
    if not layout.equal:
        raise UnavailableError("takes one length at a time")


def _by_head(qkv: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """[T, 3, H, d] -> three [B, H, S, d] views."""
    q, k, v = qkv.unflatten(0, (-1, length)).permute(2, 0, 3, 1, 4)
    return q, k, v


def eager(layout: Layout, head_dim: int, device: Device) -> Attend:
    """As released: scores and weights in memory."""
    _dense(layout)
    scale = 1.0 / math.sqrt(head_dim)

    def attend(qkv: Tensor) -> Tensor:
        q, k, v = _by_head(qkv, layout.longest)
        weights = torch.softmax(q @ k.transpose(-1, -2) * scale, dim=-1)
        return (weights @ v).transpose(1, 2).flatten(0, 1)

    return attend


def sdpa(layout: Layout, head_dim: int, device: Device) -> Attend:
    _dense(layout)

    def attend(qkv: Tensor) -> Tensor:
        q, k, v = _by_head(qkv, layout.longest)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1)

    return attend


def sdpa_by_length(layout: Layout, head_dim: int, device: Device) -> Attend:
    """One call for each length."""
    if layout.equal:
        raise UnavailableError("the same as SDPA where all lengths are equal")

    def attend(qkv: Tensor) -> Tensor:
        parts = []
        for first, last, length in layout.runs():
            q, k, v = _by_head(qkv[first:last], length)
            parts.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1))
        return torch.cat(parts)

    return attend


def flex(layout: Layout, head_dim: int, device: Device) -> Attend:
    """FlexAttention compiled on its own; inside a compiled model it is ``flex_traced``."""
    return device.compiled(flex_traced(layout, head_dim, device), "max-autotune-no-cudagraphs")


def flex_traced(layout: Layout, head_dim: int, device: Device) -> Attend:
    if head_dim < 16:
        raise UnavailableError("FlexAttention needs head_dim >= 16")
    _dense(layout)
    from torch.nn.attention.flex_attention import flex_attention

    def attend(qkv: Tensor) -> Tensor:
        q, k, v = _by_head(qkv, layout.longest)
        out = flex_attention(q, k, v)
        assert isinstance(out, Tensor)
        return out.transpose(1, 2).flatten(0, 1)

    return attend


def _padded(function: Callable[[Tensor, Tensor, Tensor], Tensor], head_dim: int) -> Attend:
    """``function`` of q, k, v [T, H, e] with e the next multiple of 8, scaled by 1/sqrt(e) inside."""
    wide = -(-head_dim // 8) * 8
    if wide == head_dim:
        return lambda qkv: function(*qkv.unbind(1))
    factor = math.sqrt(wide / head_dim)

    def attend(qkv: Tensor) -> Tensor:
        q, k, v = F.pad(qkv, (0, wide - head_dim)).unbind(1)
        return function(q * factor, k, v)[..., :head_dim]

    return attend


def varlen(layout: Layout, head_dim: int, device: Device) -> Attend:
    """torch.nn.attention.varlen."""
    try:
        module = importlib.import_module("torch.nn.attention.varlen")
    except ImportError:
        raise UnavailableError("needs torch >= 2.10") from None
    if device.dry:
        raise UnavailableError("runs on CUDA only")
    cu, longest = layout.cu_seqlens, layout.longest
    return _padded(lambda q, k, v: module.varlen_attn(q, k, v, cu, cu, longest, longest), head_dim)


def flash_2(layout: Layout, head_dim: int, device: Device) -> Attend:
    return _flash("flash_attn", layout, head_dim)


def flash_3(layout: Layout, head_dim: int, device: Device) -> Attend:
    return _flash("flash_attn_interface", layout, head_dim)


def _flash(module_name: str, layout: Layout, head_dim: int) -> Attend:
    try:
        module = importlib.import_module(module_name)
    except ImportError:
        raise UnavailableError(f"{module_name} is not installed") from None
    cu, longest = layout.cu_seqlens, layout.longest

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = module.flash_attn_varlen_func(q, k, v, cu, cu, longest, longest)
        first: Tensor = out[0] if isinstance(out, tuple) else out
        return first

    return _padded(attend, head_dim)


def nested(layout: Layout, head_dim: int, device: Device) -> Attend:
    """SDPA on jagged nested tensors."""
    offsets = layout.cu_seqlens.long()
    longest, shortest = layout.longest, min(layout.lengths)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (
            torch.nested.nested_tensor_from_jagged(
                x.contiguous(), offsets, min_seqlen=shortest, max_seqlen=longest
            ).transpose(1, 2)
            for x in (q, k, v)
        )
        out: Tensor = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return out.values()

    return _padded(attend, head_dim)


PEERS = (
    AttentionPeer("eager attention", eager, mixed=False),
    AttentionPeer("SDPA", sdpa, mixed=False),
    AttentionPeer("SDPA, length by length", sdpa_by_length, mixed=True),
    AttentionPeer("FlexAttention, compiled", flex, mixed=False),
    AttentionPeer("torch.nn.attention.varlen", varlen, mixed=True),
    AttentionPeer("FlashAttention 2", flash_2, mixed=True),
    AttentionPeer("FlashAttention 3", flash_3, mixed=True),
    AttentionPeer("nested tensors, SDPA", nested, mixed=True),
)
