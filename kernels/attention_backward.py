"""Gradient of `lwm_fast::attention`: importing this module registers it.

Two kernels and no atomics: one program owns each row it writes, so the sums have one order. The first takes
tiles of queries, writes dQ and each row's delta = sum(dO * O) - dLSE; the second takes tiles of keys and writes
dK and dV. Both compute the weights anew from the saved log-sum-exp, and both give CLS a program of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .attention import (  # noqa: TID251
    LOG2E,
    TAIL,
    attention_op,
    by_head,
    equal_runs,
    grid_of,
    load_row,
    load_rows,
    padded_head_dim,
    shipped,
    tile_for,
)
from .runtime import (  # noqa: TID251
    Variant,
    compute_dtype,
    dot_dtype,
    jit,
    operator,
    pointer_type,
    tl,
    uses_triton,
)

_LOG2E = tl.constexpr(LOG2E)
_TAIL = tl.constexpr(TAIL)


@jit
def _dq_step(
    dq: tl.tensor, q: tl.tensor, do: tl.tensor, lse: tl.tensor, delta: tl.tensor, k_at: tl.tensor,
    v_at: tl.tensor, n: tl.tensor, end: tl.tensor, score_scale: tl.tensor, STRIDE: tl.constexpr,
    HEAD_DIM: tl.constexpr, D: tl.constexpr, DT: tl.constexpr, MASKED: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    k = load_rows(k_at, n, end, STRIDE, HEAD_DIM, D, MASKED).to(DT)
    v = load_rows(v_at, n, end, STRIDE, HEAD_DIM, D, MASKED).to(DT)
    s = tl.dot(q, tl.trans(k), input_precision="ieee")  # [M, N]
    p = tl.exp2(s * score_scale - lse[:, None])
    if MASKED:
        p = tl.where((n < end)[None, :], p, 0.0)
    dp = tl.dot(do, tl.trans(v), input_precision="ieee")
    ds = p * (dp - delta[:, None])
    return tl.dot(ds.to(DT), k, dq, input_precision="ieee")


@jit
def _dkv_step(
    dk: tl.tensor, dv: tl.tensor, k: tl.tensor, v: tl.tensor, q_at: tl.tensor, do_at: tl.tensor,
    lse_at: tl.tensor, delta_at: tl.tensor, m: tl.tensor, end: tl.tensor, score_scale: tl.tensor, STRIDE: tl.constexpr,
    OUT_STRIDE: tl.constexpr, HEAD_DIM: tl.constexpr, D: tl.constexpr, DT: tl.constexpr,
    MASKED: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    q = load_rows(q_at, m, end, STRIDE, HEAD_DIM, D, MASKED).to(DT)
    do = load_rows(do_at, m, end, OUT_STRIDE, HEAD_DIM, D, MASKED).to(DT)
    # Rows past the end have weight 0 through a log-sum-exp of infinity.
    lse = tl.load(lse_at + m, mask=m < end, other=float("inf")) * _LOG2E
    delta = tl.load(delta_at + m, mask=m < end, other=0.0)
    s = tl.dot(k, tl.trans(q), input_precision="ieee")  # [N, M]
    p = tl.exp2(s * score_scale - lse[None, :])
    dv = tl.dot(p.to(DT), do, dv, input_precision="ieee")
    dp = tl.dot(v, tl.trans(do), input_precision="ieee")
    ds = p * (dp - delta[None, :])
    dk = tl.dot(ds.to(DT), q, dk, input_precision="ieee")
    return dk, dv


@jit
def _patch_dq(
    q_at: tl.tensor, k_at: tl.tensor, v_at: tl.tensor, out_at: tl.tensor, do_at: tl.tensor, lse_at: tl.tensor,
    dlse_at: tl.tensor, delta_at: tl.tensor, dq_at: tl.tensor, first: tl.tensor, length: tl.tensor,
    score_scale: tl.tensor, scale: tl.tensor, STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr,
    HEAD_DIM: tl.constexpr, D: tl.constexpr, OWN: tl.constexpr, VISIT: tl.constexpr, DT: tl.constexpr,
    HAS_DLSE: tl.constexpr,
) -> None:  # fmt: skip
    m = first + tl.arange(0, OWN)
    e = tl.arange(0, D)
    q = load_rows(q_at, m, length, STRIDE, HEAD_DIM, D, True)
    do = load_rows(do_at, m, length, OUT_STRIDE, HEAD_DIM, D, True)
    out = load_rows(out_at, m, length, OUT_STRIDE, HEAD_DIM, D, True)
    delta = tl.sum(do.to(tl.float32) * out.to(tl.float32), 1)
    if HAS_DLSE:
        delta -= tl.load(dlse_at + m, mask=m < length, other=0.0)
    tl.store(delta_at + m, delta, mask=m < length)
    lse = tl.load(lse_at + m, mask=m < length, other=float("inf")) * _LOG2E
    k_cls = load_row(k_at, HEAD_DIM, D)
    v_cls = load_row(v_at, HEAD_DIM, D)
    p_cls = tl.exp2(tl.sum(q.to(tl.float32) * k_cls[None, :], 1) * score_scale - lse)
    ds_cls = p_cls * (tl.sum(do.to(tl.float32) * v_cls[None, :], 1) - delta)
    dq = ds_cls[:, None] * k_cls[None, :]
    q = q.to(DT)
    do = do.to(DT)
    whole = 1 + (length - 1) // VISIT * VISIT
    for start in range(1, whole, VISIT):
        n = start + tl.arange(0, VISIT)
        dq = _dq_step(
            dq, q, do, lse, delta, k_at, v_at, n, length, score_scale, STRIDE, HEAD_DIM, D, DT, False
        )
    for start in range(whole, length, _TAIL):
        n = start + tl.arange(0, _TAIL)
        dq = _dq_step(
            dq, q, do, lse, delta, k_at, v_at, n, length, score_scale, STRIDE, HEAD_DIM, D, DT, True
        )
    mask = (m < length)[:, None] & (e < HEAD_DIM)[None, :]
    at = dq_at + m[:, None] * STRIDE + e[None, :]
    tl.store(at, (dq * scale).to(dq_at.dtype.element_ty), mask=mask)


@jit
def _cls_dq(
    q_at: tl.tensor, k_at: tl.tensor, v_at: tl.tensor, out_at: tl.tensor, do_at: tl.tensor, lse_at: tl.tensor,
    dlse_at: tl.tensor, delta_at: tl.tensor, dq_at: tl.tensor, length: tl.tensor, score_scale: tl.tensor,
    scale: tl.tensor, STRIDE: tl.constexpr, HEAD_DIM: tl.constexpr, D: tl.constexpr, VISIT: tl.constexpr,
    HAS_DLSE: tl.constexpr,
) -> None:  # fmt: skip
    e = tl.arange(0, D)
    q = load_row(q_at, HEAD_DIM, D)
    do = load_row(do_at, HEAD_DIM, D)
    delta = tl.sum(do * load_row(out_at, HEAD_DIM, D), 0)
    if HAS_DLSE:
        delta -= tl.load(dlse_at)
    tl.store(delta_at, delta)
    lse = tl.load(lse_at) * _LOG2E
    acc = tl.zeros((VISIT, D), tl.float32)
    for start in range(1, length, VISIT):
        n = start + tl.arange(0, VISIT)
        k = load_rows(k_at, n, length, STRIDE, HEAD_DIM, D, True).to(tl.float32)
        v = load_rows(v_at, n, length, STRIDE, HEAD_DIM, D, True).to(tl.float32)
        p = tl.exp2(tl.sum(k * q[None, :], 1) * score_scale - lse)
        ds = tl.where(n < length, p * (tl.sum(v * do[None, :], 1) - delta), 0.0)
        acc += ds[:, None] * k
    k_cls = load_row(k_at, HEAD_DIM, D)
    p_cls = tl.exp2(tl.sum(q * k_cls, 0) * score_scale - lse)
    ds_cls = p_cls * (tl.sum(do * load_row(v_at, HEAD_DIM, D), 0) - delta)
    dq = (tl.sum(acc, 0) + ds_cls * k_cls) * scale
    tl.store(dq_at + e, dq.to(dq_at.dtype.element_ty), mask=e < HEAD_DIM)


@jit
def _patch_dkv(
    q_at: tl.tensor, k_at: tl.tensor, v_at: tl.tensor, do_at: tl.tensor, lse_at: tl.tensor,
    delta_at: tl.tensor, dk_at: tl.tensor, dv_at: tl.tensor, first: tl.tensor, length: tl.tensor,
    score_scale: tl.tensor, scale: tl.tensor, STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr,
    HEAD_DIM: tl.constexpr, D: tl.constexpr, OWN: tl.constexpr, VISIT: tl.constexpr, DT: tl.constexpr,
) -> None:  # fmt: skip
    n = first + tl.arange(0, OWN)
    e = tl.arange(0, D)
    k = load_rows(k_at, n, length, STRIDE, HEAD_DIM, D, True)
    v = load_rows(v_at, n, length, STRIDE, HEAD_DIM, D, True)
    q_cls = load_row(q_at, HEAD_DIM, D)
    do_cls = load_row(do_at, HEAD_DIM, D)
    lse_cls = tl.load(lse_at) * _LOG2E
    p_cls = tl.exp2(tl.sum(k.to(tl.float32) * q_cls[None, :], 1) * score_scale - lse_cls)
    ds_cls = p_cls * (tl.sum(v.to(tl.float32) * do_cls[None, :], 1) - tl.load(delta_at))
    dv = p_cls[:, None] * do_cls[None, :]
    dk = ds_cls[:, None] * q_cls[None, :]
    k = k.to(DT)
    v = v.to(DT)
    whole = 1 + (length - 1) // VISIT * VISIT
    for start in range(1, whole, VISIT):
        m = start + tl.arange(0, VISIT)
        dk, dv = _dkv_step(
            dk, dv, k, v, q_at, do_at, lse_at, delta_at, m, length, score_scale,
            STRIDE, OUT_STRIDE, HEAD_DIM, D, DT, False,
        )  # fmt: skip
    for start in range(whole, length, _TAIL):
        m = start + tl.arange(0, _TAIL)
        dk, dv = _dkv_step(
            dk, dv, k, v, q_at, do_at, lse_at, delta_at, m, length, score_scale,
            STRIDE, OUT_STRIDE, HEAD_DIM, D, DT, True,
        )  # fmt: skip
    mask = (n < length)[:, None] & (e < HEAD_DIM)[None, :]
    at = n[:, None] * STRIDE + e[None, :]
    tl.store(dk_at + at, (dk * scale).to(dk_at.dtype.element_ty), mask=mask)
    tl.store(dv_at + at, dv.to(dv_at.dtype.element_ty), mask=mask)


@jit
def _cls_dkv(
    q_at: tl.tensor, k_at: tl.tensor, v_at: tl.tensor, do_at: tl.tensor, lse_at: tl.tensor,
    delta_at: tl.tensor, dk_at: tl.tensor, dv_at: tl.tensor, length: tl.tensor, score_scale: tl.tensor,
    scale: tl.tensor, STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr, HEAD_DIM: tl.constexpr, D: tl.constexpr,
    VISIT: tl.constexpr,
) -> None:  # fmt: skip
    e = tl.arange(0, D)
    k = load_row(k_at, HEAD_DIM, D)
    v = load_row(v_at, HEAD_DIM, D)
    dk = tl.zeros((VISIT, D), tl.float32)
    dv = tl.zeros((VISIT, D), tl.float32)
    for start in range(0, length, VISIT):  # the CLS query among them
        m = start + tl.arange(0, VISIT)
        q = load_rows(q_at, m, length, STRIDE, HEAD_DIM, D, True).to(tl.float32)
        do = load_rows(do_at, m, length, OUT_STRIDE, HEAD_DIM, D, True).to(tl.float32)
        lse = tl.load(lse_at + m, mask=m < length, other=float("inf")) * _LOG2E
        delta = tl.load(delta_at + m, mask=m < length, other=0.0)
        p = tl.exp2(tl.sum(q * k[None, :], 1) * score_scale - lse)
        ds = p * (tl.sum(do * v[None, :], 1) - delta)
        dv += p[:, None] * do
        dk += ds[:, None] * q
    tl.store(dk_at + e, (tl.sum(dk, 0) * scale).to(dk_at.dtype.element_ty), mask=e < HEAD_DIM)
    tl.store(dv_at + e, tl.sum(dv, 0).to(dv_at.dtype.element_ty), mask=e < HEAD_DIM)


@jit
def _attention_dq_kernel(
    qkv: tl.tensor, out: tl.tensor, dout: tl.tensor, lse: tl.tensor, dlse: tl.tensor, delta: tl.tensor,
    dqkv: tl.tensor, cu_seqlens: tl.tensor, num_tokens: tl.tensor, score_scale: tl.tensor, scale: tl.tensor,
    H: tl.constexpr, HEAD_DIM: tl.constexpr, D: tl.constexpr, OWN: tl.constexpr, VISIT: tl.constexpr,
    DT: tl.constexpr, HAS_DLSE: tl.constexpr,
) -> None:  # fmt: skip
    """Axis 0: sequence * H + head; axis 1: tiles of patch queries, then the CLS query."""
    head = tl.program_id(0) % H
    begin = tl.load(cu_seqlens + tl.program_id(0) // H)
    length = tl.load(cu_seqlens + tl.program_id(0) // H + 1) - begin
    row = begin.to(tl.int64)
    at = row * (3 * H * HEAD_DIM) + head * HEAD_DIM
    k_at = qkv + at + H * HEAD_DIM
    v_at = qkv + at + 2 * H * HEAD_DIM
    out_at = row * (H * HEAD_DIM) + head * HEAD_DIM
    row_at = head.to(tl.int64) * num_tokens + row
    if tl.program_id(1) == tl.num_programs(1) - 1:
        if length > 0:
            _cls_dq(
                qkv + at, k_at, v_at, out + out_at, dout + out_at, lse + row_at, dlse + row_at, delta + row_at,
                dqkv + at, length, score_scale, scale, 3 * H * HEAD_DIM, HEAD_DIM, D, VISIT, HAS_DLSE,
            )  # fmt: skip
    else:
        first = 1 + tl.program_id(1) * OWN
        if first < length:
            _patch_dq(
                qkv + at, k_at, v_at, out + out_at, dout + out_at, lse + row_at, dlse + row_at, delta + row_at,
                dqkv + at, first, length, score_scale, scale, 3 * H * HEAD_DIM, H * HEAD_DIM, HEAD_DIM, D,
                OWN, VISIT, DT, HAS_DLSE,
            )  # fmt: skip


@jit
def _attention_dkv_kernel(
    qkv: tl.tensor, dout: tl.tensor, lse: tl.tensor, delta: tl.tensor, dqkv: tl.tensor, cu_seqlens: tl.tensor,
    num_tokens: tl.tensor, score_scale: tl.tensor, scale: tl.tensor, H: tl.constexpr, HEAD_DIM: tl.constexpr,
    D: tl.constexpr, OWN: tl.constexpr, VISIT: tl.constexpr, DT: tl.constexpr,
) -> None:  # fmt: skip
    """Axis 0: sequence * H + head; axis 1: tiles of patch keys, then the CLS key."""
    head = tl.program_id(0) % H
    begin = tl.load(cu_seqlens + tl.program_id(0) // H)
    length = tl.load(cu_seqlens + tl.program_id(0) // H + 1) - begin
    row = begin.to(tl.int64)
    at = row * (3 * H * HEAD_DIM) + head * HEAD_DIM
    k = at + H * HEAD_DIM
    v = k + H * HEAD_DIM
    do_at = dout + row * (H * HEAD_DIM) + head * HEAD_DIM
    row_at = head.to(tl.int64) * num_tokens + row
    if tl.program_id(1) == tl.num_programs(1) - 1:
        if length > 0:
            _cls_dkv(
                qkv + at, qkv + k, qkv + v, do_at, lse + row_at, delta + row_at, dqkv + k, dqkv + v,
                length, score_scale, scale, 3 * H * HEAD_DIM, H * HEAD_DIM, HEAD_DIM, D, VISIT,
            )  # fmt: skip
    else:
        first = 1 + tl.program_id(1) * OWN
        if first < length:
            _patch_dkv(
                qkv + at, qkv + k, qkv + v, do_at, lse + row_at, delta + row_at, dqkv + k, dqkv + v,
                first, length, score_scale, scale, 3 * H * HEAD_DIM, H * HEAD_DIM, HEAD_DIM, D, OWN, VISIT, DT,
            )  # fmt: skip


# ------------------------------------------------------------------------------------- plain torch twin


def _backward_plain(
    dout: Tensor, dlse: Tensor | None, qkv: Tensor, out: Tensor, lse: Tensor, cu_seqlens: Tensor, scale: float
) -> Tensor:
    dtype = compute_dtype(qkv.dtype)
    dqkv = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    delta = (dout.to(dtype) * out.to(dtype)).sum(-1).T  # [H, T]
    if dlse is not None:
        delta = delta - dlse
    for first, last, length in equal_runs(cu_seqlens):
        q, k, v = (by_head(x, length) for x in qkv[first:last].to(dtype).unbind(1))
        do = by_head(dout[first:last].to(dtype), length)
        row_lse, row_delta = (by_head(x[:, first:last].T, length)[..., None] for x in (lse, delta))
        p = (q @ k.mT * scale - row_lse).exp()  # [n, H, S, S]
        ds = p * (do @ v.mT - row_delta) * scale
        gradients = torch.stack((ds @ k, ds.mT @ q, p.mT @ do))  # [3, n, H, S, d]
        dqkv[first:last] = gradients.permute(1, 3, 0, 2, 4).flatten(0, 1)
    return dqkv


# ------------------------------------------------------------------------------------ launcher and op


def _launch(
    dout: Tensor, dlse: Tensor | None, qkv: Tensor, out: Tensor, lse: Tensor, cu_seqlens: Tensor,
    max_seqlen: int, scale: float,
) -> Tensor:  # fmt: skip
    total, _, num_heads, head_dim = qkv.shape
    qkv, out, dout, lse, cu_seqlens = (x.contiguous() for x in (qkv, out, dout, lse, cu_seqlens))
    dqkv = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    delta = torch.empty(lse.shape, dtype=torch.float32, device=qkv.device)
    padded = padded_head_dim(head_dim)
    tile = tile_for("attention_backward", padded, qkv.element_size(), max_seqlen)
    if total:
        grid = grid_of("attention", cu_seqlens.numel() - 1, num_heads, max_seqlen, tile.rows)
        tiles = {
            "H": num_heads, "HEAD_DIM": head_dim, "D": padded, "OWN": tile.rows, "VISIT": tile.steps,
            "DT": dot_dtype(qkv.dtype), "num_warps": tile.warps, "num_stages": tile.stages,
        }  # fmt: skip
        _attention_dq_kernel[grid](
            qkv, out, dout, lse, lse if dlse is None else dlse.contiguous(), delta, dqkv, cu_seqlens, total,
            scale * LOG2E, scale, HAS_DLSE=dlse is not None, **tiles,
        )  # fmt: skip
        _attention_dkv_kernel[grid](
            qkv, dout, lse, delta, dqkv, cu_seqlens, total, scale * LOG2E, scale, **tiles
        )
    return dqkv


@operator(
    "attention_backward",
    "(Tensor dout, Tensor? dlse, Tensor qkv, Tensor out, Tensor lse, Tensor cu_seqlens, "
    "SymInt max_seqlen, float scale) -> Tensor",
)
def attention_backward_op(
    dout: Tensor, dlse: Tensor | None, qkv: Tensor, out: Tensor, lse: Tensor, cu_seqlens: Tensor,
    max_seqlen: int, scale: float,
) -> Tensor:  # fmt: skip
    if uses_triton(qkv):
        return _launch(dout, dlse, qkv, out, lse, cu_seqlens, max_seqlen, scale)
    return _backward_plain(dout, dlse, qkv, out, lse, cu_seqlens, scale)


@attention_backward_op.register_fake
def _(
    dout: Tensor, dlse: Tensor | None, qkv: Tensor, out: Tensor, lse: Tensor, cu_seqlens: Tensor,
    max_seqlen: int, scale: float,
) -> Tensor:  # fmt: skip
    return qkv.new_empty(qkv.shape)


def _setup_context(
    ctx: Any, inputs: tuple[Tensor, Tensor, int, float], output: tuple[Tensor, Tensor]
) -> None:
    qkv, cu_seqlens, ctx.max_seqlen, ctx.scale = inputs
    ctx.save_for_backward(qkv, cu_seqlens, *output)
    ctx.set_materialize_grads(False)  # training uses `out` alone: no zeros for the log-sum-exp


def _backward(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, None, None, None]:
    qkv, cu_seqlens, out, lse = ctx.saved_tensors
    if dout is None:
        dout = torch.zeros_like(out)
    dqkv = attention_backward_op(dout, dlse, qkv, out, lse, cu_seqlens, ctx.max_seqlen, ctx.scale)
    return dqkv, None, None, None


attention_op.register_autograd(_backward, setup_context=_setup_context)


def variants(arch: int | None = None) -> list[Variant]:
    """Every shipped compilation of the backward."""
    found = []
    for name, dtype, sizes, tile in shipped("attention_backward", arch):
        act = pointer_type(dtype)
        common = {
            "qkv": act, "dout": act, "lse": "*fp32", "delta": "*fp32", "dqkv": act, "cu_seqlens": "*i32",
            "num_tokens": "i32", "score_scale": "fp32", "scale": "fp32",
        }  # fmt: skip
        tiles = {**sizes, "OWN": tile.rows, "VISIT": tile.steps}
        dq = {**common, "out": act, "dlse": "*fp32"}
        for kind, kernel, types, extra in (
            ("dq", _attention_dq_kernel, dq, {"HAS_DLSE": False}),
            ("dkv", _attention_dkv_kernel, common, {}),
        ):
            label = f"attention {kind} {name}"
            found.append(Variant(label, kernel, types, {**tiles, **extra}, tile.warps, tile.stages))
    return found
