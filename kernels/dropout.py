"""Dropout that is a function of (seed, epoch, sample, token, layer, feature): never stored, drawn again in backward.

Philox-4x32-10, stream 4 (the package's philox module). Word w of a token and layer has the counter
(sample low, sample high, epoch, 4 << 24 | layer << 20 | token * words / 4 + w / 4), lane w % 4, where a token
has `words` = 2 D + F words in one layer: D after the attention projection, F in the hidden layer, D at the end.
The 20 bits hold 5,461 tokens of v1.1 and 10,922 of v1.0 (`max_tokens`); the public ops refuse longer sequences
where they are told the length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lwm_fast.philox import Stream

from .runtime import jit, tl  # noqa: TID251

MAX_LAYERS = 16
_LAYER_SHIFT = 20
_LOW = 0xFFFFFFFF


def max_tokens(words: int) -> int:
    """Tokens of a sequence whose draws stay apart from those of the next layer, with `words` a token."""
    return (1 << _LAYER_SHIFT) // (words // 4)


@dataclass(frozen=True)
class Dropout:
    """What the draws depend on, apart from the feature.

    probability: of a zero; seed: 64 bits, as a signed integer; epoch: 32 bits; layer: 0..15
    sample_id: int64 [T], token_id: int32 [T] (place in its sequence, CLS 0), one each of every packed token
    """

    probability: float
    seed: int
    epoch: int
    layer: int
    sample_id: Tensor
    token_id: Tensor

    @property
    def threshold(self) -> int:
        """Kept where (word >> 8) >= threshold: the same as uniform >= probability, in integers."""
        return math.ceil(self.probability * (1 << 24))

    @property
    def scale(self) -> float:
        return 1.0 / (1.0 - self.probability)

    @property
    def stream_layer(self) -> int:
        """Fourth counter word of the layer's first block."""
        return int(Stream.DROPOUT) << 24 | self.layer << _LAYER_SHIFT


@jit
def keep_block(
    sample: tl.tensor, first_block: tl.tensor, seed: tl.tensor, epoch: tl.tensor, threshold: tl.tensor,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
) -> Any:  # fmt: skip
    """bool [ROWS, COLUMNS]: sample int64 [ROWS]; first_block int32 [ROWS], that of the first column."""
    block = first_block[:, None] + tl.arange(0, COLUMNS // 4)[None, :]
    zero = block * 0  # gives every word the full shape
    low = ((sample & 0xFFFFFFFF)[:, None] + zero).to(tl.uint32)
    high = (((sample >> 32) & 0xFFFFFFFF)[:, None] + zero).to(tl.uint32)
    turn = (zero + epoch).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(seed, low, high, turn, block.to(tl.uint32))
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3))  # [ROWS, COLUMNS / 4, 2, 2], lanes 0 1 2 3 in order
    return (tl.reshape(words, (ROWS, COLUMNS)) >> 8).to(tl.int32) >= threshold


def keep_plain(draws: Dropout, first_word: int, count: int, words: int) -> Tensor:
    """bool [T, count]: which of `count` entries are kept, from word `first_word` of each token's `words`."""
    blocks = torch.arange(first_word // 4, (first_word + count) // 4, device=draws.token_id.device)
    c3 = draws.stream_layer + draws.token_id.long()[:, None] * (words // 4) + blocks  # [T, count / 4]
    sample = draws.sample_id[:, None].expand_as(c3)
    lanes = _philox(
        sample & _LOW, (sample >> 32) & _LOW, torch.full_like(c3, draws.epoch & _LOW), c3, draws.seed
    )
    return ((lanes >> 8) >= draws.threshold).flatten(1)


def _philox(c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, seed: int) -> Tensor:
    """Philox-4x32-10 of int64 tensors holding 32-bit words: [..., 4]. Products wrap, their 64 bits stay right."""
    key0, key1 = seed & _LOW, (seed >> 32) & _LOW
    for _ in range(10):
        product0, product1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1 = ((product1 >> 32) & _LOW) ^ c1 ^ key0, product1 & _LOW
        c2, c3 = ((product0 >> 32) & _LOW) ^ c3 ^ key1, product0 & _LOW
        key0, key1 = (key0 + 0x9E3779B9) & _LOW, (key1 + 0xBB67AE85) & _LOW
    return torch.stack([c0, c1, c2, c3], -1)
