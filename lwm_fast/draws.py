"""`Draws`: the name of every random number of one training forward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """Dropout of one forward: key and counters of Philox-4x32-10, stream DROPOUT.

    What is dropped depends on seed, epoch, sample, token, feature and layer: never on the batch, the packing,
    the device or the number of threads. The same draws give the same mask again.

    seed: 0..2^64 - 1; epoch: 0..2^32 - 1; sample_id: int64 [B], on the device of the tokens.
    """

    seed: int
    epoch: int
    sample_id: Tensor

    @classmethod
    def fresh(cls, batch: int, device: torch.device) -> Draws:
        """New draws for `batch` sequences without names, from torch's own generator (``torch.manual_seed``)."""
        seed = int(torch.randint(0, 2**63 - 1, (), dtype=torch.int64))
        return cls(seed, 0, torch.arange(batch, device=device))
