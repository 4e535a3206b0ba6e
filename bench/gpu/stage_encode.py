"""`encode` end to end: complex64 in host memory to CLS in host memory, against the released pipeline on this GPU."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from bench import released
from bench.gpu.subjects import subject
from bench.gpu.timing import GpuSettings
from bench.inputs import csi_of_size, relative_error
from bench.rows import Row
from bench.timing import Arm, compare
from lwm_fast import reference
from lwm_fast.tokens import num_tokens

RELEASED = "released pipeline"
_CHECKED = 64  # channels that are computed in float64
_LIMIT = {
    ("1.0", "bfloat16"): 8e-3,
    ("1.1", "bfloat16"): 3e-3,
    ("1.0", "float32"): 5e-6,
    ("1.1", "float32"): 5e-6,
}
_PIPELINE_LIMIT = 1e-3  # its products may run in tf32 where the user's torch is set so
# (name, version, antennas, subcarriers, channels for us, channels and batch of the release). Attention maps of
# all layers stay in memory in v1.1, which bounds its batch.
CASES = (
    ("encode-v1.0", "1.0", 32, 32, 1 << 16, 1 << 11, 1024),
    ("encode-129", "1.1", 32, 64, 1 << 15, 1 << 10, 256),
    ("encode-513", "1.1", 128, 64, 1 << 12, 1 << 7, 64),
    ("encode-17", "1.1", 8, 32, 1 << 17, 1 << 12, 1024),
)


def cases(settings: GpuSettings) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    for case in CASES:
        yield case[0], functools.partial(_case, settings, *case[1:])


def _case(
    settings: GpuSettings,
    version: str,
    num_antennas: int,
    num_subcarriers: int,
    count: int,
    few: int,
    batch: int,
) -> list[Row]:
    device = settings.device.torch_device
    fast, weights = subject(settings, version)
    csi, label = csi_of_size(num_antennas, num_subcarriers, settings.pick(count, 4))
    few = settings.pick(few, 2)
    wide = reference.tokenize(torch.from_numpy(csi[:_CHECKED]).to(device, torch.complex128), version)
    exact = released.forward(released.twin(fast, torch.float64).to(device), wide)[:, 0].cpu()
    plain = released.twin(fast).to(device)

    def error(cls: Any) -> float:
        checked = min(len(cls), _CHECKED)
        return relative_error(cls[:checked], exact[:checked])

    baseline = Arm(
        RELEASED, lambda: released.embed(plain, csi[:few], batch), few, error, _PIPELINE_LIMIT,
        note=f"{few} channels, batch {batch}, tokeniser and collation included",
    )  # fmt: skip
    arms = [baseline]
    for precision in ("bfloat16", "float32"):
        run = functools.partial(fast.encode, csi, precision=precision)
        limit = _LIMIT[version, precision]
        arms.append(Arm("lwm_fast encode", run, len(csi), error, limit, 1, precision, (RELEASED,)))
    rows = []
    for ours in arms[1:]:  # arms are told apart by name: one precision at a time
        found = compare(
            "gpu encode end to end",
            "channel",
            [baseline, ours],
            rounds=settings.rounds,
            min_seconds=settings.sample_seconds,
            version=version,
            num_antennas=num_antennas,
            num_subcarriers=num_subcarriers,
            seq_len=num_tokens(num_antennas, num_subcarriers, version),
            batch=len(csi),
            device=settings.device.name(),
            note=f"{ours.precision}; wall clock, complex64 to CLS in host memory; {label}, {weights}",
        )
        rows += found
    return rows
