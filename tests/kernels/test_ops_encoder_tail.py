"""ops.encoder_tail as every user meets it: the reference's layers, gradients, dropout, compiled graphs, errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from lwm_fast.kernels import encoder_tail as kernel
from lwm_fast.kernels.dropout import Dropout, keep_plain
from lwm_fast.kernels.encoder_tail_backward import encoder_tail_backward_op
from lwm_fast.kernels.encoder_tail_cls import encoder_tail_cls_op
from lwm_fast.kernels.runtime import INTERPRET
from torch import Tensor

from lwm_fast import InputError, ops, philox, reference

pytestmark = pytest.mark.skipif(INTERPRET, reason="checks the plain twin: not under TRITON_INTERPRET=1")

Layer = reference.LayerV10 | reference.LayerV11


def _layer(version: str, dtype: torch.dtype = torch.float64) -> Layer:
    sizes = reference.SIZES[version]._replace(ffn_dim=64)
    layer = (reference.LayerV10 if version == "1.0" else reference.LayerV11)(sizes).to(dtype)
    rng = np.random.default_rng(21)
    with torch.no_grad():
        for name, p in layer.named_parameters():
            scale = p.shape[-1] ** -0.5 if p.ndim == 2 else 0.1
            shift = 1.0 if name.endswith("alpha") else 0.0
            p.copy_(torch.from_numpy(shift + scale * rng.standard_normal(p.shape)))
    return layer.eval()


def _weights(layer: Layer) -> list[Tensor]:
    attn, ffn = layer.enc_self_attn.linear, layer.pos_ffn
    first = layer.norm if isinstance(layer, reference.LayerV10) else layer.norm1
    weights = [attn.weight, attn.bias, first.alpha, first.bias]
    weights += [ffn.fc1.weight, ffn.fc1.bias, ffn.fc2.weight, ffn.fc2.bias]
    return weights + ([layer.norm2.alpha, layer.norm2.bias] if isinstance(layer, reference.LayerV11) else [])


def _tokens(layer: Layer, num_tokens: int) -> tuple[Tensor, Tensor]:
    linear = layer.enc_self_attn.linear
    rng = np.random.default_rng(22)
    attn, x = (rng.standard_normal((num_tokens, n)) for n in (linear.in_features, linear.out_features))
    dtype = linear.weight.dtype
    return torch.from_numpy(attn).to(dtype).requires_grad_(), torch.from_numpy(x).to(dtype).requires_grad_()


def _reference_tail(layer: Layer, attn: Tensor, x: Tensor) -> Tensor:
    """The reference layer with its attention's values given."""
    u = layer.enc_self_attn.linear(attn)
    if isinstance(layer, reference.LayerV10):
        a = layer.norm(x + layer.dropout(u))
        y: Tensor = a + layer.dropout(layer.pos_ffn(a))
        return y
    a = layer.norm1(2 * x + layer.dropout(u))
    y = layer.norm2(a + layer.pos_ffn(a))
    return y


def _residual(version: str) -> float:
    return 1.0 if version == "1.0" else 2.0


def _draws(num_tokens: int, dropout: float = 0.3) -> dict[str, Any]:
    sample = torch.arange(num_tokens) // 4 - 2
    token = torch.arange(num_tokens, dtype=torch.int32) % 4
    return {
        "dropout": dropout, "seed": (1 << 64) - 5, "epoch": (1 << 32) - 1, "layer": 11, "sample_id": sample,
        "token_id": token,
    }  # fmt: skip


@pytest.mark.parametrize("num_tokens", [0, 1, 19])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_equals_reference_with_every_gradient(version: str, num_tokens: int) -> None:
    layer = _layer(version)
    inputs = [*_tokens(layer, num_tokens), *_weights(layer)]
    y = ops.encoder_tail(*inputs, residual=_residual(version))
    expected = _reference_tail(layer, inputs[0], inputs[1])
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(y.sin().sum(), inputs)
    wanted = torch.autograd.grad(expected.sin().sum(), inputs)
    for value, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_dropout_gradients_are_those_of_its_masks(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference layer, its dropouts replaced by the masks drawn here from the package's numpy Philox."""
    layer, draws, num_tokens = _layer(version), _draws(9), 9
    inputs = [*_tokens(layer, num_tokens), *_weights(layer)]
    dim, ffn = inputs[1].shape[1], 64
    words, p = 2 * dim + ffn, draws["dropout"]

    def mask(first: int, count: int) -> Tensor:
        rows = []
        for sample, token in zip(draws["sample_id"].tolist(), draws["token_id"].tolist(), strict=True):
            start = 4 * ((draws["layer"] << 20) + token * words // 4) + first
            counter = np.zeros((count // 4, 4), np.uint64)
            counter[:, :2] = sample & 0xFFFFFFFF, (sample >> 32) & 0xFFFFFFFF
            counter[:, 2] = draws["epoch"]
            counter[:, 3] = (4 << 24) + start // 4 + np.arange(count // 4, dtype=np.uint64)
            bits = philox.philox4x32(counter, (draws["seed"] & 0xFFFFFFFF, draws["seed"] >> 32))
            rows.append((bits.reshape(-1) >> 8) * 2.0**-24 >= p)
        return torch.from_numpy(np.stack(rows)).double() / (1 - p)

    sites = iter([mask(0, dim), *([mask(dim + ffn, dim)] if version == "1.0" else [])])
    hidden = mask(dim, ffn)
    monkeypatch.setattr(layer.dropout, "forward", lambda x: x * next(sites))
    monkeypatch.setattr(layer.pos_ffn.dropout, "forward", lambda x: x * hidden)
    y = ops.encoder_tail(*inputs, residual=_residual(version), **draws)
    expected = _reference_tail(layer, inputs[0], inputs[1])
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-11)
    found = torch.autograd.grad(y.sin().sum(), inputs)
    wanted = torch.autograd.grad(expected.sin().sum(), inputs)
    for value, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("change", ["seed", "epoch", "layer", "sample_id", "token_id"])
def test_draws_depend_on_every_key(change: str) -> None:
    draws = Dropout(0.1, 1, 2, 3, torch.arange(512), torch.zeros(512, dtype=torch.int32))
    other = dataclasses.replace(draws, **{change: getattr(draws, change) + 1})
    first, second = (keep_plain(d, 0, 64, 192).double() for d in (draws, other))
    assert abs(float(first.mean()) - 0.9) < 0.01  # 32,768 draws: the standard error is 0.0017
    assert abs(float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])) < 0.03


def test_keeps_bfloat16_and_computes_in_float32() -> None:
    layer = _layer("1.1", torch.float32)
    attn, x = (t.detach().bfloat16().requires_grad_() for t in _tokens(layer, 5))
    y = ops.encoder_tail(attn, x, *_weights(layer), residual=2.0)
    expected = _reference_tail(layer, attn.float(), x.float())
    assert y.dtype == torch.bfloat16
    assert (y - expected).norm() <= 6e-3 * expected.norm()  # operands of the products and y are rounded
    dx, dw = torch.autograd.grad(y.float().sum(), [x, _weights(layer)[4]])
    assert (dx.dtype, dw.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_opcheck(version: str) -> None:
    layer = _layer(version, torch.float32)
    draws, tokens = _draws(5), _tokens(layer, 5)
    weights = [*_weights(layer), *([None] * (12 - 2 - len(_weights(layer))))]
    args: list[Any] = [
        *tokens,
        *weights,
        draws["sample_id"],
        draws["token_id"],
        _residual(version),
        0.1,
        3,
        0,
        2,
    ]
    torch.library.opcheck(kernel.encoder_tail_op, tuple(args))
    detached = [a.detach() if isinstance(a, Tensor) else a for a in args]
    torch.library.opcheck(encoder_tail_backward_op, (tokens[1].detach(), *detached))


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_cls_alone_equals_the_cls_rows(version: str) -> None:
    layer = _layer(version)
    attn, x = (t.detach() for t in _tokens(layer, 9))
    weights = [w.detach() for w in _weights(layer)]
    cu_seqlens = torch.tensor([0, 4, 5, 9], dtype=torch.int32)
    first = cu_seqlens[:-1].long()
    alone = ops.encoder_tail_cls(attn[first], x, cu_seqlens, *weights, residual=_residual(version))
    torch.testing.assert_close(alone, _reference_tail(layer, attn, x)[first], rtol=1e-12, atol=1e-12)
    padded = [*weights, *([None] * (10 - len(weights)))]
    torch.library.opcheck(encoder_tail_cls_op, (attn[first], x, cu_seqlens, *padded, 1.0))
    with pytest.raises(InputError, match=r"cu_seqlens is torch.int32 \[4\], expected int32 \[3\]"):
        ops.encoder_tail_cls(attn[:2], x, cu_seqlens, *weights, residual=1.0)


def test_matrices_follow_the_products_and_the_stream_keeps_its_dtype() -> None:
    layer = _layer("1.1", torch.float32)
    attn, x = _tokens(layer, 7)
    weights = _weights(layer)
    y = ops.encoder_tail(attn.bfloat16(), x, *weights, residual=2.0)
    expected = _reference_tail(layer, attn, x)
    assert y.dtype == torch.float32
    assert (y - expected).norm() <= 6e-3 * expected.norm()
    gradients = torch.autograd.grad(y.sum(), [attn, x, *weights])
    assert {g.dtype for g in gradients} == {torch.float32}


def test_compiles_whole_with_gradients() -> None:
    layer = _layer("1.0")
    inputs = [*_tokens(layer, 6), *_weights(layer)]
    draws = _draws(6)

    def loss(*values: Tensor) -> Tensor:
        return ops.encoder_tail(*values, residual=1.0, **draws).square().sum()

    compiled: Callable[..., Tensor] = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found, wanted = (torch.autograd.grad(f(*inputs), inputs) for f in (compiled, loss))
    for value, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(value, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(4, 64)}, "attn has 5 rows and x 4"),
        ({"x": torch.zeros(64)}, "attn has shape"),
        ({"x": torch.zeros(5, 96)}, "D = 96"),
        ({"x": torch.zeros(5, 64).bfloat16()}, "cast one"),
        ({"w1": torch.zeros(100, 64)}, "F = 100"),
        ({"w2": torch.zeros(64, 65)}, r"w2 has shape \[64, 65\]"),
        ({"b1": torch.zeros(63)}, r"b1 has shape \[63\]"),
        ({"alpha2": torch.zeros(64)}, "belong together"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"layer": 16}, "layer is 16"),
        ({"seed": -1}, "seed is -1"),
        ({"epoch": 1 << 32}, "epoch is 4294967296"),
        ({"max_seqlen": 10_923 * 192 // 96}, "draws for 21845 tokens"),
        ({"token_id": None}, "token_id is missing"),
        ({"sample_id": torch.zeros(5)}, "sample_id is torch.float32"),
        ({"token_id": torch.zeros(4, dtype=torch.int32)}, r"token_id has shape \[4\]"),
    ],
)
def test_refuses(change: dict[str, Any], message: str) -> None:
    layer = _layer("1.0", torch.float32)
    attn, x = _tokens(layer, 5)
    names = ("w_out", "b_out", "alpha1", "bias1", "w1", "b1", "w2", "b2")
    weights = dict(zip(names, _weights(layer), strict=True))
    arguments: dict[str, Any] = {"attn": attn, "x": x, "residual": 1.0, **weights, **_draws(5), **change}
    with pytest.raises(InputError, match=message):
        ops.encoder_tail(**arguments)
