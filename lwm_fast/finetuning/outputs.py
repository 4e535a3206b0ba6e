"""Between a head's outputs and what a task is scored on: classes' scores, coordinates, csi."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lwm_fast.data import Channels
from lwm_fast.tasks.base import Array, Examples, Rows
from lwm_fast.tasks.fit import Scaling


@dataclass(frozen=True)
class Outputs:
    """How one run's targets are made for its head, and its predictions from the head's outputs.

    targets: what the head learns: int64 [n]; float32 [n, k], standardised; or float32 [n, N, SC, 2], real and
    imaginary parts of csi divided by each user's observed level (`reconstruction.user_scale`).
    scaling: of regression targets over the training users.
    """

    targets: Array
    scaling: Scaling | None

    @classmethod
    def of(cls, examples: Examples, train: Rows, *, standardize: bool = True) -> Outputs:
        """For training on these users. standardize: regression targets (estimators take them as they are)."""
        if examples.kind == "classification" or (examples.kind == "regression" and not standardize):
            return cls(examples.targets, None)
        if examples.kind == "regression":
            scaling = Scaling.of(examples.targets[train])
            return cls(scaling(examples.targets), scaling)
        from lwm_fast.tasks.reconstruction import to_parts, user_scale

        return cls(to_parts(examples.targets, user_scale(examples)), None)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one user's outputs for regression and reconstruction."""
        return self.targets.shape[1:]

    def predictions(self, examples: Examples, outputs: Array) -> Array:
        """Outputs float32 [n, ...] for these examples, in the form in which their task scores them."""
        if examples.kind == "classification":
            return outputs
        if examples.kind == "regression":
            return outputs if self.scaling is None else self.scaling.undo(outputs)
        from lwm_fast.tasks.reconstruction import finish, to_csi, user_scale

        if not len(examples):
            return np.empty(examples.targets.shape, np.complex64)
        return finish(examples, to_csi(outputs, user_scale(examples)))


def unlabelled(like: Examples, channels: Channels) -> Examples:
    """Examples of other users, observed as `like` is, with zeros for the targets that nobody knows."""
    shape = channels.shape if like.kind == "reconstruction" else (len(channels), *like.targets.shape[1:])
    return replace(like, channels=channels, targets=np.zeros(shape, like.targets.dtype))
