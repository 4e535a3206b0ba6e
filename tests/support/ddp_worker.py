"""One rank of a data-parallel step over the packed encoder, for tests/test_ddp.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lwm_fast import LWM, packed_model
from lwm_fast.data.mask import draw_mask
from lwm_fast.draws import Draws
from lwm_fast.packed import PackedBatch

from .op_path import gradients, two_layers
from .released import random_csi

SIZES = [(8, 32), (16, 16), (8, 32), (32, 32)]


class Objective(nn.Module):
    """Squared error over all masked patches of the global batch, as a forward that DDP can hook."""

    def __init__(self, model: LWM) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: PackedBatch, total: int) -> Tensor:
        draws = Draws(11, 0, torch.from_numpy(batch.sample_id))
        predicted, target = packed_model.mcm(self.model, batch, draws)
        return (predicted - target).square().sum() / total


def batch_of(ids: list[int]) -> PackedBatch:
    samples = [random_csi(1, *SIZES[i], seed=i)[0] for i in ids]
    batch = PackedBatch.from_samples(samples, "1.1", sample_id=np.array(ids))
    return replace(batch, mask=draw_mask(batch, seed=2, epoch=0))


def masked_patches() -> int:
    mask = batch_of(list(range(len(SIZES)))).mask
    assert mask is not None
    return len(mask.masked_index)


def rank(index: int, world: int, folder: str) -> None:
    """Saves the gradients that DDP gives rank ``index`` of ``world``."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=index, world_size=world)
    try:
        model = two_layers("1.1")
        parallel = nn.parallel.DistributedDataParallel(Objective(model))
        ids = list(range(len(SIZES)))[index::world]
        # DDP averages over ranks, the loss is a sum over them.
        (world * parallel(batch_of(ids), masked_patches())).backward()
        torch.save(gradients(model), Path(folder) / f"rank{index}.pt")
    finally:
        dist.destroy_process_group()
