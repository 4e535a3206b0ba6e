"""Complex csi to a batch of tokens: the release's loop, numpy, torch and the C++ tokeniser, all bit-equal."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench import plain, released
from bench.inputs import BUCKETS, Settings, csi_of_size, different
from bench.rows import Row
from bench.timing import Arm, compare
from lwm_fast import reference, tokenize
from lwm_fast.tokens import PATCH_LEN, num_tokens

COLLATED, LOOP = "released loop + collate", "released loop"
_CSI_ENTRIES = 1 << 18  # 2 MiB of csi a batch
SIZES = (("1.0", 32, 32), *(("1.1", *size) for size in BUCKETS))


def arms(csi: NDArray[np.complex64], version: str) -> list[Arm]:
    """Every way of tokenising; single-threaded but for the last."""
    batch = len(csi)
    shape = (batch, num_tokens(csi.shape[1], csi.shape[2], version), PATCH_LEN[version])
    buffer = np.full(shape, np.nan, np.float32)
    tensor = torch.from_numpy(csi)
    expected = reference.tokenize(tensor, version).numpy()
    loop = released.TOKENIZE[version]
    arm = functools.partial(
        Arm, items=batch, error=lambda tokens: different(tokens, expected), baselines=(COLLATED, LOOP)
    )

    def into_buffer(num_threads: int) -> Any:
        return tokenize(csi, version, out=buffer, num_threads=num_threads)

    return [
        arm(COLLATED, lambda: released.collate(loop(csi)), baselines=()),
        arm(LOOP, lambda: loop(csi), baselines=(), note="list of arrays, no batch"),
        arm("numpy", lambda: plain.tokenize(csi, version)),
        arm("torch reference", lambda: reference.tokenize(tensor, version)),
        arm("lwm_fast, new array", lambda: tokenize(csi, version, num_threads=1)),
        arm("lwm_fast, out=", lambda: into_buffer(1)),
        arm("lwm_fast, out=, 2 threads", lambda: into_buffer(2), threads=2),
    ]


def run(settings: Settings) -> list[Row]:
    rows = []
    for version, num_antennas, num_subcarriers in SIZES[:3] if settings.quick else SIZES:
        batch = settings.pick(_CSI_ENTRIES // (num_antennas * num_subcarriers), 4)
        csi, label = csi_of_size(num_antennas, num_subcarriers, batch)
        rows += compare(
            "tokenize",
            "channel",
            arms(csi, version),
            rounds=settings.rounds,
            min_seconds=settings.min_seconds,
            version=version,
            num_antennas=num_antennas,
            num_subcarriers=num_subcarriers,
            seq_len=num_tokens(num_antennas, num_subcarriers, version),
            batch=batch,
            note=f"{label}; error 0 = bit-equal tokens",
        )
    return rows
