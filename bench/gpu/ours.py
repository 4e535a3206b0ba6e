"""This package's encoder and training step in the form in which they are timed: batches that lie on the device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lwm_fast import LWM
from lwm_fast.device_batch import DeviceBatch
from lwm_fast.packed import PackedBatch
from lwm_fast.packed_model import encode_on_device, prepared
from lwm_fast.pooling import get_pool


def encoder(
    model: LWM, packed: PackedBatch, copies: int, precision: str, pool: str
) -> Callable[[int], Tensor]:
    """The `triton` backend's encoder from csi on the device; its operations run as plain torch on a CPU."""
    batches = [DeviceBatch.of(packed, model.device) for _ in range(copies)]
    weights, how = prepared(model, precision), get_pool(pool)

    def run(i: int) -> Tensor:
        with torch.inference_mode():
            return encode_on_device(weights, batches[i], how)

    return run
