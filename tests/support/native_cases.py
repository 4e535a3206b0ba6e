"""Models for the tests of the native backend."""

from __future__ import annotations

from typing import Any

import torch

from lwm_fast import LWM, LWMConfig


def small(version: str, **changes: Any) -> LWM:
    config = {"1.0": LWMConfig.v1_0, "1.1": LWMConfig.v1_1}[version](num_layers=2, **changes)
    model = LWM.random(config, seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # no bias of zero and no alpha of one hides a missing term
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model
