"""CSI interpolation: the full channel from a comb of pilots over antennas and subcarriers."""

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
from lwm_fast.tasks.noise import add_noise, check_seed
from lwm_fast.tasks.reconstruction import derived_channels


@dataclass(frozen=True)
class InterpolationTask(Reconstruction):
    """Full csi from csi known at every `antenna_step`-th antenna and every `subcarrier_step`-th subcarrier.

    Entries off the comb are zero in the input csi.

    Args:
        antenna_step, subcarrier_step: distance of pilots, 1 means all.
        antenna_offset, subcarrier_offset: first pilot, 0 .. step - 1.
        snr_db: noise on the pilots against the user's mean power over all entries [dB]; None means clean pilots.
        seed: of the noise.

    Raises:
        InputError: a step below 1, an offset outside its step, a comb that leaves nothing out.
    """

    antenna_step: int = 1
    subcarrier_step: int = 4
    antenna_offset: int = 0
    subcarrier_offset: int = 0
    snr_db: float | None = None
    seed: int = 0
    name: ClassVar[str] = "interpolation"

    def __post_init__(self) -> None:
        for axis in ("antenna", "subcarrier"):
            step, offset = getattr(self, f"{axis}_step"), getattr(self, f"{axis}_offset")
            if not isinstance(step, int) or step < 1:
                raise InputError(f"{axis}_step={step!r}: give a whole number of at least 1")
            if not isinstance(offset, int) or not 0 <= offset < step:
                raise InputError(f"{axis}_offset={offset!r}: give 0..{step - 1}, below {axis}_step={step}")
        if self.antenna_step == self.subcarrier_step == 1:
            raise InputError(
                "interpolation: antenna_step=1 and subcarrier_step=1 observe everything; raise one of them"
            )
        check_seed(self.seed)

    def observed(self, num_antennas: int, num_subcarriers: int) -> npt.NDArray[np.bool_]:
        """Where pilots are, bool [num_antennas, num_subcarriers].

        Raises:
            InputError: no pilot falls on a channel of this size, or a pilot on every entry.
        """
        mask = np.zeros((num_antennas, num_subcarriers), bool)
        mask[self.antenna_offset :: self.antenna_step, self.subcarrier_offset :: self.subcarrier_step] = True
        if not mask.any():
            raise InputError(
                f"interpolation: a comb from antenna {self.antenna_offset} and subcarrier "
                f"{self.subcarrier_offset} has no pilot on {num_antennas} x {num_subcarriers} channels; choose "
                "smaller offsets"
            )
        if mask.all():
            raise InputError(
                f"interpolation: steps of {self.antenna_step} x {self.subcarrier_step} observe all of a "
                f"{num_antennas} x {num_subcarriers} channel; nothing is left to interpolate"
            )
        return mask

    def examples(self, channels: Channels) -> Examples:
        """Channels that are zero off the comb, with the full csi as targets."""
        mask = self.observed(*channels.shape[1:])
        targets = channels.csi
        known = targets
        if self.snr_db is not None:
            known = add_noise(targets, self.snr_db, channels.user_index, self.seed)
        comb = f"comb {self.antenna_step}x{self.subcarrier_step}"
        facts: dict[str, Fact] = {
            "antenna_step": self.antenna_step,
            "subcarrier_step": self.subcarrier_step,
            "antenna_offset": self.antenna_offset,
            "subcarrier_offset": self.subcarrier_offset,
            "pilots": int(mask.sum()),
            "snr_db": self.snr_db,
            "noise_seed": self.seed,
            **channel_facts(channels),
        }
        inputs = derived_channels(channels, np.where(mask, known, np.complex64(0)), comb)
        return Examples(self.name, self.kind, inputs, targets, observed=mask, facts=facts)

    def score(self, examples: Examples, predictions: Array) -> dict[str, float]:
        """NMSE over all entries, and as `missing_...` over those that were not observed."""
        assert examples.observed is not None  # as `examples` made them
        missing = ~examples.observed
        unseen = nmse_scores(predictions[:, missing], examples.targets[:, missing])
        return {
            **nmse_scores(predictions, examples.targets),
            **{f"missing_{key}": value for key, value in unseen.items()},
        }
