"""One random block for each of many samples: what a training plan draws per sample and epoch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lwm_fast import _C
from lwm_fast.philox import Stream

SIZE_WORD, ROTATION_WORD, SNR_WORD, PHASE_WORD = range(4)
"""Words of a sample's first block in stream PLAN."""
SECOND_BLOCK, GAIN_WORD, PATHS_WORD = 1, 0, 1
"""The second block in stream PLAN, and its words of a sample's gain and number of paths."""


def first_block(
    seed: int, samples: npt.NDArray[np.int64], epoch: int, stream: Stream
) -> npt.NDArray[np.uint32]:
    """The first four words of each sample's stream, uint32 [n, 4], as `lwm_fast.philox.words` gives them."""
    return one_block(seed, samples, epoch, stream, 0)


def one_block(
    seed: int, samples: npt.NDArray[np.int64], epoch: int, stream: Stream, block: int
) -> npt.NDArray[np.uint32]:
    """Words 4 block .. 4 block + 3 of each sample's stream, uint32 [n, 4]."""
    counter = np.empty((len(samples), 4), np.uint32)
    unsigned = np.asarray(samples, np.int64).view(np.uint64)
    counter[:, 0] = unsigned & np.uint64(0xFFFFFFFF)
    counter[:, 1] = unsigned >> np.uint64(32)
    counter[:, 2] = epoch
    counter[:, 3] = int(stream) << 24 | block
    out = np.empty_like(counter)
    _C.philox(counter, (seed & 0xFFFFFFFF, seed >> 32), out)
    return out


def unit(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) from words, 24 bits each."""
    return np.asarray((words >> np.uint32(8)) * 2.0**-24, np.float64)


def sort_keys(
    seed: int, samples: npt.NDArray[np.int64], epoch: int, stream: Stream
) -> npt.NDArray[np.uint64]:
    """64 random bits per sample: sorting by them is a shuffle that each sample's number alone decides."""
    block = first_block(seed, samples, epoch, stream)
    high = block[:, 0].astype(np.uint64) << np.uint64(32)
    return high | block[:, 1].astype(np.uint64)
