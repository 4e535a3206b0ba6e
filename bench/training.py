"""One training step, as released, as careful users write it, and ours: the same batch, loss and optimizer."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench import released_training
from bench.gpu.encoder_peers import PeerEncoder
from lwm_fast import LWM, backends, ops, reference
from lwm_fast.data.mask import draw_mask
from lwm_fast.draws import Draws
from lwm_fast.packed import PackedBatch

KIND = {"1.0": "mse_var", "1.1": "nmse"}


@dataclasses.dataclass(frozen=True)
class Batch:
    """A masked batch of one length, packed on the host, and dense on a device.

    tokens [B, S, patch_len]; target [B, M, patch_len]; rows int64 [B, M], masked positions in each sequence
    """

    packed: PackedBatch
    tokens: Tensor
    target: Tensor
    rows: Tensor

    @classmethod
    def of_csi(cls, csi: NDArray[np.complex64], version: str, device: torch.device) -> Batch:
        packed = PackedBatch.from_samples(csi, version)
        return cls.of(dataclasses.replace(packed, mask=draw_mask(packed, seed=1, epoch=0)), device)

    @classmethod
    def of(cls, packed: PackedBatch, device: torch.device) -> Batch:
        assert packed.mask is not None
        tokens, target = (x.to(device, non_blocking=True) for x in packed.masked_tokens())
        size, patch_len = len(packed), tokens.shape[1]
        rows = torch.from_numpy(packed.mask.masked_index.reshape(size, -1).astype(np.int64))
        return cls(
            packed,
            tokens.view(size, -1, patch_len),
            target.view(size, -1, patch_len),
            rows.to(device, non_blocking=True) % packed.max_seqlen,
        )

    def double(self) -> Batch:
        return dataclasses.replace(self, tokens=self.tokens.double(), target=self.target.double())


Loss = Callable[[Batch, bool], Tensor]


class Trainee:
    """A model, its optimizer, and a loss of a batch with or without dropout, under autocast to ``precision``."""

    def __init__(
        self,
        trained: torch.nn.Module,
        version: str,
        loss: Loss,
        *,
        precision: str = "float32",
        fused: bool = False,
    ) -> None:
        self.trained, self._loss, self._dtype = trained, loss, getattr(torch, precision)
        self.optimizer = released_training.optimizer(trained, version, fused=fused)

    def loss(self, batch: Batch, dropout: bool) -> Tensor:
        device = batch.tokens.device.type
        wanted = self._dtype != torch.float32
        with torch.autocast(device, self._dtype) if wanted else contextlib.nullcontext():
            return self._loss(batch, dropout)

    def gradients(self, batch: Batch) -> dict[str, Tensor]:
        """Without dropout."""
        self.trained.eval()
        self.optimizer.zero_grad()
        self.loss(batch, False).backward()
        return {name: p.grad.clone() for name, p in self.trained.named_parameters() if p.grad is not None}

    def step(self, batch: Batch) -> Tensor:
        self.trained.train()
        self.optimizer.zero_grad()
        loss = self.loss(batch, True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def as_released(plain: reference.LWM, precision: str = "float32") -> Trainee:
    """Eager, with dropout from torch's generator, attention maps kept where the release keeps them."""

    def loss(batch: Batch, _: bool) -> Tensor:
        predicted = released_training.predict(plain, batch.tokens, batch.rows)
        return released_training.loss(plain.version, predicted, batch.target)

    return Trainee(plain, plain.version, loss, precision=precision)


def as_peer(encoder: PeerEncoder, predict: Callable[..., Tensor], precision: str = "float32") -> Trainee:
    """``predict`` is the encoder's own, or that compiled."""
    version = encoder.model.version

    def loss(batch: Batch, _: bool) -> Tensor:
        size, seq_len = batch.tokens.shape[:2]
        first = torch.arange(size, device=batch.rows.device)[:, None] * seq_len
        predicted = predict(batch.tokens.flatten(0, 1), (batch.rows + first).flatten())
        return released_training.loss(version, predicted.view_as(batch.target).float(), batch.target)

    # Not the wrapped model's parameters alone: `train()` has to reach the module that was compiled.
    return Trainee(encoder.model, version, loss, precision=precision, fused=_on_cuda(encoder))


def ours(fast: LWM, precision: str = "float32", backend: backends.Backend | None = None) -> Trainee:
    """Through a backend (default: the one that the device's models train on); dropout from counters, new each step."""
    chosen = backend or backends.select(fast.device, training=True)
    step = 0

    def loss(batch: Batch, dropout: bool) -> Tensor:
        nonlocal step
        step += 1
        mask = batch.packed.mask
        assert mask is not None
        draws = Draws(1, step, torch.from_numpy(batch.packed.sample_id).to(fast.device)) if dropout else None
        predicted, target = chosen.mcm(fast, batch.packed, draws)
        return ops.mcm_loss(
            predicted, target, torch.from_numpy(mask.mask_cu).to(fast.device), KIND[fast.version]
        )

    return Trainee(fast, fast.version, loss, precision=precision, fused=_on_cuda(fast))


def _on_cuda(model: torch.nn.Module) -> bool:
    return next(model.parameters()).is_cuda


def gradient_error(found: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Relative error of all gradients together; one parameter's may be zero in exact arithmetic (W_K's bias is)."""
    if found.keys() != exact.keys():
        return float("inf")
    off = sum(float((found[name].double() - gradient).square().sum()) for name, gradient in exact.items())
    return math.sqrt(off / sum(float(gradient.square().sum()) for gradient in exact.values()))
