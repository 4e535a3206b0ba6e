"""The released class ``lwm`` restated from its description, with torch's own module names giving the released keys.

Written apart from lwm_fast on purpose: it is what `lwm_fast.accelerate` meets in the wild. v1.0 returns (logits,
output) and wants masked_pos; v1.1 returns (logits, output, maps) or, without masked_pos, (output, maps).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LayerNormalization(nn.Module):
    def __init__(self, d_model: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.alpha = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor) -> Tensor:
        return self.alpha * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + self.eps) + self.bias


class Embedding(nn.Module):
    def __init__(self, element_length: int, d_model: int, max_len: int) -> None:
        super().__init__()
        self.proj = nn.Linear(element_length, d_model)
        self.pos_embed = nn.Embedding(max_len, d_model)
        self.norm = LayerNormalization(d_model)

    def forward(self, x: Tensor) -> Tensor:
        positions = torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1)
        return self.norm(self.proj(x) + self.pos_embed(positions))


class MultiHeadAttention(nn.Module):
    """v1.1 (`adds`) returns x + drop(.); v1.0 returns the projection and owns a norm that it never uses."""

    def __init__(self, d_model: int, n_heads: int, d_k: int, dropout: float, adds: bool) -> None:
        super().__init__()
        self.n_heads, self.d_k, self.adds = n_heads, d_k, adds
        self.W_Q = nn.Linear(d_model, n_heads * d_k)
        self.W_K = nn.Linear(d_model, n_heads * d_k)
        self.W_V = nn.Linear(d_model, n_heads * d_k)
        self.linear = nn.Linear(n_heads * d_k, d_model)
        self.dropout = nn.Dropout(dropout)
        if not adds:
            self.norm = LayerNormalization(d_model)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        batch, length, _ = x.shape
        q, k, v = (
            w(x).view(batch, length, self.n_heads, self.d_k).transpose(1, 2)
            for w in (self.W_Q, self.W_K, self.W_V)
        )
        attn = torch.softmax(torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(self.d_k), dim=-1)
        context = torch.matmul(attn, v).transpose(1, 2).reshape(batch, length, -1)
        output = self.linear(context)
        return (x + self.dropout(output), attn) if self.adds else (output, attn)


class FeedForward(nn.Module):
    def __init__(self, d_model: int, d_ff: int, dropout: float, with_norm: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(d_model, d_ff)
        self.fc2 = nn.Linear(d_ff, d_model)
        self.dropout = nn.Dropout(dropout)
        if with_norm:
            self.norm = LayerNormalization(d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.dropout(torch.relu(self.fc1(x))))


class EncoderLayerV10(nn.Module):
    def __init__(self, d_model: int, n_heads: int, d_k: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.enc_self_attn = MultiHeadAttention(d_model, n_heads, d_k, dropout, adds=False)
        self.pos_ffn = FeedForward(d_model, d_ff, dropout, with_norm=True)
        self.norm = LayerNormalization(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values, attn = self.enc_self_attn(x)
        a = self.norm(x + self.dropout(values))
        return a + self.dropout(self.pos_ffn(a)), attn


class EncoderLayerV11(nn.Module):
    def __init__(self, d_model: int, n_heads: int, d_k: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.enc_self_attn = MultiHeadAttention(d_model, n_heads, d_k, dropout, adds=True)
        self.pos_ffn = FeedForward(d_model, d_ff, dropout, with_norm=False)
        self.norm1 = LayerNormalization(d_model)
        self.norm2 = LayerNormalization(d_model)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values, attn = self.enc_self_attn(x)
        a = self.norm1(x + values)  # x once more: the doubled residual
        return self.norm2(a + self.pos_ffn(a)), attn


class lwm(nn.Module):  # noqa: N801 - the released name
    def __init__(
        self, version: str = "1.0", n_layers: int = 12, max_len: int | None = None, dropout: float = 0.1
    ) -> None:
        super().__init__()
        old = version == "1.0"
        element_length, d_model, n_heads, d_k = (16, 64, 12, 5) if old else (32, 128, 8, 16)
        layer = EncoderLayerV10 if old else EncoderLayerV11
        self.version = version
        self.embedding = Embedding(element_length, d_model, max_len or (129 if old else 513))
        self.layers = nn.ModuleList(
            layer(d_model, n_heads, d_k, 4 * d_model, dropout) for _ in range(n_layers)
        )
        self.linear = nn.Linear(d_model, d_model)
        self.norm = LayerNormalization(d_model)
        self.decoder = nn.Linear(d_model, element_length, bias=False)
        self.decoder_bias = nn.Parameter(torch.zeros(element_length))

    def forward(self, input_ids: Tensor, masked_pos: Tensor | None = None):  # type: ignore[no-untyped-def]
        if masked_pos is None and self.version == "1.0":
            raise TypeError("forward() missing 1 required positional argument: 'masked_pos'")
        x = self.embedding(input_ids)
        maps = []
        for layer in self.layers:
            x, attn = layer(x)
            maps.append(attn)
        if masked_pos is None:
            return x, maps
        picked = torch.gather(x, 1, masked_pos.long()[:, :, None].expand(-1, -1, x.size(-1)))
        logits = self.decoder(self.norm(torch.relu(self.linear(picked)))) + self.decoder_bias
        return (logits, x) if self.version == "1.0" else (logits, x, maps)
