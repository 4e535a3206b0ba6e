"""Complex csi in memory to CLS embeddings in memory, end to end: the released pipeline against ``encode``."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench import released
from bench.inputs import PLAIN_LIMIT, Settings, ceiling, csi_of_size, model, relative_error
from bench.rows import Row
from bench.timing import Arm, compare
from lwm_fast import reference
from lwm_fast.tokens import num_tokens

PUBLISHED, CLEAN = "released, as published", "released, clean"
FORWARD = "released, clean, forward only"
# (version, num_antennas, num_subcarriers, channels a call, batch of the released model). The batch is the one
# at which the plain model ran fastest on one core; attention maps make it slower at larger ones.
SIZES = (
    ("1.0", 32, 32, 64, 16),
    ("1.1", 8, 32, 256, 128),
    ("1.1", 32, 32, 64, 64),
    ("1.1", 32, 64, 32, 16),
    ("1.1", 64, 64, 16, 8),
    ("1.1", 128, 64, 8, 1),
)


def arms(version: str, csi: NDArray[np.complex64], batch: int) -> list[Arm]:
    """One-thread arms. "As published" keeps the denormals of the v1.0 file; v1.1's seeded weights have none."""
    fast, path, _ = model(version)
    clean = released.twin(fast)
    tokens = torch.from_numpy(np.stack(released.TOKENIZE[version](csi)))
    wide = reference.tokenize(torch.from_numpy(csi).to(torch.complex128), version)
    exact = released.forward(released.twin(fast, torch.float64), wide)[:, 0]

    def error(cls: Any) -> float:
        return relative_error(cls, exact)

    def arm(name: str, run: Any, limit: float, *baselines: str, note: str = "") -> Arm:
        return Arm(name, run, len(csi), error, limit, baselines=baselines, note=note)

    own_batch = f"batch: released {batch}, lwm_fast auto"
    result = [
        arm(CLEAN, lambda: released.embed(clean, csi, batch), PLAIN_LIMIT, note=own_batch),
        arm(
            FORWARD,
            lambda: torch.cat([released.forward(clean, part)[:, 0] for part in tokens.split(batch)]),
            PLAIN_LIMIT,
            note="tokens given",
        ),
        arm("lwm_fast encode", lambda: fast.encode(csi), ceiling(version, "float32"), CLEAN, FORWARD),
    ]
    if fast.weights_info is not None and fast.weights_info.denormals_flushed and path is not None:
        published = released.as_published(path, fast)
        result.insert(
            0, arm(PUBLISHED, lambda: released.embed(published, csi, batch), PLAIN_LIMIT, note=own_batch)
        )
        result[1] = dataclasses.replace(result[1], baselines=(PUBLISHED,))
        result[-1] = dataclasses.replace(result[-1], baselines=(PUBLISHED, CLEAN, FORWARD))
    return result


def run(settings: Settings) -> list[Row]:
    rows = []
    for version, num_antennas, num_subcarriers, full, batch in SIZES[:2] if settings.quick else SIZES:
        csi, users = csi_of_size(num_antennas, num_subcarriers, settings.pick(full, 2))
        one = arms(version, csi, batch)
        for threads in (1,) if settings.quick else (1, 2):
            rows += compare(
                "encode",
                "channel",
                [dataclasses.replace(arm, threads=threads) for arm in one],
                rounds=settings.rounds,
                min_seconds=settings.min_seconds,
                version=version,
                num_antennas=num_antennas,
                num_subcarriers=num_subcarriers,
                seq_len=num_tokens(num_antennas, num_subcarriers, version),
                batch=len(csi),
                note=f"{users}, {model(version)[2]}",
            )
    return rows
