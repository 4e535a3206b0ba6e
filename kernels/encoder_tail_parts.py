"""What the forward and the backward of `encoder_tail` share: its weights, its tile sizes, its first half."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .dropout import Dropout, keep_block, keep_plain  # noqa: TID251
from .norm import centre_rows  # noqa: TID251
from .runtime import dot_dtype, jit, pointer_type, short_name, tl, triton  # noqa: TID251

DIMS = (64, 128)
FFN_MULTIPLE = 64


@dataclass(frozen=True)
class Weights:
    """w_out [D, HD], w1 [F, D], w2 [D, F]; b1 [F]; alpha2 and bias2 None in v1.0; all others [D]."""

    w_out: Tensor
    b_out: Tensor
    alpha1: Tensor
    bias1: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
    alpha2: Tensor | None
    bias2: Tensor | None

    def tensors(self) -> tuple[Tensor, ...]:
        """All ten, contiguous; alpha1 and bias1 stand where v1.0 has none (its kernel does not read them)."""
        second = (
            (self.alpha1 if self.alpha2 is None else self.alpha2),
            (self.bias1 if self.bias2 is None else self.bias2),
        )
        first = (self.w_out, self.b_out, self.alpha1, self.bias1, self.w1, self.b1, self.w2, self.b2)
        return tuple(w.contiguous() for w in (*first, *second))

    def to(self, dtype: torch.dtype) -> Weights:
        fields = {k: None if v is None else v.to(dtype) for k, v in vars(self).items()}
        return Weights(**fields)  # type: ignore[arg-type]


@jit
def attention_half(
    attn: tl.tensor, x: tl.tensor, w_out: tl.tensor, b_out: tl.tensor, row: tl.tensor, valid: tl.tensor,
    x_row: tl.tensor, x_valid: tl.tensor, d: tl.tensor, residual: tl.tensor, sample: tl.tensor,
    block: tl.tensor, seed: tl.tensor, epoch: tl.tensor, threshold: tl.tensor, keep_scale: tl.tensor,
    HD: tl.constexpr, HD_PAD: tl.constexpr, D: tl.constexpr, BLOCK_T: tl.constexpr, DROPOUT: tl.constexpr,
    DOT: tl.constexpr,
) -> Any:  # fmt: skip
    """r = residual * x + drop(W_o attn + b_o), centred: what `centre_rows` gives of it. d: [1, D].

    attn has the rows `row`, x those of `x_row`.
    """
    k = tl.arange(0, HD_PAD)
    values = tl.load(
        attn + row[:, None] * HD + k[None, :], mask=valid[:, None] & (k[None, :] < HD), other=0.0
    )
    weight = tl.load(w_out + d * HD + k[:, None], mask=(k[:, None] < HD) & (d < D), other=0.0)  # [HD_PAD, D]
    u = tl.dot(values.to(DOT), weight.to(DOT), input_precision="ieee") + tl.load(b_out + d).to(tl.float32)
    if DROPOUT:
        u = tl.where(keep_block(sample, block, seed, epoch, threshold, BLOCK_T, D), u * keep_scale, 0.0)
    r = tl.load(x + x_row[:, None] * D + d, mask=x_valid[:, None], other=0.0).to(tl.float32) * residual + u
    return centre_rows(r, d < D, D)


@jit
def dropout_rows(
    sample_id: tl.tensor, token_id: tl.tensor, row: tl.tensor, valid: tl.tensor, stream_layer: tl.tensor,
    D: tl.constexpr, F: tl.constexpr, DROPOUT: tl.constexpr,
) -> Any:  # fmt: skip
    """(sample int64, first Philox block int32) of each row; zeros where nothing is drawn."""
    sample = row
    block = row.to(tl.int32)
    if DROPOUT:
        sample = tl.load(sample_id + row, mask=valid, other=0)
        block = stream_layer + tl.load(token_id + row, mask=valid, other=0) * ((2 * D + F) // 4)
    return sample, block


def drop_plain(x: Tensor, draws: Dropout | None, first_word: int, words: int) -> Tensor:
    """x [T, n] with dropout of the words from `first_word`."""
    if draws is None:
        return x
    return torch.where(keep_plain(draws, first_word, x.shape[1], words), x * draws.scale, 0.0)


def sizes(attn: Tensor, x: Tensor, w: Weights) -> dict[str, Any]:
    """Compile-time sizes of the kernels, but for the tile's."""
    return {
        "HD": attn.shape[1],
        "HD_PAD": max(16, triton.next_power_of_2(attn.shape[1])),
        "D": x.shape[1],
        "F": w.w1.shape[0],
        "NORM2": w.alpha2 is not None,
        "DOT": dot_dtype(attn.dtype),
    }


def draw_arguments(draws: Dropout | None, x: Tensor) -> tuple[Any, ...]:
    """(sample_id, token_id, seed, epoch, stream_layer, threshold, keep_scale); x stands where none are read."""
    if draws is None:
        return x, x, 0, 0, 0, 0, 1.0
    ids = draws.sample_id.contiguous(), draws.token_id.contiguous()
    return (*ids, draws.seed, draws.epoch, draws.stream_layer, draws.threshold, draws.scale)


DRAW_TYPES = {
    "sample_id": "*i64", "token_id": "*i32", "seed": "i64", "epoch": "i32", "stream_layer": "i32",
    "threshold": "i32", "keep_scale": "fp32",
}  # fmt: skip


# Of the products; the residual stream is float32, which is how the models use it. A 16-bit stream compiles when met.
PRODUCTS = (torch.float32, torch.bfloat16, torch.float16)


def shipped() -> list[tuple[str, torch.dtype, dict[str, str], dict[str, Any]]]:
    """(name, dtype of the products, pointer types, compile-time sizes) for both released models."""
    found = []
    for version, hd, dim, ffn in (("v1.0", 60, 64, 256), ("v1.1", 128, 128, 512)):
        for products in PRODUCTS:
            name = f"{version} {short_name(products)}"
            types = dict.fromkeys(("attn", "w_out", "w1", "w2"), pointer_type(products))
            vectors = ("b_out", "alpha1", "bias1", "b1", "b2", "alpha2", "bias2")
            types |= {"x": "*fp32", "num_tokens": "i32", "residual": "fp32"}
            types |= dict.fromkeys(vectors, "*fp32") | DRAW_TYPES
            constexprs = {"HD": hd, "HD_PAD": max(64, hd), "D": dim, "F": ffn, "NORM2": version == "v1.1"}
            found.append((name, products, types, constexprs | {"DOT": dot_dtype(products)}))
    return found
