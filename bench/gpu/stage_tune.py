"""Tries the neighbours of every tile in `lwm_fast.kernels.tuned` and tells which is fastest for each shape.

The winners are to be written into the table by hand, after the tests have run with them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lwm_fast.kernels import tuned  # type: ignore[import-not-found]

from bench.gpu import stage_tail
from bench.gpu.stage_attention import HEADS
from bench.gpu.timing import GpuSettings
from bench.rows import Row
from lwm_fast import ops
from lwm_fast.reference import SIZES

_TOKENS = 1 << 16
_SEQ_LEN = 129
Job = Callable[[], Any]


def cases(settings: GpuSettings) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    for op, version in (
        ("attention", "1.1"), ("encoder_tail", "1.1"), ("linear", "1.1"), ("attention_backward", "1.1"),
        ("encoder_tail_backward", "1.1"), ("norm", "1.1"), ("encoder_tail", "1.0"), ("linear", "1.0"),
        ("encoder_tail_backward", "1.0"),
    ):  # fmt: skip
        yield f"tune-{op}-v{version}", functools.partial(_tune, settings, op, version)


def _tune(settings: GpuSettings, op: str, version: str) -> list[Row]:
    job = _job(settings, op, version)
    size = 16 if op.startswith("attention") else SIZES[version].embed_dim
    found: list[tuple[float, tuned.Tile]] = []
    rows = []
    for tile in tuned.candidates(op, size, 2)[: settings.pick(1000, 2)]:
        if settings.budget.left() < 0:
            break
        row = functools.partial(_row, settings, op, version, tile)
        with tuned.override(op, size, 2, tile):
            try:
                seconds = min(
                    settings.device.seconds(lambda _: job(), 10) / 10 for _ in range(1 + settings.rounds)
                )
            except Exception as failure:  # too much shared memory, most likely
                rows.append(row(None, f"{type(failure).__name__}: {str(failure).splitlines()[0][:100]}"))
                continue
        found.append((seconds, tile))
        rows.append(row(seconds, ""))
    best = sorted(found, key=lambda pair: pair[0])[:3]
    now = tuned.lookup(op, size, 2)
    print(
        f"{op} v{version}: in use {now}; fastest: {'; '.join(f'{1e6 * s:.1f} us {tile}' for s, tile in best)}"
    )
    return rows


def _row(settings: GpuSettings, op: str, version: str, tile: Any, seconds: float | None, reason: str) -> Row:
    return Row(
        case=f"gpu tune {op}",
        arm=f"{tile.rows} x {tile.steps}, {tile.warps} warps, {tile.stages} stages",
        unit="token",
        version=version,
        seq_len=_SEQ_LEN,
        precision="bfloat16",
        rounds=settings.rounds,
        median_s_per_item=None if seconds is None else seconds / settings.pick(_TOKENS, 300),
        loop="host",
        device=settings.device.name(),
        note=reason or "fastest of the rounds",
    )


def _job(settings: GpuSettings, op: str, version: str) -> Job:
    """The operation at the released shape in bfloat16; ``_backward`` runs forward and backward."""
    device, tokens, s = settings.device.torch_device, settings.pick(_TOKENS, 300), SIZES[version]
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, device=device).bfloat16()

    if op.startswith("attention"):
        num_heads, head_dim = HEADS[version]
        batch = tokens // _SEQ_LEN
        inputs = [draw(batch * _SEQ_LEN, 3, num_heads, head_dim)]
        cu = torch.arange(batch + 1, device=device, dtype=torch.int32) * _SEQ_LEN
        function: Callable[..., torch.Tensor] = lambda qkv: ops.attention(qkv, cu, _SEQ_LEN)[0]  # noqa: E731
    elif op.startswith("encoder_tail"):
        inputs = stage_tail.inputs_of(version, tokens, settings)
        function = functools.partial(ops.encoder_tail, residual=stage_tail.RESIDUAL[version])
    elif op == "linear":
        inputs = [draw(tokens, s.embed_dim), draw(3 * s.num_heads * s.head_dim, s.embed_dim)]
        function = ops.linear
    else:
        inputs = [draw(tokens, s.embed_dim), draw(s.embed_dim), draw(s.embed_dim)]
        function = ops.norm
    return functools.partial(stage_tail.run, function, inputs, op.endswith("_backward"))
