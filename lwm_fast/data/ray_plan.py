"""`RayPlan`: in which array, band and direction the rays of a training set are seen, epoch by epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lwm_fast.data.counters import (
    PATHS_WORD,
    ROTATION_WORD,
    SECOND_BLOCK,
    SIZE_WORD,
    first_block,
    one_block,
    unit,
)
from lwm_fast.data.rays import LWM_MAX_PATHS, SUBCARRIER_SPACING
from lwm_fast.errors import InputError
from lwm_fast.philox import Stream

PRETRAINING_SIZES: tuple[tuple[int, int], ...] = (
    *((8, sc) for sc in (32, 64, 128, 256, 512, 1024)),
    *((16, sc) for sc in (32, 64, 128, 256, 512)),
    *((32, sc) for sc in (32, 64, 128, 256)),
    *((64, sc) for sc in (32, 64, 128)),
    *((128, sc) for sc in (32, 64)),
)
"""The 20 (num_antennas, num_subcarriers) of LWM v1.1's pre-training: 17, 33, 65, 129, 257 and 513 tokens."""


@dataclass(frozen=True)
class RayPlan:
    """How rays become csi in training.

    A sample takes ``sizes[(offset + epoch) % len(sizes)]``, its offset drawn once: every epoch holds about as
    many samples of each size, and in ``len(sizes)`` epochs each user is seen once at each.

    Args:
        sizes: (num_antennas, num_subcarriers) of lines of antennas; an empty tuple keeps the array and band
            that are stored with the rays.
        bandwidth: Hz, the same for all sizes; None means 30 kHz per subcarrier.
        rotation: degrees about z; a pair (low, high) draws one per sample and epoch; None keeps the stored.
        carrier: (low, high) in Hz: sources traced at another carrier are left out. Rays hold for the carrier
            at which they were traced, so it is chosen, not changed.
        reference_carrier: Hz; gains are brought to what free space would give at this carrier, by
            20 log10(carrier / reference_carrier) dB, so that power tells of the place and not of the band. Every
            source of rays must say its carrier. None leaves gains as they are.
        max_paths: rays per user that enter the sum, the strongest; a pair (low, high) draws one number per sample
            and epoch, even in the logarithm, as data sets differ in how many weak paths they keep.
        seed: of these draws, 0..2^64 - 1.

    Raises:
        InputError: a size, bandwidth, rotation, carrier, reference or number of paths that makes no sense.
    """

    sizes: tuple[tuple[int, int], ...] = PRETRAINING_SIZES
    bandwidth: float | None = None
    rotation: float | tuple[float, float] | None = None
    carrier: tuple[float, float] | None = None
    max_paths: int | tuple[int, int] = LWM_MAX_PATHS
    seed: int = 0
    reference_carrier: float | None = None

    def __post_init__(self) -> None:
        sizes = tuple((int(n), int(sc)) for n, sc in self.sizes)
        object.__setattr__(self, "sizes", sizes)
        for n, sc in sizes:
            if n < 1 or sc < 1:
                raise InputError(f"RayPlan: size {n} x {sc}; both must be at least 1")
        for name in ("bandwidth", "reference_carrier"):
            hertz = getattr(self, name)
            if hertz is not None and not (np.isfinite(hertz) and hertz > 0):
                raise InputError(f"RayPlan: {name}={hertz!r} Hz; it must be finite and positive")
        for name in ("rotation", "carrier"):
            value = getattr(self, name)
            if value is None or (name == "rotation" and np.ndim(value) == 0 and np.isfinite(value)):
                continue
            pair = np.asarray(value, np.float64)
            if pair.shape != (2,) or not np.isfinite(pair).all() or pair[0] > pair[1]:
                raise InputError(f"RayPlan: {name}={value!r}; give a pair (low, high), low first")
            object.__setattr__(self, name, (float(pair[0]), float(pair[1])))
        paths = np.asarray(self.max_paths)
        good = paths.shape in ((), (2,)) and paths.dtype.kind in "iu" and 1 <= paths.flat[0] <= paths.flat[-1]
        if not good:
            raise InputError(
                f"RayPlan: max_paths={self.max_paths!r}; give a whole number of at least 1, or a pair (low, high) "
                "of them, low first"
            )
        if paths.ndim:
            object.__setattr__(self, "max_paths", (int(paths[0]), int(paths[1])))
        if not 0 <= self.seed < 1 << 64:
            raise InputError(f"RayPlan: seed={self.seed}; expected 0..2^64 - 1")

    def sizes_of(self, samples: npt.NDArray[np.int64], epoch: int) -> npt.NDArray[np.int32]:
        """Size of each sample in an epoch, int32 [n, 2]; needs `sizes`."""
        word = first_block(self.seed, samples, 0, Stream.PLAN)[:, SIZE_WORD].astype(np.uint64)
        offset = (word * np.uint64(len(self.sizes))) >> np.uint64(32)
        return np.asarray(self.sizes, np.int32)[(offset.astype(np.int64) + epoch) % len(self.sizes)]

    def rotations_of(self, samples: npt.NDArray[np.int64], epoch: int) -> npt.NDArray[np.float64] | None:
        """Rotation of each sample in degrees, float64 [n]; None keeps the stored ones."""
        if self.rotation is None:
            return None
        if not isinstance(self.rotation, tuple):
            return np.full(len(samples), float(self.rotation))
        low, high = self.rotation
        u = unit(first_block(self.seed, samples, epoch, Stream.PLAN)[:, ROTATION_WORD])
        return low + (high - low) * u

    def max_paths_of(self, samples: npt.NDArray[np.int64], epoch: int) -> npt.NDArray[np.int64]:
        """Rays that enter the sum of each sample at most, int64 [n]."""
        if not isinstance(self.max_paths, tuple):
            return np.full(len(samples), self.max_paths, np.int64)
        low, high = self.max_paths
        u = unit(one_block(self.seed, samples, epoch, Stream.PLAN, SECOND_BLOCK)[:, PATHS_WORD])
        drawn = np.exp(np.log(low) + u * np.log((high + 1) / low))
        return np.asarray(np.clip(drawn, low, high), np.int64)  # rounded down

    def bandwidths_of(self, num_subcarriers: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
        """Bandwidth of each sample in Hz, float64 [n]."""
        if self.bandwidth is not None:
            return np.full(len(num_subcarriers), float(self.bandwidth))
        return SUBCARRIER_SPACING * num_subcarriers.astype(np.float64)

    def reference_gain_db(self, carrier_frequency: float | None, name: str) -> float:
        """What a source's gains are raised by, dB; InputError where it is to be known and its carrier is not."""
        if self.reference_carrier is None:
            return 0.0
        if carrier_frequency is None:
            raise InputError(
                f"{name}: does not say its carrier, which reference_carrier={self.reference_carrier:g} needs; "
                "give the source a carrier_frequency, or leave reference_carrier out"
            )
        return 20 * math.log10(carrier_frequency / self.reference_carrier)

    def accepts(self, carrier_frequency: float | None) -> bool:
        """True for a source whose carrier [Hz] the plan takes; an unknown one only without a wish."""
        if self.carrier is None:
            return True
        low, high = self.carrier
        return carrier_frequency is not None and low <= carrier_frequency <= high
