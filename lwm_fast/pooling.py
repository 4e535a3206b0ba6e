"""From token outputs to embeddings: the pooling names, and results of mixed sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lwm_fast.errors import InputError


@dataclass(frozen=True)
class Pool:
    """One way to reduce [B, S, D] (CLS first): one row a sequence, or a row for some of its tokens."""

    name: str
    first: int  # first token that counts
    last: int | None  # one past the last, None for all
    reduce: bool  # mean over the tokens

    @property
    def needs_cls_only(self) -> bool:
        """True where no token but CLS is looked at, so the last layer may skip the others."""
        return self.last == 1

    def rows(self, seq_len: int) -> int:
        """Rows of the result a sequence of ``seq_len`` tokens gives; 0 stands for one vector, not a matrix."""
        return 0 if self.reduce else (self.last or seq_len) - self.first

    def __call__(self, output: Tensor) -> Tensor:
        """output [B, S, D] -> [B, D] or [B, rows, D]."""
        kept = output[:, self.first : self.last]
        return kept.mean(1) if self.reduce else kept


POOLS = {
    pool.name: pool
    for pool in (
        Pool("cls", 0, 1, True),
        Pool("mean", 1, None, True),
        Pool("mean_with_cls", 0, None, True),
        Pool("patches", 1, None, False),
        Pool("tokens", 0, None, False),
    )
}


def get_pool(name: str) -> Pool:
    """The pool of that name; raises InputError that lists them otherwise."""
    if name not in POOLS:
        raise InputError(f"pool={name!r} is unknown; use one of {', '.join(POOLS)}")
    return POOLS[name]


@dataclass(frozen=True)
class Ragged:
    """Rows of sequences of mixed lengths, one after another in input order.

    ``values`` float32 [total_rows, embed_dim] (numpy or torch); ``cu_seqlens`` int64 [num_sequences + 1]:
    sequence i owns rows ``cu_seqlens[i]:cu_seqlens[i + 1]``. Iterating gives one [rows, embed_dim] a sequence.
    """

    values: Any
    cu_seqlens: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.cu_seqlens) - 1

    def __getitem__(self, index: int) -> Any:
        start, stop = self.cu_seqlens[range(len(self))[index] : range(len(self))[index] + 2]
        return self.values[start:stop]

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def padded(self, fill: float = 0.0) -> tuple[Any, npt.NDArray[np.bool_]]:
        """([num_sequences, longest, embed_dim] with ``fill`` behind short ones, mask bool [num_sequences, longest])."""
        lengths = np.diff(self.cu_seqlens)
        longest = int(lengths.max(initial=0))
        mask = np.arange(longest) < lengths[:, None]
        shape = (len(self), longest, self.values.shape[-1])
        if isinstance(self.values, torch.Tensor):
            dense = self.values.new_full(shape, fill)
            dense[torch.from_numpy(mask).to(dense.device)] = self.values
            return dense, mask
        array = np.full(shape, fill, dtype=self.values.dtype)
        array[mask] = self.values
        return array, mask
