"""Tokens cut where they are needed: patches of packed channels, masked in place, without a token tensor.

Shared by the embedding (`patch_embed`) and by the targets of masked channel modelling (`patch_targets`).
Sources: LWM v1.0 / v1.1 release (patches); "Random numbers" of the package's philox module (random patches).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lwm_fast.philox import Stream, philox4x32

from .runtime import Variant, jit, operator, tl, triton, uses_triton  # noqa: TID251
from .tuned import lookup  # noqa: TID251

TOKENS, V10, V11 = 0, 10, 11  # what `values` holds: tokens, or channels to be cut as v1.0 or v1.1
MASK_VALUE = 0.1
ACTION_MASK, ACTION_RANDOM = 1, 2
_MASK = tl.constexpr(MASK_VALUE)


@dataclass(frozen=True)
class Patches:
    """Where tokens come from. All index tensors lie on the device of `values`.

    values: tokens [total, patch_len], or the parts of packed channels [entries, 2]
    offsets: int64 [B + 1]; shape: int32 [B, 2]; scale: float32 [B]; cls: float32 [patch_len] or [B, patch_len]
    action: uint8 [total] (1 MASK, 2 random patch); sample_id: int64 [B]
    position_start: int32 [B], the row of the position table that each CLS takes; None: 0
    """

    values: Tensor
    cu_seqlens: Tensor
    offsets: Tensor | None
    shape: Tensor | None
    scale: Tensor | None
    cls: Tensor | None
    action: Tensor | None
    sample_id: Tensor | None
    position_start: Tensor | None
    version: int
    seed: int
    epoch: int

    def pointers(self) -> dict[str, Any]:
        """Kernel arguments; a tensor that this source has no use for is stood in for and never read."""

        def ready(tensor: Tensor | None) -> Tensor:
            return self.cu_seqlens if tensor is None else tensor.contiguous()

        return {
            "values": ready(self.values),
            "offsets": ready(self.offsets),
            "shape": ready(self.shape),
            "scale": ready(self.scale),
            "cls": ready(self.cls),
            "cls_stride": 0 if self.cls is None or self.cls.ndim == 1 else self.cls.shape[1],
            "action": ready(self.action),
            "sample_id": ready(self.sample_id),
            "position_start": ready(self.position_start),
            "seed": self.seed,
            "epoch": self.epoch,
            "cu_seqlens": ready(self.cu_seqlens),
        }


@jit
def load_patches(
    values: tl.tensor, offsets: tl.tensor, shape: tl.tensor, scale: tl.tensor, cls: tl.tensor,
    cls_stride: tl.tensor, b: tl.tensor, row: tl.tensor, t: tl.tensor, valid: tl.tensor, L: tl.constexpr,
    BLOCK_L: tl.constexpr, VERSION: tl.constexpr,
) -> Any:  # fmt: skip
    """Tokens [rows, BLOCK_L] float32: row `row` is token `t` of sequence `b` (one number, or [rows, 1])."""
    k = tl.arange(0, BLOCK_L)[None, :]
    keep = valid[:, None] & (k < L)
    if VERSION == 0:
        x = tl.load(values + row[:, None] * L + k, mask=keep, other=0.0).to(tl.float32)
    else:
        is_cls = (t == 0)[:, None]
        p = tl.maximum(t - 1, 0)[:, None]
        antennas = tl.load(shape + 2 * b)
        subcarriers = tl.load(shape + 2 * b + 1)
        inside = keep & (t > 0)[:, None]
        if VERSION == 10:  # all real parts, then all imaginary parts
            half = antennas * subcarriers
            index = p * L + k
            part = (index >= half).to(tl.int32)
            at = 2 * (tl.load(offsets + b) + index - part * half) + part
        else:  # 4 antennas x 4 subcarriers, real and imaginary interleaved; outside the channel is 0
            columns = (subcarriers + 3) // 4
            antenna = p // columns * 4 + k // 8
            column = p % columns * 8 + k % 8
            inside = inside & (antenna < antennas) & (column < 2 * subcarriers)
            at = 2 * (tl.load(offsets + b) + antenna * subcarriers) + column
        x = tl.load(values + at, mask=inside, other=0.0).to(tl.float32) * tl.load(scale + b)
        token = tl.load(cls + b * cls_stride + k, mask=keep & is_cls, other=0.0)
        x = tl.where(is_cls, token, x)
    return x


@jit
def random_patches(
    sample: tl.tensor, t: tl.tensor, seed: tl.tensor, epoch: tl.tensor, L: tl.constexpr, BLOCK_L: tl.constexpr
) -> Any:
    """Uniform [rows, BLOCK_L]: word t * L + feature of the sample's stream, whatever row the token lies in."""
    element = t[:, None] * L + tl.arange(0, BLOCK_L)[None, :]
    zero = (element * 0).to(tl.uint32)
    c0 = zero + sample.to(tl.uint32)
    c1 = zero + (sample >> 32).to(tl.uint32)
    c2 = zero + (sample * 0 + epoch).to(tl.uint32)
    c3 = ((2 << 24) | (element // 4)).to(tl.uint32)  # stream RANDOM_PATCHES
    w0, w1, w2, w3 = tl.philox(seed, c0, c1, c2, c3)
    lane = element % 4
    word = tl.where(lane == 0, w0, tl.where(lane == 1, w1, tl.where(lane == 2, w2, w3)))
    return (word >> 8).to(tl.float32) * 5.9604644775390625e-08  # 2^-24


@jit
def load_tokens(
    values: tl.tensor, offsets: tl.tensor, shape: tl.tensor, scale: tl.tensor, cls: tl.tensor,
    cls_stride: tl.tensor, action: tl.tensor, sample_id: tl.tensor, seed: tl.tensor, epoch: tl.tensor,
    b: tl.tensor, row: tl.tensor, t: tl.tensor, valid: tl.tensor,
    L: tl.constexpr, BLOCK_L: tl.constexpr, VERSION: tl.constexpr, MASKED: tl.constexpr,
) -> Any:  # fmt: skip
    """(tokens [rows, BLOCK_L] float32 with the mask applied, kept [rows, 1]: the entries come from `values`)."""
    x = load_patches(values, offsets, shape, scale, cls, cls_stride, b, row, t, valid, L, BLOCK_L, VERSION)
    kept = valid[:, None]
    if MASKED:
        act = tl.load(action + row, mask=valid, other=0)[:, None]
        drawn = random_patches(tl.load(sample_id + b), t, seed, epoch, L, BLOCK_L)
        x = tl.where(act == 1, _MASK, tl.where(act == 2, drawn, x))
        kept = kept & (act != 1) & (act != 2)
    return x, kept


@jit
def _patch_targets_kernel(
    values: tl.tensor, offsets: tl.tensor, shape: tl.tensor, scale: tl.tensor, cu_seqlens: tl.tensor,
    index: tl.tensor, sequence: tl.tensor, out: tl.tensor, num_masked: tl.tensor, L: tl.constexpr,
    VERSION: tl.constexpr, BLOCK_M: tl.constexpr,
) -> None:  # fmt: skip
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    valid = m < num_masked
    b = tl.load(sequence + m, mask=valid, other=0)
    row = tl.load(index + m, mask=valid, other=0).to(tl.int64)
    t = (row - tl.load(cu_seqlens + b, mask=valid, other=0)).to(tl.int32)
    x = load_patches(
        values, offsets, shape, scale, scale, 0, b[:, None], row, t, valid & (t > 0), L, L, VERSION
    )
    k = tl.arange(0, L)[None, :]
    tl.store(out + m[:, None] * L + k, x, mask=valid[:, None] & (k < L))


# ------------------------------------------------------------------------------------- plain torch twin


def sequences_of(rows: Tensor, cu_seqlens: Tensor) -> Tensor:
    """The sequence, int64, that each packed row lies in, found on the device."""
    return torch.searchsorted(cu_seqlens[1:].contiguous(), rows.to(cu_seqlens.dtype), right=True)


def gather_patches(patches: Patches, rows: Tensor, patch_len: int) -> Tensor:
    """Unmasked tokens of packed rows (int64 [M]), as `load_patches` reads them: [M, patch_len]."""
    if patches.version == TOKENS:
        return patches.values[rows]
    assert patches.offsets is not None
    assert patches.shape is not None
    assert patches.scale is not None
    b = sequences_of(rows, patches.cu_seqlens)
    t = (rows - patches.cu_seqlens[b])[:, None]
    p = (t - 1).clamp(min=0)
    k = torch.arange(patch_len, device=rows.device)[None, :]
    antennas, subcarriers = patches.shape[b].long()[:, :, None].unbind(1)
    first = patches.offsets[b][:, None]
    if patches.version == V10:
        half = antennas * subcarriers
        index = p * patch_len + k
        part = (index >= half).long()
        at = 2 * (first + index - part * half) + part
        inside = t > 0
    else:
        columns = (subcarriers + 3) // 4
        antenna = p // columns * 4 + k // 8
        column = p % columns * 8 + k % 8
        at = 2 * (first + antenna * subcarriers) + column
        inside = (t > 0) & (antenna < antennas) & (column < 2 * subcarriers)
    parts = patches.values.reshape(-1)[torch.where(inside, at, 0)].float() * patches.scale[b][:, None]
    x = torch.where(inside, parts, 0.0)
    if patches.cls is None:
        return x
    return torch.where(t == 0, patches.cls if patches.cls.ndim == 1 else patches.cls[b], x)


def gather_tokens(patches: Patches, total: int, patch_len: int) -> tuple[Tensor, Tensor]:
    """(tokens [total, patch_len] with the mask applied, kept bool [total, 1]), as `load_tokens` gives them."""
    rows = torch.arange(total, device=patches.values.device)
    x = gather_patches(patches, rows, patch_len)
    kept = torch.ones(total, 1, dtype=torch.bool, device=x.device)
    if patches.action is None:
        return x, kept
    action = patches.action[:, None]
    x = torch.where(action == ACTION_MASK, MASK_VALUE, x)
    drawn = rows[patches.action == ACTION_RANDOM]
    x = x.index_copy(0, drawn, _draw_patches(patches, drawn, patch_len).to(x))
    return x, (action != ACTION_MASK) & (action != ACTION_RANDOM)


def _draw_patches(patches: Patches, rows: Tensor, patch_len: int) -> Tensor:
    """Random patches of packed rows: float32 [M, patch_len], on the CPU."""
    assert patches.sample_id is not None
    b = sequences_of(rows, patches.cu_seqlens)
    t = (rows - patches.cu_seqlens[b]).cpu().numpy()
    sample = patches.sample_id[b].cpu().numpy().astype(np.uint64)[:, None]
    block = t[:, None] * (patch_len // 4) + np.arange(patch_len // 4)
    counter = np.empty((*block.shape, 4), np.uint64)
    counter[..., 0] = sample & np.uint64(0xFFFFFFFF)
    counter[..., 1] = sample >> np.uint64(32)
    counter[..., 2] = patches.epoch
    counter[..., 3] = (int(Stream.RANDOM_PATCHES) << 24) | block
    seed = patches.seed % (1 << 64)
    words = philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32)) >> np.uint32(8)
    return torch.from_numpy(words.reshape(-1, patch_len).astype(np.float32) * np.float32(2.0**-24))


# ----------------------------------------------------------------------------------- launcher and op


@operator(
    "patch_targets",
    "(Tensor values, Tensor offsets, Tensor shape, Tensor scale, Tensor cu_seqlens, Tensor index, "
    "int version, int patch_len) -> Tensor",
)
def patch_targets_op(
    values: Tensor, offsets: Tensor, shape: Tensor, scale: Tensor, cu_seqlens: Tensor, index: Tensor,
    version: int, patch_len: int,
) -> Tensor:  # fmt: skip
    if not uses_triton(values):
        source = Patches(values, cu_seqlens, offsets, shape, scale, None, None, None, None, version, 0, 0)
        return gather_patches(source, index.long(), patch_len)
    out = torch.empty((len(index), patch_len), dtype=torch.float32, device=values.device)
    tile = lookup("patch_targets", patch_len, 4)
    if len(index):
        _patch_targets_kernel[(triton.cdiv(len(index), tile.rows),)](
            values.contiguous(), offsets.contiguous(), shape.contiguous(), scale.contiguous(),
            cu_seqlens.contiguous(), index.contiguous(), sequences_of(index, cu_seqlens), out, len(index),
            L=patch_len, VERSION=version, BLOCK_M=tile.rows, num_warps=tile.warps,
        )  # fmt: skip
    return out


@patch_targets_op.register_fake
def _(
    values: Tensor, offsets: Tensor, shape: Tensor, scale: Tensor, cu_seqlens: Tensor, index: Tensor,
    version: int, patch_len: int,
) -> Tensor:  # fmt: skip
    return values.new_empty((index.shape[0], patch_len), dtype=torch.float32)


SOURCE_TYPES = {
    "offsets": "*i64",
    "shape": "*i32",
    "scale": "*fp32",
    "cls": "*fp32",
    "cls_stride": "i32",
    "action": "*u8",
    "sample_id": "*i64",
    "position_start": "*i32",
    "seed": "i64",
    "epoch": "i64",
    "cu_seqlens": "*i32",
}
"""Triton types of `Patches.pointers` but for `values`."""


def variants(arch: int | None = None) -> list[Variant]:
    """Every shipped compilation of the targets kernel."""
    types = {
        **{name: SOURCE_TYPES[name] for name in ("offsets", "shape", "scale", "cu_seqlens")},
        "values": "*fp32",
        "index": "*i32",
        "sequence": "*i64",
        "out": "*fp32",
        "num_masked": "i32",
    }
    found = []
    for version, patch_len in ((V10, 16), (V11, 32)):
        tile = lookup("patch_targets", patch_len, 4, arch)
        constexprs = {"L": patch_len, "VERSION": version, "BLOCK_M": tile.rows}
        name = f"patch_targets v{version / 10}"
        found.append(Variant(name, _patch_targets_kernel, types, constexprs, tile.warps, tile.stages))
    return found
