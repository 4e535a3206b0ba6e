"""What a downstream task is: examples made of channels, and how predictions on them are scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from lwm_fast.data import Channels
from lwm_fast.errors import InputError

Kind: TypeAlias = Literal["classification", "regression", "reconstruction"]
Array: TypeAlias = npt.NDArray[Any]
Rows: TypeAlias = npt.NDArray[np.int64]
Fact: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True)
class Examples:
    """What a model may see of each user, and what it is to say about him.

    Args:
        task: name of the task.
        kind: "classification" (targets int64 [n], 0 .. len(classes) - 1), "regression" (float32 [n, k]) or
            "reconstruction" (complex64 [n, num_antennas, num_subcarriers]).
        channels: the input csi [n, num_antennas, num_subcarriers] as the model sees it (noisy, or zero where
            it is not observed), with positions and LoS of the same users.
        targets: as `kind` says.
        classes: names of the classes, in order; of the coordinates for regression; empty otherwise.
        observed: bool [num_antennas, num_subcarriers], where the input csi is known; None means everywhere.
        facts: what must stand beside every result (codebook, snr_db, pilots, source), plain values only.

    Raises:
        InputError: targets of another number than the channels, or of a wrong dtype or shape for the kind.
    """

    task: str
    kind: Kind
    channels: Channels
    targets: Array
    classes: tuple[str, ...] = ()
    observed: npt.NDArray[np.bool_] | None = None
    facts: Mapping[str, Fact] = field(default_factory=dict)

    def __post_init__(self) -> None:
        users = len(self.channels)
        if len(self.targets) != users:
            raise InputError(
                f"{self.task}: {len(self.targets)} labels for {users} channels; give one label per user, in "
                "the channels' order"
            )
        wanted = {"classification": "i", "regression": "f", "reconstruction": "c"}[self.kind]
        if self.targets.dtype.kind != wanted:
            raise InputError(f"{self.task}: targets are {self.targets.dtype}, not of kind {wanted!r}")
        shape: tuple[int, ...] = (users,)
        if self.kind == "reconstruction":
            shape = self.channels.shape
        elif self.kind == "regression":
            shape = (users, len(self.classes))
        if self.targets.shape != shape:
            raise InputError(f"{self.task}: targets are {self.targets.shape}; {shape} was expected")
        if self.kind == "classification" and users:
            low, high = int(self.targets.min()), int(self.targets.max())
            if low < 0 or high >= len(self.classes):
                raise InputError(
                    f"{self.task}: classes {low}..{high}; {len(self.classes)} names allow 0..{len(self.classes) - 1}"
                )

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, rows: Rows) -> Examples:
        """The chosen users, in the order asked for."""
        return replace(self, channels=self.channels[rows], targets=self.targets[rows])


class Task(Protocol):
    """A task: a frozen dataclass of its settings. Every task is an entry of `lwm_fast.tasks.TASKS`."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Kind: ...

    @property
    def metric(self) -> str:
        """The score by which runs are compared and the best epoch is chosen, a key of what `score` gives."""

    @property
    def higher_is_better(self) -> bool: ...

    def examples(self, channels: Channels) -> Examples:
        """Inputs and targets of the users that the task can use.

        Raises:
            InputError: the channels lack what the labels are made of.
        """

    def score(self, examples: Examples, predictions: Array) -> dict[str, float]:
        """All scores of predictions for these examples.

        predictions: classification, float [n, num_classes], any scores whose argmax is the class;
            regression, float [n, k]; reconstruction, complex64 [n, num_antennas, num_subcarriers].
        """
