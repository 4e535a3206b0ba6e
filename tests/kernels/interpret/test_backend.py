"""The `triton` backend with its kernels in the interpreter: outputs, gradients, bits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from support.op_path import gradients, masked_batch, mcm_difference
from support.released import output_of, plain, random_csi, relative_error

from lwm_fast import LWM, LWMConfig, backends, packed_encoder, packed_weights, use_backend
from lwm_fast.draws import Draws
from lwm_fast.packed_encoder import Sequences
from lwm_fast.pooling import Ragged
from lwm_fast.scaling import to_unit_power

TRITON, TORCH = backends.BACKENDS["triton"], backends.BACKENDS["torch"]


@pytest.fixture(autouse=True)
def _forced() -> Iterator[None]:
    with use_backend("triton"):
        yield


def one_layer(version: str) -> LWM:
    """Few heads: the interpreter takes its time for each."""
    make = LWMConfig.v1_0 if version == "1.0" else LWMConfig.v1_1
    return LWM.random(make(num_layers=1, num_heads=3 if version == "1.0" else 2), seed=1)


def one_layer_of_grids() -> LWM:
    return LWM.random(LWMConfig.base(num_layers=1, num_heads=2), seed=1)


def test_it_is_available_on_the_cpu():
    assert TRITON.available(torch.device("cpu")) is None
    assert backends.select(torch.device("cpu"), config=LWMConfig.v1_1()).name == "triton"


def samples_of(sizes: list[tuple[int, int]]) -> list[np.ndarray]:
    return [random_csi(1, *size, seed=i)[0] for i, size in enumerate(sizes)]


@pytest.mark.parametrize("pool", ["cls", "mean", "patches"])
def test_encode_of_mixed_sizes(pool):
    model, samples = one_layer("1.1"), samples_of([(8, 32), (3, 5)])
    got = model.encode(samples, pool=pool)
    with use_backend("torch"):
        expected = model.encode(samples, pool=pool)
    if isinstance(got, Ragged):
        assert isinstance(expected, Ragged)
        got, expected = got.values, expected.values
    assert relative_error(got, expected) < 1e-6


def test_encode_of_v1_0():
    model, csi = one_layer("1.0"), random_csi(2, 32, 32)
    got = model.encode(csi)
    with use_backend("torch"):
        assert relative_error(got, model.encode(csi)) < 1e-6


def test_bits_do_not_depend_on_packing_or_order():
    model, samples = one_layer("1.1"), samples_of([(8, 32), (4, 4), (8, 8)])
    whole = model.encode(samples, pool="mean_with_cls")
    assert np.array_equal(model.encode(samples, pool="mean_with_cls", batch_size=1), whole)
    assert np.array_equal(np.asarray(model.encode(samples[::-1], pool="mean_with_cls"))[::-1], whole)


def test_bits_of_grids_do_not_depend_on_packing_or_order():
    """One by one every batch holds one grid, whose table begins at row 0; together they hold several."""
    model, samples = one_layer_of_grids(), samples_of([(8, 8), (4, 16), (3, 5), (4, 16)])
    whole = model.encode(samples, pool="mean")
    assert np.array_equal(model.encode(samples, pool="mean", batch_size=1), whole)
    assert np.array_equal(np.asarray(model.encode(samples[::-1], pool="mean"))[::-1], whole)
    with use_backend("torch"):
        assert relative_error(whole, model.encode(samples, pool="mean")) < 1e-6


def test_pooled_mcm_of_mixed_grids_and_its_gradients():
    model, found = one_layer_of_grids(), []
    batch = to_unit_power(masked_batch("1.1", sizes=[(8, 8), (4, 16), (3, 12)]))
    for backend in (TRITON, TORCH):
        model.zero_grad()
        predicted, target, cls, mean = backend.mcm(model, batch, None, pooled=True)
        ((predicted - target).square().mean() + cls.sin().mean() + mean.cos().mean()).backward()
        found.append({"predicted": predicted, "cls": cls, "mean": mean, **gradients(model)})
    ours, expected = found
    least = 0.01 * max(float(x.detach().norm()) for x in expected.values())
    assert {"embedding.pos_embed.rows", "embedding.pos_embed.columns"} < ours.keys() == expected.keys()
    for name, value in expected.items():
        error = float((ours[name] - value).detach().norm())
        assert error <= 1e-4 * max(float(value.detach().norm()), least), name


def token_gradients(model: LWM, tokens: dict[int, torch.Tensor], order: list[int]) -> dict[int, torch.Tensor]:
    """Gradients of packed tokens, under a loss that weighs every output entry by its own place in its sequence."""
    packed = torch.cat([tokens[i] for i in order]).requires_grad_()
    lengths = torch.tensor([len(tokens[i]) for i in order])
    cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).int()
    sequences = Sequences(cu_seqlens, int(lengths.max()), len(packed))
    w = packed_weights.live(model)
    draws = Draws(3, 1, torch.tensor(order))
    x, _ = packed_encoder.encode(w, packed_encoder.embed_tokens(w, packed, sequences), sequences, draws=draws)
    weigh = torch.cat([torch.linspace(-1, 1, len(tokens[i]) * 128).view(-1, 128) for i in order])
    (x * weigh).sum().backward()
    assert packed.grad is not None
    return dict(zip(order, packed.grad.split(lengths.tolist()), strict=True))


@pytest.mark.slow
def test_bits_of_token_gradients_do_not_depend_on_packing_or_order():
    model = one_layer("1.1").train()
    generator = torch.Generator().manual_seed(2)
    tokens = {i: torch.randn(length, 32, generator=generator) for i, length in enumerate((17, 1, 6))}
    together = token_gradients(model, tokens, [0, 1, 2])
    turned = token_gradients(model, tokens, [2, 0, 1])
    for i in tokens:
        assert bool(together[i].isfinite().all())
        assert torch.equal(turned[i], together[i])
        assert torch.equal(token_gradients(model, tokens, [i])[i], together[i])


def test_mcm_with_dropout_and_its_gradients():
    model, batch = one_layer("1.1"), masked_batch("1.1", sizes=[(8, 32), (3, 5)])
    draws = Draws(7, 2, torch.from_numpy(batch.sample_id))
    same_targets, error, gradient_error = mcm_difference(model, batch, draws, TRITON, TORCH)
    assert same_targets
    assert error < 1e-5
    assert gradient_error <= 1e-4


def test_forward_with_maps():
    model = one_layer("1.1")
    tokens = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output, maps = model(tokens, return_attention=True)
        exact_output, exact_maps = plain(model)(tokens.double(), return_attention=True)
    assert relative_error(output, exact_output) < 1e-6
    assert relative_error(maps[0], exact_maps[0]) < 1e-6
    assert relative_error(output_of(model, tokens), exact_output) < 1e-6
