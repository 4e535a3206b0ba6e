"""`LWM` run by the packed encoder: what the `triton` backend does, on any device that the operations run on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from lwm_fast import ops, packed_encoder, packed_weights
from lwm_fast.backends.torch_backend import DTYPES
from lwm_fast.device_batch import DeviceBatch
from lwm_fast.packed_encoder import Sequences
from lwm_fast.positions import has_grid, needed_shape
from lwm_fast.streaming import Stream

if TYPE_CHECKING:
    from lwm_fast.draws import Draws
    from lwm_fast.model import LWM
    from lwm_fast.packed import PackedBatch
    from lwm_fast.packed_weights import PackedWeights
    from lwm_fast.pooling import Pool


def encode(model: LWM, batch: PackedBatch, pool: Pool, precision: str) -> Tensor:
    """``Backend.encode``: pooled float32 rows, sequence after sequence."""
    return encode_on_device(prepared(model, precision), on_device(model, batch), pool)


def stream(model: LWM, pool: Pool, precision: str, normalize: bool) -> Stream:
    """``Backend.stream`` ready to run; with its recorded graphs it is kept until a parameter changes."""
    weights = prepared(model, precision)

    def compute(batch: DeviceBatch) -> Tensor:
        rows = encode_on_device(weights, batch, pool)
        return F.normalize(rows, dim=-1) if normalize else rows

    name = f"stream {precision} {pool.name} {normalize}"
    return model.derived(name, lambda: Stream.on(model.device, compute, with_grids=has_grid(model)))


def forward(
    model: LWM,
    tokens: Tensor,
    layers: Sequence[int],
    draws: Draws | None,
    shape: npt.NDArray[np.int32] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """tokens [B, S, patch_len] -> output [B, S, D] and attention weights [B, H, S, S] of ``layers``.

    shape: int32 [B, 2] (antennas, subcarriers), which models with grids of positions need and others do not see.
    """
    batch, seq_len, _ = tokens.shape
    w = (
        packed_weights.live(model)
        if _needs_live_weights(model, tokens, draws)
        else prepared(model, "float32")
    )
    sequences = Sequences.equal(
        batch, seq_len, tokens.device, needed_shape(shape) if has_grid(model) else None
    )
    x = packed_encoder.embed_tokens(w, tokens.flatten(0, 1), sequences)
    x, maps = packed_encoder.encode(w, x, sequences, draws=draws, maps_of=layers)
    return x.to(tokens.dtype).unflatten(0, (batch, seq_len)), [maps[i] for i in layers]


def mcm(model: LWM, batch: PackedBatch, draws: Draws | None, pooled: bool = False) -> tuple[Tensor, ...]:
    """``Backend.mcm``."""
    there = on_device(model, batch)
    if batch.mask is not None and batch.mask.random is None and len(batch.csi):
        return mcm_on_device(model, there, draws, pooled)
    # The release's own random patches are in the plan, or the batch holds tokens only: the masked tokens travel.
    tokens, target = (x.to(model.device, non_blocking=True) for x in batch.masked_tokens())
    w = packed_weights.live(model)
    x = packed_encoder.embed_tokens(w, tokens, Sequences.of(there))
    return _outputs(model, w, x, there, draws, target, pooled)


def on_device(model: LWM, batch: PackedBatch) -> DeviceBatch:
    """The batch where the model is, with what the model's positions need to know of it."""
    return DeviceBatch.of(batch, model.device, with_grids=has_grid(model))


def prepared(model: LWM, precision: str) -> PackedWeights:
    """Frozen weights of a precision, kept with the model until a parameter changes."""
    return model.derived(f"packed {precision}", lambda: packed_weights.frozen(model, DTYPES[precision]))


def encode_on_device(w: PackedWeights, batch: DeviceBatch, pool: Pool) -> Tensor:
    """Pooled float32 rows of a batch that is on the device, sequence after sequence; no gradients.

    Nothing is copied to or from the host and nothing waits, so a CUDA graph can record it.
    """
    x = packed_encoder.embed(w, batch)
    return packed_encoder.encode_pooled(w, x, Sequences.of(batch), pool)


def mcm_on_device(
    model: LWM, batch: DeviceBatch, draws: Draws | None, pooled: bool = False
) -> tuple[Tensor, ...]:
    """``Backend.mcm`` of a batch that is on the device: no token tensor is made, the mask is applied in-kernel."""
    assert batch.masked_index is not None
    w = packed_weights.live(model)
    target = ops.patch_targets(
        batch.csi, batch.offsets, batch.shape, batch.cu_seqlens, batch.masked_index,
        version=batch.version, scale=batch.scale,
    )  # fmt: skip
    return _outputs(model, w, packed_encoder.embed(w, batch), batch, draws, target, pooled)


def _needs_live_weights(model: LWM, tokens: Tensor, draws: Draws | None) -> bool:
    """False for plain float32 inference; a compiler traces the parameters, not copies made behind its back."""
    learns = torch.is_grad_enabled() and (
        tokens.requires_grad or any(p.requires_grad for p in model.parameters())
    )
    return (
        draws is not None
        or learns
        or torch.is_autocast_enabled(tokens.device.type)
        or model.decoder_bias.dtype != torch.float32
        or torch.compiler.is_compiling()
    )


def _outputs(
    model: LWM, w: PackedWeights, x: Tensor, batch: DeviceBatch, draws: Draws | None, target: Tensor,
    pooled: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Embedded tokens -> (predicted, target) and, pooled, the CLS token and the mean of the patches, [B, D] each."""
    x, _ = packed_encoder.encode(w, x, Sequences.of(batch), draws=draws)
    assert batch.masked_index is not None
    predicted = ops.masked_head(
        x, batch.masked_index, model.linear.weight, model.linear.bias, model.norm.alpha, model.norm.bias,
        model.decoder.weight, model.decoder_bias,
    )  # fmt: skip
    if not pooled:
        return predicted, target
    cls, mean = (ops.pool(x, batch.cu_seqlens, kind, dtype=x.dtype) for kind in ("cls", "mean"))
    return predicted, target, cls, mean
