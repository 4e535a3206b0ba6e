"""`FitConfig`: how a head (and what is trained of the encoder under it) is optimised."""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lwm_fast.errors import InputError, nearest

LOSSES = ("auto", "cross-entropy", "mse", "nmse", "nmse-pooled")


@dataclass(frozen=True)
class FitConfig:
    """Optimiser, schedule and loss of a fit. The defaults are those of the paper's Fig. 4 on embeddings.

    Args:
        optimizer: "adam" (weight decay as an L2 term) or "adamw" (decoupled).
        lr: learning rate of the head, and of the encoder's layers unless `encoder_lr` is given.
        encoder_lr: learning rate of the encoder's trained layers; None: `lr`.
        batch_size: users a step. A last batch of a single user, which BatchNorm cannot take, joins the one
            before it.
        epochs: passes over the training users.
        step_epochs: multiply the rate by `gamma` every so many epochs; None: not.
        milestones: multiply it by `gamma` at these epochs instead.
        clip_norm: largest norm of all gradients together; None: not clipped.
        loss: "auto" takes "cross-entropy" for classification, "mse" (on standardised targets) for regression
            and "nmse" (mean over users of error energy / target energy) for reconstruction; "nmse-pooled" is
            the ratio of the batch's sums, in which strong users weigh more.
        standardize: shift and scale every input feature to mean 0 and deviation 1 over the training users. The
            release does not.

    Raises:
        InputError: a value out of its range.
    """

    optimizer: str = "adam"
    lr: float = 1e-3
    encoder_lr: float | None = None
    weight_decay: float = 0.0
    batch_size: int = 128
    epochs: int = 120
    step_epochs: int | None = 30
    milestones: tuple[int, ...] = ()
    gamma: float = 0.5
    clip_norm: float | None = None
    loss: str = "auto"
    standardize: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))
        _check(self.optimizer in ("adam", "adamw"), "optimizer", self.optimizer, '"adam" or "adamw"')
        _check(self.loss in LOSSES, "loss", self.loss, "one of " + ", ".join(LOSSES))
        for name in ("lr", "batch_size", "epochs"):
            _check(getattr(self, name) > 0, name, getattr(self, name), "a positive number")
        for name in ("encoder_lr", "step_epochs", "clip_norm"):
            value = getattr(self, name)
            _check(value is None or value > 0, name, value, "a positive number or None")
        _check(self.weight_decay >= 0, "weight_decay", self.weight_decay, "zero or more")
        _check(0 < self.gamma <= 1, "gamma", self.gamma, "a factor in (0, 1]")
        rising = all(0 < a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        _check(rising, "milestones", self.milestones, "rising epochs")
        if self.milestones and self.step_epochs is not None:
            raise InputError(
                f"FitConfig: milestones={self.milestones} and step_epochs={self.step_epochs} are both given; "
                "set step_epochs=None to use the milestones"
            )

    @classmethod
    def fig4(cls, *, raw: bool = False) -> FitConfig:
        """The paper's Fig. 4 (LoS/NLoS): Adam 1e-3 on embeddings and 1e-4 on raw channels, batches of 128, 120
        epochs, the rate halved every 30."""
        return cls(lr=1e-4 if raw else 1e-3)

    @classmethod
    def fig3(cls) -> FitConfig:
        """The paper's Fig. 3 (beams): Adam 1e-3, a tenth of it from epochs 15 and 35, 50 epochs, batches of 32,
        gradients clipped to norm 1."""
        return cls(batch_size=32, epochs=50, step_epochs=None, milestones=(15, 35), gamma=0.1, clip_norm=1.0)

    @classmethod
    def finetuning(cls) -> FitConfig:
        """The v1.1 release's fine-tuning: Adam 1e-3, times 0.8 every 20 epochs, 15 epochs, batches of 128."""
        return cls(epochs=15, step_epochs=20, gamma=0.8)

    def rate(self, epoch: int) -> float:
        """Factor on the learning rates in an epoch, counted from 0."""
        if self.milestones:
            return float(self.gamma ** bisect_right(self.milestones, epoch))
        return 1.0 if self.step_epochs is None else float(self.gamma ** (epoch // self.step_epochs))

    def to_dict(self) -> dict[str, Any]:
        """Plain values that :meth:`from_dict` reads back."""
        return {**dataclasses.asdict(self), "milestones": list(self.milestones)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, place: str = "FitConfig") -> FitConfig:
        """Build from a mapping; unknown keys are refused with the nearest known name."""
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise InputError(f"{place}: unknown key {key!r}; {nearest(key, known, 'known keys')}")
        return cls(**values)


def _check(fits: bool, name: str, value: object, wanted: str) -> None:
    if not fits:
        raise InputError(f"FitConfig.{name}={value!r} must be {wanted}")
