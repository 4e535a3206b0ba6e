"""Models for the tests of the native backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lwm_fast import LWM, LWMConfig, reference


def small(version: str, **changes: Any) -> LWM:
    config = {"1.0": LWMConfig.v1_0, "1.1": LWMConfig.v1_1}[version](num_layers=2, **changes)
    model = LWM.random(config, seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # no bias of zero and no alpha of one hides a missing term
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def seeded(sizes: reference.Sizes, *, sharpness: float = 1.0, dead: Sequence[int] = ()) -> reference.LWM:
    """A model of any sizes. sharpness scales queries and keys; dead: layers whose first heads attend uniformly."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = reference.LWM("1.0" if sizes.patch_len == 16 else "1.1", sizes).eval()
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    for i, layer in enumerate(model.layers):
        attention: Any = layer.enc_self_attn
        attention.W_Q.weight.data *= sharpness
        attention.W_K.weight.data *= sharpness
        heads = sizes.num_heads if i % 2 else sizes.num_heads // 2
        if i in dead:
            attention.W_K.weight.data[: heads * sizes.head_dim] = 1e-41  # denormals, as in the release
    return model


def draw(lengths: Sequence[int], patch_len: int, seed: int = 0) -> NDArray[np.float32]:
    """Tokens [sum of lengths, patch_len] of sequences one after another."""
    rng = np.random.default_rng(seed)
    return 3 * rng.standard_normal((sum(lengths), patch_len), np.float32)
