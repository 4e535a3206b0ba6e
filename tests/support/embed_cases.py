"""Packed channels of mixed sizes with their plain embedding, in float32 or float64, written sample by sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lwm_fast import philox, reference

PATCH_LEN = {"1.0": 16, "1.1": 32}
SMALL_SIZES = {  # odd sizes, a channel without entries (CLS alone), equal neighbours
    "1.0": [(4, 12), (0, 16), (8, 8), (3, 16), (8, 8), (5, 48)],
    "1.1": [(3, 5), (8, 32), (0, 4), (1, 1), (4, 4), (4, 4), (13, 17)],
}
NAMES = ("weight", "bias", "position", "alpha", "norm_bias")


@dataclass
class Case:
    """What `ops.patch_embed` takes; `parameters` are float32, on the CPU."""

    version: str
    sizes: list[tuple[int, int]]
    csi: Tensor
    offsets: Tensor
    shape: Tensor
    cu_seqlens: Tensor
    scale: Tensor
    cls: Tensor
    parameters: list[Tensor]
    action: Tensor | None = None
    sample_id: Tensor | None = None
    position_start: Tensor | None = None
    seed: int = (1 << 63) + 12345  # needs all 64 bits
    epoch: int = (1 << 32) - 2

    @property
    def max_seqlen(self) -> int:
        return int(self.cu_seqlens.diff().max()) if self.sizes else 0

    @property
    def total(self) -> int:
        return int(self.cu_seqlens[-1])

    @property
    def patch_len(self) -> int:
        return PATCH_LEN[self.version]

    def source(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.csi, self.offsets, self.shape, self.cu_seqlens

    def mask(self) -> dict[str, Any]:
        if self.action is None:
            return {}
        return {
            "action": self.action,
            "sample_id": self.sample_id,
            "seed": self.seed,
            "epoch": self.epoch,
        }

    def keywords(self) -> dict[str, Any]:
        source = {"version": self.version, "total_tokens": self.total, "scale": self.scale, "cls": self.cls}
        return {**source, **self.token_keywords()}

    def token_keywords(self) -> dict[str, Any]:
        return {"max_seqlen": self.max_seqlen, "position_start": self.position_start, **self.mask()}

    def tokens(self) -> Tensor:
        """float32 [total, patch_len], without the mask."""
        rows = []
        for i, (antennas, subcarriers) in enumerate(self.sizes):
            part = self.csi[self.offsets[i] : self.offsets[i + 1]].view(1, antennas, subcarriers)
            if antennas * subcarriers:
                tokens = reference.tokenize(part, self.version, float(self.scale[i]))[0]
            else:
                tokens = torch.empty(1, self.patch_len)
            tokens[0] = self.cls if self.cls.ndim == 1 else self.cls[i]
            rows.append(tokens)
        return torch.cat(rows) if rows else torch.empty(0, self.patch_len)

    def masked(self, tokens: Tensor) -> Tensor:
        """The tokens with the mask plan applied, one sample at a time."""
        if self.action is None or self.sample_id is None:
            return tokens
        drawn = []
        for i, count in enumerate(self.cu_seqlens.diff().tolist()):
            words = philox.uniform(
                self.seed,
                int(self.sample_id[i]),
                self.epoch,
                philox.Stream.RANDOM_PATCHES,
                count * self.patch_len,
            )
            drawn.append(torch.from_numpy(words).view(count, self.patch_len))
        action = self.action[:, None]
        filled = torch.where(action == 1, reference.MASK_VALUE, tokens)
        return torch.where(action == 2, torch.cat(drawn).to(tokens), filled)

    def plain(self, tokens: Tensor, parameters: list[Tensor]) -> Tensor:
        """Norm(W token + bias + position), in the dtype of the parameters, masked in that of the tokens."""
        weight, bias, position, alpha, norm_bias = parameters
        lengths = self.cu_seqlens.diff().tolist()
        starts = [0] * len(lengths) if self.position_start is None else self.position_start.tolist()
        place = torch.cat([first + torch.arange(n) for first, n in zip(starts, lengths, strict=True)])
        y = F.linear(self.masked(tokens).to(weight.dtype), weight, bias) + position[place]
        return reference.norm(y, alpha, norm_bias)


def make(
    version: str, sizes: list[tuple[int, int]], *, masked: bool = False, grids: bool = False, seed: int = 0
) -> Case:
    """Channels at the scale of the field (2e-5), parameters at the scale of trained ones.

    grids: every size has rows of its own in the position table, some rows are nobody's.
    """
    rng = np.random.default_rng(seed)
    patch_len = PATCH_LEN[version]
    dim = 4 * patch_len
    entries = [n * sc for n, sc in sizes]
    if version == "1.0":
        lengths = [2 * count // 16 + 1 for count in entries]
    else:
        lengths = [-(-n // 4) * -(-sc // 4) + 1 for n, sc in sizes]
    flat = (rng.standard_normal((sum(entries), 2)) * 2e-5).astype(np.float32).view(np.complex64)[:, 0]
    rows = max(lengths, default=0)
    first: dict[tuple[int, int], int] = {}
    if grids:
        rows = 5
        for size, length in dict(zip(sizes, lengths, strict=True)).items():
            first[size] = rows
            rows += length

    def draw(*shape: int, spread: float = 1.0, centre: float = 0.0) -> Tensor:
        return torch.from_numpy((rng.standard_normal(shape) * spread + centre).astype(np.float32))

    case = Case(
        version=version,
        sizes=sizes,
        csi=torch.from_numpy(flat),
        offsets=torch.tensor([0, *np.cumsum(entries)], dtype=torch.int64),
        shape=torch.tensor(sizes, dtype=torch.int32).reshape(len(sizes), 2),
        cu_seqlens=torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32),
        scale=torch.from_numpy(rng.uniform(1e5, 2e5, len(sizes)).astype(np.float32)),
        cls=draw(len(sizes), patch_len, spread=0.1),
        parameters=[
            draw(dim, patch_len, spread=0.2),
            draw(dim, spread=0.1),
            draw(rows + 3, dim, spread=0.3),
            draw(dim, spread=0.1, centre=1.0),
            draw(dim, spread=0.1),
        ],
    )
    if grids:
        case.position_start = torch.tensor([first[size] for size in sizes], dtype=torch.int32)
    if masked:
        case.action = torch.from_numpy(rng.integers(0, 4, case.total).astype(np.uint8))
        case.action[:2] = torch.tensor([2, 1], dtype=torch.uint8)[: case.total]
        case.sample_id = torch.from_numpy(rng.integers(-(1 << 62), 1 << 62, len(sizes)))
    return case


def gradients(output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Gradients of a fixed random projection of the output."""
    rng = np.random.default_rng(99)
    along = torch.from_numpy(rng.standard_normal(tuple(output.shape))).to(output)
    return list(torch.autograd.grad(output, inputs, along))


def leaves(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [tensor.detach().to(dtype).clone().requires_grad_() for tensor in tensors]


def relative_error(value: Tensor, expected: Tensor) -> float:
    """Frobenius norm of the difference over that of what is expected."""
    assert value.shape == expected.shape
    if expected.numel() == 0:
        return 0.0
    value, expected = value.detach().double(), expected.detach().double()
    return float((value - expected).norm() / expected.norm())


def assert_as_exact_as_plain(value: Tensor, plain: Tensor, exact: Tensor, what: str) -> None:
    """The kernel's error may be twice plain float32 torch's (or half a float32 step of each), at most 3e-6."""
    error, floor = relative_error(value, exact), relative_error(plain, exact)
    assert error <= min(max(2 * floor, 6e-8), 3e-6), f"{what}: error {error:.2e}, plain torch {floor:.2e}"
