"""Between csi and what a reconstruction head learns: real and imaginary parts at each user's own level.

Users differ by 40 dB and more. At the fixed token scale the strong ones decide a head's weights, so a head is
trained on targets divided by the rms of what is observed of the user, which a receiver knows, and its output is
multiplied back.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lwm_fast.data import Channels
from lwm_fast.errors import InputError
from lwm_fast.tasks.base import Examples

Float32Array = npt.NDArray[np.float32]
Complex64Array = npt.NDArray[np.complex64]

GAIN_BITS = 8
LOWEST_GAIN_DB = -200  # of mean |csi|^2; steps of 1 dB up to +55 dB


def derived_channels(channels: Channels, csi: Complex64Array, what: str) -> Channels:
    """The same users with other csi, which no longer is the content of the source: `what` says how it differs.

    meta.sha256 is None, so that nothing cached for the source is taken for it.
    """
    return Channels.from_arrays(
        csi,
        los=channels.los,
        pos=channels.pos,
        labels=channels.labels,
        user_index=channels.user_index,
        meta=replace(channels.meta, source=f"{channels.meta.source} ({what})", sha256=None),
    )


def observed_rms(examples: Examples) -> Float32Array:
    """Root mean square of |input csi| over the observed entries, float32 [n]."""
    return _rms(examples.channels.csi, examples.observed)


def user_scale(examples: Examples) -> Float32Array:
    """What a user's csi is multiplied by for a head: 1 / its level as the receiving side knows it, float32 [n].

    The level is the rms over the observed entries; for compression, the level as it is sent (`gain_index`).

    Raises:
        InputError: a user of whom nothing but zeros is observed.
    """
    level = observed_rms(examples)
    if not level.all():
        raise InputError(
            f"{examples.task}: user {examples.channels.user_index[int(np.argmin(level))]} is zero wherever it is "
            "observed; leave out users without a path"
        )
    if examples.task == "compression":
        level = gain_of(gain_index(examples.channels.csi))
    return np.asarray(1.0 / level, np.float32)


def gain_index(csi: Complex64Array) -> npt.NDArray[np.int64]:
    """Mean |csi|^2 of each user in whole dB above `LOWEST_GAIN_DB`, 0..255: what `GAIN_BITS` bits say, int64 [n]."""
    power = np.square(_rms(csi, None).astype(np.float64))
    decibels = 10.0 * np.log10(np.maximum(power, 1e-300))
    top = 2**GAIN_BITS - 1
    return np.asarray(np.clip(np.rint(decibels - LOWEST_GAIN_DB), 0, top), np.int64)


def gain_of(index: npt.NDArray[np.int64]) -> Float32Array:
    """The rms level that a `gain_index` stands for, float32 [n]."""
    return np.asarray(10.0 ** ((index + LOWEST_GAIN_DB) / 20.0), np.float32)


def to_parts(csi: Complex64Array, scale: float | Float32Array) -> Float32Array:
    """csi [n, num_antennas, num_subcarriers] times scale (one, or [n]) as float32 [..., 2], real and imaginary."""
    factor = np.asarray(scale, np.float32).reshape(-1, 1, 1, 1)
    return np.ascontiguousarray(csi).view(np.float32).reshape(*csi.shape, 2) * factor


def to_csi(parts: Float32Array, scale: float | Float32Array) -> Complex64Array:
    """The inverse of `to_parts`: float32 [n, num_antennas, num_subcarriers, 2] / scale as complex64."""
    factor = np.asarray(scale, np.float32).reshape(-1, 1, 1, 1)
    values = np.ascontiguousarray(parts / factor, np.float32)
    return values.view(np.complex64)[..., 0]


def raw_parts(examples: Examples, scale: float | Float32Array) -> Float32Array:
    """The input csi as heads on raw channels take it: float32 [n, num_antennas, num_subcarriers, 2]."""
    return to_parts(examples.channels.csi, scale)


def levelled(examples: Examples, level: float = 10.0) -> Examples:
    """The same examples with every user's input brought to one level, targets as they are.

    The observed entries of each user then have the rms `level` once `meta.scale` is applied: LWM's tokens of
    urban channels at 3.5 GHz are of that order. For embedding only; the outputs of `user_scale` are those of
    the examples before.
    """
    channels = examples.channels
    factor = user_scale(examples) * np.float32(level / channels.meta.scale)
    csi = channels.csi * factor[:, None, None]
    return replace(examples, channels=derived_channels(channels, csi, f"levelled to {level:g}"))


def finish(examples: Examples, csi: Complex64Array) -> Complex64Array:
    """A head's csi with what is known exactly put back: clean pilots of an interpolation, else csi as it is."""
    if examples.observed is None or examples.facts.get("snr_db") is not None:
        return csi
    return np.where(examples.observed, examples.channels.csi, csi)


def _rms(csi: Complex64Array, observed: npt.NDArray[np.bool_] | None) -> Float32Array:
    parts = csi[:, observed] if observed is not None else csi.reshape(len(csi), -1)  # [n, entries]
    # Squares of 28 GHz channels leave float32's normal range: the sum is taken in float64.
    power = np.einsum("ne,ne->n", parts, parts.conj(), dtype=np.complex128).real / max(1, parts.shape[1])
    return np.asarray(np.sqrt(power), np.float32)
