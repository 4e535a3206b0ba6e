"""Attention over packed sequences, forward: `lwm_fast::attention` and what it shares with its backward.

Every LWM sequence is a CLS token and 2^k patches, so tiles over whole sequences would waste up to half of
their rows. CLS is split off: as a key it starts the online softmax of every row (a rank-1 term in float32), as
a query it is one row of its own program; the patches then fill their tiles exactly, and only other lengths
pay for a masked last tile. Tiles do not depend on the batch, so neither do the bits of a sequence's result.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lwm_fast.errors import InputError

from .runtime import Variant, compute_dtype, dot_dtype, jit, pointer_type, tl, triton, uses_triton  # noqa: TID251

MAX_HEAD_DIM = 64
LOG2E = 1.4426950408889634
_LN2 = tl.constexpr(0.6931471805599453)

# (BLOCK_M queries, BLOCK_N keys, warps, stages) by (padded head_dim, bytes of an activation): not yet measured.
_CONFIGS = {
    (16, 2): (128, 64, 4, 3),
    (32, 2): (128, 64, 4, 3),
    (64, 2): (64, 64, 4, 2),
    (16, 4): (64, 32, 4, 2),
    (32, 4): (64, 32, 4, 2),
    (64, 4): (32, 16, 4, 1),
}


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
    for start in range(whole, length, BLOCK_N):  # the part of a tile that other lengths end in
        n = start + tl.arange(0, BLOCK_N)
        acc, peak, mass = _keys_step(
            acc, peak, mass, q, k_at, v_at, n, length, score_scale, STRIDE, HEAD_DIM, D, DT, True
        )
    y = (acc / mass[:, None]).to(out_at.dtype.element_ty)
    mask = (m < length)[:, None] & (e < HEAD_DIM)[None, :]
    tl.store(out_at + m[:, None] * OUT_STRIDE + e[None, :], y, mask=mask)
    tl.store(lse_at + m, (peak + tl.log2(mass)) * _LN2, mask=m < length)


@jit
def _cls_query(
    q_at: tl.tensor, k_at: tl.tensor, v_at: tl.tensor, out_at: tl.tensor, lse_at: tl.tensor,
    length: tl.tensor, score_scale: tl.tensor, STRIDE: tl.constexpr, HEAD_DIM: tl.constexpr, D: tl.constexpr,
    BLOCK_N: tl.constexpr,
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
            _cls_query(
                q_at, k_at, v_at, out_at, lse_at, length, score_scale, 3 * H * HEAD_DIM, HEAD_DIM, D, BLOCK_N
            )
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
        out[first:last] = (s.softmax(-1) @ v).transpose(1, 2).flatten(0, 1)
        lse[:, first:last] = s.logsumexp(-1).transpose(0, 1).flatten(1)
    return out, lse


# ------------------------------------------------------------------------------------ launcher and op


def padded_head_dim(head_dim: int) -> int:
    """The power of two, at least 16 (the least depth of a matrix instruction), that holds head_dim."""
    return 16 if head_dim <= 16 else 1 << (head_dim - 1).bit_length()


def _launch(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float) -> tuple[Tensor, Tensor]:
    total, _, num_heads, head_dim = qkv.shape
    out = torch.empty((total, num_heads, head_dim), dtype=qkv.dtype, device=qkv.device)
    lse = torch.empty((num_heads, total), dtype=torch.float32, device=qkv.device)
    padded = padded_head_dim(head_dim)
    block_m, block_n, num_warps, num_stages = _CONFIGS[padded, qkv.element_size()]
    if total:
        grid = ((cu_seqlens.numel() - 1) * num_heads, triton.cdiv(max_seqlen - 1, block_m) + 1)
        _attention_fwd_kernel[grid](
            qkv.contiguous(), out, lse, cu_seqlens.contiguous(), total, scale * LOG2E,
            H=num_heads, HEAD_DIM=head_dim, D=padded, BLOCK_M=block_m, BLOCK_N=block_n,
            DT=dot_dtype(qkv.dtype), num_warps=num_warps, num_stages=num_stages,
        )  # fmt: skip
    return out, lse


def _check_cu_seqlens(cu_seqlens: Tensor, total: int, max_seqlen: int) -> None:
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


@torch.library.custom_op(
    "lwm_fast::attention",
    mutates_args=(),
    schema="(Tensor qkv, Tensor cu_seqlens, SymInt max_seqlen, float scale) -> (Tensor, Tensor)",
)
def attention_op(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float) -> tuple[Tensor, Tensor]:
    if not cu_seqlens.is_cuda:
        _check_cu_seqlens(cu_seqlens, qkv.shape[0], max_seqlen)
    if uses_triton(qkv):
        return _launch(qkv, cu_seqlens, max_seqlen, scale)
    return _attention_plain(qkv, cu_seqlens, scale)


@attention_op.register_fake
def _(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int, scale: float) -> tuple[Tensor, Tensor]:
    total, _, num_heads, head_dim = qkv.shape
    lse = qkv.new_empty((num_heads, total), dtype=compute_dtype(qkv.dtype))
    return qkv.new_empty((total, num_heads, head_dim)), lse


def shipped() -> list[tuple[str, torch.dtype, dict[str, Any]]]:
    """(name, dtype, sizes) of every shape that is compiled in advance: both models' heads, and wide ones."""
    found = []
    for head_dim, num_heads in ((5, 12), (16, 8), (32, 4), (64, 4)):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            name = f"d={head_dim} {str(dtype).removeprefix('torch.')}"
            padded = padded_head_dim(head_dim)
            sizes = {"H": num_heads, "HEAD_DIM": head_dim, "D": padded, "DT": dot_dtype(dtype)}
            found.append((name, dtype, sizes))
    return found


def variants() -> list[Variant]:
    """Every shipped compilation of the forward."""
    found = []
    for name, dtype, sizes in shipped():
        act = pointer_type(dtype)
        types = {
            "qkv": act, "out": act, "lse": "*fp32", "cu_seqlens": "*i32", "num_tokens": "i32",
            "score_scale": "fp32",
        }  # fmt: skip
        block_m, block_n, num_warps, num_stages = _CONFIGS[sizes["D"], dtype.itemsize]
        tiles = {**sizes, "BLOCK_M": block_m, "BLOCK_N": block_n}
        found.append(
            Variant(f"attention fwd {name}", _attention_fwd_kernel, types, tiles, num_warps, num_stages)
        )
    return found
