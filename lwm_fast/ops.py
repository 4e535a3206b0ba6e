"""The fused operations of LWM as plain functions: Triton on a GPU, plain torch elsewhere.

Each works in eager mode, under ``torch.compile(fullgraph=True)``, export and autocast, and has gradients.
Sequences of mixed lengths lie packed one after another; ``cu_seqlens`` says where each begins, and the longest
length is a host int, so no call waits for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lwm_fast.errors import InputError
from lwm_fast.kernels import patch_embed as _patch_embed  # type: ignore[import-not-found]
from lwm_fast.kernels import patches as _patches
from lwm_fast.ops_attention import attention, attention_cls, attention_weights
from lwm_fast.ops_rows import linear, masked_head, norm, pool
from lwm_fast.ops_tail import encoder_tail, encoder_tail_cls, mcm_loss, mcm_loss_of, mcm_totals

__all__ = [
    "attention",
    "attention_cls",
    "attention_weights",
    "encoder_tail",
    "encoder_tail_cls",
    "linear",
    "masked_head",
    "mcm_loss",
    "mcm_loss_of",
    "mcm_totals",
    "norm",
    "patch_embed",
    "patch_embed_tokens",
    "patch_targets",
    "pool",
]

_VERSIONS = {"1.0": (_patches.V10, 16), "1.1": (_patches.V11, 32)}


def patch_embed(
    csi: Tensor, offsets: Tensor, shape: Tensor, cu_seqlens: Tensor,
    weight: Tensor, bias: Tensor, position: Tensor, alpha: Tensor, norm_bias: Tensor, *,
    version: str, max_seqlen: int, total_tokens: int, scale: float | Tensor = 1e6, cls: float | Tensor = 0.2,
    action: Tensor | None = None, sample_id: Tensor | None = None, seed: int = 0, epoch: int = 0,
    position_start: Tensor | None = None, dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """Channels of any sizes to embedded tokens: Norm(W patch + bias + position). No token tensor is made.

    Args:
        csi: complex64 [entries], sample after sample, each C-order [antenna, subcarrier]; complex32 where it
            is already scaled (with ``scale=1``).
        offsets: int64 [B + 1] into csi. shape: int32 [B, 2] (antennas, subcarriers).
        cu_seqlens: int32 [B + 1] into the packed tokens, CLS included.
        weight, bias: projection [D, patch_len] and [D]. position: [P, D]. alpha, norm_bias: [D].
        version: "1.0" (patch_len 16) or "1.1" (patch_len 32).
        max_seqlen: the longest sequence. total_tokens: cu_seqlens[-1]. Host ints, so nothing waits.
        scale: multiplies csi, one number or float32 [B]. cls: one number, float32 [patch_len] or [B, patch_len].
        action: uint8 [total_tokens], what the mask does: 0 and 3 nothing, 1 MASK (0.1), 2 a random patch.
        sample_id: int64 [B], needed with action: names the sample in random patches.
        seed: 0..2^64 - 1. epoch: 0..2^32 - 1.
        position_start: int32 [B]: token t of sequence b takes row position_start[b] + t of position; default 0.
            Outside the table: an InputError on the CPU; on CUDA, where a look would wait, such a row counts as 0.
        dtype: of the result; default: autocast's, else that of weight. Products are exact to float32 in any case.

    Returns:
        [total_tokens, D]. Gradients for the five parameters. (Source: LWM v1.0 / v1.1
        release, tokeniser and ``Embedding``.)

    Raises:
        InputError: a shape, a dtype, a version or a range is not as above.
    """
    number, patch_len = _version(version, "patch_embed")
    parts = _parts(csi, offsets, shape, cu_seqlens, "patch_embed")
    batch = cu_seqlens.shape[0] - 1
    if isinstance(cls, Tensor) and tuple(cls.shape) not in ((patch_len,), (batch, patch_len)):
        raise InputError(
            f"patch_embed: cls has shape {list(cls.shape)}, expected [{patch_len}] or [{batch}, {patch_len}]"
        )
    row = cls.float() if isinstance(cls, Tensor) else csi.new_full((patch_len,), cls, dtype=torch.float32)
    source = (parts, cu_seqlens, offsets, shape, _scale(scale, batch, parts), row)
    return _embed(
        "patch_embed", source, (number, patch_len, max_seqlen, total_tokens), (action, sample_id, seed, epoch),
        (weight, bias, position, alpha, norm_bias), position_start, dtype,
    )  # fmt: skip


def patch_embed_tokens(
    tokens: Tensor, cu_seqlens: Tensor,
    weight: Tensor, bias: Tensor, position: Tensor, alpha: Tensor, norm_bias: Tensor, *,
    max_seqlen: int, action: Tensor | None = None, sample_id: Tensor | None = None, seed: int = 0,
    epoch: int = 0, position_start: Tensor | None = None, dtype: torch.dtype | None = None,
) -> Tensor:  # fmt: skip
    """As :func:`patch_embed`, from packed tokens [total_tokens, patch_len], which get gradients too."""
    if tokens.ndim != 2 or not tokens.is_floating_point():
        raise InputError(
            f"patch_embed_tokens: tokens is {tokens.dtype} {list(tokens.shape)}, expected a float "
            "[total_tokens, patch_len]: flatten the batch"
        )
    _check_index("patch_embed_tokens", "cu_seqlens", cu_seqlens, torch.int32, None)
    total, patch_len = tokens.shape
    source = (tokens, cu_seqlens, None, None, None, None)
    return _embed(
        "patch_embed_tokens", source, (_patches.TOKENS, patch_len, max_seqlen, total),
        (action, sample_id, seed, epoch), (weight, bias, position, alpha, norm_bias), position_start, dtype,
    )  # fmt: skip


def patch_targets(
    csi: Tensor, offsets: Tensor, shape: Tensor, cu_seqlens: Tensor, masked_index: Tensor, *,
    version: str, scale: float | Tensor = 1e6,
) -> Tensor:  # fmt: skip
    """The patches that masked tokens stand for: what the masked head has to predict.

    Args:
        csi, offsets, shape, cu_seqlens, version, scale: as for :func:`patch_embed`.
        masked_index: int32 or int64 [M], packed rows of tokens; a CLS row gives zeros.

    Returns:
        float32 [M, patch_len], equal to the rows of the unmasked tokens bit for bit. No gradients.

    Raises:
        InputError: a shape, a dtype or the version is not as above.
    """
    number, patch_len = _version(version, "patch_targets")
    parts = _parts(csi, offsets, shape, cu_seqlens, "patch_targets")
    if masked_index.ndim != 1 or masked_index.dtype not in (torch.int32, torch.int64):
        raise InputError(
            f"patch_targets: masked_index is {masked_index.dtype} {list(masked_index.shape)}, "
            "expected int32 or int64 [M]"
        )
    scales = _scale(scale, cu_seqlens.shape[0] - 1, parts)
    targets: Tensor = _patches.patch_targets_op(
        parts, offsets, shape, scales, cu_seqlens, masked_index, number, patch_len
    )
    return targets


def _embed(
    op: str,
    source: tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None],
    sizes: tuple[int, int, int, int],
    plan: tuple[Tensor | None, Tensor | None, int, int],
    parameters: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    position_start: Tensor | None,
    dtype: torch.dtype | None,
) -> Tensor:
    version, patch_len, max_seqlen, total = sizes
    action, sample_id, seed, epoch = plan
    weight, *rest = parameters
    dim = weight.shape[0]
    _check_shape(op, "weight", weight, (dim, patch_len))
    if not 2 <= dim <= _patch_embed.MAX_DIM or not 1 <= patch_len <= _patch_embed.MAX_PATCH_LEN:
        raise InputError(
            f"{op}: weight is [{dim}, {patch_len}], at most "
            f"[{_patch_embed.MAX_DIM}, {_patch_embed.MAX_PATCH_LEN}] is supported"
        )
    if rest[1].ndim != 2 or rest[1].shape[0] < max_seqlen:
        raise InputError(
            f"{op}: position has shape {list(rest[1].shape)}, too short for max_seqlen={max_seqlen}: "
            "use smaller channels or a longer position table"
        )
    shapes = ((dim,), (rest[1].shape[0], dim), (dim,), (dim,))
    for name, tensor, expected in zip(("bias", "position", "alpha", "norm_bias"), rest, shapes, strict=True):
        _check_shape(op, name, tensor, expected)
    if position_start is not None:
        _check_index(op, "position_start", position_start, torch.int32, (source[1].shape[0] - 1,))
    if action is not None:
        if sample_id is None:
            raise InputError(f"{op}: action needs sample_id, int64 [B], which names the random patches")
        if patch_len % 4:
            raise InputError(f"{op}: patch_len {patch_len} with action: must be a multiple of 4")
        _check_index(op, "action", action, torch.uint8, (total,))
        _check_index(op, "sample_id", sample_id, torch.int64, (source[1].shape[0] - 1,))
        if max_seqlen * patch_len // 4 > 1 << 24:
            raise InputError(
                f"{op}: max_seqlen={max_seqlen} has more random patches than a sample has draws: use less than "
                f"{(1 << 26) // patch_len} tokens"
            )
    for name, value, bits in (("seed", seed, 64), ("epoch", epoch, 32)):
        if not 0 <= value < 1 << bits:
            raise InputError(f"{op}: {name}: got {value}, expected 0..2^{bits} - 1")
    if dtype is None:
        device = weight.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    signed = seed - (1 << 64) if seed >= 1 << 63 else seed  # the same bits in an int64
    out: Tensor = _patch_embed.patch_embed_op(
        *source,
        action,
        sample_id,
        position_start,
        version,
        signed,
        epoch,
        max_seqlen,
        total,
        *parameters,
        dtype,
    )
    return out


def _version(version: str, op: str) -> tuple[int, int]:
    if version not in _VERSIONS:
        raise InputError(f'{op}: version={version!r}, expected "1.0" or "1.1"')
    return _VERSIONS[version]


def _parts(csi: Tensor, offsets: Tensor, shape: Tensor, cu_seqlens: Tensor, op: str) -> Tensor:
    """csi as real and imaginary parts [entries, 2], once its index tensors are found sound."""
    if csi.ndim != 1 or csi.dtype not in (torch.complex64, torch.complex32):
        raise InputError(
            f"{op}: csi is {csi.dtype} {list(csi.shape)}, expected complex64 [entries]: pack the channels "
            "one after another"
        )
    _check_index(op, "cu_seqlens", cu_seqlens, torch.int32, None)
    batch = cu_seqlens.shape[0] - 1
    _check_index(op, "offsets", offsets, torch.int64, (batch + 1,))
    _check_index(op, "shape", shape, torch.int32, (batch, 2))
    return torch.view_as_real(csi)


def _scale(scale: float | Tensor, batch: int, like: Tensor) -> Tensor:
    if not isinstance(scale, Tensor):
        return like.new_full((batch,), scale, dtype=torch.float32)
    _check_shape("patch_embed", "scale", scale, (batch,))
    return scale.float()


def _check_index(
    op: str, name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...] | None
) -> None:
    if tensor.dtype != dtype:
        raise InputError(f"{op}: {name} is {tensor.dtype}, expected {dtype}: convert it with .to({dtype})")
    if shape is not None:
        _check_shape(op, name, tensor, shape)
    elif tensor.ndim != 1 or tensor.shape[0] < 1:
        raise InputError(f"{op}: {name} has shape {list(tensor.shape)}, expected [B + 1]")


def _check_shape(op: str, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise InputError(f"{op}: {name} has shape {list(tensor.shape)}, expected {list(shape)}")
