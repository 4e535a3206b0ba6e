"""Masked channel modelling over a packed batch for encoders that take sequences of one length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from lwm_fast.draws import Draws
    from lwm_fast.model import LWM
    from lwm_fast.packed import PackedBatch

# (model, tokens [B, S, patch_len], draws, shape int [B, 2]) -> output [B, S, D]
Encoder = Callable[["LWM", Tensor, "Draws | None", npt.NDArray[np.int32]], Tensor]


def mcm_by_length(
    model: LWM, batch: PackedBatch, draws: Draws | None, encode: Encoder, *, pooled: bool = False
) -> tuple[Tensor, ...]:
    """(predicted, target), both [M, patch_len], in the order of ``batch.mask.masked_index``.

    pooled: also CLS and the mean of the patches of the masked sequences, both [B, D], with gradients.

    Sequences of one length are encoded together, so nothing is padded; gradients reach every parameter that
    takes part. Raises InputError where the batch has no mask.
    """
    tokens, target = (x.to(model.device, non_blocking=True) for x in batch.masked_tokens())
    assert batch.mask is not None  # masked_tokens refuses a batch without one
    lengths = np.diff(batch.cu_seqlens)
    if batch.equal_length:
        dense = tokens.view(len(batch), batch.max_seqlen, tokens.shape[1])
        encoded = encode(model, dense, draws, batch.shape)
        output, pools = encoded.flatten(0, 1), _cls_and_mean(encoded) if pooled else ()
        rows = batch.mask.masked_index.astype(np.int64)
    else:
        place = np.empty(len(tokens), dtype=np.int64)  # of a packed token among the outputs
        outputs, done = [], 0
        buckets, parts = [], []
        for length in np.unique(lengths):
            bucket = np.flatnonzero(lengths == length)
            packed = (batch.cu_seqlens[bucket, None].astype(np.int64) + np.arange(length)).ravel()
            place[packed] = np.arange(done, done + len(packed))
            done += len(packed)
            dense = tokens[_index(packed, model)].view(len(bucket), int(length), -1)
            own = draws and replace(draws, sample_id=draws.sample_id[_index(bucket, model)])
            encoded = encode(model, dense, own, batch.shape[bucket])
            outputs.append(encoded.flatten(0, 1))
            if pooled:
                buckets.append(bucket)
                parts.append(_cls_and_mean(encoded))
        output, pools = torch.cat(outputs), ()
        if pooled:
            back = _index(np.argsort(np.concatenate(buckets)), model)
            pools = tuple(torch.cat(same)[back] for same in zip(*parts, strict=True))
        rows = place[batch.mask.masked_index]
    return model.predict(output[_index(rows, model)]), target, *pools


def _cls_and_mean(encoded: Tensor) -> tuple[Tensor, ...]:
    return encoded[:, 0], encoded[:, 1:].mean(1)


def _index(rows: npt.NDArray[np.int64], model: LWM) -> Tensor:
    return torch.from_numpy(rows).to(model.device, non_blocking=True)
