"""Where is the user? x and y in metres from csi."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lwm_fast.data import Channels
from lwm_fast.errors import InputError
from lwm_fast.tasks.base import Array, Examples
from lwm_fast.tasks.facts import channel_facts
from lwm_fast.tasks.kinds import Regression
from lwm_fast.tasks.metrics import position_scores


@dataclass(frozen=True)
class LocalizationTask(Regression):
    """Position on the ground from csi: targets float32 [n, 2], x and y of the source's frame, metres."""

    name: ClassVar[str] = "localization"
    metric: ClassVar[str] = "error_m"

    def examples(self, channels: Channels) -> Examples:
        """Inputs and targets of the users that have a path.

        Raises:
            InputError: channels without positions, positions that are not finite, no user with a path.
        """
        place = channels.meta.source
        if channels.pos is None:
            raise InputError(
                f"localization: {place} has no positions; give a DeepMIMO scenario, a file with a column pos "
                "[users, 3], or channels whose pos is set (metres)"
            )
        if channels.los is not None and (channels.los < 0).any():
            channels = channels[channels.los >= 0]
        if len(channels) == 0:
            raise InputError(f"localization: no user of {place} has a path; choose another base station")
        assert channels.pos is not None
        targets = np.ascontiguousarray(channels.pos[:, :2])
        bad = np.flatnonzero(~np.isfinite(targets).all(axis=1))
        if bad.size:
            raise InputError(
                f"localization: {place}: the position of {bad.size} users is not finite, the first is user "
                f"{channels.user_index[bad[0]]}; leave them out: channels[np.isfinite(channels.pos).all(axis=1)]"
            )
        return Examples(
            task=self.name,
            kind=self.kind,
            channels=channels,
            targets=targets,
            classes=("x", "y"),
            facts=channel_facts(channels),
        )

    def score(self, examples: Examples, predictions: Array) -> dict[str, float]:
        """`metrics.position_scores` of predictions [n, 2] in metres."""
        return position_scores(predictions, examples.targets)
