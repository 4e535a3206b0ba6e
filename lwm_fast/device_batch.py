"""A `PackedBatch` on a device: one buffer of bytes, one copy, and tensors that are views of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lwm_fast.packed_positions import Grids, grids_of, starts_of

if TYPE_CHECKING:
    from lwm_fast.packed import PackedBatch

_FIELDS = ("csi", "offsets", "shape", "cu_seqlens", "sample_id", "scale", "cls")
_MASK_FIELDS = ("action", "masked_index")
_ALIGNMENT = 256  # of a field in the buffer: what the CUDA allocator gives a tensor of its own


@dataclass(frozen=True)
class DeviceBatch:
    """The arrays of :class:`~lwm_fast.packed.PackedBatch` as tensors of one device, sizes as host ints.

    csi complex64 [entries]; offsets int64 [B + 1]; shape int32 [B, 2]; cu_seqlens int32 [B + 1]; sample_id
    int64 [B]; scale float32 [B]; cls float32 [patch_len] or [B, patch_len]; with a mask: action uint8
    [total_tokens], masked_index int32 [M], and seed and epoch of its random patches. For models whose positions are
    grids: the batch's distinct grids and, where there are several, position_start int32 [B], the row of their table
    at which each sequence begins.
    """

    version: str
    max_seqlen: int
    total_tokens: int
    csi: Tensor
    offsets: Tensor
    shape: Tensor
    cu_seqlens: Tensor
    sample_id: Tensor
    scale: Tensor
    cls: Tensor
    action: Tensor | None = None
    masked_index: Tensor | None = None
    seed: int = 0
    epoch: int = 0
    grids: Grids = ()
    position_start: Tensor | None = None

    @classmethod
    def of(cls, batch: PackedBatch, device: torch.device, *, with_grids: bool = False) -> DeviceBatch:
        """Copy a batch to a device without waiting for it. with_grids: for a model whose positions are grids."""
        layout = Layout.of(batch, with_grids=with_grids)
        # Pinned memory goes back to torch's cache, which keeps it until the copy is done.
        buffer = torch.empty(layout.num_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
        layout.write(batch, buffer)
        return layout.read(buffer.to(device, non_blocking=True), batch)

    def __len__(self) -> int:
        return len(self.sample_id)

    @property
    def equal_length(self) -> bool:
        return self.total_tokens == len(self) * self.max_seqlen


@dataclass(frozen=True)
class Layout:
    """Where each array of a batch lies in its buffer. Batches of equal layout may share a recorded graph."""

    version: str
    max_seqlen: int
    total_tokens: int
    fields: tuple[tuple[str, torch.dtype, tuple[int, ...], int], ...]  # name, dtype, shape, first byte
    num_bytes: int
    equal_length: bool
    grids: Grids = ()

    @classmethod
    def of(cls, batch: PackedBatch, *, with_grids: bool = False) -> Layout:
        grids = grids_of(batch.shape) if with_grids else ()
        fields, end = [], 0
        for name, array in _arrays(batch, grids).items():
            dtype = torch.from_numpy(array[:0]).dtype
            fields.append((name, dtype, array.shape, end))
            end += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        tokens = int(batch.cu_seqlens[-1])
        return cls(
            batch.version, batch.max_seqlen, tokens, tuple(fields), end, batch.equal_length, grids
        )  # fmt: skip

    def write(self, batch: PackedBatch, buffer: Tensor) -> None:
        """Copy the arrays of a batch of this layout into uint8 host memory."""
        target = buffer.numpy()
        for (_, _, _, first), array in zip(self.fields, _arrays(batch, self.grids).values(), strict=True):
            source = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            target[first : first + len(source)] = source

    def read(self, buffer: Tensor, batch: PackedBatch | None = None) -> DeviceBatch:
        """Views of a uint8 buffer on any device; ``batch`` adds the mask's seed and epoch."""
        views: dict[str, Any] = {}
        for name, dtype, shape, first in self.fields:
            last = first + int(np.prod(shape)) * dtype.itemsize
            views[name] = buffer[first:last].view(dtype).view(shape)
        if batch is not None and batch.mask is not None:
            views |= {"seed": batch.mask.seed, "epoch": batch.mask.epoch}
        return DeviceBatch(self.version, self.max_seqlen, self.total_tokens, grids=self.grids, **views)


def _arrays(batch: PackedBatch, grids: Grids) -> dict[str, npt.NDArray[Any]]:
    arrays = {name: getattr(batch, name) for name in _FIELDS}
    if len(grids) > 1:
        arrays["position_start"] = starts_of(batch.shape, grids)
    if batch.mask is not None:
        arrays |= {name: getattr(batch.mask, name) for name in _MASK_FIELDS}
    return arrays
