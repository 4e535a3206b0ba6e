"""The whole model on the GPU: backends against float64, the bits of any batching, memory that runs out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numerics
import numpy as np
import pytest
import torch
from support import gpu_ceilings
from support.released import random_csi
from torch import Tensor

from lwm_fast import LWM, LWMConfig, ops, packed_model, reference, use_backend
from lwm_fast.backends import BACKENDS
from lwm_fast.backends.triton_backend import TritonBackend
from lwm_fast.data.mask import draw_mask
from lwm_fast.draws import Draws
from lwm_fast.packed import PackedBatch
from lwm_fast.pooling import POOLS
from lwm_fast.scaling import to_unit_power

PRECISIONS = ("float32", "bfloat16", "float16")
SIZE = {"1.0": (32, 32), "1.1": (16, 32)}


@pytest.fixture(autouse=True)
def _triton_runs(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything here is about the `triton` backend; on a CPU its operations are plain torch."""
    if device.type == "cpu":
        monkeypatch.setattr(TritonBackend, "available", lambda self, on: None)
    with use_backend("triton"):
        yield


def random_model(version: str, device: torch.device, num_layers: int = 12, seed: int = 3) -> LWM:
    config = (
        LWMConfig.v1_0(num_layers=num_layers) if version == "1.0" else LWMConfig.v1_1(num_layers=num_layers)
    )
    return LWM.random(config, seed=seed).to(device)


def plain_output(model: LWM, csi: np.ndarray, dtype: torch.dtype = torch.float64) -> Tensor:
    plain = reference.LWM(model.version, model.sizes)
    plain.load_state_dict(model.state_dict())
    wide = torch.complex128 if dtype == torch.float64 else torch.complex64
    tokens = reference.tokenize(torch.from_numpy(csi).to(wide), model.version)
    with torch.no_grad():
        result = plain.to(dtype).eval()(tokens.to(dtype))
    return result[1] if model.version == "1.0" else result[0]


def error_of(value: Tensor, exact: Tensor) -> float:
    return float((value.cpu().double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_embeddings_hold_the_limits(device: torch.device, version: str, precision: str) -> None:
    model = random_model(version, device)
    csi = random_csi(5, *SIZE[version])
    exact = plain_output(model, csi)
    plain_error = error_of(plain_output(model, csi, torch.float32), exact)
    for name, pool in POOLS.items():
        found = torch.as_tensor(model.encode(csi, pool=name, precision=precision))
        error = error_of(found, pool(exact))
        assert error <= numerics.ENCODER[version, precision], (
            f"{name}: {error:.2e}, plain float32 {plain_error:.2e}"
        )


def gradients(predict: Any, model: torch.nn.Module, packed: PackedBatch, dtype: torch.dtype) -> Tensor:
    """Of all parameters that take part, side by side; under autocast to a 16-bit dtype."""
    device, half = next(model.parameters()).device, dtype in (torch.bfloat16, torch.float16)
    assert packed.mask is not None
    cu = torch.from_numpy(packed.mask.mask_cu).to(device)
    with torch.autocast(device.type, dtype if half else torch.bfloat16, enabled=half):
        predicted, target = predict(model, packed)
    kind = "mse_var" if packed.version == "1.0" else "nmse"
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    ops.mcm_loss(predicted.to(wide), target.to(wide), cu, kind).backward()
    return torch.cat([p.grad.flatten().cpu().double() for p in model.parameters() if p.grad is not None])


def plain_mcm(model: reference.LWM, packed: PackedBatch) -> tuple[Tensor, Tensor]:
    assert packed.mask is not None
    device, dtype = model.decoder_bias.device, model.decoder_bias.dtype
    tokens, target = (x.to(device, dtype) for x in packed.masked_tokens())
    rows = torch.from_numpy(packed.mask.masked_index.reshape(len(packed), -1) % packed.max_seqlen)
    logits = model(tokens.unflatten(0, (len(packed), -1)), rows.long().to(device))[0]
    return logits.flatten(0, 1), target


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_gradients_of_masked_modelling(device: torch.device, version: str, precision: str) -> None:
    """Of several models together: where rounding moves a pre-activation across ReLU's corner is chance."""
    packed = PackedBatch.from_samples(random_csi(3, *SIZE[version]), version)
    packed = dataclasses.replace(packed, mask=draw_mask(packed, seed=1, epoch=0))
    dtype: torch.dtype = getattr(torch, precision)
    exact, plain, found = [], [], []
    for seed in range(4):
        model = random_model(version, device, num_layers=2, seed=seed)

        def twin(own: torch.dtype, model: LWM = model) -> reference.LWM:
            copied = reference.LWM(version, model.sizes)
            copied.load_state_dict(model.state_dict())
            return copied.to(device, own).eval()

        exact.append(gradients(plain_mcm, twin(torch.float64), packed, torch.float64))
        plain.append(gradients(plain_mcm, twin(torch.float32), packed, dtype))
        found.append(gradients(lambda m, p: BACKENDS["triton"].mcm(m, p, None), model, packed, dtype))
    error, other = error_of(torch.cat(found), torch.cat(exact)), error_of(torch.cat(plain), torch.cat(exact))
    assert error <= max(2 * other, 1e-6), f"{error:.2e}, plain torch {other:.2e}"
    assert error <= gpu_ceilings.GRADIENT[precision], f"{error:.2e}"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bits_do_not_depend_on_batch_size_or_company(cuda: torch.device, precision: str) -> None:
    model = random_model("1.1", cuda, num_layers=3)
    samples = [random_csi(1, *size)[0] for size in ((8, 32), (16, 32), (8, 32), (32, 32), (5, 7), (16, 64))]
    together = np.asarray(model.encode(samples, precision=precision))
    for number, sample in enumerate(samples):
        alone = np.asarray(model.encode([sample], precision=precision))
        np.testing.assert_array_equal(alone[0], together[number])
    small = np.asarray(model.encode(samples, precision=precision, batch_size=1))
    np.testing.assert_array_equal(small, together)


MIXED_GRIDS = [(8, 64), (16, 32), (5, 7), (8, 64), (32, 16), (1, 1)]


def grid_model(device: torch.device) -> LWM:
    return LWM.random(LWMConfig.base(num_layers=2), seed=3).to(device)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_grids_hold_the_limits(device: torch.device, precision: str) -> None:
    samples = [random_csi(1, *size, seed=i)[0] for i, size in enumerate(MIXED_GRIDS)]
    found = torch.as_tensor(grid_model(device).encode(samples, precision=precision))
    with use_backend("torch"):
        exact = torch.as_tensor(grid_model(torch.device("cpu")).encode(samples))
    assert error_of(found, exact.double()) <= numerics.ENCODER["1.1", precision]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bits_of_grids_do_not_depend_on_company_or_graphs(
    cuda: torch.device, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, a grid's table begins at row 0 and the released form of the kernel runs."""
    samples = [random_csi(1, *size, seed=i)[0] for i, size in enumerate(MIXED_GRIDS * 4)]
    model = grid_model(cuda)
    together = np.asarray(model.encode(samples, precision=precision))
    pairs = np.asarray(model.encode(samples, precision=precision, batch_size=2))
    monkeypatch.setenv("LWM_FAST_CUDA_GRAPHS", "0")
    alone = np.asarray(grid_model(cuda).encode(samples, precision=precision, batch_size=1))
    np.testing.assert_array_equal(pairs, together)
    np.testing.assert_array_equal(alone, together)


def test_gradients_of_grids_repeat(device: torch.device) -> None:
    samples = [random_csi(1, *size, seed=i)[0] for i, size in enumerate(MIXED_GRIDS)]
    packed = to_unit_power(PackedBatch.from_samples(samples, "1.1"))
    packed = dataclasses.replace(packed, mask=draw_mask(packed, seed=1, epoch=0))

    def run() -> dict[str, Tensor]:
        model = grid_model(device)
        predicted, target, cls, mean = BACKENDS["triton"].mcm(model, packed, None, pooled=True)
        ((predicted - target).square().mean() + cls.sin().mean() + mean.sin().mean()).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    first, second = run(), run()
    assert "embedding.pos_embed.columns" in first
    for name, gradient in first.items():
        assert bool(gradient.isfinite().all()), name
        assert torch.equal(gradient, second[name]), name


def test_recorded_graphs_give_the_bits_of_eager_batches(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    csi = random_csi(23, 8, 32)
    recorded = np.asarray(random_model("1.1", device, num_layers=2).encode(csi, batch_size=4))
    monkeypatch.setenv("LWM_FAST_CUDA_GRAPHS", "0")
    eager = np.asarray(random_model("1.1", device, num_layers=2).encode(csi, batch_size=4))
    np.testing.assert_array_equal(recorded, eager)


def test_dropout_depends_on_the_draws_alone(device: torch.device) -> None:
    model = random_model("1.1", device, num_layers=2)
    packed = PackedBatch.from_samples(random_csi(4, 8, 32), "1.1", sample_id=np.array([7, 5, 9, 1]))
    packed = dataclasses.replace(packed, mask=draw_mask(packed, seed=1, epoch=0))
    ids = torch.from_numpy(packed.sample_id).to(device)
    first, again, other = (
        BACKENDS["triton"].mcm(model, packed, Draws(seed, 0, ids))[0].detach() for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_batch_that_does_not_fit_is_halved(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("1.1", device, num_layers=1)
    csi = random_csi(37, 8, 32)
    expected = np.asarray(model.encode(csi))
    real = packed_model.encode_on_device

    def limited(weights, batch, pool):
        if batch.total_tokens > 100:
            raise torch.OutOfMemoryError("as a device says it")
        return real(weights, batch, pool)

    monkeypatch.setattr(packed_model, "encode_on_device", limited)
    np.testing.assert_allclose(np.asarray(model.encode(csi)), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_memory_that_really_runs_out(cuda: torch.device) -> None:
    model = random_model("1.1", cuda, num_layers=2)
    csi = random_csi(2000, 32, 64)
    expected = np.asarray(model.encode(csi, batch_size=100))
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (256 << 20)) / total)
    try:
        found = np.asarray(random_model("1.1", cuda, num_layers=2).encode(csi, batch_size=2000))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    np.testing.assert_array_equal(found, expected)
