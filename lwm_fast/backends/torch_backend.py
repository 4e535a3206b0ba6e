"""The `torch` backend: fused torch operations on any device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lwm_fast import encoder
from lwm_fast.draws import Draws
from lwm_fast.mcm import mcm_by_length
from lwm_fast.positions import Shapes
from lwm_fast.train_encoder import embed, encode_for_training

if TYPE_CHECKING:
    from lwm_fast.config import LWMConfig
    from lwm_fast.model import LWM
    from lwm_fast.packed import PackedBatch
    from lwm_fast.pooling import Pool
    from lwm_fast.streaming import Piece

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# A CPU batch keeps its activations near the caches: 8x129 to 64x17 tokens measured best on one core.
_CPU_TOKENS = 1056
_ACCELERATOR_TOKENS = 1 << 17


class TorchBackend:
    """Norms, residuals and pooling stay float32 in every precision; only matrix products are rounded."""

    name = "torch"
    trains = True
    mixes_lengths = False

    def available(self, device: torch.device) -> str | None:
        return None

    def supports(self, config: LWMConfig) -> str | None:
        return None

    def precisions(self, device: torch.device) -> tuple[str, ...]:
        return tuple(DTYPES)

    def batch_tokens(self, device: torch.device) -> int:
        return _CPU_TOKENS if device.type == "cpu" else _ACCELERATOR_TOKENS

    def workers(self, device: torch.device) -> int:
        # Sharing each operation among threads costs a barrier each, and on a busy machine a barrier waits for
        # a descheduled thread: 2 threads took 0.7x to 13x the time of one. Whole batches share nothing, and
        # their bits do not depend on the number of threads.
        return torch.get_num_threads() if device.type == "cpu" else 0

    def code_path(self, model: LWM, precision: str) -> str:
        return ""

    def encode(
        self, model: LWM, batch: PackedBatch, pool: Pool, precision: str, out: Tensor | None = None
    ) -> Tensor:
        tokens = batch.tokens(model.device, num_threads=1)
        weights = model.prepared(DTYPES[precision])
        return pool(encoder.encode_tokens(tokens, weights, batch.shape, cls_only=pool.needs_cls_only))

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
        if model.training or not is_inference(model, tokens):
            return encode_for_training(model, tokens, draws_of(model, tokens), shape)
        return encoder.encode_tokens(tokens, model.prepared(), shape)

    def forward_with_maps(
        self, model: LWM, tokens: Tensor, layers: Sequence[int], shape: Shapes | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        x, maps = embed(model, tokens, shape), {}
        for i, layer in enumerate(model.layers):
            x, weights = layer(x)
            if i in layers:
                maps[i] = weights
        return x, [maps[i] for i in layers]

    def mcm(
        self, model: LWM, batch: PackedBatch, draws: Draws | None, *, pooled: bool = False
    ) -> tuple[Tensor, ...]:
        return mcm_by_length(model, batch, draws, encode_for_training, pooled=pooled)


def is_inference(model: LWM, tokens: Tensor) -> bool:
    """Whether a forward is float32 throughout and nobody wants its gradients, so that folded weights serve."""
    wants_grad = torch.is_grad_enabled() and (
        tokens.requires_grad or any(p.requires_grad for p in model.parameters())
    )
    return not wants_grad and tokens.dtype == model.decoder_bias.dtype == torch.float32


def draws_of(model: LWM, tokens: Tensor) -> Draws | None:
    """What a forward of a model in training mode drops; None where it drops nothing."""
    if not (model.training and model.sizes.dropout):
        return None
    return Draws.fresh(tokens.shape[0], tokens.device)
