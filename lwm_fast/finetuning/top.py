"""The encoder in two parts: below the first trained layer, run once for all users; above, run at every step."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lwm_fast import encoder
from lwm_fast.data import Channels
from lwm_fast.draws import Draws
from lwm_fast.encode_work import Work
from lwm_fast.finetuning.lora import weight_with_adapter
from lwm_fast.model import LWM
from lwm_fast.pooling import Pool
from lwm_fast.progress import Progress
from lwm_fast.tasks.loop import flushed_denormals
from lwm_fast.train_encoder import embed, layers_for_training

logger = logging.getLogger("lwm_fast")

_TRUNK_TOKENS = 2048  # a batch below the first trained layer: its activations stay near the caches
MEMORY_BUDGET = 2 << 30  # bytes of activations kept in memory


class Top:
    """What is run at every step: layers `first`.. of the model (with the embedding for first = -1), then the pool.

    model: trained in place. Its weights below `first` must not change, nor `first` fall.
    size: (num_antennas, num_subcarriers) of the channels, which positions of rows and columns need for first = -1.
    """

    def __init__(self, model: LWM, first: int, pool: Pool, size: Sequence[int] | None = None) -> None:
        self._model, self.first, self._pool = model, first, pool
        self._layers = range(max(0, first), model.config.num_layers)
        self._size = size

    def __call__(self, below: Tensor, draws: Draws | None) -> Tensor:
        """below [b, S, D], or tokens [b, S, patch_len] for first = -1 -> embeddings as the pool makes them.

        draws: of dropout in the layers run; None: no dropout.
        """
        shape = None if self._size is None else np.tile(np.asarray(self._size, np.int32), (len(below), 1))
        x = embed(self._model, below, shape) if self.first < 0 else below
        cls_only = self._pool.needs_cls_only
        x = layers_for_training(self._model, x, self._layers, draws, weight_with_adapter, cls_only=cls_only)
        return self._pool(x)


class Below:
    """What enters the first trained layer, float32 [n, S, D] (tokens [n, S, patch_len] for first = -1), by rows.

    Computed once and kept in memory up to a budget, beyond it in a memory-mapped file in `folder`; without a
    folder it is computed again for every batch, and a log line says so.
    """

    def __init__(
        self,
        model: LWM,
        channels: Channels,
        scale: float | None,
        first: int,
        *,
        folder: Path | None,
        budget: int = MEMORY_BUDGET,
        progress: bool | None = None,
    ) -> None:
        self._model, self._channels, self._scale, self._first = model, channels, scale, first
        self._trunk: encoder.EncoderWeights | None = None
        if first >= 0:
            with torch.no_grad():
                whole = encoder.prepare(model)
            self._trunk = dataclasses.replace(whole, layers=whole.layers[:first])
        c = model.config
        work = Work.of(channels, c, scale)
        assert work.common_length is not None
        shape = (len(channels), work.common_length, c.patch_len if first < 0 else c.embed_dim)
        self.num_bytes = 4 * int(np.prod(shape))
        self.where = "memory" if self.num_bytes <= budget else "file" if folder else "again"
        self._kept: Any = None
        if self.where == "memory":
            self._kept = torch.empty(shape, device=model.device)
        elif folder is not None:
            self._kept = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
                folder / "activations.npy", mode="w+", dtype=np.float32, shape=shape
            )
        else:
            logger.info(
                "%.1f GiB of activations exceed %.1f GiB: the frozen layers run again in every step; give out= to "
                "keep them in a file", self.num_bytes / 2**30, budget / 2**30,
            )  # fmt: skip
            return
        step = max(1, _TRUNK_TOKENS // shape[1])
        with Progress(len(channels), "frozen layers", show=progress) as bar:
            for start in range(0, len(channels), step):
                part = self._compute(np.arange(start, min(start + step, len(channels))))
                self._kept[start : start + len(part)] = part if self.where == "memory" else part.cpu().numpy()
                bar.update(len(part))

    def __getitem__(self, rows: Tensor) -> Tensor:
        """rows int64 [b] -> [b, S, ...] on the model's device."""
        if self.where == "memory":
            kept: Tensor = self._kept[rows]
            return kept
        numbers = rows.cpu().numpy()
        if self.where == "again":
            return self._compute(numbers)
        return torch.from_numpy(self._kept[numbers]).to(self._model.device)

    def _compute(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> Tensor:
        users = self._channels[rows]
        work = Work.of(users, self._model.config, self._scale)
        parts = []
        with torch.no_grad(), flushed_denormals():
            for piece in work.pieces(max(1, len(users)), mixes_lengths=False):
                tokens = piece.batch.tokens(self._model.device)
                trunk, shape = self._trunk, piece.batch.shape
                parts.append(tokens if trunk is None else encoder.encode_tokens(tokens, trunk, shape))
        return torch.cat(parts)
