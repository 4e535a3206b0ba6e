"""Native operations over numpy arrays. Outputs are the caller's arrays; nothing is converted or copied.

A wrong dtype raises TypeError; a wrong shape, a strided or read-only array, or indices that leave a buffer
raise ValueError. Both name the argument. num_threads: 0 = LWM_FAST_NUM_THREADS, else the processors this
process may use; results do not depend on it. The GIL is released while the work runs.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

__version__: str

class CPUInfo(TypedDict):
    features: list[str]
    available_isas: list[str]
    isa: str
    num_threads: int

def cpu_info() -> CPUInfo:
    """CPU features, instruction sets that can run here, the one chosen, default thread count."""

def tokenize(
    csi: NDArray[np.complex64],  # [num_elements]
    offsets: NDArray[np.int64],  # [batch + 1]
    shape: NDArray[np.int32],  # [batch, 2]: antennas, subcarriers
    cu_seqlens: NDArray[np.int32],  # [batch + 1], CLS included
    scale: NDArray[np.float32],  # [batch] or [1]
    cls: NDArray[np.float32],  # [patch_len] or [batch, patch_len]
    out: NDArray[np.float32],  # [num_tokens, patch_len]
    version: int,  # 10 or 11
    num_threads: int = 0,
) -> None:
    """Packed channels to tokens: a CLS row, then the patches, for each sample."""

def detokenize(
    tokens: NDArray[np.float32],  # [num_tokens, patch_len]
    offsets: NDArray[np.int64],  # [batch + 1]
    shape: NDArray[np.int32],  # [batch, 2]
    cu_seqlens: NDArray[np.int32],  # [batch + 1]
    scale: NDArray[np.float32],  # [batch] or [1]
    out: NDArray[np.complex64],  # [num_elements]
    version: int,
    num_threads: int = 0,
) -> None:
    """The inverse of tokenize: skips CLS, drops padding, divides by the scale."""

def add_noise(
    tokens: NDArray[np.float32],  # [num_tokens, patch_len]
    cu_seqlens: NDArray[np.int32],  # [batch + 1]
    snr_db: NDArray[np.float32],  # [batch]
    sample_id: NDArray[np.int64],  # [batch]
    seed: int,  # 64 bits
    epoch: int,  # 32 bits
    num_threads: int = 0,
) -> None:
    """Adds N(0, mean(x^2) / 10^(snr_db / 10)) to all rows but CLS, in place; see lwm_fast.philox."""

def rays_to_csi(
    offsets: NDArray[np.int64],  # [num_users + 1]
    power_db: NDArray[np.float32],  # [num_rays]
    phase_deg: NDArray[np.float32],  # [num_rays]
    delay_s: NDArray[np.float32],  # [num_rays]
    zenith_deg: NDArray[np.float32],  # [num_rays]
    azimuth_deg: NDArray[np.float32],  # [num_rays]
    axis_h: tuple[float, float, float],
    axis_v: tuple[float, float, float],
    out: NDArray[np.complex64],  # [num_users, num_antennas, num_subcarriers]
    num_v: int = 1,
    bandwidth: float = ...,  # Hz
    spacing: float = 0.5,  # wavelengths
    max_paths: int = 20,
    num_threads: int = 0,
) -> None:
    """Channel matrices from rays (the DeepMIMO generator's model).

    H[m, k] = sum_p sqrt(10^(power_db / 10) / SC) exp(j phase) exp(-j 2 pi k delay B / SC)
              exp(j 2 pi spacing (h axis_h . d + v axis_v . d)),  m = v * num_h + h (h runs fastest),
    d = (sin zenith cos azimuth, sin zenith sin azimuth, cos zenith), num_h = num_antennas / num_v.
    A user's first max_paths rays count; those with delay * B >= SC are dropped. LWM's N x 1 array
    rotated by r about z: axis_h = (-sin r, cos r, 0).
    """

def check_csi(
    csi: NDArray[np.complex64],  # [num_elements]
    offsets: NDArray[np.int64],  # [batch + 1]
    flags: NDArray[np.uint8],  # [batch]: 1 = NaN or Inf, 2 = all zero
    mean_abs: NDArray[np.float32] | None = None,  # [batch]
    num_threads: int = 0,
) -> None:
    """Flags samples that cannot be used and gives each sample's mean |h|."""

def philox(
    counter: NDArray[np.uint32],  # [count, 4]
    key: tuple[int, int],
    out: NDArray[np.uint32],  # [count, 4]
) -> None:
    """Philox-4x32-10 of each counter row."""
