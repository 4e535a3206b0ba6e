"""The packed encoder on the operations' plain twins: outputs, every gradient, dropout, masking, export, compile."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numerics
import numpy as np
import pytest
import torch
from support.op_path import gradients, masked_batch, mcm_difference, mixed_samples, op_path, two_layers  # noqa: F401
from support.released import golden, output_of, plain, random_csi, relative_error, released

from lwm_fast import LWM, InputError, reference, use_backend
from lwm_fast.backends import BACKENDS
from lwm_fast.device_batch import DeviceBatch
from lwm_fast.draws import Draws
from lwm_fast.packed import PackedBatch
from lwm_fast.packed_weights import frozen
from lwm_fast.pooling import POOLS

TRITON, TORCH = BACKENDS["triton"], BACKENDS["torch"]


def tokens_of(version: str, batch: int, seq_len: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seq_len)
    tokens = torch.randn(
        batch, seq_len, reference.SIZES[version].patch_len, generator=generator, dtype=torch.float64
    )
    tokens[:, 0] = 0.2
    return tokens.to(dtype)


@pytest.mark.parametrize("pool", list(POOLS))
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_every_pool_of_mixed_sizes(version, pool):
    model, samples = two_layers(version), mixed_samples(version)
    batch = PackedBatch.from_samples(samples, version)
    with torch.inference_mode():
        rows = TRITON.encode(model, batch, POOLS[pool], "float32")
    expected = []
    for sample in samples:
        tokens = reference.tokenize(torch.from_numpy(sample[None]).to(torch.complex128), version)
        expected.append(POOLS[pool](output_of(plain(model), tokens)).reshape(-1, rows.shape[1]))
    assert relative_error(rows, torch.cat(expected)) < 1e-6


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_precisions_on_released_weights(shared_data, version, precision):
    z = golden(shared_data, "v10_city_18_denver" if version == "1.0" else "v11_32x32")
    model = released(shared_data, version)
    batch = PackedBatch.from_samples(z["raw"][:16], version)
    exact = output_of(plain(model), torch.from_numpy(z["tokens"][:16]).double())
    with torch.inference_mode():
        cls = TRITON.encode(model, batch, POOLS["cls"], precision)
        tokens = TRITON.encode(model, batch, POOLS["tokens"], precision)
    assert relative_error(cls, exact[:, 0]) <= numerics.ENCODER[version, precision]
    assert relative_error(tokens, exact.flatten(0, 1)) <= numerics.ENCODER[version, precision]


def test_narrow_heads_in_bfloat16_use_float16_where_it_reaches():
    model = two_layers("1.0")
    assert {layer.qkv.dtype for layer in frozen(model, torch.bfloat16).layers} == {torch.float16}
    with torch.no_grad():
        model.layers[1].enc_self_attn.W_K.weight[3, 4] = 5e4
    w = frozen(model, torch.bfloat16)
    assert {layer.qkv.dtype for layer in w.layers} == {torch.float32}
    assert w.tail_dtype == torch.bfloat16
    assert frozen(two_layers("1.1"), torch.bfloat16).layers[0].qkv.dtype == torch.bfloat16


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(("batch", "seq_len"), [(1, 1), (3, 17), (2, 40), (0, 5)])
def test_forward(op_path, version, batch, seq_len):  # noqa: F811
    model, tokens = two_layers(version), tokens_of(version, batch, seq_len)
    fast, exact = output_of(model, tokens), output_of(plain(model), tokens.double())
    assert fast.shape == exact.shape
    if batch:
        assert relative_error(fast, exact) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_gradients_of_every_parameter(op_path, version, dtype):  # noqa: F811
    model = two_layers(version).to(dtype)
    twin = plain(model)
    positions = torch.tensor([[1, 4, 10]] * 2)

    def backward(m: torch.nn.Module, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        tokens.requires_grad_()
        result = m(tokens, positions)
        ((result[0] ** 2).sum() + result[1].sin().sum()).backward()
        assert tokens.grad is not None
        return {**gradients(m), "tokens": tokens.grad}

    fast = backward(model, tokens_of(version, 2, 11, dtype))
    exact = backward(twin, tokens_of(version, 2, 11, torch.float64))
    assert fast.keys() == exact.keys()
    ceiling = numerics.GRADIENT if dtype == torch.float32 else 1e-12
    scale = max(float(g.norm()) for g in exact.values())  # some are zero in exact arithmetic
    for name, gradient in exact.items():
        error = float((fast[name] - gradient).norm())
        assert error <= ceiling * max(float(gradient.norm()), 0.01 * scale), name


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_attention_maps_of_chosen_layers(op_path, version):  # noqa: F811
    model, tokens = two_layers(version), tokens_of(version, 2, 9)
    positions = torch.tensor([[1, 3]] * 2)
    with torch.no_grad():
        _, maps = TRITON.forward_with_maps(model, tokens, [1, 0])
        _, exact = TORCH.forward_with_maps(model, tokens, [1, 0])
        result = model(tokens, positions, return_attention=[1])
    assert [m.shape for m in maps] == [(2, model.config.num_heads, 9, 9)] * 2
    assert all(relative_error(a, b) < 1e-6 for a, b in zip(maps, exact, strict=True))
    if version == "1.1":
        assert len(result) == 3
        assert torch.equal(result[2][0], maps[0])
    else:
        assert len(result) == 2
    with pytest.raises(InputError, match=r"there is no layer 2; this model has 0\.\.1"):
        model(tokens, return_attention=[2])


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_mcm_equals_the_torch_backend_s(version, compat):
    model, batch = two_layers(version), masked_batch(version, compat=compat)
    draws = Draws(7, 2, torch.from_numpy(batch.sample_id))
    same_targets, error, gradient_error = mcm_difference(model, batch, draws, TRITON, TORCH)
    assert same_targets
    assert error < 1e-5
    assert gradient_error <= 1e-4
    once, again = (TRITON.mcm(model, batch, replace(draws, epoch=epoch))[0] for epoch in (2, 3))
    assert not torch.equal(once, again)


def test_mcm_without_dropout_is_the_reference_on_masked_tokens():
    model, batch = two_layers("1.1"), masked_batch("1.1")
    tokens, targets = batch.masked_tokens()
    assert batch.mask is not None
    outputs = [
        output_of(plain(model), tokens[first:last].double()[None])[0]
        for first, last in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True)
    ]
    rows = torch.cat(outputs)[torch.from_numpy(batch.mask.masked_index).long()]
    expected = plain(model).head(rows[None], torch.arange(len(rows))[None])[0]
    for backend in (TRITON, TORCH):
        predicted, target = backend.mcm(model, batch, None)
        assert torch.equal(target, targets)
        assert relative_error(predicted.detach(), expected.detach()) < 1e-6


@pytest.mark.parametrize("backend", [TRITON, TORCH], ids=["triton", "torch"])
def test_what_is_dropped_does_not_depend_on_the_packing(backend):
    model, batch = two_layers("1.1"), masked_batch("1.1")
    assert batch.mask is not None
    whole, _ = backend.mcm(model, batch, Draws(3, 1, torch.from_numpy(batch.sample_id)))
    for i in (0, 3):
        sample = PackedBatch.from_samples(
            [mixed_samples("1.1")[i]], "1.1", sample_id=batch.sample_id[i : i + 1]
        )
        first, last = batch.mask.mask_cu[i : i + 2]
        begin, end = batch.cu_seqlens[i : i + 2]
        alone = replace(
            batch.mask,
            action=batch.mask.action[begin:end],
            masked_index=batch.mask.masked_index[first:last] - begin,
            mask_cu=np.array([0, last - first], np.int32),
        )
        predicted, _ = backend.mcm(
            model, replace(sample, mask=alone), Draws(3, 1, torch.from_numpy(sample.sample_id))
        )
        assert relative_error(predicted.detach(), whole[first:last].detach()) < 1e-6


def test_mcm_under_autocast_gives_float32_gradients():
    model, batch = two_layers("1.1"), masked_batch("1.1")
    with torch.autocast("cpu", torch.bfloat16):
        predicted, target = TRITON.mcm(model, batch, None)
    exact, _ = TRITON.mcm(model, batch, None)
    assert 1e-5 < relative_error(predicted.detach().float(), exact.detach()) < 2e-2
    (predicted.float() - target).square().mean().backward()
    assert {g.dtype for g in gradients(model).values()} == {torch.float32}


def test_training_forwards_draw_from_the_torch_generator(op_path):  # noqa: F811
    model, tokens = two_layers("1.0").train(), tokens_of("1.0", 2, 9)
    torch.manual_seed(1)
    first, second = output_of(model, tokens), output_of(model, tokens)
    torch.manual_seed(1)
    assert torch.equal(output_of(model, tokens), first)
    assert not torch.equal(first, second)
    draws = Draws.fresh(3, torch.device("cpu"))
    with pytest.raises(InputError, match="draws name 3 samples; the batch holds 5"):
        TRITON.mcm(two_layers("1.1"), masked_batch("1.1"), draws)


def test_a_half_model_runs(op_path):  # noqa: F811
    model, tokens = two_layers("1.1"), tokens_of("1.1", 2, 9)
    exact = output_of(model, tokens)
    low = output_of(copy.deepcopy(model).bfloat16(), tokens.bfloat16())
    assert low.dtype == torch.bfloat16
    assert relative_error(low.float(), exact) < 2e-2


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_compile_in_one_graph(op_path, version):  # noqa: F811
    model, tokens = two_layers(version), tokens_of(version, 2, 9)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        result = compiled(tokens, torch.tensor([[1, 3]] * 2))
    assert relative_error(result[1], output_of(model, tokens)) < 1e-6


def test_compiled_gradients(op_path):  # noqa: F811
    model, tokens = two_layers("1.1"), tokens_of("1.1", 2, 9)
    model(tokens)[0].sin().sum().backward()
    expected = gradients(model)
    model.zero_grad()
    torch.compile(model, fullgraph=True, backend="aot_eager")(tokens)[0].sin().sum().backward()
    for name, gradient in gradients(model).items():
        assert float((gradient - expected[name]).norm()) <= 1e-5 * max(1.0, float(gradient.norm())), name


def test_export(op_path):  # noqa: F811
    model, tokens = two_layers("1.1"), tokens_of("1.1", 2, 9)
    program = torch.export.export(model, (tokens,))
    names = {str(node.target) for node in program.graph.nodes}
    assert any("lwm_fast.attention" in name for name in names)
    assert relative_error(program.module()(tokens)[0].detach(), output_of(model, tokens)) < 1e-6


def test_copies_and_pickles_after_use(op_path):  # noqa: F811
    model, csi = two_layers("1.1"), random_csi(3, 8, 32)
    expected = model.encode(csi)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert np.array_equal(twin.encode(csi), expected)


def test_a_batch_survives_the_way_to_its_device():
    batch = masked_batch("1.1")
    there = DeviceBatch.of(batch, torch.device("cpu"))
    assert np.array_equal(there.csi.numpy(), batch.csi)
    for name in ("offsets", "shape", "cu_seqlens", "sample_id", "scale", "cls"):
        assert np.array_equal(getattr(there, name).numpy(), getattr(batch, name)), name
    assert batch.mask is not None
    assert there.action is not None
    assert np.array_equal(there.action.numpy(), batch.mask.action)
    assert (there.seed, there.epoch) == (batch.mask.seed, batch.mask.epoch)


def test_sizes_that_the_kernels_do_not_take_say_so(monkeypatch):
    from lwm_fast import BackendUnavailableError, LWMConfig, backends
    from lwm_fast.backends.triton_backend import TritonBackend

    monkeypatch.setattr(TritonBackend, "available", lambda self, device: None)
    monkeypatch.setitem(backends.ORDER, "cpu", ("triton", "torch"))
    device = torch.device("cpu")
    assert backends.select(device, config=LWMConfig.v1_1()).name == "triton"
    for changes, reason in (
        ({"embed_dim": 24}, "embed_dim of .*64, 128.*this model has 24"),
        ({"ffn_dim": 100}, "ffn_dim a multiple of 64"),
        ({"num_heads": 3, "head_dim": 64}, "num_heads \\* head_dim up to 128.*192"),
    ):
        config = LWMConfig.v1_1(**changes)
        assert backends.select(device, config=config).name == "torch"
        with use_backend("triton"), pytest.raises(BackendUnavailableError, match=reason):
            LWM.random(config).encode(random_csi(1, 8, 32))
