"""LoS or NLoS: is there a direct path between user and base station?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lwm_fast.data import Channels
from lwm_fast.errors import InputError
from lwm_fast.tasks.base import Examples
from lwm_fast.tasks.facts import channel_facts
from lwm_fast.tasks.kinds import Classification

NLOS, LOS = 0, 1


@dataclass(frozen=True)
class LosTask(Classification):
    """Line of sight from csi (LWM paper, Fig. 4): classes 0 "NLoS" and 1 "LoS"; users without a path left out."""

    name: ClassVar[str] = "los"

    def examples(self, channels: Channels) -> Examples:
        """Inputs and targets int64 [n] of the users that have a path.

        Raises:
            InputError: channels without `los`, or with other values than -1, 0 and 1; no user with a path.
        """
        place = channels.meta.source
        if channels.los is None:
            raise InputError(
                f"los: {place} says nothing about line of sight; give a DeepMIMO scenario, a file with a "
                "column los, or channels whose los is set (1 LoS, 0 NLoS, -1 no path)"
            )
        unknown = np.setdiff1d(channels.los, (-1, NLOS, LOS))
        if unknown.size:
            raise InputError(f"los: {place} has the value {unknown[0]}; use 1 LoS, 0 NLoS, -1 no path")
        kept = channels.los >= 0
        if not kept.any():
            raise InputError(
                f"los: none of the {len(channels)} users of {place} has a path; choose another base station"
            )
        used = channels if kept.all() else channels[kept]
        return Examples(
            task=self.name,
            kind=self.kind,
            channels=used,
            targets=channels.los[kept].astype(np.int64),
            classes=("NLoS", "LoS"),
            facts=channel_facts(used),
        )
