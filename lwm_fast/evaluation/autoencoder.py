"""An autoencoder of channels, trained without labels: the learned baseline that costs nothing to have."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lwm_fast.tasks.loop import flushed_denormals

Float32Array: TypeAlias = npt.NDArray[np.float32]

HIDDEN = 256
STEPS = 600
BATCH = 64
_WEAKEST = 1e-6  # power at token scale: -60 dB


def encode_with_autoencoder(
    tokens: Float32Array, train: npt.NDArray[np.int64], num_features: int, *, seed: int
) -> Float32Array:
    """Latents float32 [n, num_features] of all users by an autoencoder trained on the users `train`.

    tokens: float32 [n, num_patches, patch_len] without CLS. Each user is brought to unit power and his power is a
    number of its own [10 dB], since squared error at one scale for all would see the strongest users only.
    Two layers each way with 256 hidden units; 600 Adam steps of 64 users at 1e-3, halved every 150. The same
    seed gives the same latents; the global random state is not touched.
    """
    values = torch.from_numpy(unit_power(tokens))  # [n, num_patches * patch_len + 1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, decoder = _mlp(values.shape[1], num_features), _mlp(num_features, values.shape[1])
    with flushed_denormals():
        _train(encoder, decoder, values[torch.from_numpy(train)], seed)
    with torch.inference_mode():
        latents: Tensor = encoder(values)
    return np.asarray(latents.numpy(), np.float32)


def unit_power(tokens: Float32Array) -> Float32Array:
    """float32 [n, num_patches * patch_len + 1]: values with mean square 1, then the power in units of 10 dB."""
    flat = tokens.reshape(len(tokens), -1)
    power = np.square(flat, dtype=np.float64).mean(1, keepdims=True)
    scaled = flat / np.sqrt(np.where(power > 0, power, 1.0))
    return np.asarray(np.concatenate([scaled, np.log10(np.maximum(power, _WEAKEST))], 1), np.float32)


def _mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))


def _train(encoder: nn.Module, decoder: nn.Module, values: Tensor, seed: int) -> None:
    parameters: list[Any] = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, STEPS // 4, 0.5)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        rows = torch.randint(len(values), (min(BATCH, len(values)),), generator=generator)
        batch = values[rows]
        loss = F.mse_loss(decoder(encoder(batch)), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
