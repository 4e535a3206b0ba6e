"""`PackedBatch`: channels of any sizes in one flat buffer, the form in which every backend takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lwm_fast import _C, reference
from lwm_fast.errors import InputError
from lwm_fast.tokens import CLS_VALUE, PATCH_LEN, num_tokens

if TYPE_CHECKING:
    from lwm_fast.links import LinkState


@dataclass(frozen=True)
class MaskPlan:
    """Which tokens of a packed batch masked channel modelling hides, and how.

    action: uint8 [total_tokens]: 0 none, 1 MASK, 2 a random patch, 3 kept but predicted
    masked_index: int32 [M], packed rows to predict, sample after sample in the release's order
    mask_cu: int32 [B + 1], where each sample's entries of ``masked_index`` begin
    seed, epoch: with ``PackedBatch.sample_id`` they name the random patches (Philox, stream RANDOM_PATCHES)
    random: float32 [M, patch_len], the random patches themselves, where they come from the release's own
        generator; None where they are drawn from seed, epoch, sample and token
    """

    action: npt.NDArray[np.uint8]
    masked_index: npt.NDArray[np.int32]
    mask_cu: npt.NDArray[np.int32]
    seed: int
    epoch: int
    random: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Prepared:
    """Masked tokens that were made beforehand, and what they were made from.

    tokens: float32 [total_tokens, patch_len], mask applied; targets: float32 [M, patch_len]
    scale, cls, mask: the fields of the batch at that time; with others in their place the tokens are stale
    """

    tokens: Tensor
    targets: Tensor
    scale: npt.NDArray[np.float32]
    cls: npt.NDArray[np.float32]
    mask: MaskPlan


@dataclass(frozen=True)
class PackedBatch:
    """B channels one after another, and where each one's tokens go.

    csi: complex64 [total_entries], each sample C-order [antenna, subcarrier]
    offsets: int64 [B + 1] into csi; shape: int32 [B, 2] (antennas, subcarriers)
    cu_seqlens: int32 [B + 1] into packed tokens (CLS included); max_seqlen: the longest, a host int
    sample_id: int64 [B], names the sample in counter-based random numbers, whatever the packing
    scale: float32 [B] multiplies csi; cls: float32 [patch_len] or [B, patch_len], the CLS token
    mask: what masked channel modelling hides, None for embedding
    prepared: the masked tokens, where the loader has made them in the background
    truth: what is known about the samples' links, where link heads are trained
    """

    version: str
    csi: npt.NDArray[np.complex64]
    offsets: npt.NDArray[np.int64]
    shape: npt.NDArray[np.int32]
    cu_seqlens: npt.NDArray[np.int32]
    max_seqlen: int
    sample_id: npt.NDArray[np.int64]
    scale: npt.NDArray[np.float32]
    cls: npt.NDArray[np.float32]
    mask: MaskPlan | None = None
    prepared: Prepared | None = None
    truth: LinkState | None = None

    @classmethod
    def from_samples(
        cls,
        samples: Sequence[npt.NDArray[np.complex64]] | npt.NDArray[np.complex64],
        version: str,
        *,
        scale: float | npt.NDArray[np.float32] = 1e6,
        sample_id: npt.NDArray[np.int64] | None = None,
    ) -> PackedBatch:
        """Pack csi [B, N, SC] (a contiguous array is not copied) or a list of [N, SC] of mixed sizes."""
        count = len(samples)
        if isinstance(samples, np.ndarray):
            sizes = [samples.shape[1:]] * min(count, 1)
            flat: npt.NDArray[np.complex64] = np.ascontiguousarray(samples).reshape(-1)
        else:
            sizes = [sample.shape for sample in samples]
            flat = np.concatenate([s.reshape(-1) for s in samples]) if count else np.zeros(0, np.complex64)
        repeats = count if len(sizes) == 1 else 1  # one size stands for all
        shape = np.array(sizes * repeats, dtype=np.int32).reshape(count, 2)
        lengths = [num_tokens(int(n), int(sc), version) for n, sc in sizes] * repeats
        entries = shape.astype(np.int64).prod(1)
        return cls(
            version=version,
            csi=flat,
            offsets=np.concatenate([[0], entries.cumsum()]).astype(np.int64),
            shape=shape,
            cu_seqlens=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
            max_seqlen=max(lengths, default=0),
            sample_id=np.arange(count, dtype=np.int64) if sample_id is None else sample_id,
            scale=np.full(count, scale, dtype=np.float32)
            if np.isscalar(scale)
            else np.asarray(scale, np.float32),
            cls=np.full(PATCH_LEN[version], CLS_VALUE, dtype=np.float32),
        )

    def __len__(self) -> int:
        return len(self.sample_id)

    @property
    def equal_length(self) -> bool:
        """True where every sequence has ``max_seqlen`` tokens: the tokens have a dense view."""
        return int(self.cu_seqlens[-1]) == len(self) * self.max_seqlen

    def tokens(self, device: torch.device | None = None, *, num_threads: int = 0) -> Tensor:
        """float32 tokens: [B, seq_len, patch_len] where the lengths are equal, else [total_tokens, patch_len].

        On the CPU the C++ tokeniser cuts them; for another device the csi travels as it is and is cut there.
        """
        total, patch_len = int(self.cu_seqlens[-1]), self.cls.shape[-1]
        if device is None or device.type == "cpu":
            out = torch.empty(total, patch_len)
            _C.tokenize(
                self.csi, self.offsets, self.shape, self.cu_seqlens, self.scale, self.cls, out.numpy(),
                int(self.version.replace(".", "")), num_threads,
            )  # fmt: skip
        else:
            out = self._tokens_on(device)
        return out.view(len(self), self.max_seqlen, patch_len) if self.equal_length else out

    def masked_tokens(self, *, num_threads: int = 0) -> tuple[Tensor, Tensor]:
        """(tokens float32 [total_tokens, patch_len] with the mask applied, targets float32 [M, patch_len]).

        CPU tensors. Made in C++ unless the loader has made them already; targets are the patches as they were
        before, in the order of ``mask.masked_index``.

        Raises:
            InputError: the batch has no mask.
        """
        plan = self.mask
        if plan is None:
            raise InputError(
                "masked_tokens: the batch has no mask; make one with lwm_fast.data.draw_mask and "
                "dataclasses.replace(batch, mask=...)"
            )
        made = self.prepared
        if made is not None and made.mask is plan and made.scale is self.scale and made.cls is self.cls:
            return made.tokens, made.targets
        patch_len = self.cls.shape[-1]
        tokens = self.tokens(num_threads=num_threads).view(-1, patch_len)
        targets = torch.empty(len(plan.masked_index), patch_len)
        _C.apply_mask(
            tokens.numpy(), self.cu_seqlens, plan.action, plan.masked_index, plan.mask_cu, self.sample_id,
            targets.numpy(), int(self.version.replace(".", "")), plan.seed, plan.epoch, plan.random, num_threads,
        )  # fmt: skip
        return tokens, targets

    def _tokens_on(self, device: torch.device) -> Tensor:
        csi = torch.from_numpy(self.csi).to(device, non_blocking=True)
        out = torch.empty(int(self.cu_seqlens[-1]), self.cls.shape[-1], device=device)
        cls = torch.from_numpy(self.cls).to(device)
        edges = (
            [0, *(1 + np.flatnonzero((self.shape[1:] != self.shape[:-1]).any(1))), len(self)]
            if len(self)
            else [0]
        )
        for first, last in pairwise(edges):  # runs of one size are cut together
            num_antennas, num_subcarriers = map(int, self.shape[first])
            block = csi[self.offsets[first] : self.offsets[last]].view(-1, num_antennas, num_subcarriers)
            scale = torch.from_numpy(self.scale[first:last]).to(device)[:, None, None]
            scaled = torch.view_as_complex(torch.view_as_real(block) * scale[..., None])
            tokens = reference.tokenize(scaled, self.version, 1.0)
            tokens[:, 0] = cls if cls.ndim == 1 else cls[first:last]
            out[self.cu_seqlens[first] : self.cu_seqlens[last]] = tokens.flatten(0, 1)
        return out
