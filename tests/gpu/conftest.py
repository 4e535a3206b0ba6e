"""Tests of what only a GPU can show: `pytest tests/gpu`, or `bench/gpu.sh check`.

They skip where torch sees no CUDA device. LWM_FAST_GPU_TESTS=cpu runs those that can on the plain twins instead,
which shows that the tests themselves work and nothing about a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

ON_CPU = os.environ.get("LWM_FAST_GPU_TESTS") == "cpu"


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU, or the CPU in its place."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if not ON_CPU:
        pytest.skip("needs a CUDA device (LWM_FAST_GPU_TESTS=cpu walks through on the plain twins)")
    return torch.device("cpu")


@pytest.fixture(scope="session")
def cuda() -> torch.device:
    """The GPU, for what has no meaning elsewhere."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that a kernel is to write starts as NaN."""

    def poisoned(real: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def empty(*args: Any, **kwargs: Any) -> torch.Tensor:
            out = real(*args, **kwargs)
            return out.fill_(float("nan")) if out.is_floating_point() else out

        return empty

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
