"""Features of a channel that need no learning: the power it has, when it arrives, and from where.

They are controls. A label that such numbers predict says little about the model whose embeddings predict it too.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lwm_fast.data import Channels

Complex64Array: TypeAlias = npt.NDArray[np.complex64]
Float32Array: TypeAlias = npt.NDArray[np.float32]

NUM_BEAMS = 32
FEATURES = ("physics", "physics-power", "physics-excess", "physics-beams")
_SHORTEST = 1e-5  # periods a subcarrier: 0.3 ns at 30 kHz, 10 cm; shorter delays are not told apart
_WEAKEST = 1e-30  # linear power, far below any noise: keeps the logarithm of silence finite


def features(channels: Channels, name: str = "physics") -> Float32Array:
    """float32 [num_users, k] of channels, all in dB.

    Args:
        channels: csi at its own scale (linear gain); `meta.scale` is applied, as for tokens.
        name: "physics-power", the mean of |H|^2 (k = 1); "physics-excess", the free-space excess: that power
            + 20 log10 of the delay, which free-space loss makes constant and blocked paths lower (k = 1);
            "physics-beams", the power on 32 beams equally spaced in sin(azimuth) (k = 32); "physics": power,
            excess, 20 log10 of the mean delay and of the rms delay spread, and the beams (k = 36).

    The delay comes from the phase slope over subcarriers, the angle of sum H[m, k + 1] conj H[m, k], and is
    counted in periods of the subcarrier spacing; the rms spread from how far neighbouring subcarriers are
    coherent: 1 - |coherence| = 2 (pi spread)^2 for a short delay profile. One subcarrier has no delay: it
    counts as the shortest.
    """
    rows = [_of(csi, channels.meta.scale, name) for csi in channels.iter_csi(_CHUNK)]
    width = {"physics": 4 + NUM_BEAMS, "physics-beams": NUM_BEAMS}.get(name, 1)
    return np.concatenate([np.empty((0, width), np.float32), *rows])


_CHUNK = 1024  # users whose csi is held in double precision at once


def _of(csi: Complex64Array, scale: float, name: str) -> Float32Array:
    scaled = csi.astype(np.complex128) * scale  # [n, N, SC]
    if name == "physics-beams":
        return np.asarray(beam_powers(scaled), np.float32)
    power = np.square(np.abs(scaled)).mean((1, 2))
    delay, spread = delay_moments(scaled)
    level = _decibel(power)
    excess = level + 20 * np.log10(delay)
    if name == "physics-power":
        return np.asarray(level[:, None], np.float32)
    if name == "physics-excess":
        return np.asarray(excess[:, None], np.float32)
    moments = [level, excess, 20 * np.log10(delay), 20 * np.log10(spread)]
    return np.asarray(np.column_stack([*moments, beam_powers(scaled)]), np.float32)


def delay_moments(
    csi: npt.NDArray[np.complex128],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean delay and rms delay spread of each user, float64 [n], in periods of the subcarrier spacing.

    csi: [n, num_antennas, num_subcarriers]. Delays beyond one half of the period (16.7 us at 30 kHz) count as
    negative and, like those of silent users, as the shortest.
    """
    early, late = csi[:, :, :-1], csi[:, :, 1:]
    product = (late * early.conj()).sum((1, 2))
    energy = (np.square(np.abs(early)).sum((1, 2)) + np.square(np.abs(late)).sum((1, 2))) / 2
    coherence = np.abs(product) / np.maximum(energy, _WEAKEST)
    spread = np.sqrt(np.maximum(1 - coherence, 0) / 2) / np.pi
    delay = -np.angle(product) / (2 * np.pi)
    return np.maximum(delay, _SHORTEST), np.maximum(spread, _SHORTEST)


def beam_powers(csi: npt.NDArray[np.complex128]) -> npt.NDArray[np.float64]:
    """Mean power over subcarriers on 32 beams [dB], float64 [n, 32]; csi [n, num_antennas, num_subcarriers]."""
    sines = (2 * np.arange(NUM_BEAMS) + 1) / NUM_BEAMS - 1
    steering = np.exp(1j * np.pi * np.outer(sines, np.arange(csi.shape[1]))) / np.sqrt(csi.shape[1])
    return _decibel(np.square(np.abs(steering @ csi)).mean(2))


def _decibel(power: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    decibel: npt.NDArray[np.float64] = 10 * np.log10(np.maximum(power, _WEAKEST))
    return decibel
