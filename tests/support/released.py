"""The released weights and golden vectors, for tests that compare with the release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lwm_fast import LWM, reference

WEIGHTS = {"1.0": "weights/lwm_v1.0_model_weights.pth", "1.1": "weights/lwm_v1.1_seeded_random.pth"}


def golden(folder: Path, name: str) -> dict[str, npt.NDArray[Any]]:
    with np.load(folder / "golden" / f"golden_{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def released(folder: Path, version: str) -> LWM:
    return LWM.from_pretrained(folder / WEIGHTS[version])


def plain(model: LWM, dtype: torch.dtype = torch.float64) -> reference.LWM:
    """The reference with the same weights."""
    twin = reference.LWM(model.version, model.sizes)
    twin.load_state_dict(model.state_dict())
    return twin.to(dtype).eval()


def output_of(model: reference.LWM, tokens: torch.Tensor) -> torch.Tensor:
    """The encoder's output [B, S, D], wherever the version returns it."""
    with torch.no_grad():
        result = model(tokens)
    output = result[1] if model.version == "1.0" else result[0]
    assert isinstance(output, torch.Tensor)
    return output


def relative_error(value: Any, expected: Any) -> float:
    """Frobenius norm of the difference over that of the expected tensor, in float64."""
    a, b = (
        torch.as_tensor(np.asarray(x)).to(torch.complex128 if np.iscomplexobj(x) else torch.float64)
        for x in (value, expected)
    )
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(torch.linalg.vector_norm(a - b) / torch.linalg.vector_norm(b))


def random_csi(
    batch: int, num_antennas: int, num_subcarriers: int, seed: int = 0
) -> npt.NDArray[np.complex64]:
    """Channels of the magnitude that LWM expects (about 2e-5), from a seed."""
    rng = np.random.default_rng(seed)
    parts = rng.standard_normal((batch, num_antennas, num_subcarriers, 2)) * 1.4e-5
    return parts.astype(np.float32).view(np.complex64)[..., 0]
