"""The learning rate as a function of step and epoch: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lwm_fast.training.sections import ScheduleSection


@dataclass(frozen=True)
class Schedule:
    """When a run ends, and the learning rate on the way.

    epoch_steps: optimizer steps of the first epoch. Rays change their sizes, so later epochs may differ by a few
    steps; a run has as many steps as if they did not.
    """

    section: ScheduleSection
    peak: float
    epoch_steps: int

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        steps = self.section.epochs * self.epoch_steps
        return steps if self.section.steps is None else min(steps, self.section.steps)

    def rate(self, step: int, epoch: int) -> float:
        """Learning rate of optimizer step `step` (0 is the first), which lies in `epoch`."""
        s = self.section
        warmup = s.warmup_steps or round(s.warmup_epochs * self.epoch_steps)
        if step < warmup:
            return self.peak * (step + 1) / warmup
        if s.kind == "constant":
            return self.peak
        if s.kind == "step":
            return self.peak * float(s.gamma ** (epoch // s.step_epochs))
        way = (step - warmup) / max(1, self.total - 1 - warmup)
        return s.min_lr + (self.peak - s.min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, way)))
