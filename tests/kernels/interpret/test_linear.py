"""The fixed-tile product, forward and every gradient, against float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.embed_cases import assert_as_exact_as_plain, gradients, leaves
from torch import Tensor

from lwm_fast import ops


def _inputs(rows: int, depth: int, width: int) -> list[Tensor]:
    rng = np.random.default_rng(rows + depth)
    shapes = ((rows, depth), (width, depth), (width,))
    return [torch.from_numpy(rng.standard_normal(s).astype(np.float32)) for s in shapes]


@pytest.mark.parametrize("rows", [1, 33, 129])
@pytest.mark.parametrize(("depth", "width"), [(64, 180), (100, 16), (5, 3)])
def test_matches_float64(rows: int, depth: int, width: int) -> None:
    inputs = _inputs(rows, depth, width)
    values = []
    for function, dtype in (
        (ops.linear, torch.float32),
        (torch.nn.functional.linear, torch.float32),
        (torch.nn.functional.linear, torch.float64),
    ):
        own = leaves(inputs, dtype)
        y = function(*own)
        values.append([y.detach(), *gradients(y, own)])
    for what, value, plain, exact in zip(("y", "dx", "dw", "db"), *values, strict=True):
        assert torch.isfinite(value).all()
        # Sums of few terms are nearly exact in plain torch: 3e-7 is a few roundings.
        if float((value.double() - exact).norm() / exact.norm()) > 3e-7:
            assert_as_exact_as_plain(value, plain, exact, what)


def test_float32_rows_are_rounded_as_they_are_read() -> None:
    x, weight, bias = _inputs(33, 128, 384)
    half = weight.half()
    y = ops.linear(x, half, bias)
    assert y.dtype == torch.float16
    assert torch.equal(y, ops.linear(x.half(), half, bias))
    expected = x.half().double() @ half.double().T + bias.double()
    assert (y.double() - expected).norm() <= 3e-4 * expected.norm()  # the rounding of the result: 2^-12 rms
    own = leaves([x], torch.float32)[0]
    (dx,) = torch.autograd.grad(ops.linear(own, half, bias), own, torch.ones_like(y))
    assert dx.dtype == torch.float32


def test_rows_do_not_depend_on_the_batch() -> None:
    x, weight, bias = _inputs(70, 64, 180)
    together = ops.linear(x, weight, bias)
    order = torch.from_numpy(np.random.default_rng(3).permutation(70))[:33]
    assert torch.equal(ops.linear(x[order], weight, bias), together[order])


def test_no_rows() -> None:
    x, weight, bias = leaves(_inputs(0, 64, 180), torch.float32)
    y = ops.linear(x, weight, bias)
    assert y.shape == (0, 180)
    assert not any(g.any() for g in gradients(y, [x, weight, bias]))
