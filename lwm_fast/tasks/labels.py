"""Tasks on a user's own labels: sensing, presence, activity, or any number about a user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from lwm_fast.data import Channels
from lwm_fast.errors import InputError
from lwm_fast.tasks.base import Array, Examples
from lwm_fast.tasks.facts import channel_facts
from lwm_fast.tasks.kinds import Classification, Regression
from lwm_fast.tasks.metrics import regression_scores


@dataclass(frozen=True, eq=False)
class ClassificationTask(Classification):
    """Classes given by the user.

    Args:
        labels: one for each user in the channels' order: whole numbers, booleans or strings [n]. None takes
            `channels.labels`.
        classes: their order. None sorts what occurs. For strings, every class by name; for numbers 0 .. C - 1,
            the C names, so that classes that do not occur keep their place.
        name: of the task, in results.
    """

    labels: npt.ArrayLike | None = field(default=None, repr=False)
    classes: Sequence[str] | None = None
    name: str = "classification"

    def examples(self, channels: Channels) -> Examples:
        """Inputs and targets int64 [n] of all users.

        Raises:
            InputError: no labels, of another number than users, NaN or fractions among them, a single class,
                a label that `classes` does not know.
        """
        given = _given(self.name, self.labels, channels, "labels")
        targets, names = encode_labels(given, self.classes, self.name)
        return Examples(
            task=self.name,
            kind=self.kind,
            channels=channels,
            targets=targets,
            classes=names,
            facts=channel_facts(channels),
        )


@dataclass(frozen=True, eq=False)
class RegressionTask(Regression):
    """Numbers given by the user.

    Args:
        targets: [n] or [n, k], one row for each user in the channels' order. None takes `channels.labels`.
        names: of the k numbers. None calls them target, or target_0, target_1, ...
        name: of the task, in results.
    """

    targets: npt.ArrayLike | None = field(default=None, repr=False)
    names: Sequence[str] | None = None
    name: str = "regression"

    metric: ClassVar[str] = "mae"

    def examples(self, channels: Channels) -> Examples:
        """Inputs and targets float32 [n, k] of all users.

        Raises:
            InputError: no targets, of another number than users, not numbers, not finite; names of another
                number than k.
        """
        given = _given(self.name, self.targets, channels, "targets")
        if given.dtype.kind not in "biuf" or given.ndim not in (1, 2):
            raise InputError(
                f"{self.name}: targets are {given.dtype} {given.shape}; give numbers [n] or [n, k]"
            )
        values = np.ascontiguousarray(given.reshape(len(given), -1), dtype=np.float32)
        _refuse_not_finite(self.name, values, "targets")
        names = self.names
        if names is None:
            count = values.shape[1]
            names = ["target"] if count == 1 else [f"target_{index}" for index in range(count)]
        if len(names) != values.shape[1]:
            raise InputError(f"{self.name}: {len(names)} names for {values.shape[1]} numbers a user")
        return Examples(
            task=self.name,
            kind=self.kind,
            channels=channels,
            targets=values,
            classes=tuple(names),
            facts=channel_facts(channels),
        )

    def score(self, examples: Examples, predictions: Array) -> dict[str, float]:
        """`metrics.regression_scores` of predictions [n, k]."""
        return regression_scores(predictions, examples.targets, examples.classes)


def encode_labels(
    labels: npt.ArrayLike, classes: Sequence[str] | None = None, name: str = "labels"
) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Class numbers int64 [n] and the names of the classes.

    Without `classes` the values that occur are sorted and numbered from 0; see `ClassificationTask`.

    Raises:
        InputError: as `ClassificationTask.examples`.
    """
    values = np.asarray(labels)
    if values.dtype == object:
        values = _same_kind(values, name)
    if values.ndim != 1 or values.dtype.kind not in "biufU":
        raise InputError(
            f"{name}: labels are {values.dtype} {values.shape}; give one whole number, boolean or string for "
            "each user"
        )
    if values.dtype.kind == "f":
        _refuse_not_finite(name, values[:, None], "labels")
        if (values != np.round(values)).any():
            raise InputError(f"{name}: the label {values[values != np.round(values)][0]} is not a class; "
                             "give whole numbers or strings, or use RegressionTask")  # fmt: skip
        values = values.astype(np.int64)
    if classes is None:
        found, codes = np.unique(values, return_inverse=True)
        if found.size < 2:
            only = f"every user has the label {found[0]!s}" if found.size else "there is no user"
            raise InputError(f"{name}: {only}; classification needs at least two classes")
        return codes.astype(np.int64), tuple(str(value) for value in found)
    names = tuple(str(value) for value in classes)
    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError(f"{name}: classes={names}; give at least two names, all different")
    if values.dtype.kind == "U":
        codes = np.array([names.index(value) if value in names else -1 for value in values], dtype=np.int64)
    else:
        codes = values.astype(np.int64)
    unknown = np.flatnonzero((codes < 0) | (codes >= len(names)))
    if unknown.size:
        allowed = ", ".join(names) if values.dtype.kind == "U" else f"0..{len(names) - 1}"
        raise InputError(
            f"{name}: label {values[unknown[0]]!s} of row {unknown[0]} is none of the classes {allowed}; "
            "correct it or add its class"
        )
    return codes, names


def _given(name: str, values: npt.ArrayLike | None, channels: Channels, what: str) -> npt.NDArray[Any]:
    """The labels given, else those of the channels, checked for their number."""
    if values is None:
        values = channels.labels
        if values is None:
            raise InputError(
                f"{name}: {channels.meta.source} has no labels; give {what}= (one for each of the "
                f"{len(channels)} users)"
            )
    array = np.asarray(values)
    if array.ndim == 0 or len(array) != len(channels):
        count = "one value" if array.ndim == 0 else f"{len(array)} {what}"
        raise InputError(
            f"{name}: {count} for {len(channels)} channels of {channels.meta.source}; give one per user, in "
            "the channels' order (users without a path are dropped on loading: channels.user_index has the rest)"
        )
    return array


def _same_kind(values: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    """Labels of dtype object (pandas columns) as strings or whole numbers.

    Missing ones (None, NaN) and mixtures are refused: made strings, they would become classes of their own.
    """
    flat = values.ravel().tolist()
    for wanted, dtype in (((str,), np.str_), ((bool, int), np.int64)):
        if all(isinstance(value, wanted) for value in flat):
            return values.astype(dtype)
    first = str if isinstance(flat[0], str) else int
    row = next(row for row, value in enumerate(flat) if not isinstance(value, first))
    raise InputError(
        f"{name}: label {flat[row]!r} of row {row} is a {type(flat[row]).__name__}; give strings only or whole "
        "numbers only, and leave users without a label out"
    )


def _refuse_not_finite(name: str, values: npt.NDArray[Any], what: str) -> None:
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        raise InputError(
            f"{name}: NaN or Inf in {bad.size} of {len(values)} {what}, the first in row {bad[0]}; leave these "
            "users out of channels and labels"
        )
