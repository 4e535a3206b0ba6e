"""Channels to tokens and back, for LWM v1.0 and v1.1, in C++ (source: LWM v1.0 / v1.1 release).

v1.0: the N * SC real parts, then the imaginary parts, cut into patches of 16.
v1.1: 4 x 4 (antenna x subcarrier) patches of interleaved real and imaginary parts, 32 values, zero-padded at
the bottom and right. Both put a CLS row of 0.2 in front. Values are float32(scale) * float32(part), one
rounding, so tokens equal the release's bit for bit. NaN and Inf pass through.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from lwm_fast import _C
from lwm_fast.errors import InputError

if TYPE_CHECKING:
    import torch

PATCH_LEN = {"1.0": 16, "1.1": 32}
CLS_VALUE = 0.2
MASK_VALUE = 0.1
_VERSION_NUMBER = {"1.0": 10, "1.1": 11}
_MAX_TOKENS = 2**31 - 1  # cu_seqlens is int32


def num_tokens(num_antennas: int, num_subcarriers: int, version: str) -> int:
    """Sequence length of one channel, CLS included.

    Raises:
        InputError: Unknown version, a size below 1, or a v1.0 size that is no multiple of 16 values.
    """
    _check_version(version)
    if num_antennas < 1 or num_subcarriers < 1:
        raise InputError(
            f"a channel of {num_antennas} x {num_subcarriers} has no values: both must be at least 1"
        )
    if version == "1.1":
        return -(-num_antennas // 4) * -(-num_subcarriers // 4) + 1
    if num_antennas * num_subcarriers % 16 != 0:
        raise InputError(
            f"a {num_antennas} x {num_subcarriers} channel has {num_antennas * num_subcarriers} values, but "
            'LWM v1.0 needs a multiple of 16; use version="1.1", which takes any size'
        )
    return 2 * num_antennas * num_subcarriers // 16 + 1


@overload
def tokenize(
    csi: NDArray[Any],
    version: str = ...,
    scale: float | NDArray[np.float32] = ...,
    out: NDArray[np.float32] | None = ...,
    *,
    snr_db: float | NDArray[np.float32] | None = ...,
    seed: int = ...,
    epoch: int = ...,
    sample_id: NDArray[np.int64] | None = ...,
    num_threads: int = ...,
) -> NDArray[np.float32]: ...
@overload
def tokenize(
    csi: torch.Tensor,
    version: str = ...,
    scale: float | NDArray[np.float32] = ...,
    out: torch.Tensor | None = ...,
    *,
    snr_db: float | NDArray[np.float32] | None = ...,
    seed: int = ...,
    epoch: int = ...,
    sample_id: NDArray[np.int64] | None = ...,
    num_threads: int = ...,
) -> torch.Tensor: ...
def tokenize(
    csi: Any,
    version: str = "1.0",
    scale: float | NDArray[np.float32] = 1e6,
    out: Any = None,
    *,
    snr_db: float | NDArray[np.float32] | None = None,
    seed: int = 0,
    epoch: int = 0,
    sample_id: NDArray[np.int64] | None = None,
    num_threads: int = 0,
) -> Any:
    """Cuts channels into LWM's tokens.

    Args:
        csi: Complex [batch, num_antennas, num_subcarriers] or [batch, 1, num_antennas, num_subcarriers],
            numpy or torch on the CPU. complex64 is read in place; complex128 is rounded to complex64 first,
            and a strided array is copied.
        version: "1.0" or "1.1".
        scale: Factor of all samples, or float32 [batch]; 1e6 in the release.
        out: float32 [batch, seq_len, patch_len], C-contiguous, of the kind of `csi`; written and returned.
        snr_db: Adds Gaussian noise at this ratio [dB], one for all or [batch], against each sample's own
            power (padding included); the CLS row stays clean.
        seed, epoch: Of the noise: 0..2^64 - 1 and 0..2^32 - 1.
        sample_id: int64 [batch], the samples' numbers in their data set, which fix their noise whatever the
            batch; 0, 1, 2, ... if not given.
        num_threads: 0 = LWM_FAST_NUM_THREADS, else all processors this process may use.

    Returns:
        float32 [batch, seq_len, patch_len], numpy or torch as `csi` came.

    Raises:
        InputError: An argument of the wrong kind, shape or range.
    """
    _check_version(version)
    channels, is_tensor = _as_channels(csi)
    batch, num_antennas, num_subcarriers = channels.shape
    seq_len, patch_len = num_tokens(num_antennas, num_subcarriers, version), PATCH_LEN[version]
    shape = (batch, seq_len, patch_len)
    result = np.empty(shape, np.float32) if out is None else _as_output(out, shape, is_tensor)
    packing = _dense_packing(batch, num_antennas, num_subcarriers, seq_len)
    rows = result.reshape(batch * seq_len, patch_len)
    cls = np.full(patch_len, CLS_VALUE, np.float32)
    factor = _per_sample("scale", scale, batch)
    noise = None if snr_db is None else _noise_arguments(snr_db, sample_id, seed, epoch, batch)
    _C.tokenize(channels.reshape(-1), *packing, factor, cls, rows, _VERSION_NUMBER[version], num_threads)
    if noise is not None:
        _C.add_noise(rows, packing[2], *noise, num_threads)
    if out is not None:
        return out
    return sys.modules["torch"].from_numpy(result) if is_tensor else result


@overload
def detokenize(
    tokens: NDArray[np.float32],
    num_antennas: int,
    num_subcarriers: int,
    version: str = ...,
    scale: float | NDArray[np.float32] = ...,
    *,
    num_threads: int = ...,
) -> NDArray[np.complex64]: ...
@overload
def detokenize(
    tokens: torch.Tensor,
    num_antennas: int,
    num_subcarriers: int,
    version: str = ...,
    scale: float | NDArray[np.float32] = ...,
    *,
    num_threads: int = ...,
) -> torch.Tensor: ...
def detokenize(
    tokens: Any,
    num_antennas: int,
    num_subcarriers: int,
    version: str = "1.0",
    scale: float | NDArray[np.float32] = 1e6,
    *,
    num_threads: int = 0,
) -> Any:
    """The inverse of `tokenize`: skips the CLS row, drops the padding and divides by the scale.

    Args:
        tokens: float32 [batch, seq_len, patch_len] with CLS, numpy or torch on the CPU.
        num_antennas, num_subcarriers: Size of the channels, which the tokens alone do not tell.
        version, scale, num_threads: As in `tokenize`.

    Returns:
        complex64 [batch, num_antennas, num_subcarriers], numpy or torch as `tokens` came. Equal to the
        tokenised csi but for the rounding of a multiplication and a division (exact for powers of two).

    Raises:
        InputError: An argument of the wrong kind, shape or range.
    """
    seq_len, is_tensor = num_tokens(num_antennas, num_subcarriers, version), _is_tensor(tokens)
    array = _tensor_to_numpy("tokens", tokens) if is_tensor else tokens
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        raise InputError(f"tokens: expected a float32 array, got {_describe(array)}")
    if array.ndim != 3 or array.shape[1:] != (seq_len, PATCH_LEN[version]):
        raise InputError(
            f"tokens: got shape {list(array.shape)}, but {num_antennas} x {num_subcarriers} channels of "
            f"v{version} make [batch, {seq_len}, {PATCH_LEN[version]}] (CLS included)"
        )
    batch = len(array)
    factor = _per_sample("scale", scale, batch)
    if not np.all(factor):
        raise InputError("scale: got 0, which cannot be divided by; pass the scale the tokens were made with")
    csi = np.empty((batch, num_antennas, num_subcarriers), np.complex64)
    packing = _dense_packing(batch, num_antennas, num_subcarriers, seq_len)
    rows = np.ascontiguousarray(array).reshape(batch * seq_len, PATCH_LEN[version])
    _C.detokenize(rows, *packing, factor, csi.reshape(-1), _VERSION_NUMBER[version], num_threads)
    return sys.modules["torch"].from_numpy(csi) if is_tensor else csi


def _check_version(version: str) -> None:
    if version not in PATCH_LEN:
        raise InputError(f'version: got {version!r}, expected "1.0" or "1.1"')


def _check_range(name: str, value: int, bits: int) -> None:
    if not 0 <= value < 1 << bits:
        raise InputError(f"{name}: got {value}, expected 0..2^{bits} - 1")


def _is_tensor(value: object) -> bool:
    torch = sys.modules.get("torch")  # a tensor exists only once torch is imported
    return torch is not None and isinstance(value, torch.Tensor)


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"a {value.dtype} array"
    return f"a {type(value).__name__}"


def _tensor_to_numpy(name: str, tensor: torch.Tensor) -> NDArray[Any]:
    if tensor.device.type != "cpu":
        raise InputError(f"{name} is on {tensor.device}: tokenising runs on the CPU; pass {name}.cpu()")
    if tensor.requires_grad:
        raise InputError(f"{name} requires a gradient, which tokenising does not give; pass {name}.detach()")
    try:
        return tensor.resolve_conj().resolve_neg().numpy()
    except TypeError as error:
        raise InputError(f"{name}: dtype {tensor.dtype} has no numpy form; convert it with .to()") from error


def _as_channels(csi: Any) -> tuple[NDArray[np.complex64], bool]:
    """csi as C-contiguous complex64 [batch, N, SC], and whether it came as a tensor."""
    is_tensor = _is_tensor(csi)
    array = _tensor_to_numpy("csi", csi) if is_tensor else csi
    if not isinstance(array, np.ndarray):
        raise InputError(
            f"csi: expected a complex array [batch, num_antennas, num_subcarriers], got {_describe(array)}"
        )
    if array.dtype.kind != "c":
        raise InputError(
            f"csi: got {_describe(array)}, but channels are complex; join real and imaginary parts, "
            "e.g. csi = real + 1j * imag"
        )
    if array.ndim == 4 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2:
        raise InputError(
            f"csi: got one matrix of shape {list(array.shape)}, expected [batch, num_antennas, "
            "num_subcarriers]; pass csi[None]"
        )
    if array.ndim != 3:
        raise InputError(
            f"csi: got shape {list(array.shape)}, expected [batch, num_antennas, num_subcarriers] or "
            "[batch, 1, num_antennas, num_subcarriers]"
        )
    if array.dtype == np.complex64 and array.flags.c_contiguous:
        return array, is_tensor
    # Complex128 beyond float32 becomes Inf, which the checks of the data report.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=np.complex64), is_tensor


def _as_output(out: Any, shape: tuple[int, ...], is_tensor: bool) -> NDArray[np.float32]:
    if _is_tensor(out) != is_tensor:
        kind = "a torch tensor" if is_tensor else "a numpy array"
        raise InputError(f"out: got {_describe(out)}, expected {kind} because csi is one")
    array = _tensor_to_numpy("out", out) if is_tensor else out
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        raise InputError(f"out: got {_describe(array)}, expected float32")
    if array.shape != shape:
        raise InputError(f"out: got shape {list(array.shape)}, expected {list(shape)}")
    if not (array.flags.c_contiguous and array.flags.writeable):
        raise InputError(
            "out: expected a writable, C-contiguous array; pass numpy.empty(shape, numpy.float32)"
        )
    return array


def _per_sample(name: str, value: float | NDArray[np.float32], batch: int) -> NDArray[np.float32]:
    """float32 [1] or [batch], finite."""
    array = np.atleast_1d(np.asarray(value, np.float32))
    if array.shape not in ((1,), (batch,)):
        raise InputError(f"{name}: got shape {list(array.shape)}, expected one number or [{batch}]")
    finite = np.isfinite(array)
    if not finite.all():
        raise InputError(f"{name}: got {array[~finite][0]}, expected finite numbers")
    return np.ascontiguousarray(array)


def _noise_arguments(
    snr_db: float | NDArray[np.float32],
    sample_id: NDArray[np.int64] | None,
    seed: int,
    epoch: int,
    batch: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64], int, int]:
    """snr_db [batch], sample_id [batch], seed and epoch, checked."""
    _check_range("seed", seed, 64)
    _check_range("epoch", epoch, 32)
    ratios = np.ascontiguousarray(np.broadcast_to(_per_sample("snr_db", snr_db, batch), (batch,)))
    if sample_id is None:
        return ratios, np.arange(batch, dtype=np.int64), seed, epoch
    numbers = np.asarray(sample_id)
    if numbers.shape != (batch,) or numbers.dtype.kind not in "iu":
        raise InputError(
            f"sample_id: got {_describe(numbers)} of shape {list(numbers.shape)}, expected integers [{batch}]"
        )
    return ratios, np.ascontiguousarray(numbers, np.int64), seed, epoch


def _dense_packing(
    batch: int, num_antennas: int, num_subcarriers: int, seq_len: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """offsets [batch + 1], shape [batch, 2] and cu_seqlens [batch + 1] of equal samples."""
    if batch * seq_len > _MAX_TOKENS:
        raise InputError(
            f"{batch} channels of {seq_len} tokens exceed 2^31 - 1 tokens in one call; pass fewer at once"
        )
    elements = num_antennas * num_subcarriers
    offsets = np.arange(0, batch * elements + 1, elements, np.int64)
    shape = np.empty((batch, 2), np.int32)
    shape[:, 0], shape[:, 1] = num_antennas, num_subcarriers
    return offsets, shape, np.arange(0, batch * seq_len + 1, seq_len, np.int32)
