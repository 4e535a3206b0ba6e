"""The model under test, and the sizes of the mix: small ones in a dry run."""

from __future__ import annotations

from bench.gpu.layout import PAIRS
from bench.gpu.timing import GpuSettings
from bench.inputs import model
from lwm_fast import LWM, LWMConfig


def subject(settings: GpuSettings, version: str) -> tuple[LWM, str]:
    """The model on the device, and what its weights are."""
    if settings.device.dry:
        small = LWMConfig.v1_0(num_layers=2) if version == "1.0" else LWMConfig.v1_1(num_layers=2)
        return LWM.random(small), "two layers, random weights"
    fast, _, label = model(version)
    return fast.to(settings.device.torch_device), label


def pairs(settings: GpuSettings) -> tuple[tuple[int, int], ...]:
    """Of the 20 sizes, by rising number of tokens, as a layout has them."""
    ordered = sorted(PAIRS, key=lambda pair: pair[0] * pair[1])
    return tuple(ordered[: settings.pick(len(ordered), 4)])
