"""Attention over packed sequences, forward: `lwm_fast::attention` and what it shares with its backward.

Every LWM sequence is a CLS token and 2^k patches, so tiles over whole sequences would waste up to half of
their rows. CLS is split off: as a key it starts the online softmax of every row (a rank-1 term in float32), as
a query it is one row of its own program; the patches then fill their tiles exactly, and only other lengths
pay for masked rows: the keys that no whole tile holds are taken 16 at a time, by the sequence's own length.

Batches of short sequences take a shorter tile of queries. It changes no bit: keys are taken in the same tiles,
and in both the same warps hold a query's scores in the same lanes (two warps keep sm_90 from its warp-group
products, which need four). The compile test compares the layouts.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lwm_fast.errors import InputError

from .runtime import (  # noqa: TID251
    Variant,
    compute_dtype,
    dot_dtype,
    jit,
    operator,
    pointer_type,
    short_name,
    tl,
    triton,
    uses_triton,
)
from .tuned import Tile, lookup  # noqa: TID251

# The backward weighs by exp(score - lse), and rounding lse to float32 is a larger error than all of a score of
# one or two terms has: under three, gradients reach 2.9 times plain torch's error.
MIN_HEAD_DIM, MAX_HEAD_DIM = 3, 64
LOG2E = 1.4426950408889634
_LN2 = tl.constexpr(0.6931471805599453)

SHORT = 32  # queries of a program where no sequence has more patches
TAIL = 16  # keys at a time past the last whole tile: the least that a matrix instruction takes
_TAIL = tl.constexpr(TAIL)
_GRID_LIMITS = (1 << 31) - 1, 65_535  # programs on axes 0 and 1


@jit
def load_rows(
    base: tl.tensor, row: tl.tensor, end: tl.tensor, STRIDE: tl.constexpr, HEAD_DIM: tl.constexpr,
    D: tl.constexpr, MASKED: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Rows `row` of one head [rows, D]; features from HEAD_DIM on, and rows from `end` on if MASKED, are 0."""
    e = tl.arange(0, D)
    at = base + row[:, None] * STRIDE + e[None, :]
    if MASKED:
        x = tl.load(at, mask=(row < end)[:, None] & (e < HEAD_DIM)[None, :], other=0.0)
    elif HEAD_DIM < D:
        x = tl.load(at, mask=(e < HEAD_DIM)[None, :], other=0.0)
    else:
        x = tl.load(at)
    return x


@jit
def load_row(base: tl.tensor, HEAD_DIM: tl.constexpr, D: tl.constexpr) -> tl.tensor:
    """One row of one head in float32 [D]."""
    e = tl.arange(0, D)
    return tl.load(base + e, mask=e < HEAD_DIM, other=0.0).to(tl.float32)


@jit
def _keys_step(
    acc: tl.tensor, peak: tl.tensor, mass: tl.tensor, q: tl.tensor, k_at: tl.tensor, v_at: tl.tensor,
    n: tl.tensor, end: tl.tensor, score_scale: tl.tensor, STRIDE: tl.constexpr, HEAD_DIM: tl.constexpr,
    D: tl.constexpr, DT: tl.constexpr, MASKED: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """One tile of keys: acc [M, D], peak and mass [M] of the online softmax in base 2."""
    k = load_rows(k_at, n, end, STRIDE, HEAD_DIM, D, MASKED).to(DT)
    v = load_rows(v_at, n, end, STRIDE, HEAD_DIM, D, MASKED).to(DT)
    s = tl.dot(q, tl.trans(k), input_precision="ieee")  # [M, N]
    if MASKED:
        s = tl.where((n < end)[None, :], s, -float("inf"))
    new_peak = tl.maximum(peak, tl.max(s, 1) * score_scale)
    # The scale goes into the subtraction's fused multiply-add: free, and q is not rounded a second time.
    p = tl.exp2(s * score_scale - new_peak[:, None])
    keep = tl.exp2(peak - new_peak)
    mass = mass * keep + tl.sum(p, 1)
    acc = tl.dot(p.to(DT), v, acc * keep[:, None], input_precision="ieee")
    return acc, new_peak, mass


@jit
def _patch_queries(
    q_at: tl.tensor, k_at: tl.tensor, v_at: tl.tensor, out_at: tl.tensor, lse_at: tl.tensor, first: tl.tensor,
    length: tl.tensor, score_scale: tl.tensor, STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr,
    HEAD_DIM: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, DT: tl.constexpr,
) -> None:  # fmt: skip
    m = first + tl.arange(0, BLOCK_M)
    e = tl.arange(0, D)
    q = load_rows(q_at, m, length, STRIDE, HEAD_DIM, D, True)
    k_cls = load_row(k_at, HEAD_DIM, D)
    v_cls = load_row(v_at, HEAD_DIM, D)
    peak = tl.sum(q.to(tl.float32) * k_cls[None, :], 1) * score_scale
    mass = tl.full((BLOCK_M,), 1.0, tl.float32)
    acc = tl.zeros((BLOCK_M, D), tl.float32) + v_cls[None, :]
    q = q.to(DT)
    whole = 1 + (length - 1) // BLOCK_N * BLOCK_N
    for start in range(1, whole, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        acc, peak, mass = _keys_step(
            acc, peak, mass, q, k_at, v_at, n, length, score_scale, STRIDE, HEAD_DIM, D, DT, False
        )
    for start in range(whole, length, _TAIL):
        n = start + tl.arange(0, _TAIL)
        acc, peak, mass = _keys_step(
            acc, peak, mass, q, k_at, v_at, n, length, score_scale, STRIDE, HEAD_DIM, D, DT, True
        )
    y = (acc / mass[:, None]).to(out_at.dtype.element_ty)
    mask = (m < length)[:, None] & (e < HEAD_DIM)[None, :]
    tl.store(out_at + m[:, None] * OUT_STRIDE + e[None, :], y, mask=mask)
    tl.store(lse_at + m, (peak + tl.log2(mass)) * _LN2, mask=m < length)


@jit
def cls_query(
    q_at: tl.tensor, k_at: tl.tensor, v_at: tl.tensor, out_at: tl.tensor, lse_at: tl.tensor,
    length: tl.tensor, score_scale: tl.tensor, STRIDE: tl.constexpr, HEAD_DIM: tl.constexpr, D: tl.constexpr,
    BLOCK_N: tl.constexpr, WITH_LSE: tl.constexpr,
) -> None:  # fmt: skip
    """Each of BLOCK_N lanes keeps its own softmax over every BLOCK_N-th key; they are merged once, at the end."""
    e = tl.arange(0, D)
    q = load_row(q_at, HEAD_DIM, D)
    s_cls = tl.sum(q * load_row(k_at, HEAD_DIM, D), 0) * score_scale
    peak = tl.zeros((BLOCK_N,), tl.float32) + s_cls
    mass = tl.zeros((BLOCK_N,), tl.float32)
    acc = tl.zeros((BLOCK_N, D), tl.float32)
    for start in range(1, length, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        k = load_rows(k_at, n, length, STRIDE, HEAD_DIM, D, True).to(tl.float32)
        v = load_rows(v_at, n, length, STRIDE, HEAD_DIM, D, True).to(tl.float32)
        s = tl.where(n < length, tl.sum(k * q[None, :], 1) * score_scale, -float("inf"))
        new_peak = tl.maximum(peak, s)
        p = tl.exp2(s - new_peak)
        keep = tl.exp2(peak - new_peak)
        mass = mass * keep + p
        acc = acc * keep[:, None] + p[:, None] * v
        peak = new_peak
    top = tl.max(peak, 0)
    weight = tl.exp2(peak - top)
    p_cls = tl.exp2(s_cls - top)
    total = tl.sum(mass * weight, 0) + p_cls
    y = (tl.sum(acc * weight[:, None], 0) + p_cls * load_row(v_at, HEAD_DIM, D)) / total
    tl.store(out_at + e, y.to(out_at.dtype.element_ty), mask=e < HEAD_DIM)
    if WITH_LSE:
        tl.store(lse_at, (top + tl.log2(total)) * _LN2)


@jit
def _attention_fwd_kernel(
    qkv: tl.tensor, out: tl.tensor, lse: tl.tensor, cu_seqlens: tl.tensor, num_tokens: tl.tensor,
    score_scale: tl.tensor, H: tl.constexpr, HEAD_DIM: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, DT: tl.constexpr,
) -> None:  # fmt: skip
    """Axis 0: sequence * H + head; axis 1: tiles of patch queries, then the CLS query."""
    head = tl.program_id(0) % H
    begin = tl.load(cu_seqlens + tl.program_id(0) // H)
    length = tl.load(cu_seqlens + tl.program_id(0) // H + 1) - begin
    row = begin.to(tl.int64)
    q_at = qkv + row * (3 * H * HEAD_DIM) + head * HEAD_DIM
    k_at = q_at + H * HEAD_DIM
    v_at = k_at + H * HEAD_DIM
    out_at = out + row * (H * HEAD_DIM) + head * HEAD_DIM
    lse_at = lse + head.to(tl.int64) * num_tokens + row
    if tl.program_id(1) == tl.num_programs(1) - 1:
        if length > 0:
            cls_query(
                q_at, k_at, v_at, out_at, lse_at, length, score_scale, 3 * H * HEAD_DIM, HEAD_DIM, D, BLOCK_N,
                True,
            )  # fmt: skip
    else:
        first = 1 + tl.program_id(1) * BLOCK_M
        if first < length:
            _patch_queries(
                q_at, k_at, v_at, out_at, lse_at, first, length, score_scale,
                3 * H * HEAD_DIM, H * HEAD_DIM, HEAD_DIM, D, BLOCK_M, BLOCK_N, DT,
            )  # fmt: skip


# ------------------------------------------------------------------------------------- plain torch twin


def equal_runs(cu_seqlens: Tensor) -> list[tuple[int, int, int]]:
    """Runs of sequences of one length, as (first row, last row + 1, length); reads cu_seqlens on the host."""
    edges = cu_seqlens.tolist()
    runs: list[tuple[int, int, int]] = []
    for first, last in pairwise(edges):
        if last == first:
            continue
        if runs and runs[-1][2] == last - first:
            runs[-1] = (runs[-1][0], last, last - first)
        else:
            runs.append((first, last, last - first))
    return runs


def by_head(x: Tensor, length: int) -> Tensor:
    """[n * length, H, ...] -> [n, H, length, ...]"""
    y: Tensor = x.unflatten(0, (-1, length)).transpose(1, 2)
    return y


def _attention_plain(qkv: Tensor, cu_seqlens: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype(qkv.dtype)
    total, _, num_heads, head_dim = qkv.shape
    out = torch.empty((total, num_heads, head_dim), dtype=qkv.dtype, device=qkv.device)
    lse = torch.empty((num_heads, total), dtype=dtype, device=qkv.device)
    for first, last, length in equal_runs(cu_seqlens):
        q, k, v = (by_head(x, length) for x in qkv[first:last].to(dtype).unbind(1))
        s = q @ k.mT * scale  # [n, H, S, S]
        peak = s.amax(-1, keepdim=True)
        p = (s - peak).exp()
        mass = p.sum(-1, keepdim=True)
        # Weights are rounded to the dtype of the values for the product, as in the kernel, but not their sum.
        out[first:last] = (p.to(qkv.dtype).to(dtype) @ v / mass).transpose(1, 2).flatten(0, 1)
        lse[:, first:last] = (peak + mass.log())[..., 0].transpose(0, 1).flatten(1)
    return out, lse


# ------------------------------------------------------------------------------------ launcher and op


def padded_head_dim(head_dim: int) -> int:
    """The power of two, at least 16 (the least depth of a matrix instruction), that holds head_dim."""
    return 16 if head_dim <= 16 else 1 << (head_dim - 1).bit_length()


def tile_for(op: str, padded: int, itemsize: int, max_seqlen: int, arch: int | None = None) -> Tile:
    """The tile of `op` in this batch. float32 has one: its products run in layouts that follow the tile."""
    tile = lookup(op, padded, itemsize, arch)
    short = itemsize == 2 and tile.warps == 2 and max_seqlen <= 1 + SHORT < tile.rows
    return replace(tile, rows=SHORT) if short else tile


def grid_of(op: str, num_sequences: int, num_heads: int, max_seqlen: int, rows: int) -> tuple[int, int]:
    """(sequences x heads, tiles of `rows` patches and one program for CLS). Raises what no launch can hold."""
    grid = (num_sequences * num_heads, triton.cdiv(max(max_seqlen - 1, 0), rows) + 1)
    if grid[0] > _GRID_LIMITS[0] or grid[1] > _GRID_LIMITS[1]:
        raise InputError(
            f"{op}: {num_sequences} sequences x {num_heads} heads of up to {max_seqlen} tokens need a grid of "
            f"{grid}, more than {_GRID_LIMITS}: split the batch"
        )
    return grid


def _launch(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float) -> tuple[Tensor, Tensor]:
    total, _, num_heads, head_dim = qkv.shape
    out = torch.empty((total, num_heads, head_dim), dtype=qkv.dtype, device=qkv.device)
    lse = torch.empty((num_heads, total), dtype=torch.float32, device=qkv.device)
    padded = padded_head_dim(head_dim)
    tile = tile_for("attention", padded, qkv.element_size(), max_seqlen)
    if total:
        grid = grid_of("attention", cu_seqlens.numel() - 1, num_heads, max_seqlen, tile.rows)
        _attention_fwd_kernel[grid](
            qkv.contiguous(), out, lse, cu_seqlens.contiguous(), total, scale * LOG2E,
            H=num_heads, HEAD_DIM=head_dim, D=padded, BLOCK_M=tile.rows, BLOCK_N=tile.steps,
            DT=dot_dtype(qkv.dtype), num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return out, lse


def check_cu_seqlens(cu_seqlens: Tensor, total: int, max_seqlen: int) -> None:
    """Only where reading cu_seqlens costs nothing: on a GPU it would wait for the device."""
    lengths = cu_seqlens.diff()
    if (
        cu_seqlens.numel() < 1
        or int(cu_seqlens[0]) != 0
        or int(cu_seqlens[-1]) != total
        or bool((lengths < 0).any())
    ):
        raise InputError(
            f"attention: cu_seqlens = {cu_seqlens.tolist()[:8]}... does not cut {total} packed tokens; it must "
            "rise from 0 to the number of rows of qkv"
        )
    if lengths.numel() and int(lengths.max()) > max_seqlen:
        place = int(lengths.argmax())
        raise InputError(
            f"attention: sequence {place} has {int(lengths.max())} tokens, more than max_seqlen = "
            f"{max_seqlen}: pass the longest length"
        )


@operator("attention", "(Tensor qkv, Tensor cu_seqlens, SymInt max_seqlen, float scale) -> (Tensor, Tensor)")
def attention_op(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float) -> tuple[Tensor, Tensor]:
    if not cu_seqlens.is_cuda:
        check_cu_seqlens(cu_seqlens, qkv.shape[0], max_seqlen)
    if uses_triton(qkv):
        return _launch(qkv, cu_seqlens, max_seqlen, scale)
    return _attention_plain(qkv, cu_seqlens, scale)


@attention_op.register_fake
def _(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float) -> tuple[Tensor, Tensor]:
    total, _, num_heads, head_dim = qkv.shape
    lse = qkv.new_empty((num_heads, total), dtype=compute_dtype(qkv.dtype))
    return qkv.new_empty((total, num_heads, head_dim)), lse


def shipped(op: str, arch: int | None) -> list[tuple[str, torch.dtype, dict[str, Any], Tile]]:
    """(name, dtype, sizes, tile) of what is compiled in advance: both models' heads, and the widest."""
    found = []
    for head_dim, num_heads in ((5, 12), (16, 8), (64, 4)):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            if head_dim == MAX_HEAD_DIM and dtype == torch.float16:
                continue
            padded = padded_head_dim(head_dim)
            sizes = {"H": num_heads, "HEAD_DIM": head_dim, "D": padded, "DT": dot_dtype(dtype)}
            tiles = {n: tile_for(op, padded, dtype.itemsize, n, arch) for n in (1 + SHORT, 4097)}
            name = f"d={head_dim} {short_name(dtype)}"
            found.append((name, dtype, sizes, tiles[4097]))
            if tiles[1 + SHORT] != tiles[4097] and head_dim < MAX_HEAD_DIM:
                found.append((f"{name} short", dtype, sizes, tiles[1 + SHORT]))
    return found


def variants(arch: int | None = None) -> list[Variant]:
    """Every shipped compilation of the forward."""
    found = []
    for name, dtype, sizes, tile in shipped("attention", arch):
        act = pointer_type(dtype)
        types = {
            "qkv": act, "out": act, "lse": "*fp32", "cu_seqlens": "*i32", "num_tokens": "i32",
            "score_scale": "fp32",
        }  # fmt: skip
        tiles = {**sizes, "BLOCK_M": tile.rows, "BLOCK_N": tile.steps}
        label = f"attention fwd {name}"
        found.append(Variant(label, _attention_fwd_kernel, types, tiles, tile.warps, tile.stages))
    return found
