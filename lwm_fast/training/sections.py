"""The sections of a training configuration: frozen records that check their own values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lwm_fast.config import LWMConfig
from lwm_fast.data import PRETRAINING_SIZES
from lwm_fast.errors import InputError

Size = tuple[int, int]


def _check(good: bool, place: str, value: Any, expected: str) -> None:
    if not good:
        raise InputError(f"{place}={value!r}: {expected} was expected")


@dataclass(frozen=True)
class ModelSection:
    """Which encoder, and what it starts from. Sizes left at null are those of the release."""

    lwm_version: str = "1.1"
    embed_dim: int | None = None
    num_layers: int | None = None
    num_heads: int | None = None
    head_dim: int | None = None
    ffn_dim: int | None = None
    max_len: int | None = None
    dropout: float | None = None
    input_scale: str = "fixed"  # or "power": each sample at unit power, its dB in the CLS token
    positions: str = "index"  # or "grid": a vector of the patch's row and one of its column
    weights: str | None = None  # a file, folder or hub id to start from, instead of random weights
    init: str = "default"  # "default": torch's; "shallow": leaves the plateau of deep stacks sooner
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.init in ("default", "shallow"), "model.init", self.init, '"default" or "shallow"')
        _check(0 <= self.seed < 1 << 63, "model.seed", self.seed, "0..2^63 - 1")
        self.lwm_config()

    def lwm_config(self) -> LWMConfig:
        """The encoder's configuration."""
        _check(self.lwm_version in ("1.0", "1.1"), "model.lwm_version", self.lwm_version, '"1.0" or "1.1"')
        names = ("embed_dim", "num_layers", "num_heads", "head_dim", "ffn_dim", "max_len", "dropout")
        changes = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        released = LWMConfig.v1_0 if self.lwm_version == "1.0" else LWMConfig.v1_1
        return released(**changes, input_scale=self.input_scale, positions=self.positions)


@dataclass(frozen=True)
class DataSection:
    """What is read, and how ray sources are turned into channels."""

    sizes: tuple[Size, ...] = PRETRAINING_SIZES  # (antennas, subcarriers) of ray sources
    size_weights: tuple[int, ...] | None = None  # how often each of `sizes` comes; null: equally often
    bandwidth: float | None = None  # Hz; null: 30 kHz a subcarrier
    rotation: float | tuple[float, float] | None = None  # degrees, or a range to draw from; null: as stored
    max_paths: int | tuple[int, int] = (
        20  # strongest rays that enter; a range is drawn from per sample and epoch
    )
    scale: float | None = None  # of the channels in tokens; null: what each source says, else 1e6
    snr_db: float | tuple[float, float] | None = None  # noise on the training channels; null: none
    phase: bool = False  # turn every training channel by a random phase
    gain_db: tuple[float, float] | None = (
        None  # raise every training channel by a draw from this range; null: not
    )
    reference_carrier: float | None = (
        None  # Hz: gains of ray sources as free space would give there; null: stored
    )
    validation: float = 0.2  # share of every bucket
    max_validation: int | None = None  # samples that a validation looks at; null: all
    on_bad: str = "error"  # or "skip": leave corrupt samples out and count them
    prefetch: int = 3  # batches made ahead
    num_threads: int = 1  # of the loader
    seed: int = 0

    def __post_init__(self) -> None:
        _check(len(self.sizes) > 0, "data.sizes", self.sizes, "at least one [antennas, subcarriers]")
        _check(all(n > 0 and sc > 0 for n, sc in self.sizes), "data.sizes", self.sizes, "positive sizes")
        if self.size_weights is not None:
            fits = len(self.size_weights) == len(self.sizes) and all(w > 0 for w in self.size_weights)
            _check(
                fits,
                "data.size_weights",
                self.size_weights,
                f"{len(self.sizes)} positive numbers, one a size",
            )
        _check(self.scale is None or self.scale > 0, "data.scale", self.scale, "a positive number")
        _check(0 <= self.validation < 1, "data.validation", self.validation, "a share in [0, 1)")
        _check(self.on_bad in ("error", "skip"), "data.on_bad", self.on_bad, '"error" or "skip"')
        for name in ("reference_carrier", "prefetch", "num_threads", "max_validation"):
            value = getattr(self, name)
            _check(value is None or value > 0, f"data.{name}", value, "a positive number")
        paths = self.max_paths if isinstance(self.max_paths, tuple) else (self.max_paths,) * 2
        _check(1 <= paths[0] <= paths[1], "data.max_paths", self.max_paths, "at least 1, or a pair low, high")
        _check(0 <= self.seed < 1 << 63, "data.seed", self.seed, "0..2^63 - 1")

    def weighted_sizes(self) -> tuple[Size, ...]:
        """Each size as often as its weight says, spread evenly: a user goes through them epoch by epoch."""
        weights = self.size_weights or (1,) * len(self.sizes)
        places = [
            ((k + 0.5) / w, size) for size, w in zip(self.sizes, weights, strict=True) for k in range(w)
        ]
        return tuple(size for _, size in sorted(places, key=lambda one: one[0]))


@dataclass(frozen=True)
class MaskingSection:
    """Masked channel modelling: what is hidden, and how the prediction is judged."""

    ratio: float | None = None  # null: 0.15 (v1.0), 0.40 (v1.1)
    loss: str = "nmse"  # "nmse" (v1.1) or "mse_var" (v1.0)
    compat: bool = False  # the release's masks and loss forms, quirks included
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.loss in ("nmse", "mse_var"), "masking.loss", self.loss, '"nmse" or "mse_var"')
        _check(self.ratio is None or 0 < self.ratio <= 1, "masking.ratio", self.ratio, "a share in (0, 1]")
        _check(0 <= self.seed < 1 << 63, "masking.seed", self.seed, "0..2^63 - 1")


@dataclass(frozen=True)
class AuxiliarySection:
    """Link heads trained beside masked channel modelling, on the truth of ray sources (`lwm_fast.links`)."""

    weight: float = 0.0  # of their five losses beside the masked patches' loss; 0: no heads
    balance_los: bool = False  # weigh links so that delay alone tells nothing of line of sight
    heads_only: bool = False  # the encoder stays as model.weights has it
    seed: int = 0  # of the heads' first weights

    def __post_init__(self) -> None:
        _check(0 <= self.weight < math.inf, "auxiliary.weight", self.weight, "zero or more")
        for name in ("balance_los", "heads_only"):
            if getattr(self, name) and not self.weight:
                raise InputError(
                    f"auxiliary.{name}=true: there are no link heads; set auxiliary.weight above 0"
                )
        _check(0 <= self.seed < 1 << 63, "auxiliary.seed", self.seed, "0..2^63 - 1")


@dataclass(frozen=True)
class OptimizerSection:
    """Adam (weight decay as an L2 term) or AdamW (decoupled), and the batch of one step."""

    name: str = "adamw"
    lr: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.05
    batch_size: int | None = 128  # samples of one step, all ranks and micro-batches together
    token_budget: int | None = None  # or tokens of one step, so that short sequences come in larger batches
    accumulate: int = 1  # micro-batches into which a rank cuts its share; results do not depend on it
    clip_norm: float | None = 1.0  # of the gradient; null: no clipping

    def __post_init__(self) -> None:
        _check(self.name in ("adam", "adamw"), "optimizer.name", self.name, '"adam" or "adamw"')
        _check(self.lr > 0, "optimizer.lr", self.lr, "a positive number")
        _check(all(0 <= b < 1 for b in self.betas), "optimizer.betas", self.betas, "two numbers in [0, 1)")
        _check(self.eps > 0, "optimizer.eps", self.eps, "a positive number")
        _check(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "zero or more")
        _check(self.accumulate > 0, "optimizer.accumulate", self.accumulate, "a positive number")
        if (self.batch_size is None) == (self.token_budget is None):
            raise InputError(
                f"optimizer.batch_size={self.batch_size} and optimizer.token_budget={self.token_budget}: "
                "give one of them and set the other to null"
            )
        for name in ("batch_size", "token_budget", "clip_norm"):
            value = getattr(self, name)
            _check(value is None or value > 0, f"optimizer.{name}", value, "a positive number or null")


@dataclass(frozen=True)
class ScheduleSection:
    """How long, and the learning rate on the way."""

    epochs: int = 50
    steps: int | None = None  # ends earlier than `epochs` would; null: all epochs
    kind: str = "cosine"  # "cosine" to min_lr, "step" (times gamma every step_epochs), or "constant"
    warmup_steps: int = 0  # linear from 0
    warmup_epochs: float = 0.0  # likewise, in epochs of the first length; one of the two
    min_lr: float = 1e-8
    gamma: float = 0.9
    step_epochs: int = 10

    def __post_init__(self) -> None:
        kinds = ("cosine", "step", "constant")
        _check(self.kind in kinds, "schedule.kind", self.kind, '"cosine", "step" or "constant"')
        for name in ("epochs", "steps", "step_epochs"):
            value = getattr(self, name)
            _check(value is None or value > 0, f"schedule.{name}", value, "a positive number")
        _check(0 < self.gamma <= 1, "schedule.gamma", self.gamma, "a factor in (0, 1]")
        for name in ("warmup_steps", "warmup_epochs", "min_lr"):
            _check(getattr(self, name) >= 0, f"schedule.{name}", getattr(self, name), "zero or more")
        if self.warmup_steps and self.warmup_epochs:
            raise InputError("schedule: warmup_steps and warmup_epochs are both given; set one to 0")


@dataclass(frozen=True)
class RunSection:
    """Precision, checkpoints and what is written down."""

    precision: str = "float32"  # "bfloat16" or "float16": autocast, float16 with a loss scaler
    checkpoint_every: int = 500  # steps
    validate_every: int | None = None  # steps; null: at the end of every epoch
    log_every: int = 1  # steps a row of metrics.csv covers
    tensorboard: bool = True

    def __post_init__(self) -> None:
        kinds = ("float32", "bfloat16", "float16")
        _check(self.precision in kinds, "run.precision", self.precision, '"float32", "bfloat16" or "float16"')
        for name in ("checkpoint_every", "validate_every", "log_every"):
            value = getattr(self, name)
            _check(value is None or value > 0, f"run.{name}", value, "a positive number")
