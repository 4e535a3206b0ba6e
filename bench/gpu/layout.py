"""Packed sequences on a device: lengths, where each begins, and the mixes that are timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

# (num_antennas, num_subcarriers) of the 20 pairs that v1.1 was pre-trained on.
PAIRS = (
    *((8, sc) for sc in (32, 64, 128, 256, 512, 1024)),
    *((16, sc) for sc in (32, 64, 128, 256, 512)),
    *((32, sc) for sc in (32, 64, 128, 256)),
    *((64, sc) for sc in (32, 64, 128)),
    *((128, sc) for sc in (32, 64)),
)


@dataclass(frozen=True)
class Layout:
    """B sequences packed one after another, equal lengths side by side."""

    lengths: tuple[int, ...]
    cu_seqlens: Tensor  # int32 [B + 1]

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Layout:
        ordered = tuple(sorted(lengths))
        edges = torch.tensor([0, *ordered]).cumsum(0).to(torch.int32)
        return cls(ordered, edges.to(device))

    @property
    def batch(self) -> int:
        return len(self.lengths)

    @property
    def total(self) -> int:
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def equal(self) -> bool:
        return len(set(self.lengths)) == 1

    def runs(self) -> list[tuple[int, int, int]]:
        """(first row, last row + 1, length) of the sequences of one length."""
        found, row = [], 0
        for length, group in groupby(self.lengths):
            rows = length * len(list(group))
            found.append((row, row + rows, length))
            row += rows
        return found

    def position(self) -> Tensor:
        """int64 [T]: each token's place in its sequence."""
        device = self.cu_seqlens.device
        parts = [torch.arange(n, device=device).repeat((last - first) // n) for first, last, n in self.runs()]
        return torch.cat(parts)


def mixed_lengths(tokens: int) -> list[int]:
    """About this many tokens of the 20-pair mix, every pair equally often."""
    once = [1 + num_antennas * num_subcarriers // 16 for num_antennas, num_subcarriers in PAIRS]
    return once * max(1, tokens // sum(once))
