"""Attention alone, packed qkv in and out: ours against every peer, forward, and forward with backward."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bench.gpu import ceilings
from bench.gpu.attention_peers import PEERS, AttentionPeer
from bench.gpu.layout import Layout, mixed_lengths
from bench.gpu.numerics import error_to
from bench.gpu.timing import GpuArm, GpuSettings, compare
from bench.rows import Row
from lwm_fast import ops, reference

_TOKENS = 1 << 17
_CHECKED = 2048  # rows of the output that are computed in float64
# Rounding of inputs is not counted: the exact answer is that of the rounded inputs.
_LIMIT = {"float32": 3e-6, "bfloat16": 8e-3, "float16": 1e-3}
HEADS = {"1.0": (12, 5), "1.1": (8, 16)}
# (name, version, seq_len or None for the mix, precision)
CASES = (
    ("attention-129", "1.1", 129, "bfloat16"),
    ("attention-513", "1.1", 513, "bfloat16"),
    ("attention-v1.0", "1.0", 129, "bfloat16"),
    ("attention-mixed", "1.1", None, "bfloat16"),
    ("attention-17", "1.1", 17, "bfloat16"),
    ("attention-33", "1.1", 33, "bfloat16"),
    ("attention-65", "1.1", 65, "bfloat16"),
    ("attention-257", "1.1", 257, "bfloat16"),
    ("attention-129-float16", "1.1", 129, "float16"),
    ("attention-129-float32", "1.1", 129, "float32"),
)

Attend = Callable[[Tensor], Tensor]


def cases(settings: GpuSettings) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    for name, version, seq_len, precision in CASES:
        yield name, functools.partial(_case, settings, version, seq_len, precision)


def _case(settings: GpuSettings, version: str, seq_len: int | None, precision: str) -> list[Row]:
    device, (num_heads, head_dim) = settings.device.torch_device, HEADS[version]
    tokens = settings.pick(_TOKENS, 600)
    if seq_len:
        lengths = [seq_len] * max(2, tokens // seq_len)
    else:
        lengths = mixed_lengths(tokens) if not settings.device.dry else [17, 17, 33, 65]
    layout = Layout.of(lengths, device)
    dtype: torch.dtype = getattr(torch, precision)
    generator = torch.Generator(device).manual_seed(0)
    shape = (layout.total, 3, num_heads, head_dim)
    bytes_in = layout.total * 3 * num_heads * head_dim * dtype.itemsize
    copies = settings.copies(bytes_in)
    qkv = [torch.randn(shape, generator=generator, device=device).to(dtype) for _ in range(copies)]
    cotangent = torch.randn((layout.total, num_heads, head_dim), generator=generator, device=device).to(dtype)
    exps = sum(ceilings.attention_exps(num_heads, n) for n in layout.lengths) / layout.batch
    rows = []
    for backward in (False, True):
        exact = _exact(qkv[0], layout, cotangent if backward else None)
        arms = [
            _arm(_ours(layout), "lwm_fast", qkv, cotangent if backward else None, exact, precision, ours=True)
        ]
        for peer in PEERS:
            make = functools.partial(_peer, peer, layout, head_dim, settings)
            arms.append(_arm(make, peer.name, qkv, cotangent if backward else None, exact, precision))
        # Forward reads qkv and writes out; backward also reads out and its gradient and writes that of qkv.
        num_bytes = bytes_in * (4 / 3 if not backward else 4 / 3 + 8 / 3) / layout.batch
        flops = 4 * exps * -(-head_dim // 16) * 16 * (1.0 if not backward else 3.5)
        rows += compare(
            "gpu attention forward + backward" if backward else "gpu attention forward",
            "sequence",
            arms,
            settings,
            items=layout.batch,
            copies=copies,
            tokens=layout.total,
            ceiling=ceilings.op_rate(num_bytes, flops, exps * (2 if backward else 1)),
            version=version,
            seq_len=seq_len,
            batch=layout.batch,
            note=f"{num_heads} heads of {head_dim}; {'20-pair mix' if seq_len is None else 'one length'}",
        )
    return rows


def _ours(layout: Layout) -> Callable[[], Attend]:
    return lambda: lambda qkv: ops.attention(qkv, layout.cu_seqlens, layout.longest)[0]


def _peer(peer: AttentionPeer, layout: Layout, head_dim: int, settings: GpuSettings) -> Attend:
    return peer.make(layout, head_dim, settings.device)


def _arm(
    make: Callable[[], Attend], name: str, qkv: list[Tensor], cotangent: Tensor | None, exact: list[Tensor],
    precision: str, *, ours: bool = False,
) -> GpuArm:  # fmt: skip
    def build() -> Callable[[int], list[Tensor]]:
        attend = make()

        def run(i: int) -> list[Tensor]:
            if cotangent is None:
                with torch.no_grad():
                    return [attend(qkv[i])]
            own = qkv[i].detach().requires_grad_()
            out = attend(own)
            return [out.detach(), *torch.autograd.grad(out, own, cotangent)]

        return run

    return GpuArm(name, build, error_to(exact), _LIMIT[precision], ours, precision)


def _exact(qkv: Tensor, layout: Layout, cotangent: Tensor | None) -> list[Tensor]:
    """Of the first sequences, which are the shortest of a mix, in float64; with the gradient if asked for."""
    outs: list[Tensor] = []
    grads: list[Tensor] = []
    row = 0
    for length in layout.lengths:
        last = row + length
        x = qkv[row:last].double().requires_grad_(cotangent is not None)
        q, k, v = x.permute(1, 2, 0, 3)[:, None]  # [1, H, S, d]
        out = reference.attention(q, k, v)[0][0].transpose(0, 1)
        if cotangent is not None:
            grads += torch.autograd.grad(out, x, cotangent[row:last].double())
        outs.append(out.detach())
        row = last
        if row >= _CHECKED:
            break
    return [torch.cat(outs)] + ([torch.cat(grads)] if grads else [])
