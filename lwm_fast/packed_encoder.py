"""The encoder over packed tokens in the operations of `lwm_fast.ops`: the `triton` backend's arithmetic.

Between operations the tokens are float32 (float64 for a float64 model): the operands of products are rounded
inside the operations. 16-bit tokens would cost v1.0 2.2e-2 at CLS in bfloat16, v1.1 6e-3.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lwm_fast import ops
from lwm_fast.errors import InputError
from lwm_fast.packed_positions import Grids, grids_of, starts_of
from lwm_fast.packed_weights import PackedWeights

if TYPE_CHECKING:
    from lwm_fast.device_batch import DeviceBatch
    from lwm_fast.draws import Draws
    from lwm_fast.pooling import Pool


@dataclass(frozen=True)
class Sequences:
    """How packed tokens divide: cu_seqlens int32 [B + 1] on their device, and host ints.

    grids, position_start: as in :class:`~lwm_fast.device_batch.DeviceBatch`.
    """

    cu_seqlens: Tensor
    max_seqlen: int
    total_tokens: int
    grids: Grids = ()
    position_start: Tensor | None = None

    @classmethod
    def of(cls, batch: DeviceBatch) -> Sequences:
        return cls(
            batch.cu_seqlens, batch.max_seqlen, batch.total_tokens, batch.grids, batch.position_start
        )  # fmt: skip

    @classmethod
    def equal(
        cls, batch: int, seq_len: int, device: torch.device, shape: npt.NDArray[np.int32] | None = None
    ) -> Sequences:
        """``batch`` sequences of ``seq_len`` tokens. shape: int [B, 2], of a model whose positions are grids."""
        edges = torch.arange(batch + 1, dtype=torch.int32, device=device) * seq_len
        sequences = cls(edges, seq_len if batch else 0, batch * seq_len)
        if shape is None:
            return sequences
        grids = grids_of(shape)
        starts = torch.from_numpy(starts_of(shape, grids)).to(device) if len(grids) > 1 else None
        return replace(sequences, grids=grids, position_start=starts)

    def of_token(self, per_sequence: Tensor) -> Tensor:
        """[B] -> [total_tokens]: each sequence's value at all of its tokens; nothing waits for the device."""
        lengths = self.cu_seqlens.diff()
        return per_sequence.repeat_interleave(lengths, output_size=self.total_tokens)

    def patch_rows(self) -> Tensor:
        """int64 [total_tokens - B], the packed rows that are not CLS."""
        batch = self.cu_seqlens.shape[0] - 1
        sequence = torch.arange(batch, device=self.cu_seqlens.device)
        count = self.total_tokens - batch
        before = sequence.repeat_interleave(self.cu_seqlens.diff() - 1, output_size=count)
        return torch.arange(1, count + 1, device=self.cu_seqlens.device) + before


def embed(w: PackedWeights, batch: DeviceBatch) -> Tensor:
    """Channels to embedded tokens [total_tokens, D], the mask applied on the way."""
    return ops.patch_embed(
        batch.csi, batch.offsets, batch.shape, batch.cu_seqlens, *w.embed, w.table(batch.grids), *w.norm,
        version=batch.version, max_seqlen=batch.max_seqlen, total_tokens=batch.total_tokens, scale=batch.scale,
        cls=batch.cls, action=batch.action, sample_id=None if batch.action is None else batch.sample_id,
        seed=batch.seed, epoch=batch.epoch, position_start=batch.position_start, dtype=_token_dtype(w),
    )  # fmt: skip


def embed_tokens(w: PackedWeights, tokens: Tensor, sequences: Sequences) -> Tensor:
    """Packed tokens [total_tokens, patch_len] to embedded ones [total_tokens, D]."""
    return ops.patch_embed_tokens(
        tokens, sequences.cu_seqlens, *w.embed, w.table(sequences.grids), *w.norm,
        max_seqlen=sequences.max_seqlen, position_start=sequences.position_start, dtype=_token_dtype(w),
    )  # fmt: skip


def encode(
    w: PackedWeights,
    x: Tensor,
    sequences: Sequences,
    *,
    draws: Draws | None = None,
    maps_of: Collection[int] = (),
) -> tuple[Tensor, dict[int, Tensor]]:
    """Embedded tokens [T, D] -> (output [T, D], attention weights [B, H, S, S] of the layers asked for)."""
    maps: dict[int, Tensor] = {}
    dropout = _dropout(w, sequences, draws, x.device)
    for i, layer in enumerate(w.layers):
        qkv = _queries_keys_values(w, i, x)
        values, lse = ops.attention(qkv, sequences.cu_seqlens, sequences.max_seqlen)
        if i in maps_of:
            maps[i] = ops.attention_weights(qkv, lse, sequences.cu_seqlens, sequences.max_seqlen)
        x = ops.encoder_tail(_tail_input(w, values), x, *layer.tail, residual=w.residual, layer=i, **dropout)
    return x, maps


def encode_pooled(w: PackedWeights, x: Tensor, sequences: Sequences, pool: Pool) -> Tensor:
    """Embedded tokens [T, D] -> pooled rows [rows, D], sequence after sequence. No gradients.

    CLS pooling computes the last layer for the CLS rows only.
    """
    if not pool.needs_cls_only:
        x, _ = encode(w, x, sequences)
        if pool.reduce:
            return ops.pool(x, sequences.cu_seqlens, pool.name)
        return x if pool.first == 0 else x[sequences.patch_rows()]
    x, _ = encode(replace(w, layers=w.layers[:-1]), x, sequences)
    qkv = _queries_keys_values(w, -1, x)
    values = ops.attention_cls(qkv, sequences.cu_seqlens)
    arguments = (_tail_input(w, values), x, sequences.cu_seqlens)
    return ops.encoder_tail_cls(*arguments, *w.layers[-1].tail, residual=w.residual)


def _queries_keys_values(w: PackedWeights, layer: int, x: Tensor) -> Tensor:
    projection = w.layers[layer]
    qkv = ops.linear(x, projection.qkv, projection.qkv_bias)
    head_dim = qkv.shape[1] // (3 * w.num_heads)
    return qkv.view(-1, 3, w.num_heads, head_dim)


def _tail_input(w: PackedWeights, values: Tensor) -> Tensor:
    values = values.flatten(1)
    return values if w.tail_dtype is None else values.to(w.tail_dtype)


def _token_dtype(w: PackedWeights) -> torch.dtype:
    return torch.float64 if w.embed[0].dtype == torch.float64 else torch.float32


def _dropout(
    w: PackedWeights, sequences: Sequences, draws: Draws | None, device: torch.device
) -> dict[str, Any]:
    """The arguments of ``ops.encoder_tail`` that name what is dropped."""
    if draws is None or not w.dropout:
        return {}
    batch = sequences.cu_seqlens.shape[0] - 1
    if draws.sample_id.shape != (batch,):
        raise InputError(f"draws name {draws.sample_id.numel()} samples; the batch holds {batch}")
    starts = sequences.of_token(sequences.cu_seqlens[:-1])
    token = torch.arange(sequences.total_tokens, dtype=torch.int32, device=device) - starts
    return {
        "dropout": w.dropout,
        "seed": draws.seed,
        "epoch": draws.epoch,
        "sample_id": sequences.of_token(draws.sample_id.to(device)),
        "token_id": token,
        "max_seqlen": sequences.max_seqlen,
    }
