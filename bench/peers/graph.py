"""The encoder as a plain module for engines that take graphs: torch.compile, ONNX Runtime, OpenVINO.

It is rewritten as a careful user would before giving it to an engine, all of it exact in real arithmetic: the
attention scale folded into W_Q, the unbiased deviation of the Norm turned into the biased one (which engines know
and fuse) by a factor in alpha and eps, and, where asked for, uniform heads collapsed.
"""

from __future__ import annotations

import io
import math
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lwm_fast.encoder import EncoderWeights, LayerWeights, NormWeights
from lwm_fast.reference import NORM_EPS


def _kept(x: Tensor) -> nn.Parameter:
    return nn.Parameter(x.clone(), requires_grad=False)


class Norm(nn.Module):
    """alpha (x - mean) / (std + eps) + bias, eps on the std as released."""

    def __init__(self, weights: NormWeights) -> None:
        super().__init__()
        dim = weights.alpha.numel()
        self.alpha, self.bias = _kept(weights.alpha), _kept(weights.bias)
        self.eps = NORM_EPS * math.sqrt((dim - 1) / dim)

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        deviation = torch.sqrt((centred * centred).mean(-1, keepdim=True))
        return centred / (deviation + self.eps) * self.alpha + self.bias


class Layer(nn.Module):
    def __init__(self, weights: LayerWeights, head_dim: int, residual: float, sdpa: bool) -> None:
        super().__init__()
        self.residual, self.head_dim, self.num_live, self.sdpa = residual, head_dim, weights.num_live, sdpa
        rows = (3, weights.num_live * head_dim)
        self.qkv, self.qkv_bias = (
            _kept(weights.qkv.unflatten(0, rows)),
            _kept(weights.qkv_bias.view(rows)),
        )
        self.out, self.out_bias = _kept(weights.out), _kept(weights.out_bias)
        self.mean = None if weights.mean is None else _kept(weights.mean)
        self.fc1, self.fc1_bias = _kept(weights.fc1), _kept(weights.fc1_bias)
        self.fc2, self.fc2_bias = _kept(weights.fc2), _kept(weights.fc2_bias)
        self.norm1 = Norm(weights.norm1)
        self.norm2 = None if weights.norm2 is None else Norm(weights.norm2)

    def forward(self, x: Tensor) -> Tensor:
        doubled = x if self.residual == 1 else x * self.residual
        a: Tensor = self.norm1(self._attention(x) + doubled)
        y: Tensor = a + F.linear(F.relu(F.linear(a, self.fc1, self.fc1_bias)), self.fc2, self.fc2_bias)
        if self.norm2 is not None:
            y = self.norm2(y)
        return y

    def _attention(self, x: Tensor) -> Tensor:
        values: Tensor = self.out_bias
        if self.num_live:
            q, k, v = (
                F.linear(x, self.qkv[i], self.qkv_bias[i])
                .unflatten(-1, (self.num_live, self.head_dim))
                .transpose(1, 2)
                for i in range(3)
            )
            if self.sdpa:
                heads = F.scaled_dot_product_attention(q, k, v, scale=1.0)
            else:
                heads = torch.softmax(q @ k.transpose(-1, -2), dim=-1) @ v  # the pattern that engines fuse
            values = F.linear(heads.transpose(1, 2).flatten(2), self.out, self.out_bias)
        if self.mean is not None:
            values = values + F.linear(x.mean(1, keepdim=True), self.mean)
        return values


class Encoder(nn.Module):
    """tokens [B, S, patch_len] -> [B, S, D] for the one seq_len S."""

    def __init__(self, weights: EncoderWeights, seq_len: int, *, sdpa: bool) -> None:
        super().__init__()
        self.proj, self.position = _kept(weights.proj), _kept(weights.position(None, seq_len))
        self.norm = Norm(weights.norm)
        self.layers = nn.ModuleList(
            Layer(layer, weights.head_dim, weights.residual, sdpa) for layer in weights.layers
        )

    def forward(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.norm(F.linear(tokens, self.proj) + self.position)
        for layer in self.layers:
            x = layer(x)
        return x


def onnx_bytes(weights: EncoderWeights, seq_len: int) -> bytes:
    """An ONNX model "tokens" -> "output" of one seq_len and any batch."""
    tokens = torch.zeros(2, seq_len, weights.proj.shape[1])
    buffer: Any = io.BytesIO()  # taken by this exporter, unlike its annotation says
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter tells its own history
        torch.onnx.export(
            Encoder(weights, seq_len, sdpa=False),
            (tokens,),
            buffer,
            input_names=["tokens"],
            output_names=["output"],
            dynamic_axes={"tokens": {0: "batch"}, "output": {0: "batch"}},
            opset_version=17,
            dynamo=False,  # the other exporter needs onnxscript
        )
    made: bytes = buffer.getvalue()
    return made
