"""`PackedBatch`: the same tokens as the reference, on the CPU by C++ and elsewhere by torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.released import random_csi

from lwm_fast import reference
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
