"""ops.norm as every user meets it: plain torch on a CPU, gradients, compiled graphs, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lwm_fast.kernels import norm as kernel
from lwm_fast.kernels.runtime import INTERPRET
from torch import Tensor

from lwm_fast import InputError, ops, reference

pytestmark = pytest.mark.skipif(INTERPRET, reason="checks the plain twin: not under TRITON_INTERPRET=1")


def _inputs(*shape: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    rng = np.random.default_rng(3)
    values = [rng.standard_normal(size) for size in (shape, shape[-1:], shape[-1:])]
    return [torch.from_numpy(value).to(dtype).requires_grad_() for value in values]


@pytest.mark.parametrize("shape", [(1, 8), (7, 64), (3, 5, 128), (0, 64)])
def test_equals_reference_with_every_gradient(shape: tuple[int, ...]) -> None:
    inputs = _inputs(*shape)
    y, expected = ops.norm(*inputs), reference.norm(*inputs)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(y.sin().sum(), inputs)
    wanted = torch.autograd.grad(expected.sin().sum(), inputs)
    for value, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-11, atol=1e-11)


def test_constant_row_has_torch_gradient() -> None:
    x, alpha, bias = _inputs(2, 8)
    x = torch.zeros(2, 8, dtype=torch.float64, requires_grad=True)
    for function in (ops.norm, reference.norm):
        (gradient,) = torch.autograd.grad((function(x, alpha, bias) * alpha.detach()).sum(), x)
        assert torch.isfinite(gradient).all()


def test_keeps_bfloat16_and_computes_in_float32() -> None:
    x, alpha, bias = _inputs(9, 64, dtype=torch.float32)
    y = ops.norm(x.bfloat16(), alpha, bias)
    assert y.dtype == torch.bfloat16
    expected = reference.norm(x.bfloat16().float(), alpha, bias)
    torch.testing.assert_close(y.float(), expected, rtol=2**-8, atol=1e-6)  # one rounding, at the end


def test_strided_rows() -> None:
    x, alpha, bias = _inputs(64, 8)
    alpha, bias = _inputs(8, 64)[1:]
    torch.testing.assert_close(ops.norm(x.T, alpha, bias), reference.norm(x.T, alpha, bias))


def test_opcheck() -> None:
    x, alpha, bias = _inputs(5, 64, dtype=torch.float32)
    torch.library.opcheck(kernel.norm_op, (x, alpha, bias))
    torch.library.opcheck(kernel.norm_backward_op, (x.detach(), x.detach(), alpha.detach()))


def test_compiles_whole_with_gradients() -> None:
    inputs = _inputs(5, 64)

    def loss(*values: Tensor) -> Tensor:
        return (ops.norm(*values) * 3).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found, wanted = (torch.autograd.grad(f(*inputs), inputs) for f in (compiled, loss))
    for value, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(value, other)


def test_refuses_wrong_shapes() -> None:
    with pytest.raises(InputError, match=r"norm: alpha has shape \[3\], expected \[8\]"):
        ops.norm(torch.zeros(2, 8), torch.ones(3), torch.ones(8))
    with pytest.raises(InputError, match=r"last axis must be 8\.\.1024"):
        ops.norm(torch.zeros(2, 7), torch.ones(7), torch.ones(7))
