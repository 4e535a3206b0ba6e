"""The training loop that heads on cached inputs and fine-tuned encoders share: epochs, the best one, its state.

What an epoch does depends on the seed and the epoch's number only (order of users, dropout), so a run that is taken up
again after any epoch gives the same weights.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lwm_fast.errors import InputError
from lwm_fast.progress import Progress
from lwm_fast.tasks.fit_config import FitConfig
from lwm_fast.tasks.heads import seeded
from lwm_fast.tasks.optimizer import Optimizer

State = dict[str, Tensor]


@dataclass
class RunState:
    """Where a run stands: epochs done, the best of them by validation with its weights, one record an epoch."""

    done: int = 0
    best_epoch: int = 0
    best_score: float = math.nan
    best: State | None = None
    history: list[dict[str, float]] = field(default_factory=list)


class Loop:
    """Trains `module`; the forward may run more than it (a frozen part, say).

    Args:
        module: holds every trained parameter and the buffers that training changes.
        forward: (rows int64 [b], epoch) -> outputs [b, ...], differentiable in the module's parameters.
        targets: [n, ...] on the device of the outputs.
        loss: "cross-entropy", "mse", "nmse" or "nmse-pooled".
        encoder: those trained parameters that take `config.encoder_lr`.
        config, seed: as for `fit_head`.

    Raises:
        InputError: nothing to train on, or a single user where BatchNorm needs two.
    """

    def __init__(
        self,
        module: nn.Module,
        forward: Callable[[Tensor, int], Tensor],
        targets: Tensor,
        loss: str,
        config: FitConfig,
        seed: int,
        *,
        encoder: list[nn.Parameter] | None = None,
    ) -> None:
        self.module, self._forward, self._targets = module, forward, targets
        self._loss, self._config, self._seed = LOSS_FUNCTIONS[loss], config, seed
        normalises = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in module.modules())
        if len(targets) < 1 + normalises:
            raise InputError(
                f"{len(targets)} training users: " + ("BatchNorm needs 2, " if len(targets) else "")
                + 'give more, or use a head without it such as head="linear"'
            )  # fmt: skip
        below = {id(p) for p in encoder or ()}
        own = [p for p in module.parameters() if p.requires_grad and id(p) not in below]
        self.optimizer = Optimizer(own, encoder or (), config)

    def epoch(self, number: int) -> float:
        """Train for the epoch of this number, counted from 0; returns the mean loss over its users."""
        self.module.train()
        device, losses = self._targets.device, []
        order = torch.from_numpy(np.random.default_rng([self._seed, number]).permutation(len(self._targets)))
        with seeded(_mixed(self._seed, number), device), flushed_denormals():
            for rows in batches(order.to(device), self._config.batch_size):
                loss = self._loss(self._forward(rows, number), self._targets[rows])
                losses.append(loss.detach() * len(rows))
                self.optimizer.step(loss, self._config.rate(number))
        total = float(torch.stack(losses).sum()) / len(self._targets)
        if not math.isfinite(total):
            raise InputError(
                f"training diverged: the loss of epoch {number + 1} is {total}; lower lr={self._config.lr:g} (or "
                "encoder_lr), set clip_norm=1.0, or look for NaN in the inputs and targets"
            )
        return total

    def state(self) -> State:
        """Copies of the trained parameters and of all buffers, by name."""
        names = {name for name, p in self.module.named_parameters() if not p.requires_grad}
        return {
            name: value.detach().clone()
            for name, value in self.module.state_dict().items()
            if name not in names
        }

    def load(self, state: State) -> None:
        """Put back what `state` gave."""
        own = self.module.state_dict()
        with torch.no_grad():
            for name, value in state.items():
                own[name].copy_(value)

    def run(
        self,
        state: RunState,
        validate: Callable[[], float] | None,
        *,
        higher_is_better: bool,
        after_epoch: Callable[[RunState], None] | None = None,
        progress: bool | None = None,
    ) -> None:
        """Go on from `state` to the configured number of epochs, keeping the state up to date.

        validate: the score of the module as it is, by which the best epoch (the first of equals) is chosen; None
            takes the last epoch for the best. after_epoch: called with the state, to save it.
        """
        epochs, sign = self._config.epochs, 1.0 if higher_is_better else -1.0
        with Progress(epochs, "training", unit="epochs", show=progress, done=state.done) as bar:
            for number in range(state.done, epochs):
                record = {"epoch": float(number + 1), "loss": self.epoch(number)}
                record["lr"] = self._config.lr * self._config.rate(number)
                if validate is not None:
                    score = record["validation"] = validate()
                    if state.best is None or sign * score > sign * state.best_score:
                        state.best_epoch, state.best_score = number + 1, score
                        state.best = self.state()
                else:
                    state.best_epoch = number + 1
                state.history.append(record)
                state.done = number + 1
                bar.update(1)
                if after_epoch is not None:
                    after_epoch(state)


def batches(order: Tensor, size: int) -> list[Tensor]:
    """Rows in batches of `size`; a last batch of one joins the one before it."""
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def predict_in_batches(
    forward: Callable[[Tensor], Tensor], count: int, device: torch.device, *, step: int = 1024
) -> Tensor:
    """Outputs [count, ...] on the CPU of a forward over row numbers, `step` at a time, without gradients."""
    with torch.inference_mode(), flushed_denormals():
        rows = torch.arange(count, device=device)
        parts = [forward(rows[i : i + step]).cpu() for i in range(0, max(1, count), step)]
    return torch.cat(parts)


@contextlib.contextmanager
def flushed_denormals() -> Iterator[None]:
    """This thread's arithmetic takes denormals for zero: Adam's averages decay into them, where a CPU is slow."""
    before = float(torch.full((), 1e-39) * 1.0) == 0.0  # torch has no other way to ask
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _mixed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _nmse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over users of error energy / target energy; a user of zero energy counts 0."""
    error = (outputs - targets).flatten(1).square().sum(1)
    energy = targets.flatten(1).square().sum(1)
    return torch.where(energy > 0, error / energy.clamp_min(torch.finfo(energy.dtype).tiny), 0.0).mean()


def _nmse_pooled(outputs: Tensor, targets: Tensor) -> Tensor:
    energy = targets.square().sum().clamp_min(torch.finfo(targets.dtype).tiny)
    return (outputs - targets).square().sum() / energy


LOSS_FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "nmse": _nmse,
    "nmse-pooled": _nmse_pooled,
}
DEFAULT_LOSS = {"classification": "cross-entropy", "regression": "mse", "reconstruction": "nmse"}
