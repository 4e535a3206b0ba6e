"""The `triton` backend's code on a plain CPU: every operation has a plain torch twin there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from lwm_fast import LWM, LWMConfig, use_backend
from lwm_fast.backends.triton_backend import TritonBackend
from lwm_fast.data.mask import draw_mask
from lwm_fast.packed import PackedBatch

from .released import random_csi

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
