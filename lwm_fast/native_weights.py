"""A model's weights as the native CPU engine takes them, and the engine kept with the model."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lwm_fast import _C, reference
from lwm_fast.encoder import live_heads
from lwm_fast.model import LWM
from lwm_fast.positions import has_grid
from lwm_fast.reference import Sizes

Weights = npt.NDArray[np.float32]
Norm = tuple[Weights, Weights]  # alpha, bias

PRECISIONS = ("float32", "bf16x3", "bfloat16")
_TILE = 32  # the faster codes take sizes that are multiples of it
_TILE_LIMITS = {"embed_dim": 512, "head_dim": 16}


class CodePath(NamedTuple):
    """What a precision runs as: the precision of the code, and its instruction set."""

    precision: str
    isa: str

    def __str__(self) -> str:
        return f"{self.precision} on {self.isa}"


def code_path(precision: str, sizes: Sizes | None = None) -> CodePath:
    """The fastest code for a precision on this processor, under LWM_FAST_ISA; for a model's sizes where given.

    Where there is no faster code for "bf16x3" or "bfloat16" it is float32's, whose error is smaller.
    """
    forced = os.environ.get("LWM_FAST_ISA")
    if precision != "float32" and (sizes is None or _fits_tiles(sizes)):
        found = [isa for isa in _C.encoder_isas(precision) if forced in (None, "", isa)]
        if found:
            return CodePath(precision, found[-1])
    plain = _C.encoder_isas("float32")
    if not forced or forced in _C.encoder_isas("bfloat16"):  # such as "amx", which has no float32 code
        return CodePath("float32", plain[-1])
    return CodePath(
        "float32", forced
    )  # a name that is unknown, or does not run here, is the engine's to refuse


def engine(model: LWM, precision: str = "float32") -> _C.NativeEncoder:
    """The engine that holds a model's weights, packed once and again whenever a parameter has changed.

    precision: "float32", "bf16x3" or "bfloat16". Raises ValueError where LWM_FAST_ISA cannot run here.
    """
    path, collapse = code_path(precision, model.sizes), not model.training

    def make() -> _C.NativeEncoder:
        version = int(model.version.replace(".", ""))
        return _C.NativeEncoder(packable(model, collapse=collapse), version, path.precision, path.isa)

    return model.derived(f"native {path}, collapse {collapse}", make)


def packable(model: reference.LWM, *, collapse: bool) -> dict[str, Any]:
    """float32 arrays, denormals flushed; folded only where ``collapse`` turns uniform heads into means."""
    embedding = model.embedding
    return {
        "head_dim": model.sizes.head_dim,
        "residual": 1.0 if model.version == "1.0" else 2.0,
        "proj": _array(embedding.proj.weight),  # [D, patch_len]
        "position": _array(_positions(embedding)),
        "grid": (model.sizes.max_rows, model.sizes.max_columns) if has_grid(model) else None,
        "norm": _norm(embedding.norm),
        "layers": [_layer(layer, model.sizes, collapse) for layer in model.layers],
    }


def _positions(embedding: reference.Embedding) -> Tensor:
    """[max_len, D], or of CLS, rows and columns [1 + max_rows + max_columns, D], with the projection's bias."""
    positions, bias = embedding.pos_embed, embedding.proj.bias
    if isinstance(positions, reference.GridPositions):
        return torch.cat([(positions.cls + bias)[None], positions.rows + bias, positions.columns])
    table: Tensor = positions.weight + bias
    return table


def _layer(layer: Any, sizes: Sizes, collapse: bool) -> dict[str, Any]:
    heads, ffn = live_heads(layer.enc_self_attn, sizes, collapse=collapse), layer.pos_ffn
    norms = (layer.norm,) if isinstance(layer, reference.LayerV10) else (layer.norm1, layer.norm2)
    return {
        "qkv": _array(heads.qkv.flatten(1, 2)),  # [3, num_live * head_dim, D]
        "qkv_bias": _array(heads.qkv_bias.flatten(1, 2)),
        "out": _array(heads.out),  # [D, num_live * head_dim]
        "out_bias": _array(heads.out_bias),
        "mean": None if heads.mean is None else _array(heads.mean),
        "fc1": _array(ffn.fc1.weight),
        "fc1_bias": _array(ffn.fc1.bias),
        "fc2": _array(ffn.fc2.weight),
        "fc2_bias": _array(ffn.fc2.bias),
        "norm1": _norm(norms[0]),
        "norm2": _norm(norms[1]) if len(norms) == 2 else None,
    }


def _norm(norm: reference.Norm) -> Norm:
    return _array(norm.alpha), _array(norm.bias)


def _array(x: Tensor) -> Weights:
    values = np.array(x.detach().cpu().float().numpy(), dtype=np.float32, order="C")
    values[np.abs(values) < np.finfo(np.float32).tiny] = 0
    return values


def _fits_tiles(sizes: Sizes) -> bool:
    small = all(getattr(sizes, name) <= most for name, most in _TILE_LIMITS.items())
    return small and sizes.embed_dim % _TILE == 0 and sizes.ffn_dim % _TILE == 0
