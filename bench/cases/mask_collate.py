"""csi to a masked training batch on one core: the release's loops against the collator; and masking alone.

Masks are random, so a batch is checked for what any mask must hold: how many patches, targets that are the clean
patches, hidden rows that are MASK, random or kept, every other row untouched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench import released, released_training
from bench.inputs import Settings, csi_of_size
from bench.rows import Row
from bench.timing import Arm, compare
from lwm_fast import _C, reference
from lwm_fast.data import ChannelStore, MCMCollator
from lwm_fast.data.mask import draw_mask, num_masked
from lwm_fast.packed import PackedBatch
from lwm_fast.tokens import num_tokens

COLLATED, LOOP, MASK_LOOP = "released loops + collate", "released loops", "released mask loop"
_CSI_ENTRIES = 1 << 18  # 2 MiB of csi a batch
# (version, num_antennas, num_subcarriers) of 129, 17, 65 and 513 tokens
SIZES = (("1.0", 32, 32), ("1.1", 8, 32), ("1.1", 32, 32), ("1.1", 128, 64))


def arms(csi: NDArray[np.complex64], version: str) -> list[Arm]:
    """One-thread arms from csi, and arms that mask tokens which are there."""
    rng = np.random.RandomState(0)
    clean = reference.tokenize(torch.from_numpy(csi), version)
    samples = released.TOKENIZE[version](csi)
    store, index = ChannelStore(csi, version=version), np.arange(len(csi))
    collator = MCMCollator(version, seed=1, num_threads=1)

    def arm(name: str, run: Callable[[], Any], *baselines: str, note: str = "") -> Arm:
        return Arm(
            name, run, len(csi), lambda batch: batch_error(batch, clean, version), baselines=baselines, note=note
        )  # fmt: skip

    def of_lists(masked: list[released_training.Masked]) -> Any:
        return [np.stack(part) for part in zip(*masked, strict=True)]

    return [
        arm(COLLATED, lambda: released_training.tokenize_mask_collate(csi, version, rng)),
        arm(
            LOOP,
            lambda: of_lists(released_training.mask_all(released.TOKENIZE[version](csi), version, rng)),
            note="arrays stacked by numpy instead of value by value",
        ),
        arm(
            "lwm_fast collator",
            lambda: of_packed(collator(store.gather(0, index))),
            COLLATED,
            LOOP,
            note="csi copied into the batch too",
        ),
        arm(
            MASK_LOOP,
            lambda: of_lists(released_training.mask_all(samples, version, rng)),
            note="tokens given",
        ),
        arm("lwm_fast mask, in place", InPlace(csi, version), MASK_LOOP, note="tokens given"),
    ]


class InPlace:
    """Draws and applies a new mask on tokens that lie in the caller's buffer."""

    def __init__(self, csi: NDArray[np.complex64], version: str) -> None:
        self.packed = PackedBatch.from_samples(csi, version)
        self.tokens = self.packed.tokens().flatten(0, 1)
        self.clean, self.epoch = self.tokens.clone(), 0

    def __call__(self) -> Any:
        packed, tokens = self.packed, self.tokens
        if self.epoch == 0:
            tokens.copy_(self.clean)
        plan = draw_mask(packed, seed=1, epoch=self.epoch, num_threads=1)
        targets = torch.empty(len(plan.masked_index), tokens.shape[1])
        _C.apply_mask(
            tokens.numpy(), packed.cu_seqlens, plan.action, plan.masked_index, plan.mask_cu, packed.sample_id,
            targets.numpy(), int(packed.version.replace(".", "")), plan.seed, plan.epoch, plan.random, 1,
        )  # fmt: skip
        self.epoch += 1
        return dense(tokens, targets, plan.masked_index, len(packed))


def of_packed(batch: PackedBatch) -> tuple[Tensor, Tensor, Tensor]:
    assert batch.mask is not None
    return dense(*batch.masked_tokens(num_threads=1), batch.mask.masked_index, len(batch))


def dense(
    tokens: Tensor, targets: Tensor, index: NDArray[np.int32], batch: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Views [B, S, patch_len] and [B, M, patch_len], and positions [B, M] of equal-length samples."""
    seq_len = len(tokens) // batch
    positions = torch.from_numpy(index.reshape(batch, -1)) % seq_len
    return tokens.view(batch, seq_len, -1), targets.view(batch, -1, targets.shape[1]), positions


def batch_error(batch: Any, clean: Tensor, version: str) -> float:
    """0 for a batch that a mask of this version can have made of these clean tokens, else infinity."""
    tokens, targets, positions = (torch.as_tensor(np.asarray(part)) for part in batch)
    positions = positions.long()
    expected = num_masked(clean.shape[1] - 1, version)
    if tuple(positions.shape) != (len(clean), expected) or positions.min() < 1:
        return float("inf")
    rows = torch.arange(len(clean))[:, None]
    hidden = torch.zeros(clean.shape[:2], dtype=torch.bool)
    hidden[rows, positions] = True
    shown = tokens[rows, positions]
    as_mask = (shown == torch.tensor(reference.MASK_VALUE)).all(-1)
    as_kept = (shown == clean[rows, positions]).all(-1)
    as_random = ((shown >= 0) & (shown < 1)).all(-1)
    right = (
        int(hidden.sum()) == positions.numel()
        and torch.equal(tokens[~hidden], clean[~hidden])
        and torch.equal(targets, clean[rows, positions])
        and bool((as_mask | as_kept | as_random).all())
    )
    return 0.0 if right else float("inf")


def run(settings: Settings) -> list[Row]:
    rows = []
    for version, num_antennas, num_subcarriers in SIZES[:2] if settings.quick else SIZES:
        batch = settings.pick(_CSI_ENTRIES // (num_antennas * num_subcarriers), 4)
        csi, label = csi_of_size(num_antennas, num_subcarriers, batch)
        rows += compare(
            "mask_collate",
            "channel",
            arms(csi, version),
            rounds=settings.rounds,
            min_seconds=settings.min_seconds,
            version=version,
            num_antennas=num_antennas,
            num_subcarriers=num_subcarriers,
            seq_len=num_tokens(num_antennas, num_subcarriers, version),
            batch=batch,
            note=f"{label}; error 0 = a batch that such a mask can have made",
        )
    return rows
