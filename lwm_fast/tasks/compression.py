"""CSI compression for feedback: the channel through a number of bits that is counted to the last one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lwm_fast.data import Channels
from lwm_fast.errors import InputError
from lwm_fast.tasks.base import Array, Examples, Fact
from lwm_fast.tasks.facts import channel_facts
from lwm_fast.tasks.kinds import Reconstruction
from lwm_fast.tasks.metrics import nmse_scores
from lwm_fast.tasks.reconstruction import GAIN_BITS


@dataclass(frozen=True)
class CompressionTask(Reconstruction):
    """csi as the base station knows it after a user has sent `bits` bits about its channel.

    `bits` is all that is sent for one channel, its gain included: `GAIN_BITS` bits say the mean power in whole dB
    from -200 to +55 dB. What is fixed beforehand (codebooks, bases, weights) costs nothing.

    Args:
        bits: budget of a channel.

    Raises:
        InputError: a budget that leaves nothing beside the gain.
    """

    bits: int = 256
    name: ClassVar[str] = "compression"

    def __post_init__(self) -> None:
        if not isinstance(self.bits, int) or self.bits <= GAIN_BITS:
            raise InputError(
                f"compression: bits={self.bits!r}; give a whole number above {GAIN_BITS}, which the gain takes"
            )

    def examples(self, channels: Channels) -> Examples:
        """The channels as they are, with their own csi as targets."""
        _, num_antennas, num_subcarriers = channels.shape
        facts: dict[str, Fact] = {
            "bits": self.bits,
            "bits_per_entry": self.bits / (num_antennas * num_subcarriers),
            "gain_bits": GAIN_BITS,
            **channel_facts(channels),
        }
        return Examples(self.name, self.kind, channels, channels.csi, facts=facts)

    def score(self, examples: Examples, predictions: Array) -> dict[str, float]:
        """NMSE; the budget that it was reached at stands among the facts."""
        return nmse_scores(predictions, examples.targets)
