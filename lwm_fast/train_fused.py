"""One encoder layer of the training step on the CPU: matrix products by torch, everything between them in C++.

Forward keeps what backward needs and nothing else: no attention weights (scores are made again from a maximum and a
sum per query), no dropout masks (drawn again from their counters; the hidden layer's is seen from its zeros).
Float32 only; `lwm_fast.train_encoder` decides when it can run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lwm_fast import _C, reference
from lwm_fast.positions import Shapes, dense_positions

WeightOf: TypeAlias = Callable[[nn.Module], Tensor]  # a linear map's weight as it acts, adapters included


@dataclass(frozen=True)
class Form:
    """What is the same for all calls of a layer."""

    num_heads: int
    head_dim: int
    residual: float  # 2 in v1.1: the release adds x twice
    dropout: _C.LayerDropout | None
    scale: float  # 1 / (1 - probability) of the dropout, 1 without


def fits(s: reference.Sizes) -> bool:
    """Whether the C++ attention has kernels for the model's heads."""
    return s.head_dim in (5, 16) and s.embed_dim > 1


def encode(
    model: reference.LWM, tokens: Tensor, dropout: list[_C.LayerDropout] | None, shape: Shapes | None
) -> Tensor:
    """tokens float32 [B, S, patch_len] on the CPU -> output [B, S, D]."""
    s = model.sizes
    batch, seq_len, _ = tokens.shape
    embedding = model.embedding
    u = embedding.proj(tokens) + dense_positions(model, shape, seq_len)
    x: Tensor = _Norm.apply(u.flatten(0, 1), embedding.norm.alpha, embedding.norm.bias)  # type: ignore[no-untyped-call]
    return run_layers(model, x.view(batch, seq_len, s.embed_dim), range(s.num_layers), dropout, own_weight)


def own_weight(linear: nn.Module) -> Tensor:
    """The weight of a plain linear layer."""
    assert isinstance(linear, nn.Linear)
    return linear.weight


def run_layers(
    model: reference.LWM,
    x: Tensor,
    layers: Sequence[int],
    dropout: list[_C.LayerDropout] | None,
    weight: WeightOf,
) -> Tensor:
    """x [B, S, D] entering the first of some consecutive layers -> what leaves the last; `dropout` of all layers."""
    s = model.sizes
    residual = 1.0 if model.version == "1.0" else 2.0
    scale = 1.0 / (1.0 - s.dropout) if dropout else 1.0
    for i in layers:
        layer = model.layers[i]
        assert isinstance(layer, (reference.LayerV10, reference.LayerV11))
        attn, ffn = layer.enc_self_attn, layer.pos_ffn
        projections = (attn.W_Q, attn.W_K, attn.W_V)
        norm1, norm2 = (
            (layer.norm, None) if isinstance(layer, reference.LayerV10) else (layer.norm1, layer.norm2)
        )
        x = _Layer.apply(  # type: ignore[no-untyped-call]
            x,
            Form(s.num_heads, s.head_dim, residual, dropout[i] if dropout else None, scale),
            torch.cat([weight(w) for w in projections]),
            torch.cat([w.bias for w in projections]),
            weight(attn.linear), attn.linear.bias, norm1.alpha, norm1.bias,
            weight(ffn.fc1), ffn.fc1.bias, weight(ffn.fc2), ffn.fc2.bias,
            None if norm2 is None else norm2.alpha, None if norm2 is None else norm2.bias,
        )  # fmt: skip
    return x


def _array(x: Tensor) -> Any:
    return x.detach().numpy()


def _vector(x: Tensor) -> Any:
    return x.detach().contiguous().numpy()


class _Norm(torch.autograd.Function):
    """alpha * (u - mean) / (std + eps) + bias over rows u [T, D]."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, alpha: Tensor, bias: Tensor) -> Tensor:
        normal, y, stats = u.contiguous().clone(), torch.empty_like(u), u.new_empty(len(u), 2)
        _norm_forward(None, 1.0, normal, None, alpha, bias, y, stats, None)
        ctx.save_for_backward(normal, stats, alpha)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        normal, stats, alpha = ctx.saved_tensors
        du, sums = torch.empty_like(normal), normal.new_empty(3, normal.shape[1])
        _norm_backward(dy.contiguous(), normal, stats, alpha, 1.0, None, du, sums, None)
        return du, sums[0], sums[1]


def _norm_forward(
    x: Tensor | None, residual: float, u: Tensor, u_bias: Tensor | None, alpha: Tensor, bias: Tensor,
    y: Tensor, stats: Tensor, dropout: _C.LayerDropout | None,
) -> None:  # fmt: skip
    """y = Norm(residual * x + drop(u + u_bias)); u becomes the normalised rows."""
    _C.norm_forward(
        None if x is None else _array(x), residual, _array(u), None if u_bias is None else _vector(u_bias),
        _vector(alpha), _vector(bias), _array(y), _array(stats), dropout, 0, torch.get_num_threads(),
    )  # fmt: skip


def _norm_backward(
    dy: Tensor, normal: Tensor, stats: Tensor, alpha: Tensor, residual: float, dx: Tensor | None, du: Tensor,
    sums: Tensor, dropout: _C.LayerDropout | None,
) -> None:  # fmt: skip
    """sums [3, D]: gradients of alpha, of bias and of u's bias."""
    _C.norm_backward(
        _array(dy), _array(normal), _array(stats), _vector(alpha), residual, None if dx is None else _array(dx),
        _array(du), _array(sums), dropout, 0, torch.get_num_threads(),
    )  # fmt: skip


class _Layer(torch.autograd.Function):
    """x [B, S, D] -> y [B, S, D]: attention, Norm, FFN and, in v1.1, the second Norm."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, form: Form, qkv_w: Tensor, qkv_b: Tensor, out_w: Tensor, out_b: Tensor,
        alpha1: Tensor, bias1: Tensor, fc1_w: Tensor, fc1_b: Tensor, fc2_w: Tensor, fc2_b: Tensor,
        alpha2: Tensor | None, bias2: Tensor | None,
    ) -> Tensor:  # fmt: skip
        batch, seq_len, dim = x.shape
        threads = torch.get_num_threads()
        rows = x.contiguous().view(-1, dim)  # [T, D]
        qkv = rows @ qkv_w.T
        values = rows.new_empty(batch, seq_len, form.num_heads, form.head_dim)
        attn_stats = rows.new_empty(batch, form.num_heads, 2, seq_len)
        packed = qkv.view(batch, seq_len, 3, form.num_heads, form.head_dim)
        _C.attention_forward(_array(packed), _vector(qkv_b), _array(values), _array(attn_stats), threads)
        normal1 = values.flatten(2).flatten(0, 1) @ out_w.T
        a, stats1 = torch.empty_like(rows), rows.new_empty(len(rows), 2)
        _norm_forward(rows, form.residual, normal1, out_b, alpha1, bias1, a, stats1, form.dropout)
        hidden = a @ fc1_w.T
        _C.relu_dropout(_array(hidden), _vector(fc1_b), form.dropout, dim, threads)
        out = hidden @ fc2_w.T
        kept = [rows, packed, values, attn_stats, normal1, stats1, a, hidden]
        if alpha2 is None or bias2 is None:
            last = dim + hidden.shape[1]
            _C.dropout_add(_array(out), _vector(fc2_b), _array(a), form.dropout, last, threads)
            y = out
        else:
            y, stats2 = torch.empty_like(rows), rows.new_empty(len(rows), 2)
            _norm_forward(a, 1.0, out, fc2_b, alpha2, bias2, y, stats2, None)
            kept += [out, stats2, alpha2]
        ctx.form = form
        ctx.save_for_backward(qkv_w, qkv_b, out_w, alpha1, fc1_w, fc2_w, *kept)
        return y.view(batch, seq_len, dim)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        form: Form = ctx.form
        threads = torch.get_num_threads()
        qkv_w, qkv_b, out_w, alpha1, fc1_w, fc2_w, *kept = ctx.saved_tensors
        rows, packed, values, attn_stats, normal1, stats1, a, hidden = kept[:8]
        needs = dict(zip(_ARGUMENTS, ctx.needs_input_grad, strict=True))
        dim = rows.shape[1]
        dy = dy.contiguous().view(-1, dim)
        dout, dalpha2, dbias2 = torch.empty_like(dy), None, None
        if form_has_second_norm := len(kept) > 8:
            normal2, stats2, alpha2 = kept[8:]
            sums = dy.new_empty(3, dim)
            _norm_backward(dy, normal2, stats2, alpha2, 1.0, None, dout, sums, None)
            dalpha2, dbias2, dfc2_b = sums
            da = dout  # a is added as it is
        else:
            dfc2_b = dy.new_empty(dim)
            last = dim + hidden.shape[1]
            _C.dropout_backward(_array(dy), _array(dout), _array(dfc2_b), form.dropout, last, threads)
            da = dy
        dfc2_w = dout.T @ hidden if needs["fc2_w"] else None
        dhidden, dfc1_b = dout @ fc2_w, dy.new_empty(hidden.shape[1])
        _C.relu_dropout_backward(_array(dhidden), _array(hidden), form.scale, _array(dfc1_b), threads)
        dfc1_w = dhidden.T @ a if needs["fc1_w"] else None
        da = da.addmm_(dhidden, fc1_w) if form_has_second_norm else torch.addmm(da, dhidden, fc1_w)
        dx, sums = torch.empty_like(da), dy.new_empty(3, dim)
        _norm_backward(da, normal1, stats1, alpha1, form.residual, dx, da, sums, form.dropout)
        dalpha1, dbias1, dout_b = sums
        du = da  # the Norm's gradient took its place
        flat = values.flatten(2).flatten(0, 1)
        dout_w = du.T @ flat if needs["out_w"] else None
        dvalues = (du @ out_w).view_as(values)
        dqkv, dqkv_b = torch.empty_like(packed), torch.empty_like(qkv_b)
        _C.attention_backward(
            _array(packed), _vector(qkv_b), _array(values), _array(attn_stats), _array(dvalues),
            _array(dqkv), _array(dqkv_b), threads,
        )  # fmt: skip
        dqkv = dqkv.view(len(rows), -1)
        dqkv_w = dqkv.T @ rows if needs["qkv_w"] else None
        dtokens = dx.addmm_(dqkv, qkv_w).view(*values.shape[:2], dim) if needs["x"] else None
        return (
            dtokens, None, dqkv_w, dqkv_b, dout_w, dout_b, dalpha1, dbias1, dfc1_w, dfc1_b, dfc2_w, dfc2_b,
            dalpha2, dbias2,
        )  # fmt: skip


_ARGUMENTS = (
    "x", "form", "qkv_w", "qkv_b", "out_w", "out_b", "alpha1", "bias1", "fc1_w", "fc1_b", "fc2_w", "fc2_b",
    "alpha2", "bias2",
)  # fmt: skip
