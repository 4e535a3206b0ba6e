"""Masks of masked channel modelling: C++ against the plain twin, the release's own, statistics, errors."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lwm_fast.kernels.patches import Patches, gather_tokens
from support.released import golden, random_csi

from lwm_fast import _C, InputError
from lwm_fast.data import draw_mask
from lwm_fast.data.mask import (
    ACTION_KEPT,
    ACTION_MASK,
    ACTION_RANDOM,
    mask_counts,
    num_masked,
    plain_mask,
    release_plan,
)
from lwm_fast.packed import PackedBatch

SIZES = {"1.0": [(32, 32), (4, 4), (1, 16), (8, 48)], "1.1": [(8, 32), (1, 1), (30, 50), (5, 3), (64, 128)]}
SEED = 2**63 + 12345
IDS = np.array([5, 2**40 + 3, -7, 0, 9], np.int64)


def packed(version: str, order: list[int] | None = None) -> PackedBatch:
    sizes = SIZES[version]
    order = list(range(len(sizes))) if order is None else order
    samples = [random_csi(1, *sizes[i], seed=i)[0] for i in order]
    return PackedBatch.from_samples(samples, version, sample_id=IDS[order])


def masked(batch: PackedBatch, **options: Any) -> PackedBatch:
    return replace(batch, mask=draw_mask(batch, seed=SEED, epoch=3, **options))


@pytest.mark.parametrize("ratio", [None, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_cpp_draws_the_plain_masks(version, ratio):
    batch = packed(version)
    plan = draw_mask(batch, seed=SEED, epoch=3, mask_ratio=ratio)
    assert plan.mask_cu[-1] == len(plan.masked_index)
    expected = np.zeros(batch.cu_seqlens[-1], np.uint8)
    for i, first in enumerate(batch.cu_seqlens[:-1]):
        patches = int(batch.cu_seqlens[i + 1] - first) - 1
        positions, actions = plain_mask(
            patches, version, seed=SEED, epoch=3, sample_id=int(batch.sample_id[i]), mask_ratio=ratio
        )
        own = plan.masked_index[plan.mask_cu[i] : plan.mask_cu[i + 1]] - first
        assert np.array_equal(own, positions)
        expected[first + positions] = actions
    assert np.array_equal(plan.action, expected)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_masks_do_not_depend_on_packing_or_threads(version):
    batch = packed(version)
    plan = draw_mask(batch, seed=SEED, epoch=3, num_threads=1)
    order = list(range(len(batch)))[::-1]
    other = draw_mask(packed(version, order), seed=SEED, epoch=3, num_threads=3)
    turned = packed(version, order)
    for i in range(len(batch)):
        j = len(batch) - 1 - i
        own = plan.masked_index[plan.mask_cu[i] : plan.mask_cu[i + 1]] - batch.cu_seqlens[i]
        theirs = other.masked_index[other.mask_cu[j] : other.mask_cu[j + 1]] - turned.cu_seqlens[j]
        assert np.array_equal(own, theirs)


def test_masks_change_with_epoch_seed_and_sample():
    batch = PackedBatch.from_samples(random_csi(2, 32, 32), "1.1")
    plans = [draw_mask(batch, seed=s, epoch=e).masked_index for s, e in ((1, 0), (1, 1), (2, 0))]
    first, second = plans[0].reshape(2, -1) - batch.cu_seqlens[:-1, None]
    assert not np.array_equal(first, second)
    assert not np.array_equal(plans[0], plans[1])
    assert not np.array_equal(plans[0], plans[2])


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_masked_tokens_equal_the_twin_of_the_kernel(version):
    batch = masked(packed(version), mask_ratio=0.9)
    plan = batch.mask
    tokens, targets = batch.masked_tokens()
    raw = batch.tokens().view(-1, batch.cls.shape[-1])
    source = Patches(
        raw, torch.from_numpy(batch.cu_seqlens), None, None, None, None, torch.from_numpy(plan.action),
        torch.from_numpy(batch.sample_id), None, 0, plan.seed, plan.epoch,
    )  # fmt: skip
    expected, _ = gather_tokens(source, len(raw), raw.shape[1])
    assert torch.equal(tokens, expected)
    assert torch.equal(targets, raw[plan.masked_index.astype(np.int64)])
    rows = {a: torch.from_numpy(plan.action == a) for a in (ACTION_MASK, ACTION_RANDOM, ACTION_KEPT)}
    assert all(mask.any() for mask in rows.values())
    assert (tokens[rows[ACTION_MASK]] == np.float32(0.1)).all()
    assert torch.equal(tokens[rows[ACTION_KEPT]], raw[rows[ACTION_KEPT]])
    drawn = tokens[rows[ACTION_RANDOM]]
    assert ((drawn >= 0) & (drawn < 1)).all()


def test_statistics_of_positions_and_actions():
    batch = PackedBatch.from_samples(np.zeros((4000, 8, 32), np.complex64), "1.1")
    plan = draw_mask(batch, seed=4, epoch=0)
    positions = plan.masked_index - np.repeat(batch.cu_seqlens[:-1], np.diff(plan.mask_cu))
    counts = np.bincount(positions, minlength=17)[1:]
    expected = 4000 * 6 / 16  # every patch alike; standard deviation 31
    assert counts.min() > expected - 5 * 31
    assert counts.max() < expected + 5 * 31
    shares = np.bincount(plan.action, minlength=4)[1:] / len(positions)  # MASK, random, kept
    assert np.abs(shares - [0.8, 0.1, 0.1]).max() < 0.015


def test_v10_masks_pairs_real_first():
    batch = masked(PackedBatch.from_samples(random_csi(3, 32, 32), "1.0"))
    rows = batch.mask.masked_index.reshape(3, 18) - batch.cu_seqlens[:-1, None]
    assert ((rows[:, :9] >= 1) & (rows[:, :9] <= 64)).all()
    assert np.array_equal(rows[:, 9:], rows[:, :9] + 64)


@pytest.mark.parametrize("size", ["8x32", "32x32", "30x50"])
def test_release_masks_of_v11_bit_for_bit(shared_data, size):
    data = golden(shared_data, f"v11_{size}")
    batch = PackedBatch.from_samples(data["raw"], "1.1")
    batch = replace(batch, mask=draw_mask(batch, seed=0, epoch=5, compat=True))
    tokens, targets = batch.masked_tokens()
    rows = batch.mask.masked_index.reshape(len(batch), -1) - batch.cu_seqlens[:-1, None]
    assert np.array_equal(rows, data["mask_pos"])
    assert np.array_equal(tokens.numpy().reshape(data["mask_tokens"].shape), data["mask_tokens"])
    assert np.array_equal(targets.numpy().reshape(data["mask_targets"].shape), data["mask_targets"])


def test_release_masks_of_v10_bit_for_bit(shared_data):
    data = golden(shared_data, "v10_city_18_denver")
    batch = PackedBatch.from_samples(data["raw"], "1.0")
    batch = replace(batch, mask=release_plan(batch, generator=np.random.RandomState(7)))
    tokens, targets = batch.masked_tokens()
    rows = batch.mask.masked_index.reshape(len(batch), -1) - batch.cu_seqlens[:-1, None]
    assert np.array_equal(rows, data["rmask_pos"])
    assert np.array_equal(tokens.numpy().reshape(data["rmask_tokens"].shape), data["rmask_tokens"])
    assert np.array_equal(targets.numpy().reshape(data["rmask_targets"].shape), data["rmask_targets"])


def test_compat_masks_of_v10_belong_to_the_sample_and_stay_for_all_epochs():
    csi = random_csi(4, 32, 32)
    plan = draw_mask(PackedBatch.from_samples(csi, "1.0"), seed=3, epoch=0, compat=True)
    tail = PackedBatch.from_samples(csi[2:], "1.0", sample_id=np.array([2, 3]))
    other = draw_mask(tail, seed=3, epoch=9, compat=True)
    half = len(plan.masked_index) // 2
    assert np.array_equal(plan.masked_index[half:] - 2 * 129, other.masked_index)
    assert np.array_equal(plan.random[half:], other.random)


@pytest.mark.parametrize("ratio", [None, 0.0, 0.07, 1 / 3, 0.999, 1.0])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_counts_of_many_samples_are_the_counts_of_one(version, ratio):
    patches = np.arange(0, 600)
    cu_seqlens = np.concatenate([[0], np.cumsum(patches + 1)]).astype(np.int32)
    counts = np.diff(mask_counts(cu_seqlens, version, ratio))
    assert counts.tolist() == [num_masked(int(n), version, ratio) for n in patches]


_PRINT = """
import hashlib, numpy as np
from dataclasses import replace
from lwm_fast import _C
from test_mask import masked, packed
digest = hashlib.sha256()
for version in ("1.0", "1.1"):
    batch = masked(packed(version))
    tokens, targets = batch.masked_tokens()
    for array in (batch.mask.action, batch.mask.masked_index, tokens.numpy(), targets.numpy()):
        digest.update(array.tobytes())
print(_C.cpu_info()["isa"], digest.hexdigest())
"""


def test_all_instruction_sets_draw_the_same():
    digests = set()
    for isa in _C.cpu_info()["available_isas"]:
        environment = {**os.environ, "LWM_FAST_ISA": isa, "PYTHONPATH": str(Path(__file__).parent)}
        run = subprocess.run(
            [sys.executable, "-c", _PRINT], env=environment, capture_output=True, text=True, timeout=120
        )
        assert run.returncode == 0, run.stderr
        used, digest = run.stdout.split()
        assert used == isa
        digests.add(digest)
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_ratio": 1.5}, r"mask_ratio: got 1\.5"),
        ({"mask_ratio": float("nan")}, "mask_ratio: got nan"),
        ({"seed": -1}, "seed: got -1"),
        ({"epoch": 2**32}, "epoch: got 4294967296"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        draw_mask(packed("1.1"), **{"seed": 0, "epoch": 0, **arguments})


def test_unknown_version():
    with pytest.raises(InputError, match=r"version: got '2\.0'"):
        num_masked(16, "2.0")


def native(**changes: Any) -> dict[str, Any]:
    """Two v1.1 samples of 3 and 5 tokens, one and two of them masked."""
    return {
        "tokens": np.ones((8, 32), np.float32),
        "cu_seqlens": np.array([0, 3, 8], np.int32),
        "action": np.array([0, 1, 0, 0, 2, 0, 3, 0], np.uint8),
        "masked_index": np.array([1, 6, 4], np.int32),
        "mask_cu": np.array([0, 1, 3], np.int32),
        "sample_id": np.arange(2),
        "targets": np.full((3, 32), np.nan, np.float32),
        "version": 11,
        "seed": 0,
        "epoch": 0,
        **changes,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"masked_index": np.array([0, 6, 4], np.int32)},
            r"masked_index\[0\] is 0 but sample 0 .* rows 1..2",
        ),
        (
            {"masked_index": np.array([1, 6, 8], np.int32)},
            r"masked_index\[2\] is 8 but sample 1 .* rows 4..7",
        ),
        ({"mask_cu": np.array([0, 3, 3], np.int32)}, r"sample 0 3 masked tokens but it has 2 patches"),
        ({"mask_cu": np.array([0, 1, 4], np.int32)}, r"mask_cu ends at 4 but masked_index holds 3"),
        ({"mask_cu": np.array([1, 1, 3], np.int32)}, r"mask_cu runs from 1 to 3"),
        ({"mask_cu": np.array([0, 2, 1], np.int32)}, r"mask_cu\[2\] is 1, less than"),
        ({"cu_seqlens": np.array([0, 3, 9], np.int32)}, r"cu_seqlens ends at 9 but tokens holds 8"),
        ({"targets": np.zeros((2, 32), np.float32)}, r"targets: .* shape \[3, 32\], got shape \[2, 32\]"),
        ({"random": np.zeros((3, 16), np.float32)}, r"random: .* shape \[3, 32\]"),
        ({"action": np.zeros(7, np.uint8)}, r"action: .* shape \[8\]"),
    ],
)
def test_native_refuses_before_it_writes(change, message):
    arguments = native(**change)
    before = arguments["tokens"].copy()
    with pytest.raises(ValueError, match=message):
        _C.apply_mask(**arguments)
    assert np.array_equal(arguments["tokens"], before)


def test_native_applies_each_action():
    arguments = native(random=np.full((3, 32), 7, np.float32))
    _C.apply_mask(**arguments)
    tokens = arguments["tokens"]
    assert (arguments["targets"] == 1).all()
    assert (tokens[1] == np.float32(0.1)).all()
    assert (tokens[4] == 7).all()
    assert (np.delete(tokens, [1, 4], axis=0) == 1).all()


def test_v10_refuses_an_odd_number():
    batch = PackedBatch.from_samples(random_csi(1, 4, 4), "1.0")
    with pytest.raises(ValueError, match=r"v1\.0 masks pairs"):
        _C.draw_mask(
            batch.cu_seqlens, np.array([0, 1], np.int32), batch.sample_id, np.zeros(3, np.uint8),
            np.zeros(1, np.int32), 10, 0, 0,
        )  # fmt: skip


def test_empty_batch():
    batch = PackedBatch.from_samples(np.zeros((0, 8, 32), np.complex64), "1.1")
    tokens, targets = masked(batch).masked_tokens()
    assert tokens.shape == (0, 32)
    assert targets.shape == (0, 32)
