"""Every operation as a case for a GPU: our function, the same in plain torch, and inputs at the scale of the field."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lwm_fast import ops, reference
from lwm_fast.reference import SIZES
from support import embed_cases
from support.attention_cases import plain_attention

LENGTHS = (17, 33, 65, 129, 257, 513, 1, 2, 100)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_RESIDUAL = {"1.0": 1.0, "1.1": 2.0}
_TAIL = ("attn", "x", "w_out", "b_out", "alpha1", "bias1", "w1", "b1", "w2", "b2", "alpha2", "bias2")


@dataclass(frozen=True)
class Case:
    """ours and plain: functions of the leaves. leaves: float32 by name. fixed: leaves that keep float32."""

    ours: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    leaves: dict[str, Tensor]
    fixed: tuple[str, ...] = ()

    def at(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The leaves in a dtype; in float64 they hold the values that they have when rounded."""
        return {name: x if name in self.fixed else x.to(dtype) for name, x in self.leaves.items()}


def results(function: Callable[..., Tensor], leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """The output, and the gradient of its fixed random projection for every leaf."""
    own = {name: x.detach().clone().requires_grad_() for name, x in leaves.items()}
    output = function(*own.values())
    generator = torch.Generator().manual_seed(99)
    along = torch.randn(output.shape, generator=generator).to(output)
    gradients = torch.autograd.grad(output, list(own.values()), along)
    return {"output": output.detach(), **{f"d {n}": g for n, g in zip(own, gradients, strict=True)}}


def attention(version: str, device: torch.device, lengths: tuple[int, ...] = LENGTHS) -> Case:
    s = SIZES[version]
    cu = torch.tensor([0, *lengths], device=device).cumsum(0).int()
    qkv = _normal(device, sum(lengths), 3, s.num_heads, s.head_dim)
    longest = max(lengths)
    return Case(
        lambda x: ops.attention(x, cu, longest)[0], lambda x: plain_attention(x, cu)[0], {"qkv": qkv}
    )  # fmt: skip


def encoder_tail(version: str, device: torch.device, tokens: int = 1117) -> Case:
    s, residual = SIZES[version], _RESIDUAL[version]
    inner, dim, ffn = s.num_heads * s.head_dim, s.embed_dim, s.ffn_dim
    shapes = [
        (tokens, inner), (tokens, dim), (dim, inner), (dim,), (dim,), (dim,), (ffn, dim), (ffn,), (dim, ffn), (dim,),
    ]  # fmt: skip
    shapes += [(dim,), (dim,)] if version == "1.1" else []
    leaves = {}
    for place, (name, shape) in enumerate(zip(_TAIL, shapes, strict=False)):
        x = _normal(device, *shape, seed=place)
        leaves[name] = x if place < 2 else x * (shape[-1] ** -0.5 if len(shape) == 2 else 0.1)
        if name.startswith("alpha"):
            leaves[name] = 1 + leaves[name]

    def plain(
        attn: Tensor, x: Tensor, w_out: Tensor, b_out: Tensor, alpha1: Tensor, bias1: Tensor, w1: Tensor,
        b1: Tensor, w2: Tensor, b2: Tensor, *norm2: Tensor,
    ) -> Tensor:  # fmt: skip
        a = reference.norm(residual * x + attn @ w_out.T + b_out, alpha1, bias1)
        y = a + torch.relu(a @ w1.T + b1) @ w2.T + b2
        return reference.norm(y, *norm2) if norm2 else y

    return Case(lambda *x: ops.encoder_tail(*x, residual=residual), plain, leaves)


def norm(version: str, device: torch.device, tokens: int = 1117) -> Case:
    dim = SIZES[version].embed_dim
    leaves = {"x": _normal(device, tokens, dim)}
    leaves |= {"alpha": 1 + 0.1 * _normal(device, dim, seed=1), "bias": _normal(device, dim, seed=2)}
    return Case(ops.norm, reference.norm, leaves)


def patch_embed(version: str, device: torch.device, *, grids: bool = False) -> Case:
    """Masked channels of mixed sizes; parameters are the leaves. grids: every size has positions of its own."""
    case = embed_cases.make(version, embed_cases.SMALL_SIZES[version], masked=True, grids=grids)
    tokens = case.tokens()
    source = [x.to(device) for x in case.source()]
    moved: dict[str, Any] = {
        k: v.to(device) if isinstance(v, Tensor) else v for k, v in case.keywords().items()
    }

    def plain(*parameters: Tensor) -> Tensor:
        wide = tokens.to(parameters[0].dtype if parameters[0].dtype == torch.float64 else torch.float32)
        return case.plain(wide, [p.cpu() for p in parameters]).to(device)

    leaves = dict(zip(embed_cases.NAMES, (p.to(device) for p in case.parameters), strict=True))
    return Case(lambda *p: ops.patch_embed(*source, *p, **moved), plain, leaves)


def mcm_loss(version: str, device: torch.device) -> Case:
    patch_len, counts = SIZES[version].patch_len, [18, 18, 0, 7, 51]
    cu = torch.tensor([0, *counts], device=device).cumsum(0).int()
    target = _normal(device, sum(counts), patch_len, seed=3)
    kind = "mse_var" if version == "1.0" else "nmse"

    def plain(predicted: Tensor) -> Tensor:
        p, t = predicted.double(), target.double()
        if kind == "mse_var":
            return (p - t).square().mean() / t.var()
        edges = cu.tolist()
        ratios = [
            (p[a:b] - t[a:b]).square().sum() / t[a:b].square().sum() if b > a else p.new_zeros(())
            for a, b in zip(edges[:-1], edges[1:], strict=True)  # noqa: RUF007
        ]
        return torch.stack(ratios).mean()

    leaves = {"predicted": _normal(device, sum(counts), patch_len, seed=4)}
    return Case(lambda p: ops.mcm_loss(p, target.to(p.dtype), cu, kind), plain, leaves)


OPERATIONS: dict[str, Callable[[str, torch.device], Case]] = {
    "attention": attention,
    "encoder_tail": encoder_tail,
    "norm": norm,
    "patch_embed": patch_embed,
    "patch_embed grids": functools.partial(patch_embed, grids=True),
    "mcm_loss": mcm_loss,
}


def _normal(device: torch.device, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)
