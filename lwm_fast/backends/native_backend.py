"""The `native` backend: the whole encoder in one C++ call, on x86-64 and Arm CPUs. It does not train.

Precisions that this processor has no faster code for run as float32, whose error is smaller.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lwm_fast.backends.torch_backend import TorchBackend, is_inference
from lwm_fast.positions import Shapes

if TYPE_CHECKING:
    from lwm_fast.config import LWMConfig
    from lwm_fast.draws import Draws
    from lwm_fast.model import LWM
    from lwm_fast.packed import PackedBatch
    from lwm_fast.pooling import Pool
    from lwm_fast.streaming import Piece

_EMBED_DIMS = range(2, 1025)
_HEAD_DIMS = range(1, 65)
# A thread takes groups of about 500 tokens; this many groups each leave little waiting at a batch's end.
_TOKENS_PER_THREAD = 1 << 13


class NativeBackend:
    """Gradients, attention maps and masked channel modelling are left to the torch backend."""

    name = "native"
    trains = False
    mixes_lengths = True

    def __init__(self) -> None:
        self._torch = TorchBackend()

    def available(self, device: torch.device) -> str | None:
        return None if device.type == "cpu" else f"it runs on the CPU, not on {device.type}"

    def supports(self, config: LWMConfig) -> str | None:
        if config.embed_dim not in _EMBED_DIMS or config.head_dim not in _HEAD_DIMS:
            return (
                f"it takes embed_dim from {_EMBED_DIMS[0]} to {_EMBED_DIMS[-1]} and head_dim from "
                f"{_HEAD_DIMS[0]} to {_HEAD_DIMS[-1]}; this model has {config.embed_dim} and {config.head_dim}"
            )
        return None

    def precisions(self, device: torch.device) -> tuple[str, ...]:
        from lwm_fast.native_weights import PRECISIONS

        return PRECISIONS

    def code_path(self, model: LWM, precision: str) -> str:
        from lwm_fast.native_weights import code_path

        return str(code_path(precision, model.sizes))

    def batch_tokens(self, device: torch.device) -> int:
        return _TOKENS_PER_THREAD * torch.get_num_threads()

    def workers(self, device: torch.device) -> int:
        return 0  # the engine spreads a batch over the threads itself

    def encode(
        self, model: LWM, batch: PackedBatch, pool: Pool, precision: str, out: Tensor | None = None
    ) -> Tensor:
        from lwm_fast.native_weights import engine

        dim = model.config.embed_dim
        rows = len(batch) if pool.reduce else int(batch.cu_seqlens[-1]) - pool.first * len(batch)
        if out is None:
            equal = len(batch) > 0 and batch.equal_length and not pool.reduce
            out = torch.empty((len(batch), pool.rows(batch.max_seqlen), dim) if equal else (rows, dim))
        engine(model, precision).encode(
            batch.csi, batch.offsets, batch.shape, batch.cu_seqlens, batch.scale, batch.cls,
            out.view(rows, dim).numpy(), pool.name, _num_threads(),
        )  # fmt: skip
        return out

    def stream(
        self,
        model: LWM,
        pieces: Iterable[Piece],
        pool: Pool,
        precision: str,
        *,
        normalize: bool,
        to_host: bool,
    ) -> Iterator[tuple[Piece, Tensor]] | None:
        return None

    def forward(self, model: LWM, tokens: Tensor, shape: Shapes | None = None) -> Tensor:
        if torch.compiler.is_compiling() or not is_inference(model, tokens):
            return self._torch.forward(model, tokens, shape)
        from lwm_fast.native_weights import engine

        batch, seq_len, _ = tokens.shape
        out = torch.empty(batch, seq_len, model.config.embed_dim)
        cu_seqlens = np.arange(0, (batch + 1) * seq_len, seq_len, dtype=np.int32)
        engine(model).encode_tokens(
            tokens.detach().contiguous().flatten(0, 1).numpy(),
            cu_seqlens,
            out.flatten(0, 1).numpy(),
            "tokens",
            _num_threads(),
            shape,
        )
        return out

    def forward_with_maps(
        self, model: LWM, tokens: Tensor, layers: Sequence[int], shape: Shapes | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        return self._torch.forward_with_maps(model, tokens, layers, shape)

    def mcm(
        self, model: LWM, batch: PackedBatch, draws: Draws | None, *, pooled: bool = False
    ) -> tuple[Tensor, ...]:
        return self._torch.mcm(model, batch, draws, pooled=pooled)


def _num_threads() -> int:
    """torch's number of threads (1 in a loader's workers), unless LWM_FAST_NUM_THREADS names another."""
    return 0 if os.environ.get("LWM_FAST_NUM_THREADS") else torch.get_num_threads()
