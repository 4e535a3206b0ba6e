"""The encoder layer after its attention: ours against plain torch, eager and compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.gpu import ceilings
from bench.gpu.numerics import error_to
from bench.gpu.timing import GpuArm, GpuSettings, compare
from bench.rows import Row
from lwm_fast import ops, reference
from lwm_fast.reference import SIZES

_TOKENS = 1 << 16
_LIMIT = 1.5e-2  # plain torch in bfloat16 rounds the residual and every product
RESIDUAL = {"1.0": 1.0, "1.1": 2.0}
Function = Callable[..., Tensor]


def cases(settings: GpuSettings) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    for version in ("1.1", "1.0"):
        yield f"tail-v{version}", functools.partial(_case, settings, version)


def plain(version: str) -> Function:
    """What the fused operation computes, in torch, in the dtype of its inputs."""

    def tail(
        attn: Tensor, x: Tensor, w_out: Tensor, b_out: Tensor, alpha1: Tensor, bias1: Tensor, w1: Tensor,
        b1: Tensor, w2: Tensor, b2: Tensor, alpha2: Tensor | None = None, bias2: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        a = reference.norm(RESIDUAL[version] * x + F.linear(attn, w_out, b_out), alpha1, bias1)
        y = a + F.linear(F.relu(F.linear(a, w1, b1)), w2, b2)
        return y if alpha2 is None or bias2 is None else reference.norm(y, alpha2, bias2)

    return tail


def _case(settings: GpuSettings, version: str) -> list[Row]:
    s, tokens = SIZES[version], settings.pick(_TOKENS, 300)
    inner = s.num_heads * s.head_dim
    inputs = inputs_of(version, tokens, settings)
    bytes_in = 2 * tokens * (inner + s.embed_dim)
    copies = settings.copies(bytes_in)
    sources = [[x.clone() for x in inputs] for _ in range(copies)]
    ours = functools.partial(ops.encoder_tail, residual=RESIDUAL[version])
    flops = 2.0 * (inner * s.embed_dim + 2 * s.embed_dim * s.ffn_dim)
    rows = []
    for backward in (False, True):
        exact = run(plain(version), [x.double() for x in inputs], backward)
        arms = [_arm("lwm_fast", lambda: ours, sources, exact, backward, ours=True)]
        for name, mode in (("eager", None), ("torch.compile max-autotune", "max-autotune-no-cudagraphs")):
            make = functools.partial(_plain_arm, version, mode, settings)
            arms.append(_arm(name, make, sources, exact, backward))
        # Backward reads attn, x and the gradient, and writes the gradients of attn and x.
        num_bytes = 2.0 * (inner + 2 * s.embed_dim) * (1 if not backward else 3)
        rows += compare(
            f"gpu encoder_tail forward{' + backward' if backward else ''}",
            "token",
            arms,
            settings,
            items=tokens,
            copies=copies,
            tokens=tokens,
            ceiling=ceilings.op_rate(num_bytes, flops * (3 if backward else 1)),
            version=version,
            batch=tokens,
            note="packed tokens, no dropout",
        )
    return rows


def _plain_arm(version: str, mode: str | None, settings: GpuSettings) -> Function:
    return plain(version) if mode is None else settings.device.compiled(plain(version), mode)


def inputs_of(version: str, tokens: int, settings: GpuSettings) -> list[Tensor]:
    """attn, x and the layer's weights in bfloat16, weights at the scale of trained ones."""
    s, device = SIZES[version], settings.device.torch_device
    generator = torch.Generator(device).manual_seed(0)
    inner, dim, ffn = s.num_heads * s.head_dim, s.embed_dim, s.ffn_dim

    def draw(*shape: int, spread: float = 1.0, centre: float = 0.0) -> Tensor:
        return (torch.randn(shape, generator=generator, device=device) * spread + centre).bfloat16()

    norm = [draw(dim, spread=0.1, centre=1.0), draw(dim, spread=0.1)]
    weights = [
        draw(dim, inner, spread=inner**-0.5), draw(dim, spread=0.1), *norm, draw(ffn, dim, spread=dim**-0.5),
        draw(ffn, spread=0.1), draw(dim, ffn, spread=ffn**-0.5), draw(dim, spread=0.1),
    ]  # fmt: skip
    return [draw(tokens, inner), draw(tokens, dim), *weights, *(norm if version == "1.1" else [])]


def run(function: Function, inputs: list[Tensor], backward: bool) -> list[Tensor]:
    """The output, and the gradients of its projection on ones for every input."""
    if not backward:
        with torch.no_grad():
            return [function(*inputs)]
    leaves = [x.detach().requires_grad_() for x in inputs]
    y = function(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, y.detach())]


def _arm(
    name: str, make: Callable[[], Function], sources: list[list[Tensor]], exact: list[Tensor],
    backward: bool, *, ours: bool = False,
) -> GpuArm:  # fmt: skip
    def build() -> Callable[[int], list[Tensor]]:
        function = make()
        return lambda i: run(function, sources[i], backward)

    limit = _LIMIT * (4 if backward else 1)  # gradients of biases are sums that nearly cancel
    return GpuArm(name, build, error_to(exact), limit, ours)
