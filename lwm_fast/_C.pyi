"""Native operations over numpy arrays. Outputs are the caller's arrays; nothing is converted or copied.

A wrong dtype raises TypeError; a wrong shape, a strided or read-only array, or indices that leave a buffer
raise ValueError. Both name the argument. num_threads: 0 = LWM_FAST_NUM_THREADS, else the processors this
process may use; results do not depend on it. The GIL is released while the work runs.
"""

from __future__ import annotations

from typing import Any, TypedDict

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

def encoder_isas(precision: str) -> list[str]:
    """Instruction sets that run the encoder in "float32", "bf16x3" or "bfloat16" here, slowest first."""

class NativeEncoder:
    """An encoder with its weights packed. Immutable: any number of threads may call it at once.

    A sequence's result has the same bits in any batch, in any order, with any number of threads. Sequences are
    spread over the threads inside, so batches should be large.

    weights: C-contiguous float32 arrays, copied. D = embed_dim, F = ffn_dim; live: the heads that attend, those
    that average alone being folded into "mean" and "out_bias"::

        {"head_dim": int, "residual": float,  # 1 in v1.0; 2 in v1.1, where the release adds x twice
         "proj": [D, patch_len], "position": [max_len, D],  # with the projection's bias
         "grid": None,  # or (max_rows, max_columns) of patches: a position is the sum of a row's and a column's,
         #                "position" [1 + max_rows + max_columns, D] those of CLS, rows and columns
         "norm": (alpha [D], bias [D]),
         "layers": [{"qkv": [3, live * head_dim, D], "qkv_bias": [3, live * head_dim],
                     "out": [D, live * head_dim], "out_bias": [D], "mean": [D, D] or None,
                     "fc1": [F, D], "fc1_bias": [F], "fc2": [D, F], "fc2_bias": [D],
                     "norm1": (alpha, bias), "norm2": (alpha, bias) or None}, ...]}
    """

    def __init__(
        self,
        weights: dict[str, Any],
        version: int,  # 10 or 11
        precision: str = "float32",
        isa: str = "",  # "": LWM_FAST_ISA, else the fastest that runs here
    ) -> None: ...
    @property
    def isa(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def patch_len(self) -> int: ...
    @property
    def embed_dim(self) -> int: ...
    @property
    def max_len(self) -> int: ...
    def encode(
        self,
        csi: NDArray[np.complex64],  # [num_elements]
        offsets: NDArray[np.int64],  # [batch + 1]
        shape: NDArray[np.int32],  # [batch, 2]: antennas, subcarriers
        cu_seqlens: NDArray[np.int32],  # [batch + 1], CLS included, from 0
        scale: NDArray[np.float32],  # [batch] or [1]
        cls: NDArray[np.float32],  # [patch_len] or [batch, patch_len]
        out: NDArray[np.float32],  # [rows, D]
        pool: str,  # a name of lwm_fast.pooling.POOLS
        num_threads: int = 0,
    ) -> None:
        """Packed channels to pooled rows: one a sequence, or one for each of its patches or tokens."""

    def encode_tokens(
        self,
        tokens: NDArray[np.float32],  # [num_tokens, patch_len]
        cu_seqlens: NDArray[np.int32],  # [batch + 1], from 0 to num_tokens
        out: NDArray[np.float32],  # [rows, D]
        pool: str,
        num_threads: int = 0,
        shape: NDArray[np.int32] | None = None,  # [batch, 2], which a model with a grid needs
    ) -> None:
        """As encode(), from tokens, CLS first in each sequence."""

def draw_mask(
    cu_seqlens: NDArray[np.int32],  # [batch + 1], CLS included
    mask_cu: NDArray[np.int32],  # [batch + 1], how many each sample masks
    sample_id: NDArray[np.int64],  # [batch]
    action: NDArray[np.uint8],  # out [num_tokens]
    masked_index: NDArray[np.int32],  # out [mask_cu[-1]], packed rows
    version: int,
    seed: int,
    epoch: int,
    num_threads: int = 0,
) -> None:
    """Masked positions and their actions, as lwm_fast.data.mask.plain_mask defines them."""

def apply_mask(
    tokens: NDArray[np.float32],  # in and out [num_tokens, patch_len]
    cu_seqlens: NDArray[np.int32],  # [batch + 1]
    action: NDArray[np.uint8],  # [num_tokens]
    masked_index: NDArray[np.int32],  # [num_masked]
    mask_cu: NDArray[np.int32],  # [batch + 1]
    sample_id: NDArray[np.int64],  # [batch]
    targets: NDArray[np.float32],  # out [num_masked, patch_len]
    version: int,
    seed: int,
    epoch: int,
    random: NDArray[np.float32] | None = None,  # [num_masked, patch_len]
    num_threads: int = 0,
) -> None:
    """Saves the masked rows in `targets`, then overwrites them: 0.1, or a random patch (given or drawn)."""

def collate(
    csi: NDArray[np.complex64],  # [num_elements]; out where `source` is given, else in
    offsets: NDArray[np.int64],  # [batch + 1]
    shape: NDArray[np.int32],  # [batch, 2]
    cu_seqlens: NDArray[np.int32],  # [batch + 1]
    version: int,
    *,
    arrays: list[NDArray[np.complex64]] = ...,  # each [n, num_antennas, num_subcarriers]
    rays: list[tuple[NDArray[Any], ...]] = ...,  # each (offsets, power, phase, delay, zenith, azimuth)
    source: NDArray[np.int32] | None = None,  # [batch], into arrays, then rays
    row: NDArray[np.int64] | None = None,  # [batch], of that source
    geometry: NDArray[np.float64] | None = None,  # [batch, 8]: axis_h, axis_v, bandwidth, spacing
    panel: NDArray[np.int64] | None = None,  # [batch, 2]: vertical antennas, max_paths
    flags: NDArray[np.uint8] | None = None,  # out [batch], as in check_csi
    tokens: NDArray[np.float32] | None = None,  # out [num_tokens, patch_len], masked
    scale: NDArray[np.float32] | None = None,  # [batch] or [1]
    cls: NDArray[np.float32] | None = None,  # [patch_len] or [batch, patch_len]
    snr_db: NDArray[np.float32] | None = None,  # [batch]
    action: NDArray[np.uint8],  # [num_tokens]; out where `draw`
    masked_index: NDArray[np.int32],  # [num_masked]; out where `draw`
    mask_cu: NDArray[np.int32],  # [batch + 1]
    targets: NDArray[np.float32] | None = None,  # out [num_masked, patch_len]
    random: NDArray[np.float32] | None = None,  # [num_masked, patch_len]
    draw: bool,
    sample_id: NDArray[np.int64],  # [batch]
    seed: int,
    epoch: int,
    num_threads: int = 0,
) -> None:
    """One pass over a training batch: gather csi, flag it, cut tokens, add noise, draw and apply the mask.

    Without `source` the csi is read, without `tokens` none are made.
    """

def philox(
    counter: NDArray[np.uint32],  # [count, 4]
    key: tuple[int, int],
    out: NDArray[np.uint32],  # [count, 4]
) -> None:
    """Philox-4x32-10 of each counter row."""

class LayerDropout:
    """Which entries one layer's dropout keeps, for tokens [batch, seq_len]; immutable.

    words: random words of a token in this layer; an operation takes those from its `first_word` on. The bits are
    those of kernels/dropout.py.
    """

    def __init__(
        self,
        sample_id: NDArray[np.int64],  # [batch]
        seq_len: int,
        seed: int,  # 64 bits
        epoch: int,  # 32 bits
        layer: int,  # 0..15
        probability: float,  # of a zero
        words: int,
    ) -> None: ...

def draw_keep(
    dropout: LayerDropout,
    first_word: int,
    out: NDArray[np.bool_],  # [rows, width]
    num_threads: int = 0,
) -> None:
    """Which entries are kept. Rows of this and the following operations: batch * seq_len tokens."""

def norm_forward(
    x: NDArray[np.float32] | None,  # [rows, width]
    residual: float,
    u: NDArray[np.float32],  # [rows, width]; becomes the normalised rows
    u_bias: NDArray[np.float32] | None,  # [width]
    alpha: NDArray[np.float32],  # [width]
    bias: NDArray[np.float32],  # [width]
    y: NDArray[np.float32],  # [rows, width]
    stats: NDArray[np.float32],  # [rows, 2]: 1 / (std + eps), and 1 / ((width - 1) std) or 0
    dropout: LayerDropout | None = None,
    first_word: int = 0,
    num_threads: int = 0,
) -> None:
    """y = alpha (z - mean) / (std + eps) + bias of z = residual x + drop(u + u_bias); std is unbiased."""

def norm_backward(
    dy: NDArray[np.float32],  # [rows, width]
    normal: NDArray[np.float32],  # [rows, width], what forward left in u
    stats: NDArray[np.float32],  # [rows, 2]
    alpha: NDArray[np.float32],  # [width]
    residual: float,
    dx: NDArray[np.float32] | None,  # [rows, width]
    du: NDArray[np.float32],  # [rows, width], may be dy
    sums: NDArray[np.float32],  # [3, width]: gradients of alpha, bias and u_bias
    dropout: LayerDropout | None = None,
    first_word: int = 0,
    num_threads: int = 0,
) -> None: ...
def relu_dropout(
    h: NDArray[np.float32],  # [rows, width]
    bias: NDArray[np.float32],  # [width]
    dropout: LayerDropout | None = None,
    first_word: int = 0,
    num_threads: int = 0,
) -> None:
    """h = drop(relu(h + bias)), in place."""

def relu_dropout_backward(
    dh: NDArray[np.float32],  # [rows, width], in place
    h: NDArray[np.float32],  # [rows, width], what forward left
    scale: float,  # 1 / (1 - probability)
    bias_grad: NDArray[np.float32],  # [width]
    num_threads: int = 0,
) -> None: ...
def dropout_add(
    out: NDArray[np.float32],  # [rows, width]
    bias: NDArray[np.float32],  # [width]
    residual: NDArray[np.float32],  # [rows, width]
    dropout: LayerDropout | None = None,
    first_word: int = 0,
    num_threads: int = 0,
) -> None:
    """out = residual + drop(out + bias), in place."""

def dropout_backward(
    dy: NDArray[np.float32],  # [rows, width]
    out: NDArray[np.float32],  # [rows, width]: drop(dy)
    bias_grad: NDArray[np.float32],  # [width]
    dropout: LayerDropout | None = None,
    first_word: int = 0,
    num_threads: int = 0,
) -> None: ...
def attention_forward(
    qkv: NDArray[np.float32],  # [batch, seq_len, 3, num_heads, head_dim], head_dim 5 or 16
    bias: NDArray[np.float32],  # [3 * num_heads * head_dim], added to qkv
    out: NDArray[np.float32],  # [batch, seq_len, num_heads, head_dim]
    stats: NDArray[np.float32],  # [batch, num_heads, 2, seq_len]: highest score, 1 / sum of weights
    num_threads: int = 0,
) -> None:
    """softmax(q k / sqrt(head_dim)) v."""

def attention_backward(
    qkv: NDArray[np.float32],
    bias: NDArray[np.float32],
    out: NDArray[np.float32],
    stats: NDArray[np.float32],
    dout: NDArray[np.float32],  # as out
    dqkv: NDArray[np.float32],  # as qkv
    bias_grad: NDArray[np.float32],  # [3 * num_heads * head_dim]
    num_threads: int = 0,
) -> None: ...
