"""Scaling of channels before they are cut into tokens: one factor for all, or every sample to unit power."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lwm_fast.packed import PackedBatch
from lwm_fast.tokens import PATCH_LEN

_LOWEST_BELS = -6.0  # a sample weaker than this says no more than that it is weak


def scaled(batch: PackedBatch, input_scale: str) -> PackedBatch:
    """The batch as a model with this ``input_scale`` takes it: as it is ("fixed"), or `to_unit_power` ("power").

    A batch whose loader has scaled it already is known by its per-sample CLS tokens and left alone.
    """
    return batch if input_scale == "fixed" or batch.cls.ndim == 2 else to_unit_power(batch)


def to_unit_power(batch: PackedBatch) -> PackedBatch:
    """Scale each sample so that its real and imaginary parts have mean square 1, and keep its power in CLS.

    The CLS token holds the mean square that the parts would have under the batch's own scale (LWM's 1e6), in units
    of 10 dB; below -60 dB it says -6. All-zero channels stay zero.
    """
    power = sample_power(batch)  # [B]
    level = power * np.square(batch.scale.astype(np.float64)) / 2
    bels = np.log10(np.maximum(level, 10**_LOWEST_BELS))
    scale = np.where(power > 0, np.sqrt(2.0 / np.where(power > 0, power, 1.0)), batch.scale)
    cls = np.repeat(bels[:, None], PATCH_LEN[batch.version], axis=1)
    return replace(batch, scale=scale.astype(np.float32), cls=cls.astype(np.float32))


def sample_power(batch: PackedBatch) -> npt.NDArray[np.float64]:
    """Mean of |csi|^2 over the entries of each sample, float64 [B]; it does not depend on the packing."""
    power = np.empty(len(batch))
    for i, (first, last) in enumerate(zip(batch.offsets[:-1], batch.offsets[1:], strict=True)):
        parts = batch.csi[first:last].view(np.float32).astype(np.float64)
        power[i] = np.square(parts, out=parts).sum() / max(1, last - first)
    return power
