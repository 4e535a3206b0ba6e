"""The paper's residual 1D-CNN for beam prediction, about 500K parameters (paper, Sec. V-A).

Conv 7/2 and max-pooling, three stages of residual blocks (two of 32 features, three of 64, four of 128) of two
convolutions of width 3 with BatchNorm, a global average, 128 features with BatchNorm and dropout 0.5, classes.

Activations lie as rows [n, positions, features], so that a convolution is one matrix product over windows of
neighbouring rows, and its BatchNorm, sum and ReLU are a few passes over the result (`_ConvNorm`): a training step
takes about 0.8x the time of torch's own modules on a CPU (docs/finetuning.md).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STAGES = ((32, 2), (64, 3), (128, 4))  # features, blocks
_EPS, _MOMENTUM = 1e-5, 0.1  # torch's BatchNorm


class ResidualCNN(nn.Module):
    """inputs float32 [n, positions, num_features] -> scores [n, num_outputs]."""

    def __init__(self, num_features: int, num_outputs: int) -> None:
        super().__init__()
        width = STAGES[0][0]
        self.stem = Convolution(num_features, width, kernel=7, stride=2)
        blocks = []
        for features, count in STAGES:
            for i in range(count):
                blocks.append(Block(width, features, stride=2 if i == 0 and features != width else 1))
                width = features
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.Linear(width, 128),
            nn.BatchNorm1d(128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, num_outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = _max_pool(self.stem(x))  # [n, positions / 4, 32]
        scores: Tensor = self.head(self.blocks(x).mean(1))
        return scores


class Block(nn.Module):
    """Two convolutions of width 3 beside a shortcut, which is a convolution of width 1 where sizes change."""

    def __init__(self, num_in: int, num_out: int, stride: int) -> None:
        super().__init__()
        self.first = Convolution(num_in, num_out, kernel=3, stride=stride)
        self.second = Convolution(num_out, num_out, kernel=3)
        same = num_in == num_out and stride == 1
        self.shortcut = nn.Identity() if same else Convolution(num_in, num_out, 1, stride, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x), self.shortcut(x))
        return y


class Convolution(nn.Module):
    """ReLU(BatchNorm(convolution of x without bias) + shortcut), zero-padded by half the kernel's width.

    x [n, positions, num_in] -> [n, ceil(positions / stride), num_out]; shortcut of the result's shape, or None.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_in: int, num_out: int, kernel: int, stride: int = 1, *, relu: bool = True) -> None:
        super().__init__()
        self.kernel, self.stride, self.relu = kernel, stride, relu
        bound = 1.0 / math.sqrt(kernel * num_in)  # torch's own for convolutions
        self.weight = nn.Parameter(torch.empty(num_out, kernel * num_in).uniform_(-bound, bound))
        self.gamma, self.beta = nn.Parameter(torch.ones(num_out)), nn.Parameter(torch.zeros(num_out))
        self.register_buffer("running_mean", torch.zeros(num_out))
        self.register_buffer("running_var", torch.ones(num_out))

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        if self.training:
            y: Tensor = _ConvNorm.apply(  # type: ignore[no-untyped-call]
                x, self.weight, self.gamma, self.beta, shortcut, self.running_mean, self.running_var,
                self.kernel, self.stride, self.relu,
            )  # fmt: skip
            return y
        rows = F.linear(_windows(x, self.kernel, self.stride), self.weight)
        rows = F.batch_norm(rows, self.running_mean, self.running_var, self.gamma, self.beta, eps=_EPS)
        y = rows.view(len(x), -1, rows.shape[1])
        y = y if shortcut is None else y + shortcut
        return F.relu(y) if self.relu else y


class _ConvNorm(torch.autograd.Function):
    """`Convolution` in training: BatchNorm by the batch's own mean and variance, running ones updated."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, shortcut: Tensor | None,
        running_mean: Tensor, running_var: Tensor, kernel: int, stride: int, relu: bool,
    ) -> Tensor:  # fmt: skip
        columns = _windows(x, kernel, stride)  # [R, kernel * num_in]
        y = columns @ weight.t()  # [R, num_out]
        rows, mean, scale = torch.native_batch_norm(
            y, gamma, beta, running_mean, running_var, True, _MOMENTUM, _EPS
        )
        if shortcut is not None:
            rows.add_(shortcut.reshape(rows.shape))
        out = rows.relu_() if relu else rows
        ctx.sizes = (*x.shape[:2], kernel, stride, relu, shortcut is not None)
        ctx.save_for_backward(columns, weight, gamma, y, mean, scale, out)
        return out.view(len(x), -1, len(gamma))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        columns, weight, gamma, y, mean, scale, out = ctx.saved_tensors
        batch, length, kernel, stride, relu, has_shortcut = ctx.sizes
        d = grad.reshape(out.shape)
        if relu:
            d = torch.ops.aten.threshold_backward(d, out, 0)
        dy, dgamma, dbeta = torch.ops.aten.native_batch_norm_backward(
            d, y, gamma, None, None, mean, scale, True, _EPS, (True, True, True)
        )
        dx = _windows_backward(dy, weight, batch, length, kernel, stride) if ctx.needs_input_grad[0] else None
        dshortcut = d.view(grad.shape) if has_shortcut else None
        return dx, dy.t() @ columns, dgamma, dbeta, dshortcut, None, None, None, None, None


def _windows(x: Tensor, kernel: int, stride: int) -> Tensor:
    """x [n, positions, features] -> [n * ceil(positions / stride), kernel * features], zeros beyond the ends."""
    batch, length, features = x.shape
    count = -(-length // stride)
    if kernel == 1:
        return x[:, ::stride].reshape(batch * count, features)
    padded = F.pad(x, (0, 0, kernel // 2, kernel // 2))
    strides = (padded.stride(0), stride * features, 1)
    return padded.as_strided((batch, count, kernel * features), strides).reshape(batch * count, -1)


def _windows_backward(
    dy: Tensor, weight: Tensor, batch: int, length: int, kernel: int, stride: int
) -> Tensor:
    """Gradient [batch, length, num_in] of x, where rows dy [R, num_out] are that of _windows(x) @ weight.T."""
    num_out, num_in = len(weight), weight.shape[1] // kernel
    dy = dy.view(batch, -1, num_out)
    if stride == 1 and kernel == 3:  # again a convolution, with the taps in reverse
        padded = F.pad(dy, (0, 0, 1, 1))
        reverse = torch.cat([padded[:, 2:], dy, padded[:, :-2]], 2).view(-1, kernel * num_out)
        taps = weight.view(num_out, kernel, num_in).transpose(0, 1).reshape(-1, num_in)
        return (reverse @ taps).view(batch, length, num_in)
    count, pad = dy.shape[1], kernel // 2
    columns = (dy @ weight).view(batch, count, kernel, num_in)
    dx = dy.new_zeros(batch, length + 2 * pad, num_in)
    for i in range(kernel):
        dx[:, i : i + stride * (count - 1) + 1 : stride] += columns[:, :, i]
    return dx[:, pad : pad + length].contiguous()


def _max_pool(x: Tensor) -> Tensor:
    """Largest of three neighbours at every second position: x [n, positions, features], not negative."""
    if x.shape[1] % 2:
        x = F.pad(x, (0, 0, 0, 1))
    pairs = x.unflatten(1, (-1, 2))
    left = F.pad(pairs[:, :-1, 1], (0, 0, 1, 0))  # zero beyond the end: nothing here is less
    return torch.maximum(torch.maximum(pairs[:, :, 0], pairs[:, :, 1]), left)
