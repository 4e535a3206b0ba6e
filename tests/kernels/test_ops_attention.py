"""`ops.attention` without Triton: the plain twin, the op's registration, and its errors."""

from __future__ import annotations

import math

import pytest
import torch
from lwm_fast.kernels import attention_backward
from lwm_fast.kernels.attention import attention_op, grid_of
from lwm_fast.kernels.attention_cls import attention_cls_op
from support.attention_cases import (
    all_results,
    assert_as_exact_as_plain,
    cotangents_of,
    packed_case,
    plain_attention,
)
from torch import Tensor

from lwm_fast import ops
from lwm_fast.errors import InputError

LENGTHS = [17, 17, 1, 40, 0, 33]
HEADS = [(12, 5), (8, 16), (2, 64)]


@pytest.mark.parametrize("with_lse", [False, True])
@pytest.mark.parametrize(("num_heads", "head_dim"), HEADS)
def test_matches_float64(num_heads: int, head_dim: int, with_lse: bool) -> None:
    qkv, cu_seqlens = packed_case(LENGTHS, num_heads, head_dim)
    cotangents = cotangents_of(qkv, with_lse)

    def plain(x: Tensor) -> tuple[Tensor, Tensor]:
        return plain_attention(x, cu_seqlens)

    found = all_results(lambda x: ops.attention(x, cu_seqlens, 40), qkv, cotangents)
    exact = all_results(plain, qkv.double(), cotangents)
    assert_as_exact_as_plain(found, all_results(plain, qkv, cotangents), exact)


def test_gradients_are_those_of_finite_differences() -> None:
    qkv, cu_seqlens = packed_case([4, 1, 6], 2, 5)
    own = qkv.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ops.attention(x, cu_seqlens, 6, scale=0.7), (own,))


def test_rounded_inputs_keep_their_dtype_and_float32_sums() -> None:
    qkv, cu_seqlens = packed_case([33, 9], 2, 16)
    out, lse = ops.attention(qkv.bfloat16(), cu_seqlens, 33)
    exact, _ = plain_attention(qkv.bfloat16().double(), cu_seqlens)
    assert (out.dtype, lse.dtype) == (torch.bfloat16, torch.float32)
    assert (out.double() - exact).norm() <= 2**-8 * exact.norm()  # the rounding of the result alone


def test_opcheck() -> None:
    qkv, cu_seqlens = packed_case([5, 1, 9], 2, 5)
    arguments = (qkv.requires_grad_(), cu_seqlens, 9, 0.5)
    torch.library.opcheck(attention_op, arguments)
    out, lse = (x.detach() for x in attention_op(*arguments))
    for dlse in (None, torch.ones_like(lse)):
        saved = (torch.ones_like(out), dlse, qkv.detach(), out, lse, cu_seqlens, 9, 0.5)
        torch.library.opcheck(attention_backward.attention_backward_op, saved)


def test_compiles_without_graph_breaks_for_other_batches_too() -> None:
    def loss(x: Tensor, cu: Tensor, longest: int) -> Tensor:
        return ops.attention(x, cu, longest)[0].square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for lengths in ([5, 9], [17, 2, 33]):
        qkv, cu_seqlens = packed_case(lengths, 2, 16)
        own, other = qkv.clone().requires_grad_(), qkv.clone().requires_grad_()
        compiled(own, cu_seqlens, max(lengths)).backward()
        loss(other, cu_seqlens, max(lengths)).backward()
        assert torch.equal(own.grad, other.grad)


def test_no_tokens() -> None:
    qkv = torch.zeros(0, 3, 8, 16, requires_grad=True)
    out, lse = ops.attention(qkv, torch.zeros(1, dtype=torch.int32), 0)
    assert (out.shape, lse.shape) == ((0, 8, 16), (8, 0))
    out.sum().backward()
    assert qkv.grad is not None
    weights = ops.attention_weights(qkv.detach(), lse, torch.zeros(1, dtype=torch.int32), 0)
    assert weights.shape == (0, 8, 0, 0)


def test_takes_strided_input() -> None:
    qkv, cu_seqlens = packed_case([6, 3], 2, 16)
    strided = qkv.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    assert not strided.is_contiguous()
    assert torch.equal(ops.attention(strided, cu_seqlens, 6)[0], ops.attention(qkv, cu_seqlens, 6)[0])


def test_weights_are_the_softmax_and_zero_past_the_end() -> None:
    qkv, cu_seqlens = packed_case(LENGTHS, 3, 5)
    _, lse = ops.attention(qkv.double(), cu_seqlens, 40)
    weights = ops.attention_weights(qkv.double(), lse, cu_seqlens, 40)
    assert weights.shape == (6, 3, 40, 40)
    for i, length in enumerate(LENGTHS):
        q, k, _ = qkv[cu_seqlens[i] : cu_seqlens[i + 1]].double().permute(1, 2, 0, 3)
        expected = torch.zeros(3, 40, 40, dtype=torch.float64)
        expected[:, :length, :length] = (q @ k.mT / math.sqrt(5)).softmax(-1)
        torch.testing.assert_close(weights[i], expected, rtol=1e-12, atol=1e-14)
    some = ops.attention_weights(qkv.double(), lse, cu_seqlens, 40, first=2, last=4)
    assert torch.equal(some, weights[2:4])


def test_weights_have_gradients() -> None:
    qkv, cu_seqlens = packed_case([4, 3], 1, 5)
    own = qkv.double().requires_grad_()

    def weights(x: Tensor) -> Tensor:
        _, lse = ops.attention(x, cu_seqlens, 4)
        return ops.attention_weights(x, lse, cu_seqlens, 4)

    assert torch.autograd.gradcheck(weights, (own,))


@pytest.mark.parametrize(("num_heads", "head_dim"), HEADS)
def test_cls_alone_is_the_cls_row(num_heads: int, head_dim: int) -> None:
    qkv, cu_seqlens = packed_case(LENGTHS, num_heads, head_dim)
    alone = ops.attention_cls(qkv.double(), cu_seqlens)
    whole, _ = ops.attention(qkv.double(), cu_seqlens, 40)
    some = cu_seqlens.diff() > 0
    torch.testing.assert_close(alone[some], whole[cu_seqlens[:-1].long()[some]], rtol=1e-12, atol=1e-14)
    assert not alone[~some].any()


def test_cls_alone_opcheck_and_no_tokens() -> None:
    qkv, cu_seqlens = packed_case([5, 1, 9], 2, 5)
    torch.library.opcheck(attention_cls_op, (qkv, cu_seqlens, 0.5))
    assert ops.attention_cls(qkv[:0], cu_seqlens[:1]).shape == (0, 2, 5)


def test_grids_keep_sequences_on_the_wide_axis() -> None:
    assert grid_of("attention", 70_000, 12, 4097, 64) == (840_000, 65)
    assert grid_of("attention", 3, 8, 1, 64) == (24, 1)
    with pytest.raises(InputError, match=r"300000000 sequences x 12 heads .* split the batch"):
        grid_of("attention", 300_000_000, 12, 17, 64)
    with pytest.raises(InputError, match="up to 5000000 tokens"):
        grid_of("attention", 1, 1, 5_000_000, 64)


CU = torch.tensor([0, 2, 6], dtype=torch.int32)
QKV = torch.zeros(6, 3, 2, 16)


@pytest.mark.parametrize(
    ("qkv", "cu_seqlens", "longest", "scale", "message"),
    [
        (QKV[0], CU, 4, None, r"qkv has shape \[3, 2, 16\], expected \[T, 3, H, d\]"),
        (torch.zeros(6, 3, 1, 65), CU, 4, None, "d from 3 to 64"),
        (torch.zeros(6, 3, 1, 2), CU, 4, None, "d from 3 to 64"),
        (QKV.int(), CU, 4, None, "qkv is torch.int32"),
        (QKV, CU.long(), 4, None, "cu_seqlens is torch.int64"),
        (QKV, CU, -1, None, "max_seqlen is -1"),
        (QKV, CU, 3, None, "sequence 1 has 4 tokens, more than max_seqlen = 3"),
        (QKV, CU + 1, 4, None, "does not cut 6 packed tokens"),
        (QKV, torch.tensor([0, 8, 6], dtype=torch.int32), 8, None, "does not cut 6 packed tokens"),
        (QKV, CU, 4, -0.5, "scale is -0.5, expected a finite number above 0"),
        (QKV, CU, 4, math.inf, "scale is inf"),
    ],
)  # fmt: skip
def test_errors(qkv: Tensor, cu_seqlens: Tensor, longest: int, scale: float | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ops.attention(qkv, cu_seqlens, longest, scale)


def test_weights_errors() -> None:
    _, lse = ops.attention(QKV, CU, 4)
    with pytest.raises(InputError, match=r"lse has shape \[6, 2\], expected \[2, 6\]"):
        ops.attention_weights(QKV, lse.T, CU, 4)
    with pytest.raises(InputError, match=r"sequences 1..3 asked for, the batch has 0..2"):
        ops.attention_weights(QKV, lse, CU, 4, first=1, last=3)
