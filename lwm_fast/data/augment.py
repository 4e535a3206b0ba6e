"""`Augmentation`: a random phase and gain for every training sample, drawn anew each epoch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lwm_fast.data.counters import GAIN_WORD, PHASE_WORD, SECOND_BLOCK, first_block, one_block, unit
from lwm_fast.errors import InputError
from lwm_fast.packed import PackedBatch
from lwm_fast.philox import Stream


@dataclass(frozen=True)
class Augmentation:
    """What csi is multiplied by; a function of seed, epoch and sample alone, whatever the packing and the threads.

    Args:
        phase: turn the whole channel by a random phase: the phase of a link is that of its oscillators.
        gain_db: (low, high) dB added to the gain, by the batch's `scale`; None adds nothing.
        seed: 0..2^64 - 1.

    Raises:
        InputError: a gain that is not two finite numbers, low first; a seed outside its range.
    """

    phase: bool = False
    gain_db: tuple[float, float] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.gain_db is not None:
            pair = np.asarray(self.gain_db, np.float64)
            if pair.shape != (2,) or not np.isfinite(pair).all() or pair[0] > pair[1]:
                raise InputError(
                    f"Augmentation: gain_db={self.gain_db!r}; give dB as a pair (low, high), low first"
                )
        if not 0 <= self.seed < 1 << 64:
            raise InputError(f"Augmentation: seed={self.seed}; expected 0..2^64 - 1")

    def gains_db(self, samples: npt.NDArray[np.int64], epoch: int) -> npt.NDArray[np.float64]:
        """dB added to each sample, float64 [n]."""
        if self.gain_db is None:
            return np.zeros(len(samples))
        low, high = self.gain_db
        words = one_block(self.seed, samples, epoch, Stream.PLAN, SECOND_BLOCK)[:, GAIN_WORD]
        return low + (high - low) * unit(words)

    def phases(self, samples: npt.NDArray[np.int64], epoch: int) -> npt.NDArray[np.float64]:
        """Radians by which each sample is turned, float64 [n]."""
        if not self.phase:
            return np.zeros(len(samples))
        return 2 * np.pi * unit(first_block(self.seed, samples, epoch, Stream.PLAN)[:, PHASE_WORD])

    def apply(self, batch: PackedBatch, epoch: int) -> PackedBatch:
        """The batch augmented: its csi turned in place, its scale raised."""
        if self.phase:
            turn = np.exp(1j * self.phases(batch.sample_id, epoch)).astype(np.complex64)
            np.multiply(batch.csi, np.repeat(turn, np.diff(batch.offsets)), out=batch.csi)
        if self.gain_db is None:
            return batch
        gain = 10 ** (self.gains_db(batch.sample_id, epoch) / 20)
        return replace(batch, scale=np.asarray(batch.scale * gain, np.float32))
