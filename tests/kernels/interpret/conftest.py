"""Tests of the Triton code itself, in Triton's interpreter: `TRITON_INTERPRET=1 pytest tests/kernels/interpret`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lwm_fast.kernels.runtime import INTERPRET


@pytest.fixture(autouse=True)
def _interpreter_with_poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips outside the interpreter; inside, memory that a kernel is to write starts as NaN."""
    if not INTERPRET:
        pytest.skip("needs triton and TRITON_INTERPRET=1: a process of its own")

    def poisoned(real: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def empty(*args: Any, **kwargs: Any) -> torch.Tensor:
            out = real(*args, **kwargs)
            return out.fill_(float("nan")) if out.is_floating_point() else out

        return empty

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
