"""The `triton` backend: the packed encoder in fused operations, without padding, forward and backward.

What computes is imported where it is used, since Triton takes its time to load.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lwm_fast.backends.torch_backend import DTYPES, draws_of

if TYPE_CHECKING:
    from lwm_fast.config import LWMConfig
    from lwm_fast.draws import Draws
    from lwm_fast.model import LWM
    from lwm_fast.packed import PackedBatch
    from lwm_fast.pooling import Pool
    from lwm_fast.streaming import Piece

_BATCH_TOKENS = 1 << 16  # activations of a layer, about 100 MB: not yet measured
_MAX_ATTENTION = 128  # num_heads * head_dim that `ops.encoder_tail` takes
_HEAD_DIMS = range(3, 65)  # that `ops.attention` takes


class TritonBackend:
    """Runs on CUDA devices, and on the CPU in Triton's interpreter (``TRITON_INTERPRET=1``), slowly."""

    name = "triton"
    trains = True
    mixes_lengths = True

    def available(self, device: torch.device) -> str | None:
        from lwm_fast.kernels import runtime  # type: ignore[import-not-found]

        if reason := runtime.why_unavailable():
            return str(reason)
        if device.type != "cuda" and not runtime.INTERPRET:
            return f"it runs on CUDA devices, not on {device.type}"
        return None

    def supports(self, config: LWMConfig) -> str | None:
        from lwm_fast.kernels.encoder_tail_parts import (  # type: ignore[import-not-found]
            DIMS,
            FFN_MULTIPLE,
        )

        attention = config.num_heads * config.head_dim
        if config.embed_dim not in DIMS or config.ffn_dim % FFN_MULTIPLE:
            return (
                f"its kernels take embed_dim of {DIMS} and ffn_dim a multiple of {FFN_MULTIPLE}; "
                f"this model has {config.embed_dim} and {config.ffn_dim}"
            )
        if attention > _MAX_ATTENTION or config.head_dim not in _HEAD_DIMS:
            return (
                f"its kernels take num_heads * head_dim up to {_MAX_ATTENTION} and head_dim from 3 to 64; "
                f"this model has {attention} and {config.head_dim}"
            )
        return None

    def precisions(self, device: torch.device) -> tuple[str, ...]:
        return tuple(DTYPES)

    def batch_tokens(self, device: torch.device) -> int:
        return _BATCH_TOKENS

    def workers(self, device: torch.device) -> int:
        return 0

    def code_path(self, model: LWM, precision: str) -> str:
        return ""

    def encode(
        self, model: LWM, batch: PackedBatch, pool: Pool, precision: str, out: Tensor | None = None
    ) -> Tensor:
        from lwm_fast import packed_model

        return packed_model.encode(model, batch, pool, precision)

    def stream(
        self,
        model: LWM,
        pieces: Iterable[Piece],
        pool: Pool,
        precision: str,
        *,
        normalize: bool,
        to_host: bool,
    ) -> Iterator[tuple[Piece, Tensor]]:
        from lwm_fast import packed_model

        made = packed_model.stream(model, pool, precision, normalize)
        return made.run(pieces, to_host=to_host)

    def forward(self, model: LWM, tokens: Tensor, shape: npt.NDArray[np.int32] | None = None) -> Tensor:
        return self.forward_with_maps(model, tokens, (), shape)[0]

    def forward_with_maps(
        self,
        model: LWM,
        tokens: Tensor,
        layers: Sequence[int],
        shape: npt.NDArray[np.int32] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        from lwm_fast import packed_model

        return packed_model.forward(model, tokens, layers, draws_of(model, tokens), shape)

    def mcm(
        self, model: LWM, batch: PackedBatch, draws: Draws | None, *, pooled: bool = False
    ) -> tuple[Tensor, ...]:
        from lwm_fast import packed_model

        return packed_model.mcm(model, batch, draws, pooled)
