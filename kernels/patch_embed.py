"""Channels (or tokens) to embedded tokens in one kernel: cut, mask, project, add position, Norm.

A program owns one tile of positions and walks through a run of sequences, so the projection and the position
rows are read once per run and the position gradient is summed in registers, in the order of the sequences.
From channels no token tensor exists, forward or backward. Where sequences begin at rows of their own (`STARTS`),
position rows are read once a sequence, and backward writes each token's gradient for `positions` to sum.

Tokens are of order 10, and rounding them to bfloat16 would cost v1.0 an error of 1.4e-2. So products are always
exact to float32, whatever the result's dtype: ieee beside a float32 result, three tf32 products beside others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .norm import centre_rows, norm_rows_backward  # noqa: TID251
from .patch_embed_plain import backward_plain, forward_plain  # noqa: TID251
from .patches import SOURCE_TYPES, TOKENS, V10, V11, Patches, load_tokens  # noqa: TID251
from .positions import check_places, load_rows, position_gradient, with_positions  # noqa: TID251
from .runtime import (  # noqa: TID251
    Variant,
    jit,
    operator,
    pointer_type,
    short_name,
    tl,
    triton,
    uses_triton,
)
from .tuned import lookup  # noqa: TID251

_CHUNKS = 64  # runs of sequences whose parameter gradients are summed last: bounds the partial sums
_FORWARD_CHUNK = 8  # sequences of one forward program, once the batch fills the device without:
_FORWARD_BATCH = 512
MAX_DIM, MAX_PATCH_LEN = 256, 64


@jit
def _patch_embed_fwd_kernel(
    values: tl.tensor, offsets: tl.tensor, shape: tl.tensor, scale: tl.tensor, cls: tl.tensor,
    cls_stride: tl.tensor, action: tl.tensor, sample_id: tl.tensor, position_start: tl.tensor, seed: tl.tensor,
    epoch: tl.tensor, cu_seqlens: tl.tensor, weight: tl.tensor, bias: tl.tensor, position: tl.tensor,
    alpha: tl.tensor, norm_bias: tl.tensor, out: tl.tensor, batch: tl.tensor, chunk: tl.tensor,
    num_positions: tl.tensor, D: tl.constexpr, L: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_L: tl.constexpr, VERSION: tl.constexpr, MASKED: tl.constexpr, STARTS: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    first = tl.program_id(1) * BLOCK_T
    t = first + tl.arange(0, BLOCK_T)
    d = tl.arange(0, BLOCK_D)[None, :]
    k = tl.arange(0, BLOCK_L)[:, None]
    valid_d = d < D
    w = tl.load(weight + d * L + k, mask=valid_d & (k < L), other=0.0).to(tl.float32)  # [BLOCK_L, BLOCK_D]
    a = tl.load(alpha + d, mask=valid_d, other=0.0).to(tl.float32)
    c = tl.load(norm_bias + d, mask=valid_d, other=0.0).to(tl.float32)
    base = tl.load(bias + d, mask=valid_d, other=0.0).to(tl.float32)
    if not STARTS:
        base = base + load_rows(position, t, d, t >= 0, num_positions, D)
    for i in range(chunk):
        b = tl.program_id(0).to(tl.int64) * chunk + i
        start = tl.load(cu_seqlens + b, mask=b < batch, other=0).to(tl.int64)
        length = tl.load(cu_seqlens + b + 1, mask=b < batch, other=0).to(tl.int64) - start
        if first < length:
            row = start + t
            valid = t < length
            x, _ = load_tokens(
                values, offsets, shape, scale, cls, cls_stride, action, sample_id, seed, epoch, b, row, t, valid,
                L, BLOCK_L, VERSION, MASKED,
            )  # fmt: skip
            added = with_positions(base, position, position_start, b, t, d, valid, num_positions, D, STARTS)
            y = tl.dot(x, w, input_precision=PRECISION) + added
            z, _, r = centre_rows(y, valid_d, D)
            y = a * z * r[:, None] + c
            tl.store(out + row[:, None] * D + d, y.to(out.dtype.element_ty), mask=valid[:, None] & valid_d)


@jit
def _patch_embed_bwd_kernel(
    values: tl.tensor, offsets: tl.tensor, shape: tl.tensor, scale: tl.tensor, cls: tl.tensor,
    cls_stride: tl.tensor, action: tl.tensor, sample_id: tl.tensor, position_start: tl.tensor, seed: tl.tensor,
    epoch: tl.tensor, cu_seqlens: tl.tensor, weight: tl.tensor, bias: tl.tensor, position: tl.tensor,
    alpha: tl.tensor, grad: tl.tensor, dweight: tl.tensor, dposition: tl.tensor, dnorm: tl.tensor,
    dvalues: tl.tensor, batch: tl.tensor, chunk: tl.tensor, max_seqlen: tl.tensor, num_positions: tl.tensor,
    D: tl.constexpr, L: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_L: tl.constexpr,
    VERSION: tl.constexpr, MASKED: tl.constexpr, STARTS: tl.constexpr, NEED_VALUES: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:  # fmt: skip
    """Partial sums of this program: dweight [programs, D, L], dnorm [programs, 2, D], dposition [chunks, S, D].

    With STARTS dposition is [total, D], the gradient of every token before the Norm.
    """
    first = tl.program_id(1) * BLOCK_T
    t = first + tl.arange(0, BLOCK_T)
    d = tl.arange(0, BLOCK_D)[None, :]
    k = tl.arange(0, BLOCK_L)[:, None]
    valid_d = d < D
    w = tl.load(weight + d * L + k, mask=valid_d & (k < L), other=0.0).to(tl.float32)  # [BLOCK_L, BLOCK_D]
    a = tl.load(alpha + d, mask=valid_d, other=0.0).to(tl.float32)
    base = tl.load(bias + d, mask=valid_d, other=0.0).to(tl.float32)
    if not STARTS:
        base = base + load_rows(position, t, d, t >= 0, max_seqlen, D)
    dw = tl.zeros((BLOCK_D, BLOCK_L), tl.float32)
    dp = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
    da = tl.zeros((BLOCK_D,), tl.float32)
    dc = tl.zeros((BLOCK_D,), tl.float32)
    for i in range(chunk):
        b = tl.program_id(0).to(tl.int64) * chunk + i
        start = tl.load(cu_seqlens + b, mask=b < batch, other=0).to(tl.int64)
        length = tl.load(cu_seqlens + b + 1, mask=b < batch, other=0).to(tl.int64) - start
        if first < length:
            row = start + t
            valid = t < length
            x, kept = load_tokens(
                values, offsets, shape, scale, cls, cls_stride, action, sample_id, seed, epoch, b, row, t, valid,
                L, BLOCK_L, VERSION, MASKED,
            )  # fmt: skip
            added = with_positions(base, position, position_start, b, t, d, valid, num_positions, D, STARTS)
            z, std, r = centre_rows(tl.dot(x, w, input_precision=PRECISION) + added, valid_d, D)
            g = tl.load(grad + row[:, None] * D + d, mask=valid[:, None] & valid_d, other=0.0).to(tl.float32)
            da += tl.sum(g * z * r[:, None], 0)
            dc += tl.sum(g, 0)
            dy = norm_rows_backward(g * a, z, std, r, valid_d, D)
            if STARTS:
                tl.store(dposition + row[:, None] * D + d, dy, mask=valid[:, None] & valid_d)
            else:
                dp += dy
            dw = tl.dot(tl.trans(dy), x, dw, input_precision=PRECISION)
            if NEED_VALUES:
                column = tl.arange(0, BLOCK_L)[None, :]
                dx = tl.where(kept, tl.dot(dy, tl.trans(w), input_precision=PRECISION), 0.0)
                to = dvalues + row[:, None] * L + column
                tl.store(to, dx.to(dvalues.dtype.element_ty), mask=valid[:, None] & (column < L))
    program = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    n = tl.arange(0, BLOCK_D)
    column = tl.arange(0, BLOCK_L)[None, :]
    to = dweight + program * D * L + n[:, None] * L + column
    tl.store(to, dw, mask=(n < D)[:, None] & (column < L))
    tl.store(dnorm + program * 2 * D + n, da, mask=n < D)
    tl.store(dnorm + program * 2 * D + D + n, dc, mask=n < D)
    if not STARTS:
        to = dposition + (tl.program_id(0).to(tl.int64) * max_seqlen + t)[:, None] * D + d
        tl.store(to, dp, mask=(t < max_seqlen)[:, None] & valid_d)


# ------------------------------------------------------------------------------------------- launchers


def _config(op: str, dim: int, patch_len: int, dtype: torch.dtype, arch: int | None = None) -> dict[str, Any]:
    """Block sizes, the precision of the products, warps and stages; dtype: of the result or its gradient."""
    block_d = max(64, triton.next_power_of_2(dim))
    tile = lookup(op, block_d, min(dtype.itemsize, 4), arch)
    block_l = max(16, triton.next_power_of_2(patch_len))  # a compiled tl.dot needs 16
    return {
        "BLOCK_T": tile.rows, "BLOCK_D": block_d, "BLOCK_L": block_l,
        "PRECISION": "ieee" if dtype == torch.float32 else "tf32x3",
        "num_warps": tile.warps, "num_stages": tile.stages,
    }  # fmt: skip


def _launch_forward(
    patches: Patches, max_seqlen: int, total: int, weight: Tensor, bias: Tensor, position: Tensor,
    alpha: Tensor, norm_bias: Tensor, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    dim, patch_len = weight.shape
    batch = len(patches.cu_seqlens) - 1
    out = torch.empty((total, dim), dtype=dtype, device=weight.device)
    config = _config("patch_embed", dim, patch_len, dtype)
    chunk = _FORWARD_CHUNK if batch >= _FORWARD_BATCH else 1
    if total:
        _patch_embed_fwd_kernel[(triton.cdiv(batch, chunk), triton.cdiv(max_seqlen, config["BLOCK_T"]))](
            **patches.pointers(), weight=weight.contiguous(), bias=bias.contiguous(),
            position=position.contiguous(), alpha=alpha.contiguous(), norm_bias=norm_bias.contiguous(), out=out,
            batch=batch, chunk=chunk, num_positions=len(position), D=dim, L=patch_len, VERSION=patches.version,
            MASKED=patches.action is not None, STARTS=patches.position_start is not None, **config,
        )  # fmt: skip
    return out


def _launch_backward(
    patches: Patches, grad: Tensor, max_seqlen: int, weight: Tensor, bias: Tensor, position: Tensor,
    alpha: Tensor, need_values: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    dim, patch_len = weight.shape
    batch, total = len(patches.cu_seqlens) - 1, len(grad)
    config = _config("patch_embed_backward", dim, patch_len, grad.dtype)
    chunk = max(1, triton.next_power_of_2(triton.cdiv(batch, _CHUNKS)))
    chunks, tiles = triton.cdiv(batch, chunk), triton.cdiv(max_seqlen, config["BLOCK_T"])
    partial: dict[str, Any] = {"dtype": torch.float32, "device": weight.device}
    dweight = torch.empty((chunks * tiles, dim, patch_len), **partial)
    dnorm = torch.empty((chunks * tiles, 2, dim), **partial)
    starts = patches.position_start
    dposition = torch.empty((total, dim) if starts is not None else (chunks, max_seqlen, dim), **partial)
    rows = total if need_values else 0
    dvalues = torch.empty((rows, patch_len), dtype=patches.values.dtype, device=weight.device)
    if chunks and tiles:
        _patch_embed_bwd_kernel[(chunks, tiles)](
            **patches.pointers(), weight=weight.contiguous(), bias=bias.contiguous(),
            position=position.contiguous(), alpha=alpha.contiguous(), grad=grad.contiguous(), dweight=dweight,
            dposition=dposition, dnorm=dnorm, dvalues=dvalues if need_values else dweight, batch=batch,
            chunk=chunk, max_seqlen=max_seqlen, num_positions=len(position), D=dim, L=patch_len,
            VERSION=patches.version, MASKED=patches.action is not None, STARTS=starts is not None,
            NEED_VALUES=need_values, **config,
        )  # fmt: skip
    if starts is None:
        summed = dposition.sum(0)
        table = position.new_zeros(position.shape)
        table[:max_seqlen] = summed
    else:
        summed = position_gradient(dposition, patches.cu_seqlens, starts, len(position))
        table = summed.to(position.dtype, copy=True)
    dalpha, dnorm_bias = dnorm.sum(0).to(alpha.dtype).unbind(0)
    return (
        dweight.sum(0).to(weight.dtype),
        summed.sum(0).to(bias.dtype),
        table,
        dalpha.clone(),  # clones: an op's outputs may not share memory
        dnorm_bias.clone(),
        dvalues,
    )


# -------------------------------------------------------------------------------------------------- ops

_SOURCE = (
    "Tensor values, Tensor cu_seqlens, Tensor? offsets, Tensor? shape, Tensor? scale, Tensor? cls, "
    "Tensor? action, Tensor? sample_id, Tensor? position_start, int version, int seed, int epoch, SymInt max_seqlen, "
)


@operator(
    "patch_embed",
    f"({_SOURCE}SymInt total, Tensor weight, Tensor bias, Tensor position, Tensor alpha, "
    "Tensor norm_bias, ScalarType dtype) -> Tensor",
)
def patch_embed_op(
    values: Tensor, cu_seqlens: Tensor, offsets: Tensor | None, shape: Tensor | None, scale: Tensor | None,
    cls: Tensor | None, action: Tensor | None, sample_id: Tensor | None, position_start: Tensor | None,
    version: int, seed: int, epoch: int, max_seqlen: int, total: int, weight: Tensor, bias: Tensor,
    position: Tensor, alpha: Tensor, norm_bias: Tensor, dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    patches = Patches(
        values, cu_seqlens, offsets, shape, scale, cls, action, sample_id, position_start, version, seed, epoch
    )  # fmt: skip
    check_places(cu_seqlens, position_start, len(position))
    if uses_triton(weight):
        return _launch_forward(patches, max_seqlen, total, weight, bias, position, alpha, norm_bias, dtype)
    return forward_plain(patches, total, weight, bias, position, alpha, norm_bias, dtype)


@operator(
    "patch_embed_backward",
    f"(Tensor grad, {_SOURCE}Tensor weight, Tensor bias, Tensor position, Tensor alpha, "
    "bool need_values) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def patch_embed_backward_op(
    grad: Tensor, values: Tensor, cu_seqlens: Tensor, offsets: Tensor | None, shape: Tensor | None,
    scale: Tensor | None, cls: Tensor | None, action: Tensor | None, sample_id: Tensor | None,
    position_start: Tensor | None, version: int, seed: int, epoch: int, max_seqlen: int, weight: Tensor,
    bias: Tensor, position: Tensor, alpha: Tensor, need_values: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    patches = Patches(
        values, cu_seqlens, offsets, shape, scale, cls, action, sample_id, position_start, version, seed, epoch
    )  # fmt: skip
    if uses_triton(weight):
        return _launch_backward(patches, grad, max_seqlen, weight, bias, position, alpha, need_values)
    return backward_plain(patches, grad, weight, bias, position, alpha, need_values)


@patch_embed_op.register_fake
def _(*arguments: Any) -> Tensor:
    total, weight, dtype = arguments[13], arguments[14], arguments[19]
    out: Tensor = weight.new_empty((total, weight.shape[0]), dtype=dtype)
    return out


@patch_embed_backward_op.register_fake
def _(*arguments: Any) -> tuple[Tensor, ...]:
    grad, values, weight, bias, position, alpha, need_values = (
        arguments[i] for i in (0, 1, 14, 15, 16, 17, 18)
    )
    parameters = (weight, bias, position, alpha, alpha)
    rows = grad.shape[0] if need_values else 0
    return (*(p.new_empty(p.shape) for p in parameters), values.new_empty((rows, weight.shape[1])))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:9], *inputs[14:18])
    ctx.numbers = inputs[9:13]  # version, seed, epoch, max_seqlen


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    need_values = ctx.numbers[0] == TOKENS and ctx.needs_input_grad[0]
    *parameters, dvalues = patch_embed_backward_op(grad, *saved[:9], *ctx.numbers, *saved[9:], need_values)
    return (dvalues if need_values else None, *[None] * 13, *parameters, None)


patch_embed_op.register_autograd(_backward, setup_context=_setup_context)


def variants(arch: int | None = None) -> list[Variant]:
    """Every shipped compilation: both models from masked and whole channels and from tokens; every result dtype.

    Gradients from whole channels differ from those of masked ones by less code: they are compiled where met. So are
    16-bit results beside `position_start`: models ask for float32, and v1.1's width alone knows grids.
    """
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    found = []
    for dim, patch_len, version in ((64, 16, V10), (128, 32, V11)):
        for source, masked in ((version, False), (version, True), (TOKENS, False)):
            kind = ("tokens" if source == TOKENS else "csi") + (" masked" if masked else "")
            for dtype, starts in [(dtype, False) for dtype in dtypes] + [(torch.float32, True)] * (
                dim == 128
            ):
                sizes = {"D": dim, "L": patch_len, "VERSION": source, "MASKED": masked, "STARTS": starts}
                name = f"v{version / 10} {kind}{' grids' * starts} {short_name(dtype)}"
                found.append(_forward_variant(f"patch_embed fwd {name}", sizes, dtype, arch))
                if source != version or masked:
                    sizes["NEED_VALUES"] = source == TOKENS
                    found.append(_backward_variant(f"patch_embed bwd {name}", sizes, dtype, arch))
    return found


_COMMON_TYPES = {
    **SOURCE_TYPES,
    **{name: "*fp32" for name in ("values", "weight", "bias", "position", "alpha")},
    **{name: "i32" for name in ("batch", "chunk", "num_positions")},
}


def _forward_variant(name: str, sizes: dict[str, Any], dtype: torch.dtype, arch: int | None) -> Variant:
    config = _config("patch_embed", sizes["D"], sizes["L"], dtype, arch)
    shape = config.pop("num_warps"), config.pop("num_stages")
    types = {**_COMMON_TYPES, "norm_bias": "*fp32", "out": pointer_type(dtype)}
    return Variant(name, _patch_embed_fwd_kernel, types, {**sizes, **config}, *shape)


def _backward_variant(name: str, sizes: dict[str, Any], dtype: torch.dtype, arch: int | None) -> Variant:
    config = _config("patch_embed_backward", sizes["D"], sizes["L"], dtype, arch)
    shape = config.pop("num_warps"), config.pop("num_stages")
    partial = {name: "*fp32" for name in ("dweight", "dposition", "dnorm", "dvalues")}
    types = {**_COMMON_TYPES, **partial, "grad": pointer_type(dtype), "max_seqlen": "i32"}
    return Variant(name, _patch_embed_bwd_kernel, types, {**sizes, **config}, *shape)
