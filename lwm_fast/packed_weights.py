"""A model's weights as the packed encoder takes them: live for training, or frozen for one precision."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lwm_fast import reference
from lwm_fast.packed_positions import Table, frozen_table, live_table

_HALF = (torch.bfloat16, torch.float16)
_NARROW_HEAD = 16  # below: rounding queries and keys to bfloat16 shows in the embeddings
_FLOAT16_RANGE = 65504 / 4


@dataclass(frozen=True)
class PackedLayer:
    """qkv [3 * num_heads * head_dim, D] and its bias; tail: the weights of ``ops.encoder_tail`` in its order."""

    qkv: Tensor
    qkv_bias: Tensor
    tail: tuple[Any, ...]


@dataclass(frozen=True)
class PackedWeights:
    """embed: projection and its bias; norm: alpha and bias of the embedding's Norm.

    table: the positions of a batch's grids, of which most models have one table for all.
    tail_dtype: of the operands of the products behind attention; None follows attention's (and autocast).
    """

    embed: tuple[Tensor, Tensor]
    norm: tuple[Tensor, Tensor]
    table: Table
    layers: tuple[PackedLayer, ...]
    version: str
    num_heads: int
    residual: float  # weight of x in the first sum of a layer: 2 in v1.1, as released
    dropout: float
    tail_dtype: torch.dtype | None = None


def live(model: reference.LWM) -> PackedWeights:
    """Weights through which gradients reach the model's parameters.

    The projections of all layers are joined in one copy: three products a layer instead would read the
    tokens three times and write q, k and v apart, many times the bytes of the weights.
    """
    s = model.sizes
    attention = [_parts(layer)[0] for layer in model.layers]
    projections = [w for attn in attention for w in (attn.W_Q, attn.W_K, attn.W_V)]
    rows = (s.num_layers, 3 * s.num_heads * s.head_dim)
    qkv = torch.cat([w.weight for w in projections]).unflatten(0, rows).unbind()
    qkv_bias = torch.cat([_wide(w.bias) for w in projections]).unflatten(0, rows).unbind()
    embedding = model.embedding
    return PackedWeights(
        embed=(embedding.proj.weight, _wide(embedding.proj.bias)),
        norm=(_wide(embedding.norm.alpha), _wide(embedding.norm.bias)),
        table=live_table(model),
        layers=tuple(
            PackedLayer(weight, bias, _tail(layer))
            for weight, bias, layer in zip(qkv, qkv_bias, model.layers, strict=True)
        ),
        version=model.version,
        num_heads=s.num_heads,
        residual=1.0 if model.version == "1.0" else 2.0,
        dropout=s.dropout,
    )


def frozen(model: reference.LWM, dtype: torch.dtype) -> PackedWeights:
    """Copies for inference: operands of products in ``dtype``, everything else float32.

    The patch projection stays float32 (its inputs of order 10 would cost v1.0 1.4e-2). In bfloat16, queries,
    keys and values of heads narrower than 16 are float16, whose finer steps bring v1.0's CLS from 1.1e-2 to
    3.7e-3 at the same number of bytes; where the weights allow values near the end of its range they are float32.
    """
    w = live(model)
    attention_dtype, tail_dtype = dtype, None
    if dtype == torch.bfloat16 and model.sizes.head_dim < _NARROW_HEAD:
        attention_dtype = torch.float16 if _largest_qkv(model) < _FLOAT16_RANGE else torch.float32
        tail_dtype = dtype

    def layer(x: PackedLayer) -> PackedLayer:
        tail = tuple(
            None if t is None else _frozen(t, dtype if t.ndim == 2 else torch.float32) for t in x.tail
        )
        return PackedLayer(_frozen(x.qkv, attention_dtype), _frozen(x.qkv_bias, torch.float32), tail)

    return replace(
        w,
        embed=(_frozen(w.embed[0], torch.float32), _frozen(w.embed[1], torch.float32)),
        norm=(_frozen(w.norm[0], torch.float32), _frozen(w.norm[1], torch.float32)),
        table=frozen_table(model),
        layers=tuple(layer(x) for x in w.layers),
        tail_dtype=tail_dtype,
    )


def _parts(
    layer: torch.nn.Module,
) -> tuple[reference.Attention, reference.FeedForward, list[reference.Norm]]:
    assert isinstance(layer, (reference.LayerV10, reference.LayerV11))
    norms = [layer.norm] if isinstance(layer, reference.LayerV10) else [layer.norm1, layer.norm2]
    return layer.enc_self_attn, layer.pos_ffn, norms


def _tail(layer: torch.nn.Module) -> tuple[Any, ...]:
    attn, ffn, norms = _parts(layer)
    alphas = [_wide(norm.alpha) for norm in norms]
    biases = [_wide(norm.bias) for norm in norms]
    second = (alphas[1], biases[1]) if len(norms) == 2 else (None, None)
    return (
        attn.linear.weight, _wide(attn.linear.bias), alphas[0], biases[0],
        ffn.fc1.weight, _wide(ffn.fc1.bias), ffn.fc2.weight, _wide(ffn.fc2.bias), *second,
    )  # fmt: skip


def _wide(vector: Tensor) -> Tensor:
    """Norm parameters and biases are added in float32: those of a 16-bit model too."""
    return vector.float() if vector.dtype in _HALF else vector


def _frozen(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.detach().to(dtype, copy=True).contiguous()


def _largest_qkv(model: reference.LWM) -> float:
    """A bound of every query, key and value, whatever the input: tokens come out of Norms, which bound them."""
    bound, largest = _norm_bound(model.embedding.norm), 0.0
    for layer in model.layers:
        attn, ffn, norms = _parts(layer)
        for w in (attn.W_Q, attn.W_K, attn.W_V):
            weight, bias = w.weight.detach().double(), w.bias.detach().double()
            largest = max(largest, float((weight.norm(dim=1) * bound + bias.abs()).max()))
        bound = _norm_bound(norms[-1])
        if len(norms) == 1:  # v1.0: the FFN is added after the Norm
            fc1, fc2 = (w.weight.detach().double() for w in (ffn.fc1, ffn.fc2))
            hidden = fc1.norm(dim=1) * bound + ffn.fc1.bias.detach().abs()
            bound += float((fc2.abs() @ hidden + ffn.fc2.bias.detach().abs()).norm())
    return largest


def _norm_bound(norm: reference.Norm) -> float:
    """The longest vector that a Norm gives: alpha times a vector of length at most sqrt(D - 1), and bias."""
    alpha, bias = norm.alpha.detach(), norm.bias.detach()
    return float(alpha.abs().max()) * math.sqrt(len(alpha) - 1) + float(bias.norm())
