"""Noise on csi: the release's definition, drawn by Philox for each user, so that it never depends on the batch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lwm_fast import _C
from lwm_fast.data.counters import SNR_WORD, first_block, unit
from lwm_fast.errors import InputError
from lwm_fast.philox import MAX_BLOCKS, Stream

_ENTRIES_AT_ONCE = 1 << 24  # of a chunk: bounds the memory beside the result


def add_noise(
    csi: npt.NDArray[np.complex64],
    snr_db: float | npt.NDArray[np.float32],
    user_index: npt.NDArray[np.int64],
    seed: int = 0,
) -> npt.NDArray[np.complex64]:
    """csi with complex Gaussian noise whose power is the user's own mean |csi|^2 divided by the ratio.

    Real and imaginary parts have the variance mean |csi|^2 / 10^(snr_db / 10) / 2 (LWM v1.0 release). Noise is
    fixed by seed and user: users of several cities that share a number share their (normalised) noise.

    Args:
        csi: complex64 [n, num_antennas, num_subcarriers].
        snr_db: ratio [dB], one for all users or [n].
        user_index: int64 [n], the users' numbers in their source.
        seed: 0..2^64 - 1.

    Returns:
        complex64 [n, num_antennas, num_subcarriers], a new array.

    Raises:
        InputError: ratios that are not finite, a column of another length, a seed out of range.
    """
    users, num_antennas, num_subcarriers = csi.shape
    entries = num_antennas * num_subcarriers
    check_seed(seed)
    ratios = np.asarray(snr_db, np.float32)
    if ratios.shape not in ((), (users,)) or len(user_index) != users:
        raise InputError(
            f"add_noise: snr_db of shape {ratios.shape} and {len(user_index)} user numbers for {users} users; "
            "give one ratio for all or one a user, and one number a user"
        )
    if not np.isfinite(ratios).all():
        raise InputError(f"snr_db={ratios[~np.isfinite(ratios)].ravel()[0]}: give a finite ratio in dB")
    if 2 * (entries + 1) > 4 * MAX_BLOCKS:
        raise InputError(f"a channel of {entries} entries is larger than noise is defined for")
    ratios = np.ascontiguousarray(np.broadcast_to(ratios, (users,)))
    numbers = np.ascontiguousarray(user_index, np.int64)
    noisy = np.empty(csi.shape, np.complex64)
    step = max(1, _ENTRIES_AT_ONCE // entries)
    for start in range(0, users, step):
        part = csi[start : start + step]
        count = len(part)
        rows = np.zeros((count, entries + 1, 2), np.float32)  # the native noise leaves a first row alone
        rows[:, 1:] = np.ascontiguousarray(part).view(np.float32).reshape(count, entries, 2)
        bounds = np.arange(count + 1, dtype=np.int32) * np.int32(entries + 1)
        chosen = slice(start, start + count)
        _C.add_noise(rows.reshape(-1, 2), bounds, ratios[chosen], numbers[chosen], seed, 0, 0)
        noisy[chosen] = np.ascontiguousarray(rows[:, 1:]).view(np.complex64).reshape(part.shape)
    return noisy


def user_snr_db(
    low: float, high: float, user_index: npt.NDArray[np.int64], seed: int = 0
) -> npt.NDArray[np.float32]:
    """The ratio [dB] of each user, uniform in [low, high) by Philox of (seed, user), float32 [n]."""
    check_seed(seed)
    if low == high:
        return np.full(len(user_index), low, np.float32)
    u = unit(first_block(seed, user_index, 0, Stream.PLAN)[:, SNR_WORD])
    return np.asarray(low + (high - low) * u, np.float32)


def check_seed(seed: int) -> None:
    """Raises InputError for a seed that is no key of the generator."""
    if not isinstance(seed, int) or not 0 <= seed < 1 << 64:
        raise InputError(f"seed={seed!r}: give a whole number in 0..2^64 - 1")
