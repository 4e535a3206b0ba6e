"""Channels a second of the loader alone, on one core, against what a training step on this core consumes."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import h5py
import numpy as np
import torch

from bench.inputs import Settings, channels, csi_of_size, model
from bench.rows import Row
from bench.timing import Arm, compare
from bench.training import Batch, ours
from lwm_fast.data import BucketSampler, ChannelStore, MCMCollator, MCMLoader, RayPlan
from lwm_fast.tokens import num_tokens

STEP = "lwm_fast training step"
_SIZE = (32, 64)  # 129 tokens
_BATCH = 64


def run(settings: Settings) -> list[Row]:
    count, batch = settings.pick(4096, 8), settings.pick(_BATCH, 2)
    csi, label = csi_of_size(*_SIZE, count)
    users, _ = channels()
    rays = users[np.linspace(0, len(users) - 1, count).astype(np.int64)]
    fast, _, weights = model("1.1")
    trainee = ours(copy.deepcopy(fast))
    given = Batch.of_csi(csi[:batch], "1.1", torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "channels.h5"
        with h5py.File(path, "w") as file:
            file["channels"] = csi
        arms = [
            Arm(STEP, lambda: trainee.step(given), batch, note="batch given, already tokenised and masked"),
            _arm("loader, csi in memory", ChannelStore(csi), batch),
            _arm("loader, csi in an HDF5 file", ChannelStore(path), batch, "memory-mapped"),
            _arm("loader, rays", ChannelStore(rays, plan=RayPlan((_SIZE,))), batch, "csi made on the way"),
        ]
        return compare(
            "loader",
            "channel",
            arms,
            rounds=settings.rounds,
            min_seconds=settings.min_seconds,
            version="1.1",
            num_antennas=_SIZE[0],
            num_subcarriers=_SIZE[1],
            seq_len=num_tokens(*_SIZE, "1.1"),
            batch=batch,
            note=f"{label}, {weights}",
        )


def _arm(name: str, store: ChannelStore, batch: int, note: str = "") -> Arm:
    sampler = BucketSampler(store, batch_size=batch, split="all", seed=0)
    collator = MCMCollator("1.1", seed=0, num_threads=1)

    def epoch() -> tuple[int, int]:
        """Passes over the store once, as a trainer would: (channels, samples whose tokens are wrong)."""
        seen = wrong = 0
        with MCMLoader(store, sampler, collator) as loader:
            for found in loader:
                seen += len(found)
                wrong += int(not torch.isfinite(found.masked_tokens()[0][0]).all())
        return seen, wrong

    def error(result: tuple[int, int]) -> float:
        return 0.0 if result == (len(store), 0) else float("inf")

    return Arm(name, epoch, len(store), error, baselines=(STEP,), note=note)
