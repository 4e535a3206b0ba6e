"""Training as released: masks drawn and applied sample by sample, batches made of lists, an eager step.

Restated from the description of LWM v1.0 and v1.1 (not the release's text), at the release's own pace: numpy's
global-style generator, one Python loop over the masked positions of one sample, ``torch.tensor`` on lists.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.released import TOKENIZE, Samples, collate
from lwm_fast import reference

_SEED = 42  # v1.1 seeds its generator before every sample


class Masked(NamedTuple):
    """One sample: tokens with the mask applied, the patches that it hides, and where (CLS counts as 0)."""

    tokens: NDArray[np.float32]  # [seq_len, patch_len]
    targets: list[NDArray[np.float32]]  # num_masked x [patch_len]
    positions: NDArray[np.int64]  # [num_masked]


def mask_v1_0(tokens: NDArray[np.float32], rng: np.random.RandomState) -> Masked:
    """15% of the real patches, and the imaginary patches of the same places."""
    half = (len(tokens) - 1) // 2
    real = rng.choice(half, size=int(0.15 * half), replace=False)
    return _hide(tokens.copy(), np.concatenate([real, real + half]) + 1, rng)


def mask_v1_1(tokens: NDArray[np.float32], rng: np.random.RandomState) -> Masked:
    """40% of the patches, the last one never; ``rng`` is seeded anew, as the release does for every sample."""
    num_patches = len(tokens) - 1
    rng.seed(_SEED)
    positions = rng.choice(np.arange(1, num_patches), size=int(0.40 * num_patches), replace=False)
    return _hide(tokens.copy(), positions, rng)


def _hide(tokens: NDArray[np.float32], positions: NDArray[np.int64], rng: np.random.RandomState) -> Masked:
    targets = []
    for position in positions:
        targets.append(tokens[position].copy())
        u = rng.rand()
        if u < 0.1:
            tokens[position] = rng.rand(tokens.shape[1])
        elif u < 0.9:
            tokens[position] = reference.MASK_VALUE
    return Masked(tokens, targets, positions)


MASK: dict[str, Callable[[NDArray[np.float32], np.random.RandomState], Masked]] = {
    "1.0": mask_v1_0,
    "1.1": mask_v1_1,
}


def mask_all(samples: Samples, version: str, rng: np.random.RandomState) -> list[Masked]:
    return [MASK[version](sample, rng) for sample in samples]


def batch_of(masked: list[Masked]) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens [B, S, patch_len], targets [B, M, patch_len], positions int64 [B, M]), value by value as released."""
    tokens, targets, positions = (list(part) for part in zip(*masked, strict=True))
    return collate(tokens), collate([np.array(t) for t in targets]), collate(positions)


def tokenize_mask_collate(
    csi: NDArray[np.complex64], version: str, rng: np.random.RandomState
) -> tuple[Tensor, Tensor, Tensor]:
    """csi [B, N, SC] to a training batch."""
    return batch_of(mask_all(TOKENIZE[version](csi), version, rng))


def loss(version: str, predicted: Tensor, target: Tensor) -> Tensor:
    """Of [B, M, patch_len]: v1.0 squared error over the targets' variance, v1.1 the samples' ratios (target energy)."""
    squares = (predicted - target).square()
    if version == "1.0":
        return squares.mean() / target.var()
    return (squares.sum((1, 2)) / target.square().sum((1, 2))).mean()


def predict(model: reference.LWM, tokens: Tensor, positions: Tensor) -> Tensor:
    """[B, M, patch_len]; v1.1 keeps the attention maps of every layer, as released."""
    result = model(tokens, positions, return_attention=model.version == "1.1")
    assert isinstance(result[0], Tensor)
    return result[0]


def optimizer(model: torch.nn.Module, version: str, *, fused: bool = False) -> torch.optim.Optimizer:
    """As the release trains: Adam with L2 for v1.0, AdamW for v1.1. ``fused`` is torch's own single kernel."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if version == "1.0":
        return torch.optim.Adam(parameters, lr=1e-4, weight_decay=1e-5, fused=fused or None)
    return torch.optim.AdamW(parameters, lr=5e-4, weight_decay=0.05, fused=fused or None)
