"""`PackedBatch`: the same tokens as the reference, on the CPU by C++ and elsewhere by torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.released import random_csi

from lwm_fast import InputError, reference
from lwm_fast.data import draw_mask
from lwm_fast.packed import PackedBatch


def mixed(sizes: list[tuple[int, int]]):
    return [random_csi(1, n, sc, seed=i)[0] for i, (n, sc) in enumerate(sizes)]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_equal_sizes_have_a_dense_view(version, batch):
    csi = random_csi(batch, 32, 32)
    packed = PackedBatch.from_samples(csi, version)
    assert packed.equal_length
    if batch:
        assert np.shares_memory(packed.csi, csi)
        assert torch.equal(packed.tokens(), reference.tokenize(torch.from_numpy(csi), version))


def test_mixed_sizes_are_packed_in_order():
    sizes = [(8, 32), (3, 5), (32, 32), (1, 1), (9, 33), (8, 32)]
    samples = mixed(sizes)
    packed = PackedBatch.from_samples(samples, "1.1")
    assert not packed.equal_length
    lengths = np.diff(packed.cu_seqlens)
    assert packed.max_seqlen == lengths.max() == 65
    tokens = packed.tokens()
    for i, sample in enumerate(samples):
        own = tokens[packed.cu_seqlens[i] : packed.cu_seqlens[i + 1]]
        assert torch.equal(own, reference.tokenize(torch.from_numpy(sample[None]), "1.1")[0])


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_cutting_on_the_device_gives_the_same_bits(version):
    sizes = [(32, 32)] * 2 if version == "1.0" else [(8, 32), (8, 32), (30, 50), (4, 4), (8, 32)]
    rng = np.random.default_rng(0)
    scale = rng.uniform(1e5, 1e7, len(sizes)).astype(np.float32)
    packed = PackedBatch.from_samples(mixed(sizes), version, scale=scale)
    assert torch.equal(packed._tokens_on(torch.device("cpu")).view(-1), packed.tokens().view(-1))


def test_equal_lengths_of_different_shapes_are_dense():
    packed = PackedBatch.from_samples(mixed([(8, 64), (16, 32), (32, 16)]), "1.1")
    assert packed.equal_length
    assert packed.tokens().shape == (3, 33, 32)


def test_masked_tokens_need_a_mask():
    with pytest.raises(InputError, match=r"the batch has no mask; make one with lwm_fast\.data\.draw_mask"):
        PackedBatch.from_samples(random_csi(1, 8, 32), "1.1").masked_tokens()


def test_masking_leaves_the_unmasked_tokens_alone():
    packed = PackedBatch.from_samples(mixed([(8, 32), (9, 33)]), "1.1")
    before = packed.tokens()
    packed = replace(packed, mask=draw_mask(packed, seed=0, epoch=0))
    tokens, targets = packed.masked_tokens()
    assert torch.equal(packed.tokens(), before)
    rows = torch.from_numpy(packed.mask.masked_index).long()
    assert torch.equal(targets, before[rows])
    untouched = torch.from_numpy(packed.mask.action == 0)
    assert torch.equal(tokens[untouched], before[untouched])


def test_prepared_tokens_are_used_only_while_they_are_right():
    from lwm_fast.packed import Prepared

    packed = PackedBatch.from_samples(random_csi(2, 8, 32), "1.1")
    packed = replace(packed, mask=draw_mask(packed, seed=0, epoch=0))
    tokens, targets = packed.masked_tokens()
    made = Prepared(tokens, targets, packed.scale, packed.cls, packed.mask)
    ready = replace(packed, prepared=made)
    assert ready.masked_tokens()[0] is tokens
    other = replace(ready, scale=packed.scale * 2)
    assert torch.equal(other.masked_tokens()[1], 2 * targets)
