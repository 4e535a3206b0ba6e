"""The mcm_loss kernels against float64 plain torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lwm_fast import ops


def _run(p: Tensor, t: Tensor, mask_cu: Tensor, dtype: torch.dtype, kind: str, compat: bool) -> list[Tensor]:
    leaf = p.to(dtype).requires_grad_()
    loss = ops.mcm_loss(leaf, t.to(dtype), mask_cu, kind, compat=compat)
    return [loss.detach(), torch.autograd.grad(loss, leaf)[0]]


@pytest.mark.parametrize(("kind", "compat"), [("nmse", False), ("nmse", True), ("mse_var", False)])
@pytest.mark.parametrize("patch_len", [16, 32])
@pytest.mark.parametrize("lengths", [[1], [3, 0, 7], [205, 18, 18], []])
def test_equals_float64(lengths: list[int], patch_len: int, kind: str, compat: bool) -> None:
    rng = np.random.default_rng(11)
    total = sum(lengths)
    p, t = (torch.from_numpy(rng.standard_normal((total, patch_len))).float().double() for _ in range(2))
    mask_cu = torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32)
    exact = _run(p, 5 * t, mask_cu, torch.float64, kind, compat)
    for found, wanted in zip(_run(p, 5 * t, mask_cu, torch.float32, kind, compat), exact, strict=True):
        assert torch.isfinite(found).all()
        torch.testing.assert_close(found.double(), wanted, rtol=2e-6, atol=1e-8)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    rng = np.random.default_rng(12)
    p, t = (torch.from_numpy(rng.standard_normal((40, 32))).float() for _ in range(2))
    mask_cu = torch.tensor([0, 5, 37, 40], dtype=torch.int32)
    one = torch.tensor([0, 32], dtype=torch.int32)
    whole = torch.ops.lwm_fast.mcm_sums(p, t, mask_cu)
    assert torch.equal(whole[1:2], torch.ops.lwm_fast.mcm_sums(p[5:37], t[5:37], one))
