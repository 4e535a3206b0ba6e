"""LWM v1.0 and v1.1 in plain PyTorch: the one reference that every fast path is checked against.

It computes what the released models compute (which differs in places from the paper), in float32 or
float64, with the released ``state_dict`` keys and the released ``forward`` arity. It is written to be
read, not to be fast, and imports nothing from the rest of the package.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLS_VALUE = 0.2  # every entry of the CLS token
MASK_VALUE = 0.1  # every entry of a masked patch (the paper says 1)
NORM_EPS = 1e-6  # added to the standard deviation, not to the variance


class Sizes(NamedTuple):
    """Sizes of a model. ``num_heads * head_dim`` may be less than ``embed_dim`` (60 of 64 in v1.0).

    positions: "index" as released, a vector per token number; "grid": see :class:`GridPositions`.
    """

    patch_len: int
    embed_dim: int
    num_layers: int
    num_heads: int
    head_dim: int
    ffn_dim: int
    max_len: int
    dropout: float = 0.1
    positions: str = "index"
    max_rows: int = 32  # of "grid"
    max_columns: int = 256


SIZES = {
    "1.0": Sizes(
        patch_len=16, embed_dim=64, num_layers=12, num_heads=12, head_dim=5, ffn_dim=256, max_len=129
    ),
    "1.1": Sizes(
        patch_len=32, embed_dim=128, num_layers=12, num_heads=8, head_dim=16, ffn_dim=512, max_len=513
    ),
}


# ---------------------------------------------------------------------------------------------- tokens


def tokenize(csi: Tensor, version: str, scale: float = 1e6) -> Tensor:
    """Cut channels into patches behind a CLS token.

    csi: complex [batch, num_antennas, num_subcarriers]; returns real [batch, 1 + num_patches, patch_len].
    v1.0: all real parts row by row, then all imaginary parts, in patches of 16.
    v1.1: real and imaginary interleaved along subcarriers, zero-padded to multiples of 4, in patches of
    4 antennas x 4 subcarriers (antenna blocks outer, subcarrier blocks inner).
    """
    parts = torch.view_as_real(csi) * scale  # [B, N, SC, 2]
    batch, num_antennas, num_subcarriers, _ = parts.shape
    if version == "1.0":
        patches = torch.cat([parts[..., 0].flatten(1), parts[..., 1].flatten(1)], dim=1).unflatten(
            1, (-1, 16)
        )
    else:
        grid = parts.flatten(2)  # [B, N, 2*SC]
        grid = F.pad(grid, (0, 2 * (-num_subcarriers % 4), 0, -num_antennas % 4))
        blocks = grid.unflatten(1, (-1, 4)).unflatten(3, (-1, 8))  # [B, N/4, 4, SC/4, 8]
        patches = blocks.transpose(2, 3).reshape(batch, -1, 32)
    cls = patches.new_full((batch, 1, patches.shape[2]), CLS_VALUE)
    return torch.cat([cls, patches], dim=1)


def detokenize(
    tokens: Tensor, num_antennas: int, num_subcarriers: int, version: str, scale: float = 1e6
) -> Tensor:
    """The inverse of :func:`tokenize`: real [batch, 1 + num_patches, patch_len] -> complex csi."""
    patches = tokens[:, 1:] / scale
    if version == "1.0":
        halves = patches.reshape(-1, 2, num_antennas, num_subcarriers)
        return torch.complex(halves[:, 0].contiguous(), halves[:, 1].contiguous())
    rows, cols = math.ceil(num_antennas / 4), math.ceil(num_subcarriers / 4)
    grid = patches.reshape(-1, rows, cols, 4, 8).transpose(2, 3).reshape(-1, 4 * rows, 8 * cols)
    grid = grid[:, :num_antennas, : 2 * num_subcarriers]
    return torch.view_as_complex(grid.unflatten(2, (-1, 2)).contiguous())


def add_noise(tokens: Tensor, snr_db: float, normals: Tensor) -> Tensor:
    """Add Gaussian noise to every patch (not to CLS) at a signal-to-noise ratio per sample.

    normals: standard normal [batch, num_patches, patch_len]. The variance per real entry is
    mean(x^2)/snr, zero padding included: for v1.0 that is the release's complex noise of power
    mean(|x|^2)/snr split between real and imaginary parts, for v1.1 its real noise.
    """
    patches = tokens[:, 1:]
    power = patches.square().mean(dim=(1, 2), keepdim=True)
    sigma = (power / 10 ** (snr_db / 10)).sqrt()
    return torch.cat([tokens[:, :1], patches + sigma * normals], dim=1)


class Mask(NamedTuple):
    """One sample's masked channel modelling draw; positions count CLS as 0, in the release's order."""

    positions: npt.NDArray[np.int64]  # int64 [num_masked]
    actions: npt.NDArray[np.uint8]  # uint8 [num_masked]: 1 MASK, 2 random patch, 3 kept (but predicted)
    random: npt.NDArray[np.float32]  # float32 [num_masked, patch_len], uniform [0, 1)


def draw_mask(num_patches: int, version: str, rng: np.random.Generator) -> Mask:
    """Choose what to mask: v1.0 masks 15% as real/imaginary pairs, v1.1 40% of the patches; 80/10/10."""
    if version == "1.0":
        half = num_patches // 2
        real = 1 + rng.choice(half, size=int(0.15 * half), replace=False)
        positions = np.concatenate([real, real + half])
    else:
        positions = 1 + rng.choice(num_patches, size=int(0.40 * num_patches), replace=False)
    u = rng.random(len(positions))
    actions = np.select([u < 0.1, u < 0.9], [2, 1], default=3).astype(np.uint8)
    random = rng.random((len(positions), SIZES[version].patch_len), dtype=np.float32)
    return Mask(positions, actions, random)


def apply_mask(tokens: Tensor, mask: Mask) -> tuple[Tensor, Tensor]:
    """tokens [seq_len, patch_len] of one sample -> (masked tokens, targets [num_masked, patch_len])."""
    positions = torch.from_numpy(mask.positions)
    actions = torch.from_numpy(mask.actions)[:, None]
    targets = tokens[positions]
    filled = torch.where(actions == 1, torch.full_like(targets, MASK_VALUE), targets)
    filled = torch.where(actions == 2, torch.from_numpy(mask.random).to(targets), filled)
    return tokens.index_copy(0, positions, filled), targets


# ------------------------------------------------------------------------------------------ operations


def norm(x: Tensor, alpha: Tensor, bias: Tensor) -> Tensor:
    """alpha * (x - mean) / (std + eps) + bias over the last axis; std is unbiased. Not ``nn.LayerNorm``."""
    mean = x.mean(-1, keepdim=True)
    std = x.std(-1, keepdim=True)
    return alpha * (x - mean) / (std + NORM_EPS) + bias


def attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """q, k, v [batch, num_heads, seq_len, head_dim] -> (values of the same shape, weights [B, H, S, S])."""
    weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)
    return weights @ v, weights


# ----------------------------------------------------------------------------------------------- model


# (num_antennas, num_subcarriers) of a whole batch, or int [B, 2] of each sample
Shape: TypeAlias = "tuple[int, int] | npt.NDArray[np.integer[Any]] | Tensor"


class Norm(nn.Module):
    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(embed_dim))
        self.bias = nn.Parameter(torch.zeros(embed_dim))

    def forward(self, x: Tensor) -> Tensor:
        return norm(x, self.alpha, self.bias)


class GridPositions(nn.Module):
    """Positions of CLS and of a grid of patches: the sum of a vector of the row and one of the column."""

    def __init__(self, max_rows: int, max_columns: int, embed_dim: int) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.randn(embed_dim))
        self.rows = nn.Parameter(0.5**0.5 * torch.randn(max_rows, embed_dim))  # of patches, along antennas
        self.columns = nn.Parameter(0.5**0.5 * torch.randn(max_columns, embed_dim))  # along subcarriers

    def forward(self, rows: int, columns: int) -> Tensor:
        """[1 + rows * columns, D]: CLS, then patch (r, c) at 1 + r * columns + c."""
        patches = self.rows[:rows, None] + self.columns[None, :columns]  # [rows, columns, D]
        return torch.cat([self.cls[None], patches.flatten(0, 1)])


class Embedding(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.proj = nn.Linear(s.patch_len, s.embed_dim)
        self.pos_embed: Any = nn.Embedding(s.max_len, s.embed_dim)
        if s.positions == "grid":
            self.pos_embed = GridPositions(s.max_rows, s.max_columns, s.embed_dim)
        self.norm = Norm(s.embed_dim)

    def forward(self, tokens: Tensor, shape: Shape | None = None) -> Tensor:
        """tokens [B, S, patch_len] -> [B, S, D]; shape: see :meth:`LWM.forward`."""
        x: Tensor = self.norm(self.proj(tokens) + self._positions(tokens, shape))
        return x

    def _positions(self, tokens: Tensor, shape: Shape | None) -> Tensor:
        """[S, D], or [B, S, D] where every sample has its own shape."""
        if isinstance(self.pos_embed, nn.Embedding):
            return self.pos_embed.weight[: tokens.shape[1]]
        if shape is None:
            raise ValueError("positions of rows and columns need shape, (num_antennas, num_subcarriers)")
        sizes = [shape] if isinstance(shape, tuple) else [(int(n), int(sc)) for n, sc in shape]
        tables = [self.pos_embed(math.ceil(n / 4), math.ceil(sc / 4)) for n, sc in sizes]
        return tables[0] if isinstance(shape, tuple) else torch.stack(tables)


class Attention(nn.Module):
    """W_o attn(x) with its attention weights; ``norm`` exists (unused) in v1.0 checkpoints only."""

    def __init__(self, embed_dim: int, num_heads: int, head_dim: int, with_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.W_Q = nn.Linear(embed_dim, num_heads * head_dim)
        self.W_K = nn.Linear(embed_dim, num_heads * head_dim)
        self.W_V = nn.Linear(embed_dim, num_heads * head_dim)
        self.linear = nn.Linear(num_heads * head_dim, embed_dim)
        if with_norm:
            self.norm = Norm(embed_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = (
            w(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for w in (self.W_Q, self.W_K, self.W_V)
        )
        values, weights = attention(q, k, v)
        return self.linear(values.transpose(1, 2).flatten(2)), weights


class FeedForward(nn.Module):
    def __init__(self, embed_dim: int, ffn_dim: int, dropout: float, with_norm: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)
        if with_norm:
            self.norm = Norm(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(self.dropout(F.relu(self.fc1(x))))
        return y


class LayerV10(nn.Module):
    """a = Norm(x + drop(W_o attn(x))); y = a + drop(FFN(a)). One Norm, after attention only."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.enc_self_attn = Attention(s.embed_dim, s.num_heads, s.head_dim, with_norm=True)
        self.pos_ffn = FeedForward(s.embed_dim, s.ffn_dim, s.dropout, with_norm=True)
        self.norm = Norm(s.embed_dim)
        self.dropout = nn.Dropout(s.dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values, weights = self.enc_self_attn(x)
        a = self.norm(x + self.dropout(values))
        return a + self.dropout(self.pos_ffn(a)), weights


class LayerV11(nn.Module):
    """a = norm1(2x + drop(W_o attn(x))); y = norm2(a + FFN(a)). The doubled residual is the release's."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.enc_self_attn = Attention(s.embed_dim, s.num_heads, s.head_dim, with_norm=False)
        self.pos_ffn = FeedForward(s.embed_dim, s.ffn_dim, s.dropout, with_norm=False)
        self.norm1 = Norm(s.embed_dim)
        self.norm2 = Norm(s.embed_dim)
        self.dropout = nn.Dropout(s.dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values, weights = self.enc_self_attn(x)
        a = self.norm1(2 * x + self.dropout(values))
        return self.norm2(a + self.pos_ffn(a)), weights


class LWM(nn.Module):
    """The released encoder with its masked-patch head; ``state_dict`` keys and their order are the release's."""

    def __init__(self, version: str, sizes: Sizes | None = None) -> None:
        super().__init__()
        s = sizes or SIZES[version]
        self.version, self.sizes = version, s
        self.decoder_bias = nn.Parameter(torch.zeros(s.patch_len))
        self.embedding = Embedding(s)
        layer = LayerV10 if version == "1.0" else LayerV11
        self.layers = nn.ModuleList(layer(s) for _ in range(s.num_layers))
        self.linear = nn.Linear(s.embed_dim, s.embed_dim)
        self.norm = Norm(s.embed_dim)
        self.decoder = nn.Linear(s.embed_dim, s.patch_len, bias=False)

    def head(self, output: Tensor, masked_pos: Tensor) -> Tensor:
        """output [B, S, D], masked_pos int64 [B, M] -> logits_lm [B, M, patch_len]."""
        picked = output.gather(1, masked_pos[:, :, None].expand(-1, -1, output.shape[-1]))
        logits: Tensor = self.decoder(self.norm(F.relu(self.linear(picked)))) + self.decoder_bias
        return logits

    def forward(
        self,
        input_ids: Tensor,
        masked_pos: Tensor | None = None,
        *,
        shape: Shape | None = None,
        return_attention: bool = False,
    ) -> tuple[Tensor | list[Tensor] | None, ...]:
        """input_ids [B, S, patch_len], masked_pos int64 [B, M].

        shape: (num_antennas, num_subcarriers) of the channels, or int [B, 2] of each; positions by rows and columns
        need it, those by token number do not look at it.
        v1.0 returns (logits_lm or None, output); v1.1 (logits_lm, output, maps) or, without masked_pos,
        (output, maps). maps is the list of attention weights [B, H, S, S] of the layers, None unless asked for.
        """
        x = self.embedding(input_ids, shape)
        maps: list[Tensor] = []
        for layer in self.layers:
            x, weights = layer(x)
            if return_attention:
                maps.append(weights)
        logits = None if masked_pos is None else self.head(x, masked_pos)
        if self.version == "1.0":
            return logits, x
        kept = maps if return_attention else None
        return (x, kept) if masked_pos is None else (logits, x, kept)
