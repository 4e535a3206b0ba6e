"""The encoder's training forward: every parameter gets its gradient, dropout is a function of `Draws`.

Exact in real arithmetic against the reference: one product for queries, keys and values, attention without its
maps, and dropout that is drawn from counters (``lwm_fast.kernels.dropout``) instead of torch's generator.
Float32 on the CPU runs in C++ between its matrix products (`lwm_fast.train_fused`); anything else in torch
operations, with the same draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from lwm_fast import _C, reference, train_fused
from lwm_fast.errors import InputError
from lwm_fast.positions import Shapes, dense_positions

if TYPE_CHECKING:
    from lwm_fast.draws import Draws

MAX_LAYERS = 16  # that the counters of dropout tell apart


def encode_for_training(
    model: reference.LWM, tokens: Tensor, draws: Draws | None, shape: Shapes | None = None
) -> Tensor:
    """tokens [B, S, patch_len] -> output [B, S, D], differentiable in the parameters and the tokens.

    shape: int [B, 2] (num_antennas, num_subcarriers), which positions of rows and columns need.
    draws: what the model's dropout drops (``model.sizes.dropout`` of the entries); None: no dropout. The model's
    ``training`` flag is not looked at. The same draws give the same bits again, for any number of threads between
    the matrix products.
    Works in float32 and float64, under autocast, and on any device. Heads that attend uniformly are not
    collapsed: they are trained too. Raises InputError for sizes whose dropout is not defined.
    """
    draws = _needed_draws(model.sizes, tokens, draws)
    if _runs_fused(model, tokens):
        return train_fused.encode(model, tokens, _dropout(model.sizes, tokens, draws), shape)
    x = embed(model, tokens, shape)
    return _plain_layers(model, x, range(model.sizes.num_layers), draws, train_fused.own_weight)


def embed(model: reference.LWM, tokens: Tensor, shape: Shapes | None = None) -> Tensor:
    """tokens [B, S, patch_len] -> what enters the first layer, [B, S, D]; shape as in `encode_for_training`."""
    embedding = model.embedding
    x: Tensor = embedding.norm(embedding.proj(tokens) + dense_positions(model, shape, tokens.shape[1]))
    return x


def layers_for_training(
    model: reference.LWM,
    x: Tensor,
    layers: Sequence[int],
    draws: Draws | None,
    weight: train_fused.WeightOf = train_fused.own_weight,
    *,
    cls_only: bool = False,
) -> Tensor:
    """x [B, S, D] entering the first of some consecutive layers -> what leaves the last, [B, S, D].

    The same numbers and gradients as in `encode_for_training`, whose draws these are. weight: gives a linear layer's
    weight as it acts. cls_only: the last layer makes its CLS row only, [B, 1, D].
    """
    draws = _needed_draws(model.sizes, x, draws)
    whole = layers[:-1] if cls_only else layers
    if _runs_fused(model, x):
        x = train_fused.run_layers(model, x, whole, _dropout(model.sizes, x, draws), weight)
    else:
        x = _plain_layers(model, x, whole, draws, weight)
    return _plain_layers(model, x, layers[-1:], draws, weight, rows=1) if cls_only else x


def _runs_fused(model: reference.LWM, x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == model.decoder_bias.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and x.numel() > 0
        and train_fused.fits(model.sizes)
    )


def _dropout(s: reference.Sizes, x: Tensor, draws: Draws | None) -> list[_C.LayerDropout] | None:
    return [_native(s, x, draws, i) for i in range(s.num_layers)] if draws else None


def _needed_draws(s: reference.Sizes, x: Tensor, draws: Draws | None) -> Draws | None:
    """The draws, checked; None where nothing is dropped."""
    if draws is None or not s.dropout:
        return None
    _check_draws(s, x, draws)
    return draws


def _check_draws(s: reference.Sizes, tokens: Tensor, draws: Draws) -> None:
    if s.embed_dim % 4 or s.ffn_dim % 4 or s.num_layers > MAX_LAYERS:
        raise InputError(
            f"dropout is drawn in blocks of 4 features for up to {MAX_LAYERS} layers; this model has "
            f"embed_dim={s.embed_dim}, ffn_dim={s.ffn_dim}, num_layers={s.num_layers}: train it with dropout=0"
        )
    if draws.sample_id.shape != tokens.shape[:1]:
        raise InputError(
            f"draws.sample_id is {tuple(draws.sample_id.shape)}; tokens {tuple(tokens.shape)} need one number "
            f"each of their {tokens.shape[0]} samples"
        )


def _words(s: reference.Sizes) -> int:
    """Random words of a token in one layer: after attention, in the hidden layer, at the end."""
    return 2 * s.embed_dim + s.ffn_dim


def _native(s: reference.Sizes, tokens: Tensor, draws: Draws, layer: int) -> _C.LayerDropout:
    sample_id = draws.sample_id.cpu().contiguous().numpy()
    return _C.LayerDropout(sample_id, tokens.shape[1], draws.seed, draws.epoch, layer, s.dropout, _words(s))


def _plain_layers(
    model: reference.LWM,
    x: Tensor,
    layers: Sequence[int],
    draws: Draws | None,
    weight_of: train_fused.WeightOf,
    *,
    rows: int | None = None,
) -> Tensor:
    """Torch operations, gradients by autograd. rows: how many rows are asked for, the first ones; None: all."""
    s = model.sizes
    for i in layers:
        layer = model.layers[i]
        assert isinstance(layer, (reference.LayerV10, reference.LayerV11))
        attn, ffn = layer.enc_self_attn, layer.pos_ffn
        projections = (attn.W_Q, attn.W_K, attn.W_V)
        weight = torch.cat([weight_of(w) for w in projections])
        bias = torch.cat([w.bias for w in projections])
        q, k, v = F.linear(x, weight, bias).unflatten(-1, (3, s.num_heads, s.head_dim)).permute(2, 0, 3, 1, 4)
        values = F.scaled_dot_product_attention(q[:, :, :rows], k, v).transpose(1, 2).flatten(2)
        u = _drop(F.linear(values, weight_of(attn.linear), attn.linear.bias), s, draws, i, 0)
        x = x[:, :rows]
        a = layer.norm(x + u) if isinstance(layer, reference.LayerV10) else layer.norm1(2 * x + u)
        hidden = _drop(F.relu(F.linear(a, weight_of(ffn.fc1), ffn.fc1.bias)), s, draws, i, s.embed_dim)
        out = F.linear(hidden, weight_of(ffn.fc2), ffn.fc2.bias)
        if isinstance(layer, reference.LayerV10):
            x = a + _drop(out, s, draws, i, s.embed_dim + s.ffn_dim)
        else:
            x = layer.norm2(a + out)
    return x


def _drop(x: Tensor, s: reference.Sizes, draws: Draws | None, layer: int, first_word: int) -> Tensor:
    """x [B, S, n] with dropout of the words from `first_word` of each token."""
    if draws is None or x.numel() == 0:
        return x
    if x.device.type == "cpu":
        keep = torch.empty(x.shape, dtype=torch.bool)
        dropout = _native(s, x, draws, layer)
        _C.draw_keep(dropout, first_word, keep.flatten(0, 1).numpy(), torch.get_num_threads())
    else:
        keep = _keep_elsewhere(x, s, draws, layer, first_word)
    return torch.where(keep, x * (1.0 / (1.0 - s.dropout)), 0.0)


def _keep_elsewhere(x: Tensor, s: reference.Sizes, draws: Draws, layer: int, first_word: int) -> Tensor:
    """The same draws on another device, by the plain twin of the kernels."""
    from lwm_fast.kernels.dropout import Dropout, keep_plain  # type: ignore[import-not-found]

    batch, seq_len, width = x.shape
    sample = draws.sample_id.to(x.device).repeat_interleave(seq_len)
    token = torch.arange(seq_len, dtype=torch.int32, device=x.device).repeat(batch)
    plan = Dropout(s.dropout, draws.seed, draws.epoch, layer, sample, token)
    keep: Tensor = keep_plain(plan, first_word, width, _words(s)).view(x.shape)
    return keep
