"""What a step computes: the masked patches of a batch, and every micro-batch's exact share of the global loss."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from lwm_fast import backends, reference
from lwm_fast.draws import Draws
from lwm_fast.links import LinkHeads
from lwm_fast.model import LWM
from lwm_fast.ops import mcm_loss_of
from lwm_fast.packed import PackedBatch, Prepared
from lwm_fast.scaling import scaled

RATIO_SUM, NUM_SAMPLES, ERROR, COUNT, TARGET_SUM, TARGET_ENERGY = range(6)  # of lwm_fast.ops.mcm_totals


class Objective(nn.Module):
    """``(batch, draws) -> (predicted, target, scores)`` as a module, so that DDP and autocast can wrap it.

    With link heads `scores` are those of `LinkHeads.forward`, read from the same masked pass; without, None.
    frozen: the model takes no part in training, only its heads do.
    Parameters that never take part (the unused Norms of v1.0) get no gradient: DDP would wait for theirs.
    """

    def __init__(self, model: LWM, heads: LinkHeads | None = None, *, frozen: bool = False) -> None:
        super().__init__()
        self.model, self.heads, self._frozen = model, heads, frozen
        if frozen:
            model.requires_grad_(False)
            if heads is not None:
                heads.requires_grad_(True)
        for layer in model.layers:
            if isinstance(layer, reference.LayerV10):
                layer.enc_self_attn.norm.requires_grad_(False)
                layer.pos_ffn.norm.requires_grad_(False)

    def forward(self, batch: PackedBatch, draws: Draws | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """predicted, target [M, patch_len], rows in the order of ``batch.mask.masked_index``; scores [2, B, n].

        An empty batch gives M = 0 and B = 0.
        """
        if len(batch) == 0:  # a rank without samples still answers DDP, with gradients of zero
            nothing = sum(p.sum() for p in self.parameters() if p.requires_grad) * 0.0
            empty = torch.zeros(0, self.model.config.patch_len, device=self.model.device)
            width = self.model.config.embed_dim
            scores = None if self.heads is None else self.heads(*empty.new_zeros(2, 0, width))
            return empty + nothing, empty, scores
        backend = backends.select(self.model.device, training=True, config=self.model.config)
        batch = scaled(batch, self.model.config.input_scale)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            predicted, target, *pools = backend.mcm(self.model, batch, draws, pooled=self.heads is not None)
        return predicted, target, None if self.heads is None else self.heads(*pools)


def known_totals(batch: PackedBatch, kind: str, input_scale: str) -> Tensor:
    """The part of ``mcm_totals`` that is known before the forward: float64 [6], zero where it is not.

    "nmse" needs the number of samples only; "mse_var" the sums of the targets, by which its variance is that of
    the whole step however the step is cut into micro-batches and ranks.
    """
    known = torch.zeros(6, dtype=torch.float64)
    known[NUM_SAMPLES] = len(batch)
    if kind == "mse_var" and len(batch):
        target = scaled(batch, input_scale).masked_tokens()[1].double()
        known[COUNT] = target.numel()
        known[TARGET_SUM], known[TARGET_ENERGY] = target.sum(), target.square().sum()
    return known


def share_of_loss(local: Tensor, known: Tensor, kind: str, compat: bool) -> Tensor:
    """A micro-batch's share of the step's loss: the shares of all micro-batches and ranks add up to it.

    Both losses are sums over samples or entries, divided by what `known` (pooled over micro-batches and ranks)
    holds already. So the gradients of the shares are to be added, and nothing is approximated.
    """
    totals = torch.where(_OF_FORWARD.to(local.device), local, known.to(local.device))
    return mcm_loss_of(totals, kind, compat=compat)


_OF_FORWARD = torch.tensor([i in (RATIO_SUM, ERROR) for i in range(6)])


def micro_batches(batch: PackedBatch, parts: int) -> list[PackedBatch]:
    """The batch cut into `parts` runs of whole samples, as even as possible (some may be empty)."""
    if parts == 1:
        return [batch]
    edges = np.linspace(0, len(batch), parts + 1).round().astype(int)
    return [_samples(batch, int(a), int(b)) for a, b in pairwise(edges)]


def _samples(batch: PackedBatch, first: int, last: int) -> PackedBatch:
    start, stop = int(batch.cu_seqlens[first]), int(batch.cu_seqlens[last])
    cu_seqlens = batch.cu_seqlens[first : last + 1] - np.int32(start)
    part = replace(
        batch,
        csi=batch.csi[batch.offsets[first] : batch.offsets[last]],
        offsets=batch.offsets[first : last + 1] - batch.offsets[first],
        shape=batch.shape[first:last],
        cu_seqlens=cu_seqlens,
        max_seqlen=int(np.diff(cu_seqlens).max(initial=0)),
        sample_id=batch.sample_id[first:last],
        scale=batch.scale[first:last],
        cls=batch.cls if batch.cls.ndim == 1 else batch.cls[first:last],
        mask=None,
        prepared=None,
        truth=None if batch.truth is None else batch.truth[first:last],
    )
    mask, made = batch.mask, batch.prepared
    if mask is None:
        return part
    a, b = int(mask.mask_cu[first]), int(mask.mask_cu[last])
    own = replace(
        mask,
        action=mask.action[start:stop],
        masked_index=mask.masked_index[a:b] - np.int32(start),
        mask_cu=mask.mask_cu[first : last + 1] - np.int32(a),
        random=None if mask.random is None else mask.random[a:b],
    )
    if made is not None:
        made = Prepared(made.tokens[start:stop], made.targets[a:b], part.scale, part.cls, own)
    return replace(part, mask=own, prepared=made)
