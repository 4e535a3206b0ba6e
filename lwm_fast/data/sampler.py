"""`BucketSampler`: batches of equal length, in one order for all ranks, that resume from two numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lwm_fast.data.counters import sort_keys
from lwm_fast.errors import InputError
from lwm_fast.philox import Stream

Int64Array = npt.NDArray[np.int64]
SPLITS = ("train", "validation", "all")
_FORMAT = 1


class SampledStore(Protocol):
    """What the sampler needs to know of a `ChannelStore`."""

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def lengths(self, epoch: int) -> npt.NDArray[np.int32]: ...


@dataclass(frozen=True)
class EpochPlan:
    """The batches of one epoch, over all ranks.

    order: int64 [n], samples; batch b is order[bounds[b, 0] : bounds[b, 1]]
    bounds: int64 [steps, 2]; lengths: int32 [steps], tokens of the samples of each batch
    """

    epoch: int
    order: Int64Array
    bounds: Int64Array
    lengths: npt.NDArray[np.int32]


class BucketSampler:
    """Batches of one length each, shuffled within and across the lengths; torch's `batch_sampler`.

    Every rank makes the same plan and takes its share of each batch, so at a step all ranks have the same
    length, and the batches do not depend on the number of ranks. Iterating gives the rest of the current epoch
    as lists of (epoch, index) and then goes on to the next epoch. The state is (epoch, step): a plan is made
    again from the seed, by one sort of the epoch's samples.

    Args:
        store: `ChannelStore`; its lengths in an epoch make the buckets.
        batch_size: samples of a batch over all ranks, one number or {seq_len: number}.
        token_budget: instead: most tokens of a batch over all ranks, CLS included (at least one sample).
        split: "train", "validation" or "all".
        validation: share of each bucket, as it is in epoch 0, that is for validation. Membership depends on
            `seed` alone: give both samplers the same. Validation has no shuffling and always yields epoch 0,
            so sizes, masks and noise are the same every time.
        shuffle: None means yes for "train" and "all", no for "validation".
        last: "keep" or "drop" a bucket's last incomplete batch. A kept one is shared as evenly as possible;
            with fewer samples than ranks some ranks get an empty list.
        seed: 0..2^64 - 1.
        rank, world_size: this process and their number.

    Raises:
        InputError: arguments outside their range; no samples in the split; no batch in an epoch.
    """

    def __init__(
        self,
        store: SampledStore,
        *,
        batch_size: int | Mapping[int, int] | None = None,
        token_budget: int | None = None,
        split: str = "train",
        validation: float = 0.2,
        shuffle: bool | None = None,
        last: str = "keep",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if (batch_size is None) == (token_budget is None):
            raise InputError("BucketSampler: give batch_size or token_budget, one of them")
        if split not in SPLITS:
            raise InputError(f"split={split!r}: choose one of {', '.join(SPLITS)}")
        if last not in ("keep", "drop"):
            raise InputError(f'last={last!r}: choose "keep" or "drop"')
        if not 0.0 <= validation < 1.0:
            raise InputError(f"validation={validation!r}: give the share for validation, 0 or more, below 1")
        if not 0 <= rank < world_size:
            raise InputError(f"rank={rank}: expected 0..world_size - 1 = {world_size - 1}")
        if not 0 <= seed < 1 << 64:
            raise InputError(f"seed={seed}: expected 0..2^64 - 1")
        sizes = [token_budget, *(batch_size.values() if isinstance(batch_size, Mapping) else [batch_size])]
        for size in sizes:
            if size is not None and size < 1:
                raise InputError(f"BucketSampler: a batch of {size}; batch_size and token_budget start at 1")
        self.store, self.batch_size, self.token_budget = store, batch_size, token_budget
        self.split, self.validation, self.last, self.seed = split, float(validation), last, seed
        self.shuffle = split != "validation" if shuffle is None else shuffle
        self.rank, self.world_size = rank, world_size
        self.epoch, self.step = 0, 0
        self._members = self._choose_members()
        self._plan: EpochPlan | None = None
        if not self.steps(0):
            raise InputError(
                f"BucketSampler: no bucket fills one batch ({self._members.size} samples); choose a smaller "
                'batch or last="keep"'
            )

    def _choose_members(self) -> Int64Array:
        everyone = np.arange(len(self.store), dtype=np.int64)
        if self.split == "all":
            return everyone
        lengths = self.store.lengths(0)
        order = np.lexsort((sort_keys(self.seed, everyone, 0, Stream.SPLIT), lengths))
        held_out = np.zeros(len(everyone), np.bool_)
        for first, stop in _runs(lengths[order]):
            held_out[order[first : first + round(self.validation * (stop - first))]] = True
        members = np.flatnonzero(held_out == (self.split == "validation"))
        if not members.size:
            raise InputError(
                f"BucketSampler: none of the {len(everyone)} samples is in split {self.split!r} with "
                f"validation={self.validation}; give more data or change validation"
            )
        return members

    @property
    def members(self) -> Int64Array:
        """The samples of this split, rising."""
        return self._members

    @property
    def data_epoch(self) -> int:
        """The epoch whose sizes, masks and noise are used: the current one, for validation always 0."""
        return 0 if self.split == "validation" else self.epoch

    def plan(self, epoch: int) -> EpochPlan:
        """The batches of an epoch (validation: of epoch 0). The last one made is kept."""
        epoch = 0 if self.split == "validation" else epoch
        if self._plan is None or self._plan.epoch != epoch:
            self._plan = self._make_plan(epoch)
        return self._plan

    def _make_plan(self, epoch: int) -> EpochPlan:
        members = self._members
        lengths = self.store.lengths(epoch)[members]
        if self.shuffle:
            keys = sort_keys(self.seed, members, epoch, Stream.SHUFFLE)
            order = np.lexsort((keys, lengths))
        else:
            order = np.argsort(lengths, kind="stable")
        parts: list[Int64Array] = []
        tokens: list[npt.NDArray[np.int32]] = []
        for first, stop in _runs(lengths[order]):
            length = int(lengths[order[first]])
            edges = self._cut(first, stop, self._batch_of(length))
            parts.append(np.stack([edges[:-1], edges[1:]], axis=1))
            tokens.append(np.full(len(edges) - 1, length, np.int32))
        bounds, steps = np.concatenate(parts), np.concatenate(tokens)
        if self.shuffle:  # batches are named by negative numbers, which no sample has
            names = -1 - np.arange(len(bounds), dtype=np.int64)
            mixed = np.argsort(sort_keys(self.seed, names, epoch, Stream.SHUFFLE), kind="stable")
            bounds, steps = bounds[mixed], steps[mixed]
        return EpochPlan(epoch, members[order], bounds, steps)

    def _batch_of(self, length: int) -> int:
        if self.token_budget is not None:
            return max(1, self.token_budget // length)
        if not isinstance(self.batch_size, Mapping):
            assert self.batch_size is not None
            return self.batch_size
        if length not in self.batch_size:
            raise InputError(
                f"BucketSampler: batch_size has no entry for sequences of {length} tokens; it has "
                f"{sorted(self.batch_size)}"
            )
        return self.batch_size[length]

    def _cut(self, first: int, stop: int, size: int) -> Int64Array:
        """Edges of the batches of one bucket."""
        full = (stop - first) // size
        edges: Int64Array = first + size * np.arange(full + 1, dtype=np.int64)
        if self.last == "keep" and edges[-1] < stop:
            edges = np.append(edges, stop)
        return edges

    def steps(self, epoch: int) -> int:
        """Batches of an epoch; rays change their sizes, so it may differ by a few between epochs."""
        epoch = 0 if self.split == "validation" else epoch
        if self._plan is not None and self._plan.epoch == epoch:
            return len(self._plan.bounds)
        lengths, counts = np.unique(self.store.lengths(epoch)[self._members], return_counts=True)
        return sum(
            len(self._cut(0, int(count), self._batch_of(int(length)))) - 1
            for length, count in zip(lengths, counts, strict=True)
        )

    def __len__(self) -> int:
        return self.steps(self.epoch)

    def bucket_of(self, epoch: int, step: int) -> int:
        """Tokens of the samples of a batch, CLS included."""
        return int(self.plan(epoch).lengths[step])

    def global_batch(self, epoch: int, step: int) -> Int64Array:
        """Samples of a batch over all ranks, int64."""
        plan = self.plan(epoch)
        first, stop = plan.bounds[step]
        return plan.order[first:stop]

    def rank_batch(self, epoch: int, step: int) -> Int64Array:
        """This rank's samples of a batch, int64."""
        batch = self.global_batch(epoch, step)
        first, stop = (len(batch) * r // self.world_size for r in (self.rank, self.rank + 1))
        return batch[first:stop]

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; nothing happens if it is the current one."""
        if epoch != self.epoch:
            self.epoch, self.step = epoch, 0

    def advance(self) -> None:
        """One batch of the current epoch has been used."""
        self.step += 1
        if self.step >= self.steps(self.epoch):
            self.epoch, self.step = self.epoch + 1, 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        if self.split == "validation":
            self.step = 0
        for step in range(self.step, len(self)):
            epoch = self.data_epoch
            batch = self.rank_batch(epoch, step).tolist()
            self.advance()
            yield [(epoch, index) for index in batch]

    def identity(self) -> dict[str, Any]:
        """What must be the same for a saved position to mean the same batches."""
        sizes = self.batch_size
        return {
            "format": _FORMAT,
            "data": self.store.fingerprint,
            "split": self.split,
            "validation": self.validation,
            "shuffle": self.shuffle,
            "last": self.last,
            "seed": self.seed,
            "world_size": self.world_size,
            "token_budget": self.token_budget,
            "batch_size": {str(k): v for k, v in sizes.items()} if isinstance(sizes, Mapping) else sizes,
        }

    def state_dict(self) -> dict[str, Any]:
        """The position and what it belongs to: numbers and strings. With DataLoader workers the sampler runs
        ahead of the batches received; use `state_at` with the position reached."""
        return self.state_at(self.epoch, self.step)

    def state_at(self, epoch: int, step: int) -> dict[str, Any]:
        """The state after `step` batches of an epoch."""
        return {**self.identity(), "epoch": epoch, "step": step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            InputError: it was taken with other data, seed, batches or number of ranks; lists what differs.
        """
        own = self.identity()
        saved = {name: state.get(name) for name in own}
        different = [
            f"{name}: saved {saved[name]!r}, now {own[name]!r}" for name in own if saved[name] != own[name]
        ]
        if different:
            raise InputError(
                f"BucketSampler: the saved state belongs to other batches ({'; '.join(different)}); resume with "
                "the same data and settings, or start anew"
            )
        self.epoch, self.step = int(state["epoch"]), int(state["step"])


def _runs(lengths: npt.NDArray[np.int32]) -> list[tuple[int, int]]:
    """(first, stop) of each run of equal numbers."""
    if not lengths.size:
        return []
    edges = [0, *(np.flatnonzero(np.diff(lengths)) + 1).tolist(), lengths.size]
    return list(pairwise(edges))
