"""The `triton` backend's code on a plain CPU: every operation has a plain torch twin there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from lwm_fast import LWM, LWMConfig, use_backend
from lwm_fast.backends import Backend
from lwm_fast.backends.triton_backend import TritonBackend
from lwm_fast.data.mask import draw_mask
from lwm_fast.draws import Draws
from lwm_fast.packed import PackedBatch

from .released import random_csi, relative_error

SIZES = {"1.0": [(32, 32)] * 3, "1.1": [(8, 32), (32, 32), (3, 5), (8, 32), (1, 1)]}


@pytest.fixture
def op_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forces the backend, which else refuses a CPU without the interpreter."""
    monkeypatch.setattr(TritonBackend, "available", lambda self, device: None)
    with use_backend("triton"):
        yield


def two_layers(version: str, seed: int = 1, **changes: float) -> LWM:
    make = LWMConfig.v1_0 if version == "1.0" else LWMConfig.v1_1
    return LWM.random(make(num_layers=2, **changes), seed=seed)


def mixed_samples(version: str, sizes: list[tuple[int, int]] | None = None) -> list[np.ndarray]:
    return [random_csi(1, *size, seed=i)[0] for i, size in enumerate(sizes or SIZES[version])]


def masked_batch(
    version: str, *, compat: bool = False, sizes: list[tuple[int, int]] | None = None
) -> PackedBatch:
    samples = mixed_samples(version, sizes)
    batch = PackedBatch.from_samples(samples, version, sample_id=np.arange(40, 40 + len(samples)))
    return replace(batch, mask=draw_mask(batch, seed=5, epoch=2, compat=compat))


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def mcm_difference(
    model: LWM, batch: PackedBatch, draws: Draws, fast: Backend, plain: Backend
) -> tuple[bool, float, float]:
    """Two backends on one batch: equal targets, relative error of predictions, worst error of a gradient.

    A gradient's error is relative to its norm, or to a hundredth of the largest one where it is smaller.
    """
    found = []
    for backend in (fast, plain):
        model.zero_grad()
        predicted, target = backend.mcm(model, batch, draws)
        (predicted - target).square().mean().backward()
        found.append((predicted.detach(), target, gradients(model)))
    (ours, target, our_gradients), (expected, expected_target, expected_gradients) = found
    if our_gradients.keys() != expected_gradients.keys():
        return False, float("inf"), float("inf")
    least = 0.01 * max(float(g.norm()) for g in expected_gradients.values())
    errors = [
        float((our_gradients[name] - g).norm()) / max(float(g.norm()), least)
        for name, g in expected_gradients.items()
    ]
    return torch.equal(target, expected_target), relative_error(ours, expected), max(errors)
