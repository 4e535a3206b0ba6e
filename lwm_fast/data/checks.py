"""One pass over the channels: NaN and Inf, users without a path, and a scale that does not suit LWM."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from lwm_fast.data.channels import Channels
from lwm_fast.data.rays import Complex64Array
from lwm_fast.errors import InputError

EMPTY_POLICIES = ("drop", "keep", "error")
SCALED_RANGE = (0.1, 1000.0)  # median |H| * scale; real cities lie near 20 (3.5 GHz) and 2 to 3 (28 GHz)
_NOT_FINITE, _ALL_ZERO = 1, 2

_log = logging.getLogger("lwm_fast")


def check_csi(csi: Complex64Array, num_threads: int = 0) -> npt.NDArray[np.uint8]:
    """Flags of each sample, uint8 [batch]: bit 0 = a NaN or Inf, bit 1 = all zero.

    Args:
        csi: complex64 [batch, num_antennas, num_subcarriers], C-contiguous.
    """
    from lwm_fast import _C

    flags = np.zeros(len(csi), dtype=np.uint8)
    offsets = np.arange(len(csi) + 1, dtype=np.int64) * (csi[0].size if len(csi) else 0)
    _C.check_csi(csi.reshape(-1), offsets, flags, num_threads=num_threads)
    return flags


def name_users(users: npt.NDArray[np.int64], shown: int = 8) -> str:
    """ "user 3" or "users 3, 4, 9 and 12 more", for error texts."""
    listed = ", ".join(str(user) for user in users[:shown])
    more = f" and {users.size - shown} more" if users.size > shown else ""
    return f"user{'' if users.size == 1 else 's'} {listed}{more}"


def validate(
    channels: Channels, empty: str = "error", *, progress: bool = False, num_threads: int = 0
) -> Channels:
    """The channels without unusable users, after one pass that holds only a chunk at a time.

    Args:
        channels: to check.
        empty: what to do with users without a path (no rays, or csi all zero): "drop", "keep" or "error".
        progress: show a bar.
        num_threads: 0 means as many as the process may use.

    Raises:
        InputError: NaN or Inf (names the users); all-zero users under "error"; no user left; unknown policy.
    """
    if empty not in EMPTY_POLICIES:
        raise InputError(f"empty={empty!r}: choose one of {', '.join(EMPTY_POLICIES)}")
    rays = channels.rays
    if rays is not None:
        bad, without_path = _check_rays(channels), rays.num_paths == 0
    else:
        flags = _check_stream(channels, progress, num_threads)
        bad, without_path = flags & _NOT_FINITE != 0, flags & _ALL_ZERO != 0
    place, users = channels.meta.source, channels.user_index
    if bad.any():
        raise InputError(
            f"{place}: NaN or Inf in {int(bad.sum())} of {len(channels)} channels: {name_users(users[bad])}; "
            "repair or remove them"
        )
    if not without_path.any() or empty == "keep":
        return channels
    count = int(without_path.sum())
    if count == len(channels):
        raise InputError(
            f"{place}: none of the {count} users has a path (csi all zero); choose another base station or "
            "file"
        )
    if empty == "error":
        raise InputError(
            f"{place}: {count} of {len(channels)} channels are all zero: {name_users(users[without_path])}; "
            'leave them out with empty="drop" or embed them as they are with empty="keep"'
        )
    kept = channels[~without_path]
    kept.meta = replace(channels.meta, num_dropped=channels.meta.num_dropped + count)
    _log.info("%s: %d of %d users have no path and were left out", place, count, len(channels))
    return kept


def warn_about_scale(channels: Channels) -> None:
    """One UserWarning when the scaled channels are far from what LWM was trained on."""
    median, scale = channels.median_gain(), channels.meta.scale
    low, high = SCALED_RANGE
    if not np.isfinite(median) or median == 0 or low <= median * scale <= high:
        return
    if scale != 1 and low <= median <= high:
        hint = "the data look scaled already: pass scale=1"
    else:
        # Power of ten that brings the median nearest to 10, the order of the training data.
        hint = f"if these are channels in other units, pass scale={10.0 ** round(1 - np.log10(median)):.0e}"
    warnings.warn(
        f"{channels.meta.source}: median |H| {median:.3g} times scale {scale:.3g} is {median * scale:.3g}; "
        f"LWM was trained on about 2 (28 GHz) to 20 (3.5 GHz). {hint} (command line: --scale)",
        UserWarning,
        stacklevel=3,
    )


def _check_stream(channels: Channels, progress: bool, num_threads: int) -> npt.NDArray[np.uint8]:
    flags = np.empty(len(channels), dtype=np.uint8)
    chunk = channels.default_chunk
    with tqdm(total=len(channels), unit="channels", desc="checking", disable=not progress) as bar:
        for start in range(0, len(channels), chunk):
            csi = channels.read(start, start + chunk)
            flags[start : start + len(csi)] = check_csi(csi, num_threads)
            bar.update(len(csi))
    return flags


def _check_rays(channels: Channels) -> npt.NDArray[np.bool_]:
    """Users with a ray that is not finite; arrival angles do not enter csi and may be unknown."""
    rays = channels.rays
    assert rays is not None
    used = (rays.power_db, rays.phase_deg, rays.delay_s, rays.aod_az_deg, rays.aod_zen_deg)
    finite = np.logical_and.reduce([np.isfinite(column) for column in used])
    bad = np.zeros(len(channels), dtype=np.bool_)
    bad[np.repeat(np.arange(len(channels)), rays.num_paths)[~finite]] = True
    return bad
