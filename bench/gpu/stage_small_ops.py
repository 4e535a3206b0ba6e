"""Patch embedding from csi, Norm and the masked-modelling loss: ours against plain torch, eager and compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.gpu import ceilings
from bench.gpu.numerics import error_to
from bench.gpu.timing import GpuArm, GpuSettings, compare
from bench.rows import Row
from lwm_fast import ops, reference
from lwm_fast.reference import SIZES
from lwm_fast.tokens import num_tokens

_ENTRIES = 1 << 22  # complex numbers of csi a call
_LIMIT = 2e-2  # plain torch rounds tokens of order 10 to bfloat16 before the projection
Function = Callable[..., Tensor]


def cases(settings: GpuSettings) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    yield "patch_embed-v1.1", functools.partial(_patch_embed, settings, "1.1", 32, 64)
    yield "patch_embed-v1.0", functools.partial(_patch_embed, settings, "1.0", 32, 32)
    yield "patch_embed-grids", functools.partial(_patch_embed, settings, "1.1", 32, 64, grids=True)
    yield "linear", functools.partial(_linear, settings)
    yield "norm", functools.partial(_norm, settings)
    yield "mcm_loss", functools.partial(_mcm_loss, settings)


def _arms(
    ours: Function, plain: Function, inputs: Sequence[Sequence[Tensor]], leaves: Sequence[int], backward: bool,
    exact: list[Tensor], settings: GpuSettings, *, limit: float = _LIMIT, precision: str = "bfloat16",
) -> list[GpuArm]:  # fmt: skip
    """Ours, eager and compiled; ``leaves`` are the places of the inputs that get gradients."""

    def arm(name: str, make: Callable[[], Function], mine: bool) -> GpuArm:
        def build() -> Callable[[int], list[Tensor]]:
            function = make()
            return lambda i: _run(function, inputs[i], leaves, backward)

        return GpuArm(name, build, error_to(exact), limit * (4 if backward else 1), mine, precision)

    mode = "max-autotune-no-cudagraphs"
    return [
        arm("lwm_fast", lambda: ours, True),
        arm("eager", lambda: plain, False),
        arm("torch.compile max-autotune", lambda: settings.device.compiled(plain, mode), False),
    ]


def _run(function: Function, inputs: Sequence[Tensor], leaves: Sequence[int], backward: bool) -> list[Tensor]:
    if not backward:
        with torch.no_grad():
            return [function(*inputs)]
    own = [x.detach().requires_grad_(i in leaves) for i, x in enumerate(inputs)]
    y = function(*own)
    wanted = [own[i] for i in leaves]
    return [y.detach(), *torch.autograd.grad(y, wanted, torch.ones_like(y) + y.detach())]


def _patch_embed(
    settings: GpuSettings, version: str, num_antennas: int, num_subcarriers: int, *, grids: bool = False
) -> list[Row]:
    """grids: every other channel has half the antennas and twice the subcarriers, and positions of its own."""
    s, device = SIZES[version], settings.device.torch_device
    entries = num_antennas * num_subcarriers
    batch = settings.pick(_ENTRIES, 2 * entries) // entries
    sizes = [(num_antennas, num_subcarriers)] + [(num_antennas // 2, 2 * num_subcarriers)] * grids
    seq_len = num_tokens(num_antennas, num_subcarriers, version)
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int, spread: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=generator, device=device) * spread

    copies = settings.copies(8 * batch * entries)
    parts = [draw(batch * entries, 2, spread=1e-5) for _ in range(copies)]  # csi as real and imaginary
    weights = [
        draw(s.embed_dim, s.patch_len, spread=0.2), draw(s.embed_dim, spread=0.1),
        draw(len(sizes) * seq_len, s.embed_dim, spread=0.3), 1 + draw(s.embed_dim, spread=0.1), draw(s.embed_dim),
    ]  # fmt: skip
    steps = torch.arange(batch + 1, device=device)
    shape = torch.tensor(sizes * (batch // len(sizes)), dtype=torch.int32, device=device)
    starts = (steps[:-1] % 2 * seq_len).int() if grids else None

    def ours(source: Tensor, *parameters: Tensor) -> Tensor:
        return ops.patch_embed(
            torch.view_as_complex(source), steps * entries, shape, (steps * seq_len).int(), *parameters,
            version=version, max_seqlen=seq_len, total_tokens=batch * seq_len, position_start=starts,
            dtype=torch.bfloat16,
        )  # fmt: skip

    def plain(source: Tensor, *parameters: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        weight, bias, position, alpha, norm_bias = (p.to(dtype) for p in parameters)
        csi = torch.view_as_complex(source).view(-1, len(sizes), entries).unbind(1)
        parts = [
            reference.tokenize(part.unflatten(1, size), version)
            for part, size in zip(csi, sizes, strict=True)
        ]
        tokens = torch.stack(parts, 1).to(dtype)  # [B / sizes, sizes, S, patch_len]
        y = F.linear(tokens, weight, bias) + position.unflatten(0, (len(sizes), seq_len))
        return reference.norm(y, alpha, norm_bias).flatten(0, 2)

    num_bytes = 8.0 * entries + 2 * seq_len * s.embed_dim  # csi in, tokens out
    rows = []
    for backward in (False, True):
        exact = _run(
            functools.partial(plain, dtype=torch.float64),
            [x.double() for x in (parts[0], *weights)],
            range(1, 6),
            backward,
        )
        inputs = [[source, *weights] for source in parts]
        rows += compare(
            f"gpu patch_embed forward{' + backward' if backward else ''}",
            "channel",
            _arms(ours, plain, inputs, range(1, 6), backward, exact, settings),
            settings,
            items=batch,
            copies=copies,
            tokens=batch * seq_len,
            ceiling=ceilings.op_rate(num_bytes * (2 if backward else 1)),
            version=version,
            num_antennas=num_antennas,
            num_subcarriers=num_subcarriers,
            seq_len=seq_len,
            batch=batch,
            note=f"from complex64 csi{', two grids in turn' if grids else ''}",
        )
    return rows


def _linear(settings: GpuSettings) -> list[Row]:
    """The product for queries, keys and values, whose peer is cuBLAS."""
    rows = []
    for version in ("1.1", "1.0"):
        s, device = SIZES[version], settings.device.torch_device
        tokens, width = settings.pick(1 << 17, 300), 3 * s.num_heads * s.head_dim
        generator = torch.Generator(device).manual_seed(0)

        def draw(*shape: int, spread: float = 1.0, generator: torch.Generator = generator) -> Tensor:
            return (torch.randn(shape, generator=generator, device=generator.device) * spread).bfloat16()

        copies = settings.copies(2 * tokens * s.embed_dim)
        weights = [draw(width, s.embed_dim, spread=s.embed_dim**-0.5), draw(width, spread=0.1)]
        inputs = [[draw(tokens, s.embed_dim), *weights] for _ in range(copies)]
        for backward in (False, True):
            exact = _run(F.linear, [x.double() for x in inputs[0]], range(3), backward)
            rows += compare(
                f"gpu linear forward{' + backward' if backward else ''}",
                "token",
                _arms(ops.linear, F.linear, inputs, range(3), backward, exact, settings),
                settings,
                items=tokens,
                copies=copies,
                tokens=tokens,
                ceiling=ceilings.op_rate(
                    2.0 * (s.embed_dim + width) * (3 if backward else 1),
                    2.0 * s.embed_dim * width * (3 if backward else 1),
                ),
                version=version,
                batch=tokens,
                note="queries, keys and values in one product",
            )
    return rows


def _norm(settings: GpuSettings) -> list[Row]:
    rows = []
    for dim in (128, 64):
        tokens = settings.pick(1 << 18, 300)
        device = settings.device.torch_device
        generator = torch.Generator(device).manual_seed(0)
        copies = settings.copies(2 * tokens * dim)
        sources = [
            torch.randn((tokens, dim), generator=generator, device=device).bfloat16() for _ in range(copies)
        ]
        weights = [torch.randn(dim, generator=generator, device=device).bfloat16() for _ in range(2)]
        for backward in (False, True):
            exact = _run(reference.norm, [x.double() for x in (sources[0], *weights)], range(3), backward)
            inputs = [[source, *weights] for source in sources]
            rows += compare(
                f"gpu norm forward{' + backward' if backward else ''}",
                "token",
                _arms(ops.norm, reference.norm, inputs, range(3), backward, exact, settings),
                settings,
                items=tokens,
                copies=copies,
                tokens=tokens,
                ceiling=ceilings.op_rate(2.0 * dim * (5 if backward else 2)),
                batch=tokens,
                note=f"{dim} features",
            )
    return rows


def _mcm_loss(settings: GpuSettings) -> list[Row]:
    samples, device = settings.pick(4096, 8), settings.device.torch_device
    masked, patch_len = 51, 32  # of 129 tokens of v1.1
    generator = torch.Generator(device).manual_seed(0)
    shape = (samples * masked, patch_len)
    copies = settings.copies(8 * samples * masked * patch_len)
    predicted = [torch.randn(shape, generator=generator, device=device) for _ in range(copies)]
    target = torch.randn(shape, generator=generator, device=device)
    mask_cu = torch.arange(samples + 1, device=device, dtype=torch.int32) * masked

    def ours(p: Tensor, t: Tensor) -> Tensor:
        return ops.mcm_loss(p, t, mask_cu)

    def plain(p: Tensor, t: Tensor) -> Tensor:
        off, energy = ((x.square()).view(samples, -1).sum(1) for x in (t - p, t))
        return (off / energy).mean()

    rows = []
    for backward in (False, True):
        exact = _run(plain, [predicted[0].double(), target.double()], [0], backward)
        inputs = [[p, target] for p in predicted]
        arms = _arms(ours, plain, inputs, [0], backward, exact, settings, limit=1e-5, precision="float32")
        rows += compare(
            f"gpu mcm_loss forward{' + backward' if backward else ''}",
            "sample",
            arms,
            settings,
            items=samples,
            copies=copies,
            ceiling=ceilings.op_rate(4.0 * masked * patch_len * (5 if backward else 2)),
            version="1.1",
            batch=samples,
            note=f"{masked} masked patches a sample, NMSE",
        )
    return rows
