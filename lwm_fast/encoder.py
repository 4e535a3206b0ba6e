"""The encoder in fused torch operations: the `torch` backend's arithmetic on any device.

What it changes against the plain reference, all of it exact in real arithmetic:
one QKV product; the attention scale folded into W_Q; the exact unbiased Norm out of one ``layer_norm``
pass; heads whose keys are constant collapsed to one matrix-vector product a sequence; only the CLS row
of the last layer where nothing else is asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lwm_fast import reference
from lwm_fast.positions import Positions, Shapes, frozen_positions
from lwm_fast.reference import NORM_EPS

# Variance floor for layer_norm: far under NORM_EPS^2, it only keeps constant rows finite.
_VARIANCE_FLOOR = 1e-30
# On a CPU the scores of a micro-batch stay in cache up to here, and three in-place passes over them take
# 0.7x the time of the fused attention kernel (1.95 against 2.85 ms at 16x65 tokens); beyond, it wins.
_EXPLICIT_SOFTMAX_LEN = 257


@dataclass(frozen=True)
class NormWeights:
    """``alpha`` already times sqrt((D-1)/D), which turns a biased standard deviation into the unbiased one."""

    alpha: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        dim = x.shape[-1]
        unbias = math.sqrt((dim - 1) / dim)
        y, _, rstd = torch.native_layer_norm(x, [dim], self.alpha, None, _VARIANCE_FLOOR)
        # y = alpha (x - mean) / std so far; std + eps = std (1 + eps / std).
        return y.mul_(1.0 / (1.0 + (NORM_EPS * unbias) * rstd)).add_(self.bias)


@dataclass(frozen=True)
class LayerWeights:
    """One layer, prepared for inference. ``num_live`` heads attend; the others only average."""

    qkv: Tensor  # [3 * num_live * head_dim, D], W_Q already times 1/sqrt(head_dim)
    qkv_bias: Tensor
    out: Tensor  # [D, num_live * head_dim]
    out_bias: Tensor  # [D], with the constant part of the collapsed heads
    mean: Tensor | None  # [D, D]: W_O W_V of the collapsed heads, applied to the mean token
    num_live: int
    fc1: Tensor
    fc1_bias: Tensor
    fc2: Tensor
    fc2_bias: Tensor
    norm1: NormWeights
    norm2: NormWeights | None  # v1.1 only


@dataclass(frozen=True)
class EncoderWeights:
    """A model's weights prepared for one device and one matrix dtype.

    In bfloat16 and float16 the QKV product and the first FFN product (7/12 of the arithmetic) are rounded.
    The patch projection stays float32 (its inputs of order 10 would cost v1.0 an error of 1.4e-2 instead of
    6e-3), and so do the products that feed a residual, because torch would round their sums too (v1.1: 3.5e-3
    instead of 2.3e-3), Norms and residuals.
    """

    dtype: torch.dtype
    proj: Tensor
    position: Positions  # of a batch, with the projection's bias
    norm: NormWeights
    layers: tuple[LayerWeights, ...]
    head_dim: int
    residual: float  # 2 in v1.1: the release adds x twice
    num_collapsed: int


def prepare(
    model: reference.LWM, dtype: torch.dtype = torch.float32, *, collapse: bool = True
) -> EncoderWeights:
    """Fold and fuse the weights for inference. Heads collapse only where W_K is exactly zero."""
    s = model.sizes
    wide = [_prepare_layer(layer, s, dtype, collapse) for layer in model.layers]
    return EncoderWeights(
        dtype=dtype,
        proj=_frozen(model.embedding.proj.weight, torch.float32),
        position=frozen_positions(model),
        norm=_prepare_norm(model.embedding.norm),
        layers=tuple(wide),
        head_dim=s.head_dim,
        residual=1.0 if model.version == "1.0" else 2.0,
        num_collapsed=sum(s.num_heads - layer.num_live for layer in wide),
    )


def _frozen(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.detach().to(dtype).contiguous()


def _prepare_norm(norm: torch.nn.Module) -> NormWeights:
    assert isinstance(norm, reference.Norm)
    dim = norm.alpha.numel()
    return NormWeights(
        _frozen(norm.alpha * math.sqrt((dim - 1) / dim), torch.float32), _frozen(norm.bias, torch.float32)
    )


@dataclass(frozen=True)
class Heads:
    """A layer's heads that attend, and what is left of those that only average (all as they are: unscaled)."""

    qkv: Tensor  # [3, num_live, head_dim, D]
    qkv_bias: Tensor  # [3, num_live, head_dim]
    out: Tensor  # [D, num_live * head_dim]
    out_bias: Tensor  # [D], with the constant part of the collapsed heads
    mean: Tensor | None  # [D, D]: W_O W_V of the collapsed heads, applied to the mean token


def live_heads(attn: reference.Attention, s: reference.Sizes, *, collapse: bool) -> Heads:
    """collapse: take heads whose keys do not depend on the token (flushed W_K exactly zero) as means."""
    projections = (attn.W_Q, attn.W_K, attn.W_V)
    qkv = torch.stack([w.weight.detach() for w in projections]).unflatten(1, (s.num_heads, s.head_dim))
    bias = torch.stack([w.bias.detach() for w in projections]).unflatten(1, (s.num_heads, s.head_dim))
    out = attn.linear.weight.detach().view(-1, s.num_heads, s.head_dim)
    # A key that does not depend on its token gives every token the same score: uniform attention.
    live = (qkv[1].abs() >= torch.finfo(torch.float32).tiny).flatten(1).any(1) | (not collapse)
    out_bias, mean = attn.linear.bias.detach(), None
    if not live.all():  # in float64, so that the folded product is rounded once
        dead_out = out[:, ~live].flatten(1).double()
        mean = _frozen(dead_out @ qkv[2, ~live].flatten(0, 1).double(), torch.float32)
        out_bias = out_bias + (dead_out @ bias[2, ~live].flatten().double()).to(out_bias.dtype)
    return Heads(qkv[:, live], bias[:, live], out[:, live].flatten(1), out_bias, mean)


def _prepare_layer(
    layer: torch.nn.Module, s: reference.Sizes, dtype: torch.dtype, collapse: bool
) -> LayerWeights:
    assert isinstance(layer, (reference.LayerV10, reference.LayerV11))
    heads, ffn = live_heads(layer.enc_self_attn, s, collapse=collapse), layer.pos_ffn
    scale = 1.0 / math.sqrt(s.head_dim)
    qkv = torch.cat([heads.qkv[:1] * scale, heads.qkv[1:]]).flatten(0, 2)
    qkv_bias = torch.cat([heads.qkv_bias[:1] * scale, heads.qkv_bias[1:]]).flatten()
    # Rounded queries and keys of v1.0's narrow heads would cost an error of 9e-3 at CLS.
    qkv_dtype = dtype if s.head_dim >= 16 else torch.float32
    norms = (layer.norm,) if isinstance(layer, reference.LayerV10) else (layer.norm1, layer.norm2)
    prepared = [_prepare_norm(n) for n in norms]
    return LayerWeights(
        qkv=_frozen(qkv, qkv_dtype),
        qkv_bias=_frozen(qkv_bias, qkv_dtype),
        out=_frozen(heads.out, torch.float32),
        out_bias=_frozen(heads.out_bias, torch.float32),
        mean=heads.mean,
        num_live=heads.qkv.shape[1],
        fc1=_frozen(ffn.fc1.weight, dtype),
        fc1_bias=_frozen(ffn.fc1.bias, dtype),
        fc2=_frozen(ffn.fc2.weight, torch.float32),
        fc2_bias=_frozen(ffn.fc2.bias, torch.float32),
        norm1=prepared[0],
        norm2=prepared[1] if len(prepared) == 2 else None,
    )


def _softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q, k, v [B, H, S, d] with the scale already in q -> [B, H, S_q, d]."""
    if q.device.type != "cpu" or k.shape[2] > _EXPLICIT_SOFTMAX_LEN or q.dtype != torch.float32:
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)
    batch, heads = q.shape[:2]
    scores = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2))  # [B*H, S_q, S]
    scores.sub_(scores.amax(-1, keepdim=True)).exp_()
    total = scores.sum(-1, keepdim=True)
    values = torch.bmm(scores, v.flatten(0, 1)).div_(total)
    return values.view(batch, heads, *values.shape[1:])


def _attention(x: Tensor, w: LayerWeights, head_dim: int, num_queries: int) -> Tensor:
    """W_o attn(x) + bias for the first ``num_queries`` rows of x [B, S, D] (float32 out)."""
    batch, seq_len, _ = x.shape
    low = x.to(w.qkv.dtype)
    if w.num_live:
        parts = F.linear(low, w.qkv, w.qkv_bias).view(batch, seq_len, 3, w.num_live, head_dim)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        values = _softmax_attention(q[:, :, :num_queries], k, v)
        a = F.linear(values.transpose(1, 2).flatten(2).float(), w.out, w.out_bias)
    else:
        a = w.out_bias.expand(batch, num_queries, -1)
    if w.mean is not None:
        a = a + F.linear(x.mean(1, keepdim=True), w.mean)
    return a


def encode_tokens(
    tokens: Tensor, weights: EncoderWeights, shape: Shapes | None = None, *, cls_only: bool = False
) -> Tensor:
    """tokens float32 [B, S, patch_len] -> float32 [B, S, D], or [B, 1, D] (the CLS row) with ``cls_only``.

    shape: int [B, 2] (num_antennas, num_subcarriers), which positions of rows and columns need.
    """
    x = F.linear(tokens, weights.proj).add_(weights.position(shape, tokens.shape[1]))
    x = weights.norm(x)
    last = len(weights.layers) - 1
    for i, w in enumerate(weights.layers):
        rows = 1 if cls_only and i == last else x.shape[1]
        a = w.norm1(torch.add(_attention(x, w, weights.head_dim, rows), x[:, :rows], alpha=weights.residual))
        hidden = F.linear(a.to(weights.dtype), w.fc1, w.fc1_bias).relu_()
        x = F.linear(hidden.float(), w.fc2, w.fc2_bias).add_(a)
        if w.norm2 is not None:
            x = w.norm2(x)
    return x
