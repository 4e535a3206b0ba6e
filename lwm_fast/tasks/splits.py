"""Who is trained on, who chooses the epoch, who is tested on: seeded splits that say how they were made."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lwm_fast.errors import InputError
from lwm_fast.tasks.base import Examples, Rows
from lwm_fast.tasks.blocks import deal_blocks, distance_to_training

BY = ("auto", "random", "stratified", "position", "released")
_PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Rows of examples, ascending, no row in two parts.

    Args:
        train, validation, test: int64 row numbers.
        by: how the split was made, as it stands in results.
        seed: of the split.
    """

    train: Rows
    validation: Rows
    test: Rows
    by: str
    seed: int

    def __post_init__(self) -> None:
        for name in _PARTS:
            object.__setattr__(self, name, np.sort(np.asarray(getattr(self, name), dtype=np.int64)))
        everyone = np.concatenate([self.train, self.validation, self.test])
        if np.unique(everyone).size < everyone.size:
            raise InputError("split: a user stands in two parts (or twice in one); give each row once")

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Users in (train, validation, test)."""
        return self.train.size, self.validation.size, self.test.size


def make_split(
    examples: Examples,
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
    *,
    by: str = "auto",
    seed: int = 0,
    cell: float | None = None,
    gap: float = 0.0,
) -> Split:
    """Split users into training, validation and test.

    Args:
        examples: of a task.
        fractions: of (train, validation, test); a sum below 1 leaves users out.
        by: "stratified" keeps the classes' shares in each part (within one user of each class and part);
            "random"; "auto" is stratified for classification and random otherwise; "position" deals out whole
            squares of a grid, so that users beside each other stay together (`blocks.deal_blocks`);
            "released" draws as the releases' scripts do: torch's `random_split` straight after seeding, sizes
            rounded down, the last part takes the rest. Published figures do not name their seeds, so this gives
            their kind of split, not their users.
        seed: 0 or more.
        cell: side of the squares in metres for "position"; None derives it from the users' positions.
        gap: metres, for "position"; training users nearer than this to any other part's are left out.

    Raises:
        InputError: fractions that are negative, exceed 1 or give a part no user; an unknown `by`;
            "stratified" with a class of one user or without classes; "position" without positions; a training
            part with a single class.

    Warns:
        UserWarning: classes without a user in training, and, for "auto", classes of one user.
    """
    wanted = _check(examples, fractions, by, seed)
    count, how = len(examples), by
    if by == "auto":
        how = "stratified" if examples.kind == "classification" else "random"
    if (cell is not None or gap != 0) and how != "position":
        raise InputError(f'make_split: cell={cell}, gap={gap}: these are for by="position", not for {by!r}')
    if how == "stratified":
        parts = _stratified(examples, wanted, seed, strict=by == "stratified")
    elif how == "position":
        parts, how = _by_position(examples, wanted, seed, cell, gap)
    elif how == "released":
        parts = _consecutive(_torch_order(count, seed), _released_sizes(count, wanted))
    else:
        order = np.random.default_rng(seed).permutation(count)
        sizes = _sizes(count, wanted)
        parts = _consecutive(order[: sum(sizes)], sizes[:2])
    split = Split(parts[0], parts[1], parts[2], by=how, seed=seed)
    for name, share, rows in zip(_PARTS, wanted, (split.train, split.validation, split.test), strict=True):
        if share > 0 and rows.size == 0:
            raise InputError(
                f"{examples.task}: a {name} fraction of {share:g} of {count} users (by {by}) is no user; raise it"
            )
    _check_classes(examples, split)
    return split


def few(
    examples: Examples,
    split: Split,
    *,
    count: int | None = None,
    fraction: float | None = None,
    seed: int = 0,
    test: str = "fixed",
) -> Split:
    """The split with fewer training users; for one seed a smaller set is part of every larger one.

    Classification draws every class once, the largest first, and then keeps the classes' shares; so every
    class is trained on as soon as `count` allows it.

    Args:
        examples: of a task.
        split: of these examples.
        count: training users, or
        fraction: of the users drawn from, rounded.
        seed: of the draw.
        test: "fixed" draws from `split.train` and leaves validation and test as they are; "rest" draws from all
            users of the split and tests on everyone not drawn, without validation (LWM paper, Fig. 4).

    Raises:
        InputError: both or none of count and fraction; no user, more than there are, or with "rest" nobody left
            to test on; a training part with a single class.

    Warns:
        UserWarning: classes without a user in training.
    """
    if test not in ("fixed", "rest"):
        raise InputError(f'few: test={test!r}: choose "fixed" or "rest"')
    if (count is None) == (fraction is None):
        raise InputError(f"few: count={count}, fraction={fraction}: give one of them")
    pool = (
        split.train
        if test == "fixed"
        else np.sort(np.concatenate([split.train, split.validation, split.test]))
    )
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise InputError(f"few: fraction={fraction}: give a share above 0, at most 1")
        count = round(fraction * pool.size)
        if count == 0:
            raise InputError(
                f"{examples.task}: a training fraction of {fraction:g} of {pool.size} users is no user; raise it "
                f"to {1 / pool.size:.2g} or more"
            )
    assert count is not None
    most = pool.size if test == "fixed" else pool.size - 1
    if not 1 <= count <= most:
        raise InputError(
            f"{examples.task}: {count} training users of {pool.size} (test={test!r}); give 1 to {most}"
        )
    shuffled = np.random.default_rng(seed).permutation(pool)
    order: Rows = np.arange(pool.size)
    if examples.kind == "classification":
        _, labels = np.unique(examples.targets[shuffled], return_inverse=True)
        order = _class_order(labels)
    train = shuffled[order[:count]]
    if test == "fixed":
        smaller = replace(split, train=train)
    else:
        smaller = replace(split, train=train, validation=train[:0], test=np.setdiff1d(pool, train))
    _check_classes(examples, smaller)
    return smaller


def _check(examples: Examples, fractions: Sequence[float], by: str, seed: int) -> tuple[float, float, float]:
    if by not in BY:
        raise InputError(f"make_split: by={by!r}: choose one of {', '.join(BY)}")
    if seed < 0:
        raise InputError(f"make_split: seed={seed}: give 0 or more")
    shares = [float(value) for value in fractions]
    if len(shares) != 3 or not all(value >= 0 for value in shares) or not 0 < sum(shares) <= 1 + 1e-9:
        raise InputError(
            f"make_split: fractions={tuple(fractions)}: give (train, validation, test), none negative, in all at "
            "most 1"
        )
    if shares[0] == 0:
        raise InputError("make_split: the training fraction is 0; raise it")
    if len(examples) == 0:
        raise InputError(f"{examples.task}: there is no user to split")
    return shares[0], shares[1], shares[2]


def _sizes(count: int, shares: Sequence[float]) -> list[int]:
    """Users of each part: the running totals rounded, so that the parts fill up what the shares add up to."""
    totals = np.round(np.cumsum([0.0, *shares]) * count).astype(int)
    return [int(size) for size in np.diff(totals)]


def _released_sizes(count: int, shares: Sequence[float]) -> list[int]:
    """Sizes of training and validation, rounded down; the last part that has a share takes the rest."""
    train = int(shares[0] * count)
    if shares[2] > 0:
        return [train, int(shares[1] * count)]
    return [train, count - train] if shares[1] > 0 else [count, 0]


def _consecutive(order: Rows, sizes: Sequence[int]) -> list[Rows]:
    return np.split(order, np.cumsum(sizes))


def _torch_order(count: int, seed: int) -> Rows:
    import torch

    generator = torch.Generator().manual_seed(seed)
    return np.asarray(torch.randperm(count, generator=generator).numpy())


def _by_position(
    examples: Examples, shares: Sequence[float], seed: int, cell: float | None, gap: float
) -> tuple[list[Rows], str]:
    """Parts of whole squares, and how they were made."""
    pos = examples.channels.pos
    if pos is None:
        raise InputError(
            f'{examples.task}: by="position" needs channels.pos; {examples.channels.meta.source} has none'
        )
    if not (np.isfinite(gap) and gap >= 0):
        raise InputError(f"make_split: gap={gap}: give metres, 0 or more")
    parts, cell = deal_blocks(pos, shares, seed=seed, cell=cell)
    how = f"position, {cell:.3g} m cells"
    others = np.concatenate(parts[1:])
    if gap > 0 and others.size:
        parts[0] = parts[0][distance_to_training(pos, others, parts[0]) >= gap]
        how += f", {gap:g} m gap"
    return parts, how


def _stratified(examples: Examples, shares: Sequence[float], seed: int, *, strict: bool) -> list[Rows]:
    """Users in the order of their classes, dealt out evenly; the first of every class goes to training."""
    if examples.kind != "classification":
        raise InputError(
            f'{examples.task}: by="stratified" is for classification; use "random" or "position"'
        )
    classes, sizes = np.unique(np.asarray(examples.targets), return_counts=True)
    single = classes[sizes == 1]
    if single.size:
        names = ", ".join(repr(examples.classes[int(index)]) for index in single)
        text = (
            f"{examples.task}: {'one class has' if single.size == 1 else f'{single.size} classes have'} a single "
            f"user ({names}), who cannot be trained and tested on"
        )
        if strict:
            raise InputError(f'{text}; leave the class out, join it with another, or use by="random"')
        warnings.warn(f"{text}; trained on only", stacklevel=3)
    rng = np.random.default_rng(seed)
    shuffled: Rows = rng.permutation(len(examples))
    by_class = shuffled[np.argsort(examples.targets[shuffled], kind="stable")]
    goal = np.array([*shares, max(0.0, 1 - sum(shares))])  # the last part is left out
    parts: list[list[int]] = [[], [], [], []]
    owed = rng.random(4) * goal  # where the first class starts in the cycle of parts
    start = 0
    for size in sizes:
        for place in range(size):
            owed += goal
            part = 0 if place == 0 else int(owed.argmax())
            owed[part] -= 1
            parts[part].append(int(by_class[start + place]))
        start += size
    return [np.array(part, dtype=np.int64) for part in parts[:3]]


def _class_order(labels: npt.NDArray[np.int64]) -> Rows:
    """An order of the users in which every class comes once, largest first, and then by its share."""
    sizes = np.bincount(labels)
    by_class = np.argsort(labels, kind="stable")
    rank = np.empty(labels.size, dtype=np.int64)  # of a user within its class
    rank[by_class] = np.arange(labels.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.asarray(np.lexsort((np.arange(labels.size), (rank + 0.5) / sizes[labels], rank > 0)))


def _check_classes(examples: Examples, split: Split) -> None:
    if examples.kind != "classification":
        return
    present = np.unique(examples.targets)
    trained = np.unique(examples.targets[split.train])
    missing = np.setdiff1d(present, trained)
    if missing.size == 0:
        return
    names = ", ".join(repr(examples.classes[int(index)]) for index in missing[:8])
    names += f" and {missing.size - 8} more" if missing.size > 8 else ""
    text = (
        f"{examples.task}: no training user ({split.train.size} in all, by {split.by}) has the "
        f"class{'' if missing.size == 1 else 'es'} {names}"
    )
    if trained.size < 2:
        raise InputError(f"{text}; train on more users, or take another seed")
    warnings.warn(f"{text}; they cannot be predicted", stacklevel=3)
