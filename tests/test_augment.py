"""Augmentation: what it does to csi, and that its draws are those of the sample and the epoch alone."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from support.released import random_csi

from lwm_fast import InputError, philox
from lwm_fast.data import ChannelStore, MCMCollator
from lwm_fast.data.augment import Augmentation
from lwm_fast.philox import Stream
from lwm_fast.scaling import to_unit_power

SIZES = [(8, 32), (9, 33), (4, 4)]
INDEX = np.array([3, 14, 7, 0, 12])
BOTH = Augmentation(phase=True, gain_db=(-2.0, 4.0), seed=2**63 + 5)


def store() -> ChannelStore:
    return ChannelStore([random_csi(5, *size, seed=i) for i, size in enumerate(SIZES)])


def batch_of(augment: Augmentation | None, *, epoch: int = 3, index: Any = INDEX, **options: Any) -> Any:
    return MCMCollator(seed=1, augment=augment, **options)(store().gather(epoch, index))


def test_csi_is_turned_and_the_scale_raised():
    plain, made = batch_of(None), batch_of(BOTH)
    phases, gains = BOTH.phases(INDEX, 3), BOTH.gains_db(INDEX, 3)
    for i in range(len(INDEX)):
        rows = slice(plain.offsets[i], plain.offsets[i + 1])
        np.testing.assert_allclose(
            made.csi[rows], plain.csi[rows] * np.exp(1j * phases[i]), rtol=1e-5, atol=1e-12
        )
    np.testing.assert_allclose(made.scale, plain.scale * 10 ** (gains / 20), rtol=1e-6)
    assert np.ptp(phases) > 1
    assert (gains >= -2).all()
    assert (gains < 4).all()
    assert len(set(gains)) == len(INDEX)
    assert not np.allclose(made.prepared.tokens, plain.prepared.tokens), (
        "the tokens are made of what was augmented"
    )
    np.testing.assert_array_equal(made.mask.action, plain.mask.action)


def test_draws_are_words_of_the_samples_stream():
    for i, sample in enumerate(INDEX.tolist()):
        words = philox.uniform(BOTH.seed, sample, 3, Stream.PLAN, 8).astype(np.float64)
        assert BOTH.phases(INDEX, 3)[i] == pytest.approx(2 * np.pi * words[3], abs=1e-12)
        assert BOTH.gains_db(INDEX, 3)[i] == pytest.approx(-2 + 6 * words[4], abs=1e-12)


def test_bits_depend_on_sample_and_epoch_alone():
    whole = batch_of(BOTH, num_threads=1)
    threaded = pickle.loads(pickle.dumps(MCMCollator(seed=1, augment=BOTH, num_threads=3)))(
        store().gather(3, INDEX)
    )
    np.testing.assert_array_equal(whole.csi, threaded.csi)
    assert torch.equal(whole.prepared.tokens, threaded.prepared.tokens)
    for i in range(len(INDEX)):
        alone = batch_of(BOTH, index=INDEX[i : i + 1])
        np.testing.assert_array_equal(alone.csi, whole.csi[whole.offsets[i] : whole.offsets[i + 1]])
        assert alone.scale[0] == whole.scale[i]
    assert not np.allclose(batch_of(BOTH, epoch=4).csi, whole.csi)


def test_gain_moves_the_level_of_unit_power_and_nothing_else():
    gain = Augmentation(gain_db=(-2, 2), seed=1)
    plain, made = (batch_of(a, rescale=to_unit_power) for a in (None, gain))
    np.testing.assert_allclose(10 * (made.cls - plain.cls)[:, 0], gain.gains_db(INDEX, 3), atol=1e-4)
    np.testing.assert_array_equal(made.scale, plain.scale)
    patches = np.ones(len(made.prepared.tokens), np.bool_)
    patches[made.cu_seqlens[:-1]] = False
    np.testing.assert_array_equal(made.prepared.tokens[patches], plain.prepared.tokens[patches])


def test_nothing_asked_for_changes_nothing():
    plain, made = batch_of(None), batch_of(Augmentation())
    np.testing.assert_array_equal(plain.csi, made.csi)
    assert torch.equal(plain.prepared.tokens, made.prepared.tokens)
    assert len(batch_of(BOTH, index=[])) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gain_db": (2, -2)}, r"gain_db=\(2, -2\); give dB as a pair \(low, high\), low first"),
        ({"gain_db": (0, np.nan)}, "low first"),
        ({"gain_db": 3.0}, "gain_db=3.0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        Augmentation(**options)
