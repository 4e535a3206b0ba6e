"""Channels of many users, from every container in use, with where they came from, and batches for training."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lwm_fast.data.channels import Channels
from lwm_fast.data.describe import Description, describe
from lwm_fast.data.load import load_channels
from lwm_fast.data.meta import ChannelsMeta
from lwm_fast.data.rays import ArrayGeometry, Rays
from lwm_fast.data.sionna import from_sionna_cfr, from_sionna_paths

if TYPE_CHECKING:
    from lwm_fast.data.channel_store import ChannelStore, Sample
    from lwm_fast.data.collate import MCMCollator
    from lwm_fast.data.loader import MCMLoader
    from lwm_fast.data.mask import draw_mask
    from lwm_fast.data.ray_plan import PRETRAINING_SIZES, RayPlan
    from lwm_fast.data.sampler import BucketSampler

# Training needs torch, reading channels does not: these are imported when they are asked for.
_TRAINING = {
    "PRETRAINING_SIZES": "ray_plan",
    "BucketSampler": "sampler",
    "ChannelStore": "channel_store",
    "MCMCollator": "collate",
    "MCMLoader": "loader",
    "RayPlan": "ray_plan",
    "Sample": "channel_store",
    "draw_mask": "mask",
}

__all__ = [
    "PRETRAINING_SIZES",
    "ArrayGeometry",
    "BucketSampler",
    "ChannelStore",
    "Channels",
    "ChannelsMeta",
    "Description",
    "MCMCollator",
    "MCMLoader",
    "RayPlan",
    "Rays",
    "Sample",
    "describe",
    "draw_mask",
    "from_sionna_cfr",
    "from_sionna_paths",
    "load_channels",
]


def __getattr__(name: str) -> Any:
    if name not in _TRAINING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_TRAINING[name]}"), name)
