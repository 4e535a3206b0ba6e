"""The pooling kernel against float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lwm_fast import ops

LENGTHS = [17, 2, 33, 65, 129, 40]


def _batch(lengths: list[int], dim: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(dim)
    x = torch.from_numpy(rng.standard_normal((sum(lengths), dim)).astype(np.float32))
    return x, torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32)


def _plainly(x: Tensor, cu_seqlens: Tensor, kind: str) -> Tensor:
    rows = [x[a:b] for a, b in zip(cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist(), strict=True)]
    cut = {"cls": slice(0, 1), "mean": slice(1, None), "mean_with_cls": slice(None)}[kind]
    return torch.stack([r[cut].mean(0) for r in rows])


@pytest.mark.parametrize("kind", ["cls", "mean", "mean_with_cls"])
@pytest.mark.parametrize("dim", [60, 64, 128])
def test_matches_float64(dim: int, kind: str) -> None:
    x, cu_seqlens = _batch(LENGTHS, dim)
    own = x.clone().requires_grad_()
    pooled = ops.pool(own, cu_seqlens, kind)
    exact = _plainly(x.double(), cu_seqlens, kind)
    assert (pooled.double() - exact).norm() <= 2e-7 * exact.norm()
    wide = x.double().requires_grad_()
    (found,) = torch.autograd.grad(pooled.sin().sum(), own)
    (wanted,) = torch.autograd.grad(_plainly(wide, cu_seqlens, kind).sin().sum(), wide)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-7)


def test_half_precision_tokens_are_summed_in_float32() -> None:
    x, cu_seqlens = _batch([513], 64)
    pooled = ops.pool(x.half(), cu_seqlens, "mean")
    exact = _plainly(x.half().double(), cu_seqlens, "mean")
    assert pooled.dtype == torch.float32
    assert (pooled.double() - exact).norm() <= 3e-7 * exact.norm()


@pytest.mark.parametrize("kind", ["cls", "mean", "mean_with_cls"])
def test_bits_do_not_depend_on_packing(kind: str) -> None:
    x, cu_seqlens = _batch(LENGTHS, 64)
    together = ops.pool(x, cu_seqlens, kind)
    for i, length in enumerate(LENGTHS):
        first = int(cu_seqlens[i])
        alone = ops.pool(x[first : first + length], torch.tensor([0, length], dtype=torch.int32), kind)
        assert torch.equal(alone[0], together[i])


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_means_of_nothing_are_nan_and_no_sequences_give_no_rows() -> None:
    x, cu_seqlens = _batch([1, 3], 64)
    assert ops.pool(x, cu_seqlens, "mean").isnan().all(1).tolist() == [True, False]
    assert ops.pool(x[:0], cu_seqlens[:1], "mean").shape == (0, 64)
