"""The whole encoder from tokens or csi that lie on the device: ours against the reference and every peer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench import released
from bench.gpu import ceilings, encoder_peers, ours
from bench.gpu.layout import Layout, mixed_lengths
from bench.gpu.numerics import error_to
from bench.gpu.subjects import pairs, subject
from bench.gpu.timing import GpuArm, GpuSettings, compare
from bench.inputs import csi_of_size
from bench.rows import Row
from lwm_fast import LWM
from lwm_fast.packed import PackedBatch
from lwm_fast.tokens import num_tokens

Samples = Sequence[NDArray[np.complex64]] | NDArray[np.complex64]

_TOKENS = 1 << 17
_CHECKED = 4  # channels that are computed in float64
# The limits of the project; peers may round more and are refused only where they are plainly wrong.
_LIMIT = {
    ("1.0", "bfloat16"): 8e-3,
    ("1.1", "bfloat16"): 3e-3,
    ("1.0", "float32"): 5e-6,
    ("1.1", "float32"): 5e-6,
}
_PEER_LIMIT = 5e-2
# (name, version, (num_antennas, num_subcarriers) or None for the 20-pair mix)
CASES = (
    ("encoder-v1.0", "1.0", (32, 32)),
    ("encoder-129", "1.1", (32, 64)),
    ("encoder-513", "1.1", (128, 64)),
    ("encoder-mixed", "1.1", None),
    ("encoder-65", "1.1", (32, 32)),
    ("encoder-257", "1.1", (64, 64)),
)


def cases(settings: GpuSettings) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    for name, version, size in CASES:
        yield name, functools.partial(_case, settings, version, size)


def _case(settings: GpuSettings, version: str, size: tuple[int, int] | None) -> list[Row]:
    device = settings.device.torch_device
    fast, weights = subject(settings, version)
    samples, label = _samples(settings, version, size)
    packed = PackedBatch.from_samples(samples, version)
    layout = Layout.of(np.diff(packed.cu_seqlens).tolist(), device)
    tokens = packed.tokens().flatten(0, -2).to(device)  # [T, patch_len]
    exact = _exact(fast, tokens, layout)
    exact_cls = torch.stack([part[0] for part in exact])
    copies = settings.copies(tokens.numel() * 4)
    sources = [tokens.clone() for _ in range(copies)]
    arms = list(_our_arms(fast, packed, exact, exact_cls, copies))
    arms += _reference_arms(fast, sources, layout, exact) if layout.equal else []
    half = released.twin(fast).to(device, torch.bfloat16)
    for peer in encoder_peers.DENSE if layout.equal else encoder_peers.MIXED:
        make = functools.partial(peer.make, half, layout, settings.device)
        arms.append(_arm(peer.name, make, sources, exact, loop=peer.loop))
    if layout.equal:
        make = functools.partial(
            encoder_peers.TUNED.make, released.twin(fast).to(device), layout, settings.device
        )
        arms.append(_arm(encoder_peers.TUNED.name, make, sources, exact, "float32", dtype=torch.float32))
    rate = layout.batch / sum(1 / ceilings.encoder_rate(version, n) for n in layout.lengths)
    return compare(
        "gpu encoder forward",
        "channel",
        arms,
        settings,
        items=layout.batch,
        copies=copies,
        tokens=layout.total,
        ceiling=rate,
        version=version,
        num_antennas=size[0] if size else None,
        num_subcarriers=size[1] if size else None,
        seq_len=layout.longest if layout.equal else None,
        batch=layout.batch,
        note=f"{'one size' if size else '20-pair mix'}; {label}, {weights}",
    )


def _samples(settings: GpuSettings, version: str, size: tuple[int, int] | None) -> tuple[Samples, str]:
    """Channels by rising length, so that a layout's equal lengths lie side by side."""
    if size is not None:
        count = settings.pick(_TOKENS, 300) // num_tokens(*size, version)
        return csi_of_size(*size, max(count, 2))
    once = mixed_lengths(0)
    times = max(1, settings.pick(_TOKENS, 0) // sum(once))
    samples, label = [], ""
    for pair in pairs(settings):
        csi, label = csi_of_size(*pair, times)
        samples += list(csi)
    return samples, label


def _exact(fast: LWM, tokens: Tensor, layout: Layout) -> list[Tensor]:
    """Outputs [S, D] in float64 of the first channels."""
    wide = released.twin(fast, torch.float64).to(tokens.device)
    found, row = [], 0
    for length in layout.lengths[:_CHECKED]:
        part = tokens[row : row + length].double()
        found.append(released.forward(wide, part[None])[0])
        row += length
    return found


def _our_arms(
    fast: LWM, packed: PackedBatch, exact: list[Tensor], exact_cls: Tensor, copies: int
) -> Iterator[GpuArm]:
    for precision in ("bfloat16", "float32"):
        limit = _LIMIT[fast.version, precision]
        for pool, wanted in (("tokens", torch.cat(exact)), ("cls", exact_cls)):
            make = functools.partial(ours.encoder, fast, packed, copies, precision, pool)
            name = "lwm_fast" if pool == "tokens" else "lwm_fast, CLS only"
            yield GpuArm(name, make, error_to(wanted), limit, True, precision, note="from csi on the device")


def _reference_arms(
    fast: LWM, sources: list[Tensor], layout: Layout, exact: list[Tensor]
) -> Iterator[GpuArm]:
    plain = released.twin(fast).to(sources[0].device)

    def eager(tokens: Tensor) -> Tensor:
        return released.forward(plain, tokens.unflatten(0, (-1, layout.longest))).flatten(0, 1)

    def autocast(tokens: Tensor) -> Tensor:
        with torch.autocast(tokens.device.type, torch.bfloat16):
            return eager(tokens)

    yield _arm("released, eager", lambda: eager, sources, exact, "float32", dtype=torch.float32)
    yield _arm("released, eager, autocast", lambda: autocast, sources, exact, dtype=torch.float32)


def _arm(
    name: str, make: Callable[[], Callable[[Tensor], Tensor]], sources: list[Tensor], exact: list[Tensor],
    precision: str = "bfloat16", *, loop: str = "host", dtype: torch.dtype = torch.bfloat16,
) -> GpuArm:  # fmt: skip
    def build() -> Callable[[int], Tensor]:
        encode, inputs = make(), [source.to(dtype) for source in sources]

        def run(i: int) -> Tensor:
            with torch.no_grad():
                return encode(inputs[i])

        return run

    return GpuArm(name, build, error_to(torch.cat(exact)), _PEER_LIMIT, False, precision, loop=loop)
