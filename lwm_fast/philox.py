"""Counter-based random numbers: the plain numpy form of what C++ and Triton draw.

Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) gives random bits as a
function of a key and a counter. Here key = seed and counter = (sample low, sample high, epoch,
stream << 24 | block), so what a sample draws depends on its own number, the epoch and the seed: never on
the batch it is in, its place there, or the number of threads.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lwm_fast.errors import InputError

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
MAX_BLOCKS = 1 << 24
"""Blocks of four words that one stream holds for a sample and epoch."""


class Stream(IntEnum):
    """What a draw is for: draws of different streams are independent."""

    MASK_POSITIONS = 0
    ACTIONS = 1
    RANDOM_PATCHES = 2
    NOISE = 3
    DROPOUT = 4
    PLAN = 5  # size, rotation and signal-to-noise ratio of a training sample
    SHUFFLE = 6  # order of samples and batches in an epoch
    SPLIT = 7  # which samples are for validation


def philox4x32(counter: ArrayLike, key: tuple[int, int]) -> NDArray[np.uint32]:
    """Philox-4x32-10 of each counter.

    Args:
        counter: Integers in 0..2^32 - 1, shape [..., 4].
        key: Two integers in 0..2^32 - 1.

    Returns:
        uint32 array of the counter's shape.

    Raises:
        InputError: The last axis of `counter` is not 4.
    """
    words = np.asarray(counter, dtype=np.uint64)
    if words.ndim == 0 or words.shape[-1] != 4:
        raise InputError(f"counter: got shape {list(words.shape)}, expected [..., 4]")
    c0, c1, c2, c3 = np.moveaxis(words, -1, 0)
    key0, key1 = key
    for _ in range(_ROUNDS):
        product0, product1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2  # exact: 32 x 32 bits in 64
        c0, c1 = (product1 >> _HALF) ^ c1 ^ np.uint64(key0), product1 & _LOW
        c2, c3 = (product0 >> _HALF) ^ c3 ^ np.uint64(key1), product0 & _LOW
        key0, key1 = (key0 + _WEYL[0]) & 0xFFFFFFFF, (key1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def words(seed: int, sample_id: int, epoch: int, stream: Stream, count: int) -> NDArray[np.uint32]:
    """The first `count` random 32-bit words of a sample's stream.

    Args:
        seed: 0..2^64 - 1, the key.
        sample_id: The sample's number in its data set, int64.
        epoch: 0..2^32 - 1.
        stream: What the draw is for.
        count: Words wanted, at most 4 * MAX_BLOCKS.

    Returns:
        uint32 [count].

    Raises:
        InputError: An argument is out of its range.
    """
    for name, value, limit in (("seed", seed, 1 << 64), ("epoch", epoch, 1 << 32)):
        if not 0 <= value < limit:
            raise InputError(f"{name}: got {value}, expected 0..2^{limit.bit_length() - 1} - 1")
    if not 0 <= count <= 4 * MAX_BLOCKS:
        raise InputError(f"count: got {count}, expected 0..{4 * MAX_BLOCKS} words of one stream")
    if not -(1 << 63) <= sample_id < 1 << 63:
        raise InputError(f"sample_id: got {sample_id}, expected a 64-bit integer")
    sample = sample_id & 0xFFFFFFFFFFFFFFFF  # negative numbers as C++ reads them: two's complement
    blocks = -(-count // 4)
    counter = np.empty((blocks, 4), np.uint64)
    counter[:, 0] = sample & 0xFFFFFFFF
    counter[:, 1] = sample >> 32
    counter[:, 2] = epoch
    counter[:, 3] = (int(stream) << 24) | np.arange(blocks, dtype=np.uint64)
    return philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32)).reshape(-1)[:count]


def uniform(seed: int, sample_id: int, epoch: int, stream: Stream, count: int) -> NDArray[np.float32]:
    """`count` uniform numbers in [0, 1): float32 (word >> 8) * 2^-24, exact. Arguments as for `words`."""
    bits = words(seed, sample_id, epoch, stream, count) >> np.uint32(8)
    return bits.astype(np.float32) * np.float32(2.0**-24)


def normal(
    seed: int, sample_id: int, epoch: int, count: int, stream: Stream = Stream.NOISE
) -> NDArray[np.float32]:
    """`count` standard normal numbers by Box-Muller, computed in float64 and rounded to float32.

    Each block's uniforms u0..u3 give sqrt(-2 ln(1 - u0)) * (cos, sin)(2 pi u1) and the same of u2, u3.
    Arguments as for `words`. C++ agrees to one unit in the last place.
    """
    u = uniform(seed, sample_id, epoch, stream, 4 * -(-count // 4)).astype(np.float64)
    pairs = u.reshape(-1, 2)
    radius = np.sqrt(-2.0 * np.log1p(-pairs[:, 0]))
    angle = 2.0 * np.pi * pairs[:, 1]
    z = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return z.reshape(-1)[:count].astype(np.float32)
