"""The Norm kernel, forward and backward, against float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.embed_cases import assert_as_exact_as_plain, gradients, leaves
from torch import Tensor

from lwm_fast import ops, reference


def _inputs(rows: int, dim: int) -> list[Tensor]:
    rng = np.random.default_rng(rows + dim)
    x = 3 * rng.standard_normal((rows, dim)) + 0.5
    alpha, bias = 1 + 0.1 * rng.standard_normal(dim), 0.1 * rng.standard_normal(dim)
    return [torch.from_numpy(value.astype(np.float32)) for value in (x, alpha, bias)]


@pytest.mark.parametrize("dim", [33, 60, 64, 128])
@pytest.mark.parametrize("rows", [1, 31, 129, 1100])
def test_matches_float64(rows: int, dim: int) -> None:
    inputs = _inputs(rows, dim)
    values = []
    for function, dtype in (
        (ops.norm, torch.float32),
        (reference.norm, torch.float32),
        (reference.norm, torch.float64),
    ):
        own = leaves(inputs, dtype)
        y = function(*own)
        values.append([y.detach(), *gradients(y, own)])
    for what, value, plain, exact in zip(("y", "dx", "dalpha", "dbias"), *values, strict=True):
        assert_as_exact_as_plain(value, plain, exact, what)


def test_constant_row_is_finite_and_passes_no_more_than_torch() -> None:
    x, alpha, bias = leaves(_inputs(2, 64), torch.float32)
    with torch.no_grad():
        x[0] = 0.0
    found = gradients(ops.norm(x, alpha, bias), [x, alpha, bias])
    expected = gradients(reference.norm(x, alpha, bias), [x, alpha, bias])
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-5)


def test_rows_do_not_depend_on_their_place() -> None:
    x, alpha, bias = _inputs(70, 64)
    order = torch.from_numpy(np.random.default_rng(1).permutation(70))
    own, shuffled = x.clone().requires_grad_(), x[order].clone().requires_grad_()
    y, z = ops.norm(own, alpha, bias), ops.norm(shuffled, alpha, bias)
    assert torch.equal(y[order], z)
    (dx,) = torch.autograd.grad(y.square().sum(), own)
    (dz,) = torch.autograd.grad(z.square().sum(), shuffled)
    assert torch.equal(dx[order], dz)


def test_repeats_bit_for_bit_and_takes_no_rows() -> None:
    own = leaves(_inputs(700, 64), torch.float32)
    first, second = (gradients(ops.norm(*own), own) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    x, alpha, bias = leaves(_inputs(0, 64), torch.float32)
    y = ops.norm(x, alpha, bias)
    assert y.shape == (0, 64)
    assert [g.abs().sum().item() for g in gradients(y, [x, alpha, bias])] == [0.0, 0.0, 0.0]
