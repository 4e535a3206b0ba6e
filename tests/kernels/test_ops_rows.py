"""ops.linear, pool and masked_head as every user meets them: values, gradients, registration, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lwm_fast.kernels import linear as linear_kernel
from lwm_fast.kernels import pool as pool_kernel
from lwm_fast.kernels.runtime import INTERPRET
from torch import Tensor

from lwm_fast import InputError, ops, reference

pytestmark = pytest.mark.skipif(INTERPRET, reason="checks the plain twin: not under TRITON_INTERPRET=1")

CU = torch.tensor([0, 4, 5, 9], dtype=torch.int32)


def _draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    rng = np.random.default_rng([seed, *shape])
    return torch.from_numpy(rng.standard_normal(shape)).to(dtype).requires_grad_()


def test_linear_equals_torch_with_every_gradient() -> None:
    inputs = [_draw(7, 60), _draw(180, 60), _draw(180)]
    y, expected = ops.linear(*inputs), torch.nn.functional.linear(*inputs)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    found, wanted = (torch.autograd.grad(v.sin().sum(), inputs) for v in (y, expected))
    for value, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-11, atol=1e-11)
    without = ops.linear(*inputs[:2])
    torch.testing.assert_close(without, inputs[0] @ inputs[1].T, rtol=1e-12, atol=1e-12)


def test_linear_rounds_float32_rows_to_the_dtype_of_the_weight() -> None:
    x, weight = _draw(7, 64, dtype=torch.float32), _draw(16, 64, dtype=torch.bfloat16)
    y = ops.linear(x, weight)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, (x.bfloat16().float() @ weight.float().T).bfloat16())
    dx, dweight = torch.autograd.grad(y.float().sum(), [x, weight])
    assert (dx.dtype, dweight.dtype) == (torch.float32, torch.bfloat16)


def _pooled(x: Tensor, kind: str) -> Tensor:
    cut = {"cls": slice(0, 1), "mean": slice(1, None), "mean_with_cls": slice(None)}[kind]
    return torch.stack([x[a:b][cut].mean(0) for a, b in ((0, 4), (4, 5), (5, 9))])


@pytest.mark.parametrize("kind", ["cls", "mean", "mean_with_cls"])
def test_pool_equals_torch_with_its_gradient(kind: str) -> None:
    x = _draw(9, 64)
    pooled, expected = ops.pool(x, CU, kind, dtype=torch.float64), _pooled(x, kind)
    torch.testing.assert_close(pooled, expected, rtol=1e-12, atol=1e-12, equal_nan=True)
    (found,) = torch.autograd.grad(pooled.nan_to_num().sin().sum(), x)
    (wanted,) = torch.autograd.grad(expected.nan_to_num().sin().sum(), x)
    torch.testing.assert_close(found[CU[:-1].diff().sum() :], wanted[5:], rtol=1e-12, atol=1e-12)
    assert ops.pool(x.bfloat16(), CU, kind).dtype == torch.float32


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_masked_head_equals_the_reference(version: str) -> None:
    model = reference.LWM(version).double()
    parameters = [model.linear.weight, model.linear.bias, model.norm.alpha, model.norm.bias]
    parameters += [model.decoder.weight, model.decoder_bias]
    rng = np.random.default_rng(2)
    with torch.no_grad():
        for p in parameters:
            p.copy_(torch.from_numpy(rng.standard_normal(p.shape) * 0.2))
    x = _draw(12, model.sizes.embed_dim)
    index = torch.tensor([1, 5, 5, 11, 2], dtype=torch.int32)
    found = ops.masked_head(x, index, *parameters)
    expected = model.head(x[None], index.long()[None])[0]
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    wanted = torch.autograd.grad(expected.sin().sum(), [x, *parameters])
    gradients = torch.autograd.grad(found.sin().sum(), [x, *parameters])
    for value, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-10)
    assert ops.masked_head(x, index[:0], *parameters).shape == (0, model.sizes.patch_len)


def test_opcheck() -> None:
    x, weight, bias = (_draw(*s, dtype=torch.float32) for s in ((9, 64), (16, 64), (16,)))
    torch.library.opcheck(linear_kernel.linear_op, (x, weight, bias))
    torch.library.opcheck(linear_kernel.linear_backward_op, (torch.ones(9, 16), x.detach(), weight.detach()))
    for kind in ("cls", "mean_with_cls"):
        torch.library.opcheck(pool_kernel.pool_op, (x, CU, kind, torch.float32))
        torch.library.opcheck(pool_kernel.pool_backward_op, (torch.ones(3, 64), x.detach(), CU, kind))


def test_errors() -> None:
    x, weight = torch.zeros(9, 64), torch.zeros(16, 64)
    with pytest.raises(InputError, match=r"linear: x has shape \[9, 64\] and weight \[16, 60\]"):
        ops.linear(x, weight[:, :60])
    with pytest.raises(InputError, match=r"x is torch.bfloat16, expected torch.float16"):
        ops.linear(x.bfloat16(), weight.half())
    with pytest.raises(InputError, match=r"bias has shape \[15\], expected \[16\]"):
        ops.linear(x, weight, torch.zeros(15))
    with pytest.raises(InputError, match=r"weight is \[513, 64\]"):
        ops.linear(x, torch.zeros(513, 64))
    with pytest.raises(InputError, match="kind is 'max', expected one of cls, mean"):
        ops.pool(x, CU, "max")
    with pytest.raises(InputError, match=r"expected a float \[T, D\] with D up to 128"):
        ops.pool(torch.zeros(9, 129), CU, "mean")
    with pytest.raises(InputError, match=r"cu_seqlens is torch.int64"):
        ops.pool(x, CU.long(), "mean")
    with pytest.raises(InputError, match=r"masked_index is torch.float32"):
        ops.masked_head(x, torch.zeros(3), *[weight] * 6)
