"""`Trainer`: model, optimizer and processes; one optimizer step, one validation, and their state."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lwm_fast.draws import Draws
from lwm_fast.errors import InputError
from lwm_fast.links import LinkState
from lwm_fast.model import LWM
from lwm_fast.ops import mcm_loss_of, mcm_totals
from lwm_fast.packed import PackedBatch
from lwm_fast.training.config import TrainConfig
from lwm_fast.training.link_loss import (
    NUM_LINK_TOTALS,
    LinkScore,
    known_links,
    link_loss,
    link_totals,
)
from lwm_fast.training.los_balance import LosBalance
from lwm_fast.training.objective import (
    ERROR,
    NUM_SAMPLES,
    RATIO_SUM,
    TARGET_ENERGY,
    Objective,
    known_totals,
    micro_batches,
    share_of_loss,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

_ACCELERATE = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True)
class StepResult:
    """One step, pooled over micro-batches and ranks.

    loss: as the recipe defines it; nmse: mean over samples of ||t-p||^2 / ||t||^2; grad_norm: before clipping;
    finite: whether the step was taken; own_finite: whether this rank's share of the loss is a finite number
    (false names the rank that holds the offending batch); stop: whether any rank wants to stop; link_loss, links:
    of the link heads, None without them.
    """

    loss: float
    nmse: float
    grad_norm: float
    samples: int
    tokens: int
    finite: bool
    own_finite: bool
    stop: bool
    link_loss: float | None = None
    links: LinkScore | None = None


@dataclass(frozen=True)
class BucketScore:
    """Validation of one bucket: samples, loss, mean NMSE over samples, pooled NMSE (linear), links if trained."""

    seq_len: int
    samples: int
    loss: float
    nmse: float
    pooled_nmse: float
    links: LinkScore | None = None


def make_accelerator(precision: str, cpu: bool) -> Accelerator:
    """Accelerate's launcher state of this process; InputError where it is missing or cannot do the precision."""
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError as error:
        raise InputError('pre-training needs accelerate: pip install "lwm_fast[train]"') from error
    if precision == "float16" and (cpu or not torch.cuda.is_available()):
        raise InputError('run.precision="float16" needs a GPU; use "float32" or "bfloat16" on the CPU')
    AcceleratorState._reset_state()  # an earlier run of this process may have had another precision
    return Accelerator(mixed_precision=_ACCELERATE[precision], cpu=cpu or not torch.cuda.is_available())


class Trainer:
    """Owns what changes from step to step. `model` is trained in place, and its link heads where they are to learn.

    balance: how the link heads weigh line of sight in training and validation.
    """

    def __init__(
        self, config: TrainConfig, model: LWM, accelerator: Accelerator, balance: LosBalance | None = None
    ) -> None:
        self._config, self._accelerator, self._balance = config, accelerator, balance
        self._weight = config.auxiliary.weight  # of the link heads' loss
        frozen = config.auxiliary.heads_only
        objective = Objective(model, model.link_heads if self._weight else None, frozen=frozen)
        self._trained = [p for p in objective.parameters() if p.requires_grad]
        self._objective = accelerator.prepare_model(objective)
        self._optimizer = accelerator.prepare_optimizer(_optimizer(config, self._trained))
        self.model = model
        self._clip = config.optimizer.clip_norm or math.inf
        self._has_dropout = model.config.dropout > 0 and not frozen

    def step(self, batch: PackedBatch, epoch: int, lr: float, *, stop: bool = False) -> StepResult:
        """One optimizer step on this rank's share of the global batch."""
        masking, parts = self._config.masking, micro_batches(batch, self._config.optimizer.accumulate)
        if self._config.data.snr_db is not None:  # noise lies on tokens: no backend may cut its own from csi
            parts = [replace(part, csi=part.csi[:0]) for part in parts]
        input_scale = self.model.config.input_scale
        known = torch.stack([known_totals(p, masking.loss, input_scale) for p in parts]).sum(0)
        if self._weight:
            known = torch.cat([known, known_links(_truth(batch))])
        known = self._pooled(known)
        links = torch.zeros(NUM_LINK_TOTALS, dtype=torch.float64, device=self.model.device)
        self._objective.train()
        self._optimizer.zero_grad()
        own = torch.zeros(9, dtype=torch.float64, device=self.model.device)
        for i, part in enumerate(parts):
            waits = i + 1 < len(parts)  # gradients travel with the last micro-batch
            with self._accelerator.no_sync(self._objective) if waits else contextlib.nullcontext():
                predicted, target, scores = self._objective(part, self._draws(part, epoch))
                totals, ratio_sum = self._totals(predicted, target, part)
                share = share_of_loss(totals, known[:6], masking.loss, masking.compat)
                if scores is not None:
                    told = link_totals(scores, _truth(part), self._balance)
                    share = share + self._weight * link_loss(told, known[6:])
                    links += told.detach()
                # DDP divides the sum over ranks by their number; shares are to be added.
                self._accelerator.backward(share * self._accelerator.num_processes)
            own[:6] += totals.detach()
            own[6] += ratio_sum
        own[7], own[8] = len(batch) * batch.max_seqlen, float(stop)
        norm = self._accelerator.clip_grad_norm_(self._trained, self._clip)
        pooled, links = self._pooled(torch.cat([own, links])).split([len(own), len(links)])
        loss = mcm_loss_of(pooled[:6], masking.loss, compat=masking.compat)
        ends = torch.stack([link_loss(links, links), loss, norm.double()])
        values = torch.cat([pooled, own[[RATIO_SUM, ERROR]], ends]).tolist()
        link_value, loss_value, norm_value = values[-3:]
        scaling = self._accelerator.scaler is not None  # which skips steps of infinite gradients by itself
        finite = math.isfinite(loss_value + link_value) and (scaling or math.isfinite(norm_value))
        if finite:
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            self._optimizer.step()
        samples = int(values[NUM_SAMPLES])
        return StepResult(
            loss=loss_value,
            nmse=values[6] / max(1, samples),
            grad_norm=norm_value,
            samples=samples,
            tokens=int(values[7]),
            finite=finite,
            own_finite=all(map(math.isfinite, values[9:11])),
            stop=values[8] > 0,
            link_loss=link_value if self._weight else None,
            links=LinkScore.of(links) if self._weight else None,
        )

    @torch.no_grad()
    def validate(self, batches: Iterable[tuple[int, PackedBatch]]) -> list[BucketScore]:
        """Scores by bucket of (seq_len, this rank's share of a batch); every rank passes the same buckets."""
        masking, module = self._config.masking, self._accelerator.unwrap_model(self._objective)
        module.eval()
        sums: dict[int, Tensor] = {}
        for seq_len, batch in batches:
            nothing = torch.zeros(7 + NUM_LINK_TOTALS, dtype=torch.float64, device=self.model.device)
            own = sums.setdefault(seq_len, nothing)
            if len(batch):
                predicted, target, scores = module(batch, None)
                totals, ratio_sum = self._totals(predicted, target, batch)
                own[:6] += totals
                own[6] += ratio_sum
                if scores is not None:
                    own[7:] += link_totals(scores, _truth(batch), self._balance)
        scores = []
        for seq_len in sorted(sums):
            pooled = self._pooled(sums[seq_len])
            loss = float(mcm_loss_of(pooled[:6], masking.loss, compat=masking.compat))
            values = pooled.tolist()
            samples, energy = int(values[NUM_SAMPLES]), values[TARGET_ENERGY]
            scores.append(
                BucketScore(
                    seq_len,
                    samples,
                    loss,
                    nmse=values[6] / max(1, samples),
                    pooled_nmse=values[ERROR] / energy if energy > 0 else 0.0,
                    links=LinkScore.of(pooled[7:]) if self._weight else None,
                )
            )
        return scores

    def state_dict(self) -> dict[str, Any]:
        """Optimizer, loss scaler and generator states (weights are saved apart)."""
        scaler = self._accelerator.scaler
        return {
            "optimizer": self._optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if self.model.device.type == "cuda" else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What `state_dict` gave."""
        self._optimizer.load_state_dict(state["optimizer"])
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["torch_rng"])
        if self.model.device.type == "cuda":
            torch.cuda.set_rng_state_all(state["cuda_rng"])

    def _draws(self, batch: PackedBatch, epoch: int) -> Draws | None:
        if not self._has_dropout:
            return None
        ids = torch.from_numpy(np.ascontiguousarray(batch.sample_id)).to(self.model.device)
        return Draws(self._config.model.seed, epoch, ids)

    def _totals(self, predicted: Tensor, target: Tensor, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """The totals the loss is made of, and the sum of ||t-p||^2/||t||^2 (without `compat` among them)."""
        assert batch.mask is not None
        mask_cu = torch.from_numpy(batch.mask.mask_cu).to(predicted.device)
        totals = mcm_totals(predicted, target, mask_cu, compat=self._config.masking.compat)
        if not self._config.masking.compat:
            return totals, totals[RATIO_SUM].detach()
        return totals, mcm_totals(predicted.detach(), target, mask_cu)[RATIO_SUM]

    def _pooled(self, values: Tensor) -> Tensor:
        if self._accelerator.num_processes == 1:
            return values
        pooled: Tensor = self._accelerator.reduce(values.to(self._accelerator.device, copy=True), "sum")
        return pooled


def _truth(batch: PackedBatch) -> LinkState:
    if batch.truth is None:
        raise InputError(
            "auxiliary.weight is above 0 and a batch has no truth about its links; make batches with "
            "MCMCollator(..., truth=True), or set auxiliary.weight=0"
        )
    return batch.truth


def _optimizer(config: TrainConfig, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    o = config.optimizer
    kind = torch.optim.Adam if o.name == "adam" else torch.optim.AdamW
    return kind(
        parameters, lr=o.lr, betas=o.betas, eps=o.eps, weight_decay=o.weight_decay, fused=True
    )  # fused: one pass over the parameters, on the CPU too
