"""The encoder as careful users write it in torch: the reference's weights, another attention in its middle.

Packed tokens [T, patch_len] go in, [T, D] comes out, so one model serves dense and mixed batches. Queries, keys
and values are one product; Norm is computed in float32, which costs a compiler nothing and eager code little.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.gpu import attention_peers as attention
from bench.gpu.attention_peers import Attend, AttentionPeer
from bench.gpu.device import Device
from bench.gpu.layout import Layout
from lwm_fast import reference


class PeerEncoder(nn.Module):
    """Shares the parameters of ``model`` (float32) unless it is cast; dropout where the model is training."""

    def __init__(self, model: reference.LWM, attend: Attend, layout: Layout) -> None:
        super().__init__()
        self.model, self.attend = model, attend
        self.register_buffer("position", layout.position(), persistent=False)
        self.position: Tensor

    def forward(self, tokens: Tensor) -> Tensor:
        m, s = self.model, self.model.sizes
        e = m.embedding
        x = _norm(e.norm, e.proj(tokens) + e.pos_embed.weight[self.position])
        for layer in m.layers:
            assert isinstance(layer, (reference.LayerV10, reference.LayerV11))
            attn, ffn = layer.enc_self_attn, layer.pos_ffn
            weight = torch.cat([attn.W_Q.weight, attn.W_K.weight, attn.W_V.weight])
            bias = torch.cat([attn.W_Q.bias, attn.W_K.bias, attn.W_V.bias])
            qkv = F.linear(x, weight, bias).unflatten(-1, (3, s.num_heads, s.head_dim))
            u = layer.dropout(attn.linear(self.attend(qkv).flatten(1)))
            if isinstance(layer, reference.LayerV10):
                a = _norm(layer.norm, x + u)
                x = a + layer.dropout(ffn(a))
            else:
                a = _norm(layer.norm1, 2 * x + u)
                x = _norm(layer.norm2, a + ffn(a))
        return x

    def predict(self, tokens: Tensor, masked: Tensor) -> Tensor:
        """[M, patch_len]: the masked head on the packed rows ``masked``."""
        m = self.model
        hidden = _norm(m.norm, F.relu(m.linear(self(tokens)[masked])))
        logits: Tensor = m.decoder(hidden) + m.decoder_bias
        return logits


def _norm(norm: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(norm, reference.Norm)
    return reference.norm(x.float(), norm.alpha.float(), norm.bias.float()).to(x.dtype)


@dataclass(frozen=True)
class EncoderPeer:
    """``mode`` of torch.compile, None for eager code."""

    name: str
    attention: AttentionPeer
    mode: str | None = None
    loop: str = "host"  # "graph" where the mode itself replays graphs

    def make(self, model: reference.LWM, layout: Layout, device: Device) -> Callable[[Tensor], Tensor]:
        """Raises UnavailableError where the attention cannot run."""
        attend = self.attention.make(layout, model.sizes.head_dim, device)
        encoder = PeerEncoder(model, attend, layout)
        return encoder if self.mode is None else device.compiled(encoder, self.mode)


_SDPA = AttentionPeer("SDPA", attention.sdpa, mixed=False)
_BY_LENGTH = AttentionPeer("SDPA, length by length", attention.sdpa_by_length, mixed=True)
_FLEX = AttentionPeer("FlexAttention", attention.flex_traced, mixed=False)
_VARLEN = AttentionPeer("torch.nn.attention.varlen", attention.varlen, mixed=True)
_FLASH_2 = AttentionPeer("FlashAttention 2", attention.flash_2, mixed=True)
_FLASH_3 = AttentionPeer("FlashAttention 3", attention.flash_3, mixed=True)
_NESTED = AttentionPeer("nested tensors, SDPA", attention.nested, mixed=True)
_TUNED = "max-autotune-no-cudagraphs"

TUNED = EncoderPeer("torch.compile max-autotune + SDPA", _SDPA, _TUNED)
DENSE = (
    EncoderPeer("SDPA, eager", _SDPA),
    TUNED,
    EncoderPeer("torch.compile max-autotune with graphs + SDPA", _SDPA, "max-autotune", "graph"),
    EncoderPeer("torch.compile reduce-overhead + SDPA", _SDPA, "reduce-overhead", "graph"),
    EncoderPeer("torch.compile max-autotune + varlen", _VARLEN, _TUNED),
    EncoderPeer("torch.compile max-autotune + FlexAttention", _FLEX, _TUNED),
    EncoderPeer("FlashAttention 2, compiled", _FLASH_2, _TUNED),
    EncoderPeer("FlashAttention 3, compiled", _FLASH_3, _TUNED),
    EncoderPeer("nested tensors, eager", _NESTED),
)
MIXED = (
    EncoderPeer("SDPA length by length, eager", _BY_LENGTH),
    EncoderPeer("torch.compile max-autotune + varlen", _VARLEN, _TUNED),
    EncoderPeer("torch.compile max-autotune + SDPA length by length", _BY_LENGTH, _TUNED),
    EncoderPeer("FlashAttention 2, compiled", _FLASH_2, _TUNED),
    EncoderPeer("FlashAttention 3, compiled", _FLASH_3, _TUNED),
    EncoderPeer("nested tensors, eager", _NESTED),
)
