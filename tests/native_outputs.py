"""Writes the outputs of every native operation on fixed inputs to the .npz named as argument.

Run by tests/test_native_ops.py in processes of their own, since a process chooses its instruction set once.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lwm_fast import _C
from lwm_fast.tokens import detokenize, tokenize


def outputs() -> dict[str, Any]:
    rng = np.random.default_rng(11)
    result: dict[str, Any] = {}
    for version, sizes in (("1.0", [(3, 16), (32, 32)]), ("1.1", [(1, 1), (5, 7), (30, 50)])):
        for size in sizes:
            csi = rng.standard_normal((3, *size, 2), np.float32).view(np.complex64)[..., 0]
            tokens = tokenize(csi, version, scale=3.7)
            name = f"v{version}_{size[0]}x{size[1]}"
            result[f"tokens_{name}"] = tokens
            result[f"back_{name}"] = detokenize(tokens, *size, version, scale=3.7)
            result[f"noisy_{name}"] = tokenize(csi, version, scale=3.7, snr_db=3.0, seed=5)
            flags, mean_abs = np.full(3, 9, np.uint8), np.full(3, np.nan, np.float32)
            offsets = np.arange(4) * size[0] * size[1]
            _C.check_csi(np.ascontiguousarray(csi).reshape(-1), offsets, flags, mean_abs)
            result[f"flags_{name}"], result[f"mean_{name}"] = flags, mean_abs
    bounds: NDArray[Any] = np.array([0, 5, 5, 25])
    ranges = {"power_db": (-120, -60), "phase_deg": (-180, 180), "delay_s": (0, 3e-5)}
    ranges |= {"zenith_deg": (0, 180), "azimuth_deg": (-180, 180)}
    columns: dict[str, Any] = {n: rng.uniform(*r, 25).astype(np.float32) for n, r in ranges.items()}
    out = np.full((3, 15, 37), np.nan, np.complex64)
    options: dict[str, Any] = {"num_v": 3, "bandwidth": 1.2e6}
    _C.rays_to_csi(bounds, **columns, axis_h=(0.6, 0.8, 0.0), axis_v=(0.0, 0.0, 1.0), out=out, **options)
    result["rays"] = out
    return result


if __name__ == "__main__":
    np.savez(sys.argv[1], isa=np.array(_C.cpu_info()["isa"]), **outputs())
