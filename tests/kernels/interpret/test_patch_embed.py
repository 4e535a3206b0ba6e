"""The fused embedding kernel, forward and every gradient, against float64."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from lwm_fast.kernels import patch_embed as kernel
from lwm_fast.kernels import positions
from support.embed_cases import NAMES, SMALL_SIZES, Case, assert_as_exact_as_plain, gradients, leaves, make
from torch import Tensor

from lwm_fast import ops

BUCKETS = {
    "1.0": [(8, 16), (8, 32), (16, 32), (32, 32), (32, 64), (64, 64)],
    "1.1": [(8, 32), (8, 64), (16, 64), (32, 64), (32, 128), (64, 128)],
}  # 17, 33, 65, 129, 257, 513 tokens


def _check_csi(case: Case) -> None:
    values = []
    for dtype in (None, torch.float32, torch.float64):
        own = leaves(case.parameters, dtype or torch.float32)
        if dtype is None:
            y = ops.patch_embed(*case.source(), *own, **case.keywords())
        else:
            y = case.plain(case.tokens(), own)
        values.append([y.detach(), *gradients(y, own)])
    for what, value, plain, exact in zip(("y", *NAMES), *values, strict=True):
        assert_as_exact_as_plain(value, plain, exact, what)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_mixed_channels_match_float64(version: str, masked: bool) -> None:
    _check_csi(make(version, SMALL_SIZES[version], masked=masked))


@pytest.mark.parametrize("masked", [False, True])
def test_mixed_grids_match_float64(masked: bool) -> None:
    _check_csi(make("1.1", SMALL_SIZES["1.1"], masked=masked, grids=True))


def test_sequences_may_share_rows_in_any_way() -> None:
    case = make("1.1", [(1, 1), (8, 32), (3, 5), (8, 8), (8, 32)])
    case.position_start = torch.tensor([18, 0, 11, 2, 1], dtype=torch.int32)  # the last row is 19
    _check_csi(case)


@pytest.mark.parametrize("sizes", [[(0, 4)], [(0, 4)] * 3 + [(4, 4)], [(1, 1), (64, 128)]])
def test_grids_of_one_token_and_of_the_most(sizes: list[tuple[int, int]]) -> None:
    _check_csi(make("1.1", sizes, grids=True))


@pytest.mark.parametrize("size", range(6))
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_every_bucket_length_matches_float64(version: str, size: int) -> None:
    _check_csi(make(version, BUCKETS[version][size : size + 1], seed=size))


@pytest.mark.parametrize("grids", [False, True])
def test_sequences_share_programs(monkeypatch: pytest.MonkeyPatch, grids: bool) -> None:
    monkeypatch.setattr(kernel, "_FORWARD_BATCH", 1)  # forward runs of 8
    monkeypatch.setattr(kernel, "_CHUNKS", 2)  # backward runs of 16, the last one shorter
    monkeypatch.setattr(positions, "_CHUNKS", 3)  # of 8 for the gradient of a table that sequences share
    _check_csi(make("1.1", [(8, 40), *[(4, 4), (1, 9)] * 10], masked=True, grids=grids))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("version", "grids"), [("1.0", False), ("1.1", False), ("1.1", True)])
def test_tokens_match_float64(version: str, masked: bool, grids: bool) -> None:
    case = make(version, SMALL_SIZES[version], masked=masked, grids=grids)
    values = []
    for dtype in (None, torch.float32, torch.float64):
        tokens, *own = leaves([case.tokens(), *case.parameters], dtype or torch.float32)
        if dtype is None:
            y = ops.patch_embed_tokens(tokens, case.cu_seqlens, *own, **case.token_keywords())
        else:
            y = case.plain(tokens, own)
        values.append([y.detach(), *gradients(y, [tokens, *own])])
    for what, value, plain, exact in zip(("y", "tokens", *NAMES), *values, strict=True):
        assert_as_exact_as_plain(value, plain, exact, what)


def test_random_patches_are_those_of_numpy() -> None:
    case = make("1.1", SMALL_SIZES["1.1"], masked=True)
    case.action = torch.full_like(case.action, 2)
    weight = torch.zeros(128, 32)
    weight[:32] = torch.eye(32)  # the pre-Norm row is the patch and its negative: mean 0
    weight[32:64] = -torch.eye(32)
    zeros = [torch.zeros(128), torch.zeros(case.max_seqlen, 128)]
    y = ops.patch_embed(*case.source(), weight, *zeros, torch.ones(128), torch.zeros(128), **case.keywords())
    drawn = case.masked(case.tokens())
    expected = case.plain(case.tokens(), [weight, *zeros, torch.ones(128), torch.zeros(128)])
    assert bool((drawn != case.tokens()).all())
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("version", "grids"), [("1.0", False), ("1.1", False), ("1.1", True)])
def test_a_sequence_does_not_depend_on_the_packing(version: str, grids: bool) -> None:
    """With grids the sequence alone reads its table from the first row, as every released model does."""
    case = make(version, SMALL_SIZES[version], masked=True, grids=grids)
    weight, bias, position, *norm = case.parameters
    together = ops.patch_embed(*case.source(), *case.parameters, **case.keywords())
    for i, size in enumerate(case.sizes):
        first, last = int(case.cu_seqlens[i]), int(case.cu_seqlens[i + 1])
        alone = dataclasses.replace(
            case,
            sizes=[size],
            csi=case.csi[case.offsets[i] : case.offsets[i + 1]],
            offsets=torch.tensor([0, size[0] * size[1]]),
            shape=case.shape[i : i + 1],
            cu_seqlens=torch.tensor([0, last - first], dtype=torch.int32),
            scale=case.scale[i : i + 1],
            cls=case.cls[i],
            action=case.action[first:last],
            sample_id=case.sample_id[i : i + 1],
            position_start=None,
        )
        own = position if case.position_start is None else position[int(case.position_start[i]) :]
        y = ops.patch_embed(*alone.source(), weight, bias, own, *norm, **alone.keywords())
        assert torch.equal(y, together[first:last])


@pytest.mark.parametrize("grids", [False, True])
def test_gradients_repeat_bit_for_bit(monkeypatch: pytest.MonkeyPatch, grids: bool) -> None:
    monkeypatch.setattr(kernel, "_CHUNKS", 4)
    sizes = [(8, 32), (1, 1), (4, 4)] if grids else SMALL_SIZES["1.0"]
    case = make("1.1" if grids else "1.0", sizes * 2, masked=True, grids=grids)

    def run() -> list[Tensor]:
        own = leaves(case.parameters, torch.float32)
        return gradients(ops.patch_embed(*case.source(), *own, **case.keywords()), own)

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_targets_are_the_unmasked_patches_bit_for_bit(version: str) -> None:
    case = make(version, SMALL_SIZES[version])
    index = torch.randperm(case.total, generator=torch.Generator().manual_seed(0)).int()
    is_cls = torch.isin(index, case.cu_seqlens[:-1])
    keywords = {"version": version, "scale": case.scale}
    targets = ops.patch_targets(*case.source(), index, **keywords)
    assert torch.equal(targets, torch.where(is_cls[:, None], 0.0, case.tokens()[index.long()]))
    assert ops.patch_targets(*case.source(), index[:0], **keywords).shape == (0, case.patch_len)


@pytest.mark.parametrize("grids", [False, True])
def test_no_sequences(grids: bool) -> None:
    case = make("1.1", [], grids=grids)
    own = leaves(case.parameters, torch.float32)
    y = ops.patch_embed(*case.source(), *own, **case.keywords())
    assert y.shape == (0, 128)
    for parameter, gradient in zip(own, gradients(y, own), strict=True):
        assert gradient.shape == parameter.shape
        assert not gradient.any()
