"""ops.mcm_loss as every user meets it: both losses, gradients, pooling over ranks, compiled graphs, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from lwm_fast.kernels import mcm_loss as kernel
from lwm_fast.kernels.runtime import INTERPRET
from torch import Tensor

from lwm_fast import InputError, ops

pytestmark = pytest.mark.skipif(INTERPRET, reason="checks the plain twin: not under TRITON_INTERPRET=1")

FORMS = [("nmse", False), ("nmse", True), ("mse_var", False)]


def _batch(lengths: list[int], patch_len: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(31)
    p, t = (torch.from_numpy(rng.standard_normal((sum(lengths), patch_len))) for _ in range(2))
    mask_cu = torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32)
    return p.requires_grad_(), 0.5 + 3 * t, mask_cu


def _plainly(p: Tensor, t: Tensor, mask_cu: Tensor, kind: str, compat: bool) -> Tensor:
    if kind == "mse_var":
        return (p - t).square().mean() / t.var()
    ratios = []
    for first, last in zip(mask_cu[:-1].tolist(), mask_cu[1:].tolist(), strict=True):
        energy = (p if compat else t)[first:last].square().sum()
        ratios.append((t - p)[first:last].square().sum() / energy if last > first else energy)
    return torch.stack(ratios).sum() if compat else torch.stack(ratios).mean()


@pytest.mark.parametrize(("kind", "compat"), FORMS)
@pytest.mark.parametrize("lengths", [[1], [6, 0, 13], [18, 18, 18]])
def test_equals_the_formula(lengths: list[int], kind: str, compat: bool) -> None:
    p, t, mask_cu = _batch(lengths)
    loss, expected = (
        ops.mcm_loss(p, t, mask_cu, kind, compat=compat),
        _plainly(p, t, mask_cu, kind, compat),
    )
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    (found,), (wanted,) = torch.autograd.grad(loss, p), torch.autograd.grad(expected, p)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("kind", "compat"), FORMS)
def test_two_ranks_equal_one(kind: str, compat: bool) -> None:
    p, t, mask_cu = _batch([6, 3, 13, 2])
    whole = ops.mcm_loss(p, t, mask_cu, kind, compat=compat)
    (wanted,) = torch.autograd.grad(whole, p)
    halves = [
        (p[:9], t[:9], mask_cu[:3]),
        (p[9:], t[9:], (mask_cu[2:] - 9).int()),
    ]
    totals = [ops.mcm_totals(*half, compat=compat) for half in halves]
    pooled = sum(x.detach() for x in totals)
    losses = [ops.mcm_loss_of(x + (pooled - x).detach(), kind, compat=compat) for x in totals]
    for loss in losses:
        torch.testing.assert_close(loss, whole, rtol=1e-12, atol=0)
    (found,) = torch.autograd.grad(losses[0] + losses[1], p)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("kind", "compat"), FORMS)
def test_zero_energy_and_empty_batches_count_zero(kind: str, compat: bool) -> None:
    zeros, mask_cu = torch.zeros(5, 16), torch.tensor([0, 2, 5], dtype=torch.int32)
    predicted = torch.zeros(5, 16, requires_grad=True)
    loss = ops.mcm_loss(predicted, zeros, mask_cu, kind, compat=compat)
    assert float(loss.detach()) == 0.0
    assert not torch.autograd.grad(loss, predicted)[0].any()
    empty = torch.zeros(1, dtype=torch.int32)
    assert float(ops.mcm_loss(zeros[:0], zeros[:0], empty, kind, compat=compat)) == 0.0


def test_zero_target_counts_zero_but_is_counted() -> None:
    p, t, mask_cu = _batch([4, 4])
    t[:4] = 0
    other = ops.mcm_loss(p[4:], t[4:], mask_cu[:2], "nmse")
    torch.testing.assert_close(ops.mcm_loss(p, t, mask_cu, "nmse"), other / 2)


def test_opcheck() -> None:
    p, t, mask_cu = _batch([3, 0, 4])
    args = (p.detach().float().requires_grad_(), t.float(), mask_cu)
    torch.library.opcheck(kernel.mcm_sums_op, args)
    torch.library.opcheck(kernel.mcm_sums_backward_op, (torch.ones(3, 4), args[0].detach(), *args[1:]))


def test_compiles_whole_with_gradients() -> None:
    p, t, mask_cu = _batch([3, 5])
    compiled = torch.compile(lambda *a: ops.mcm_loss(*a, "nmse"), fullgraph=True, backend="aot_eager")
    (found,) = torch.autograd.grad(compiled(p, t, mask_cu), p)
    (wanted,) = torch.autograd.grad(ops.mcm_loss(p, t, mask_cu, "nmse"), p)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": torch.zeros(2, 16)}, r"target \[2, 16\]"),
        ({"mask_cu": torch.tensor([0, 3])}, r"mask_cu is torch.int64 \[2\]"),
        ({"kind": "mse"}, "kind is 'mse'"),
        ({"target": torch.zeros(3, 16, requires_grad=True)}, r"target.detach\(\)"),
    ],
)
def test_refuses(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "predicted": torch.zeros(3, 16),
        "target": torch.zeros(3, 16),
        "mask_cu": torch.tensor([0, 3], dtype=torch.int32),
        **change,
    }
    with pytest.raises(InputError, match=message):
        ops.mcm_loss(**arguments)
