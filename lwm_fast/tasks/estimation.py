"""Channel estimation: the clean channel from a noisy one, at one signal-to-noise ratio or over a range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from lwm_fast.data import Channels
from lwm_fast.errors import InputError
from lwm_fast.tasks.base import Array, Examples, Fact
from lwm_fast.tasks.facts import channel_facts
from lwm_fast.tasks.kinds import Reconstruction
from lwm_fast.tasks.metrics import nmse_scores
from lwm_fast.tasks.noise import add_noise, check_seed, user_snr_db
from lwm_fast.tasks.reconstruction import derived_channels

BIN_DB = 5.0


@dataclass(frozen=True)
class EstimationTask(Reconstruction):
    """Clean csi from csi with noise on every entry.

    Args:
        snr_db: one ratio [dB], or (low, high): each user then has one of its own, drawn by seed and user. The
            ratio is the user's mean |csi|^2 over that of the noise (`lwm_fast.tasks.noise.add_noise`).
        seed: of noise and ratios.

    Raises:
        InputError: a ratio that is not finite, a range with high < low.
    """

    snr_db: float | tuple[float, float] = (-5.0, 25.0)
    seed: int = 0
    name: ClassVar[str] = "estimation"

    def __post_init__(self) -> None:
        if np.ndim(self.snr_db) > 1 or np.size(self.snr_db) not in (1, 2):
            raise InputError(f"snr_db={self.snr_db!r}: give one ratio in dB, or a pair (low, high)")
        low, high = self.range_db
        if not (np.isfinite(low) and np.isfinite(high) and low <= high):
            raise InputError(f"snr_db={self.snr_db!r}: give finite dB, the lower first")
        check_seed(self.seed)

    @property
    def range_db(self) -> tuple[float, float]:
        """(low, high) [dB]; equal where there is one ratio."""
        ratios = np.atleast_1d(np.asarray(self.snr_db, np.float64))
        return float(ratios[0]), float(ratios[-1])

    def user_snr_db(self, channels: Channels) -> npt.NDArray[np.float32]:
        """The ratio of each user [dB], float32 [n]."""
        return user_snr_db(*self.range_db, channels.user_index, self.seed)

    def examples(self, channels: Channels) -> Examples:
        """Noisy channels with the clean csi as targets."""
        low, high = self.range_db
        targets = channels.csi
        noisy = add_noise(targets, self.user_snr_db(channels), channels.user_index, self.seed)
        what = f"{low:g} dB" if low == high else f"{low:g} to {high:g} dB"
        facts: dict[str, Fact] = {
            "snr_db": low if low == high else None,
            "snr_db_low": low,
            "snr_db_high": high,
            "noise_seed": self.seed,
            **channel_facts(channels),
        }
        inputs = derived_channels(channels, noisy, f"noise at {what}")
        return Examples(self.name, self.kind, inputs, targets, facts=facts)

    def score(self, examples: Examples, predictions: Array) -> dict[str, float]:
        """NMSE over all users; over a range also of the users with A <= snr_db < B.

        The latter is `nmse_db_per_sample_A_to_B`, the mean over users: one ratio of energies would be that of the
        two or three strongest users of a bin. It is NaN where a bin has no user.
        """
        scores = nmse_scores(predictions, examples.targets)
        low, high = self.range_db
        if low == high:
            return scores
        ratios = self.user_snr_db(examples.channels)
        for first in np.arange(low, high, BIN_DB):
            last = min(first + BIN_DB, high)
            chosen = (ratios >= first) & (ratios < last)
            part = nmse_scores(predictions[chosen], examples.targets[chosen]) if chosen.any() else {}
            name = "nmse_db_per_sample"
            scores[f"{name}_{first:g}_to_{last:g}"] = part.get(name, float("nan"))
        return scores
