"""The attention kernels, forward and backward, against float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lwm_fast.kernels import attention as kernel
from support.attention_cases import (
    all_results,
    assert_as_exact_as_plain,
    cotangents_of,
    packed_case,
    plain_attention,
)
from torch import Tensor

from lwm_fast import ops


def _check(lengths: list[int], num_heads: int, head_dim: int, *, with_lse: bool = False) -> None:
    qkv, cu_seqlens = packed_case(lengths, num_heads, head_dim)
    cotangents = cotangents_of(qkv, with_lse)

    def plain(x: Tensor) -> tuple[Tensor, Tensor]:
        return plain_attention(x, cu_seqlens)

    found = all_results(lambda x: ops.attention(x, cu_seqlens, max(lengths)), qkv, cotangents)
    exact = all_results(plain, qkv.double(), cotangents)
    assert_as_exact_as_plain(found, all_results(plain, qkv, cotangents), exact)


@pytest.mark.parametrize(("num_heads", "head_dim"), [(3, 5), (2, 16)])
@pytest.mark.parametrize("lengths", [[1], [2] * 10, [3, 1, 34], [6, 50, 6], [17, 33, 65], [32, 0, 31], [129]])
def test_matches_float64(lengths: list[int], num_heads: int, head_dim: int) -> None:
    _check(lengths, num_heads, head_dim)


@pytest.mark.parametrize(("num_heads", "head_dim"), [(8, 3), (1, 24), (1, 33), (1, 64)])
def test_any_head_dim_up_to_64(num_heads: int, head_dim: int) -> None:
    _check([17, 38], num_heads, head_dim)


@pytest.mark.slow
@pytest.mark.parametrize("length", [257, 513])
@pytest.mark.parametrize("head_dim", [5, 16])
def test_long_buckets_match_float64(length: int, head_dim: int) -> None:
    _check([length], 1, head_dim)


@pytest.mark.slow
def test_longest_sequence_forward() -> None:
    qkv, cu_seqlens = packed_case([4097], 1, 16)
    half = qkv.half()  # takes the widest tiles
    out, lse = ops.attention(half, cu_seqlens, 4097)
    exact_out, exact_lse = plain_attention(half.double(), cu_seqlens)
    assert (out.double() - exact_out).norm() <= 6e-4 * exact_out.norm()
    assert (lse.double() - exact_lse).norm() <= 1e-6 * exact_lse.norm()


@pytest.mark.parametrize("head_dim", [5, 16])
def test_gradient_through_the_log_sum_exp(head_dim: int) -> None:
    _check([1, 20, 33], 2, head_dim, with_lse=True)


def test_half_precision_takes_the_wide_tiles() -> None:
    """float16 rounds inputs alike for both; what is left is the rounding of each result (2^-11)."""
    qkv, cu_seqlens = packed_case([1, 17, 129, 70], 2, 16)
    half, (dout, _) = qkv.half(), cotangents_of(qkv, False)
    cotangents = (dout.half(), None)
    found = all_results(lambda x: ops.attention(x, cu_seqlens, 129), half, cotangents)
    exact = all_results(lambda x: plain_attention(x, cu_seqlens), half.double(), cotangents)
    assert found["out"].dtype == found["dq"].dtype == torch.float16
    for name, value in exact.items():
        assert (found[name].double() - value).norm() <= 6e-4 * value.norm(), name


def test_sharp_scores_neither_overflow_nor_lose_the_largest() -> None:
    qkv, cu_seqlens = packed_case([35, 9], 1, 16)
    sharp = 40 * qkv
    out, lse = ops.attention(sharp, cu_seqlens, 35)
    exact_out, exact_lse = plain_attention(sharp.double(), cu_seqlens)
    assert lse.max() > 1000
    torch.testing.assert_close(lse.double(), exact_lse, rtol=1e-6, atol=0)
    assert (out.double() - exact_out).norm() <= 1e-4 * exact_out.norm()


@pytest.mark.parametrize("head_dim", [5, 16])
def test_bits_do_not_depend_on_packing_or_repetition(head_dim: int) -> None:
    lengths = [33, 1, 70, 17]
    qkv, cu_seqlens = packed_case(lengths, 1, head_dim)
    dout, _ = cotangents_of(qkv, False)

    def run(x: Tensor, cu: Tensor, longest: int, g: Tensor) -> dict[str, Tensor]:
        return all_results(lambda y: ops.attention(y, cu, longest), x, (g, None))

    together = run(qkv, cu_seqlens, 70, dout)
    again = run(qkv, cu_seqlens, 200, dout)  # a longer max_seqlen launches more programs, all idle
    assert all(torch.equal(together[name], again[name]) for name in together)
    for i, length in enumerate(lengths):
        first, last = cu_seqlens[i : i + 2].tolist()
        alone = run(qkv[first:last], torch.tensor([0, length], dtype=torch.int32), length, dout[first:last])
        for name, value in alone.items():
            rows = together[name][:, first:last] if name == "lse" else together[name][first:last]
            assert torch.equal(value, rows), f"{name} of the sequence of {length}"


@pytest.mark.parametrize("head_dim", [5, 16])
def test_bits_do_not_depend_on_the_query_tile(head_dim: int) -> None:
    """In 16 bits the longest length picks the tile of queries: alone in 32 rows, beside a long one in 64."""
    qkv, cu_seqlens = packed_case([17, 33, 2, 29, 129], 2, head_dim)
    dout, _ = cotangents_of(qkv, False)
    half, g = qkv.half(), dout.half()
    assert kernel.tile_for("attention", 16, 2, 33).rows < kernel.tile_for("attention", 16, 2, 129).rows

    def run(rows: int, cu: Tensor, longest: int) -> dict[str, Tensor]:
        return all_results(lambda x: ops.attention(x, cu, longest), half[:rows], (g[:rows], None))

    long, short = run(len(half), cu_seqlens, 129), run(81, cu_seqlens[:5], 33)
    for name, value in short.items():
        assert torch.equal(value, long[name][:, :81] if name == "lse" else long[name][:81]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("num_heads", "head_dim"), [(3, 5), (2, 16)])
def test_cls_alone_has_the_bits_of_the_cls_row(num_heads: int, head_dim: int, dtype: torch.dtype) -> None:
    qkv, cu_seqlens = packed_case([17, 0, 1, 70, 129], num_heads, head_dim)
    qkv = qkv.to(dtype)
    alone = ops.attention_cls(qkv, cu_seqlens)
    whole, _ = ops.attention(qkv, cu_seqlens, 129)
    some = cu_seqlens.diff() > 0
    assert torch.equal(alone[some], whole[cu_seqlens[:-1].long()[some]])
    assert not alone[~some].any()
    assert ops.attention_cls(qkv[:0], cu_seqlens[:1]).shape == (0, num_heads, head_dim)


@pytest.mark.parametrize("cu_seqlens", [[0], [0, 0, 0]])
def test_no_tokens(cu_seqlens: list[int]) -> None:
    qkv = torch.zeros(0, 3, 2, 16, requires_grad=True)
    out, lse = ops.attention(qkv, torch.tensor(cu_seqlens, dtype=torch.int32), 0)
    assert out.shape == (0, 2, 16)
    assert lse.shape == (2, 0)
    (dqkv,) = torch.autograd.grad(out.sum(), qkv)
    assert dqkv.shape == qkv.shape


def test_more_than_65535_sequences_lie_on_the_wide_grid_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    grids: list[tuple[int, int]] = []

    class Recorder:
        def __getitem__(self, grid: tuple[int, int]) -> Any:
            grids.append(grid)
            return lambda *args, **kwargs: None

    monkeypatch.setattr(kernel, "_attention_fwd_kernel", Recorder())
    cu_seqlens = torch.arange(70_001, dtype=torch.int32)
    ops.attention(torch.zeros(70_000, 3, 12, 3), cu_seqlens, 4097)
    ((axis0, axis1),) = grids
    assert axis0 == 70_000 * 12 < 1 << 31
    assert axis1 <= 65_535
