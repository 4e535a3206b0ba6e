"""The released pipeline as the baseline: per-sample tokenising, collation, eager float32 model.

Restated from the description of LWM v1.0 and v1.1 (not the release's text), at the release's own pace:
numpy on one channel at a time, ``torch.tensor`` on the list of samples, and plain attention that writes its
softmax weights out (v1.1 also keeps the maps of all layers).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lwm_fast import LWM, checkpoint, reference

Samples = list[NDArray[np.float32]]  # one [seq_len, patch_len] a channel


def tokenize_v1_0(csi: NDArray[np.complex64], scale: float = 1e6) -> Samples:
    """csi [batch, N, SC] -> patches of 16: all real parts of a channel, then all imaginary ones."""
    cls = np.full((1, 16), reference.CLS_VALUE, np.float32)
    samples = []
    for channel in csi:
        flat = (channel * scale).reshape(-1)
        parts = np.concatenate([flat.real, flat.imag])
        samples.append(np.concatenate([cls, parts.reshape(-1, 16)]))
    return samples


def tokenize_v1_1(csi: NDArray[np.complex64], scale: float = 1e6) -> Samples:
    """csi [batch, N, SC] -> patches of 4 antennas x 4 subcarriers, cut one by one."""
    cls = np.full(32, reference.CLS_VALUE, np.float32)
    samples = []
    for channel in csi:
        scaled = channel * scale
        num_antennas, num_subcarriers = scaled.shape
        grid = np.empty((num_antennas, 2 * num_subcarriers), np.float32)
        grid[:, 0::2], grid[:, 1::2] = scaled.real, scaled.imag
        grid = np.pad(grid, ((0, -num_antennas % 4), (0, 2 * (-num_subcarriers % 4))))
        patches = [cls]
        for row in range(0, grid.shape[0], 4):
            for column in range(0, grid.shape[1], 8):
                patches.append(grid[row : row + 4, column : column + 8].flatten())
        samples.append(np.array(patches))
    return samples


TOKENIZE = {"1.0": tokenize_v1_0, "1.1": tokenize_v1_1}


def collate(samples: Sequence[Any]) -> Tensor:
    """A batch tensor [batch, seq_len, patch_len] from the list of samples, value by value as released."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Creating a tensor from a list of numpy.ndarrays")
        return torch.tensor(samples)


def twin(model: LWM, dtype: torch.dtype = torch.float32) -> reference.LWM:
    """The plain model with the same weights: the clean baseline, or the exact answer in float64."""
    plain = reference.LWM(model.version, model.sizes)
    plain.load_state_dict(model.state_dict())
    return plain.to(dtype).eval()


def as_published(weights: Path, model: LWM) -> reference.LWM:
    """The plain model with the file's own values, denormals included (``model`` gives version and sizes)."""
    plain = reference.LWM(model.version, model.sizes)
    plain.load_state_dict(checkpoint.read_state_dict(weights))
    return plain.eval()


def forward(model: reference.LWM, tokens: Tensor) -> Tensor:
    """Eager output [B, S, D]; attention maps are kept where the release returns them (v1.1)."""
    with torch.no_grad():
        result = model(tokens, return_attention=model.version == "1.1")
    output = result[1] if model.version == "1.0" else result[0]
    assert isinstance(output, Tensor)
    return output


def embed(model: reference.LWM, csi: NDArray[np.complex64], batch: int) -> NDArray[np.float32]:
    """CLS embeddings [n, D]: tokenise everything, collate everything, then the model batch by batch on its device."""
    tokens = collate(TOKENIZE[model.version](csi))
    device = model.decoder_bias.device
    outputs = [forward(model, part.to(device))[:, 0].cpu() for part in tokens.split(batch)]
    return torch.cat(outputs).numpy()
