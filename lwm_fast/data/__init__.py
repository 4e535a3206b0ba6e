"""Channels of many users, from every container in use, with where they came from."""

from __future__ import annotations

from lwm_fast.data.channels import Channels
from lwm_fast.data.describe import Description, describe
from lwm_fast.data.load import load_channels
from lwm_fast.data.meta import ChannelsMeta
from lwm_fast.data.rays import ArrayGeometry, Rays
from lwm_fast.data.sionna import from_sionna_cfr, from_sionna_paths

__all__ = [
    "ArrayGeometry",
    "Channels",
    "ChannelsMeta",
    "Description",
    "Rays",
    "describe",
    "from_sionna_cfr",
    "from_sionna_paths",
    "load_channels",
]
