"""Tokens computed for every useful token of the 20-pair mix: equal-length buckets against random batches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.inputs import Settings
from bench.rows import Row
from lwm_fast.data import BucketSampler, ChannelStore
from lwm_fast.data.ray_plan import PRETRAINING_SIZES

_BATCH = 128
_LONGEST = "random batches padded to their longest"


def run(settings: Settings) -> list[Row]:
    each = settings.pick(200, 20)  # channels of every pair
    store = ChannelStore([np.ones((each, *size), np.complex64) for size in PRETRAINING_SIZES])
    lengths = store.lengths(0).astype(np.int64)
    shuffled = np.random.default_rng(0).permutation(len(lengths))
    random = [shuffled[i : i + _BATCH] for i in range(0, len(shuffled), _BATCH)]
    sampler = BucketSampler(store, batch_size=_BATCH, split="all", seed=0)
    buckets = [np.array([index for _, index in batch]) for batch in sampler]
    return [
        _row(name, batches, lengths) for name, batches in ((_LONGEST, random), ("BucketSampler", buckets))
    ]


def _row(name: str, batches: list[NDArray[np.int64]], lengths: NDArray[np.int64]) -> Row:
    """``ratio_median``: computed over useful tokens, low and high over single batches."""
    useful = np.array([lengths[batch].sum() for batch in batches])
    computed = np.array([lengths[batch].max() * len(batch) for batch in batches])
    assert useful.sum() == lengths.sum()  # every channel once
    ratios = computed / useful
    return Row(
        case="padding",
        arm=name,
        unit="token",
        version="1.1",
        batch=_BATCH,
        ratio_median=float(computed.sum() / useful.sum()),
        ratio_low=float(ratios.min()),
        ratio_high=float(ratios.max()),
        note="tokens computed / useful tokens over an epoch of the 20 pairs, each equally often; extremes of single "
        "batches",
    )
