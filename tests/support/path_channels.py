"""Small channels of a few paths each, with levels that differ by 40 dB, as cities have them."""

from __future__ import annotations

import numpy as np

from lwm_fast.data import Channels


def path_channels(
    num_users: int = 40, num_antennas: int = 8, num_subcarriers: int = 16, *, paths: int = 2, seed: int = 0
) -> Channels:
    """Users with `paths` plane waves of smooth delays; user_index 100, 101, ...; rms levels 1e-7 to 1e-5."""
    rng = np.random.default_rng(seed)
    shape = (num_users, paths, 1, 1)
    angle, delay = rng.uniform(-0.4, 0.4, shape), rng.uniform(0.0, 0.1, shape)
    gain = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    antenna, subcarrier = np.arange(num_antennas)[:, None], np.arange(num_subcarriers)
    csi = (gain * np.exp(2j * np.pi * (angle * antenna - delay * subcarrier))).sum(1)
    rms = np.sqrt(np.square(np.abs(csi)).mean((1, 2), keepdims=True))
    level = 10 ** rng.uniform(-7, -5, (num_users, 1, 1))
    return Channels.from_arrays(
        (csi / rms * level).astype(np.complex64),
        pos=rng.uniform(0, 100, (num_users, 3)).astype(np.float32),
        los=rng.integers(0, 2, num_users),
        user_index=np.arange(100, 100 + num_users),
    )
