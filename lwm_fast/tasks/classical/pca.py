"""Compression by principal components: Karhunen-Loeve transform, reverse water-filling, uniform quantisers."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lwm_fast.errors import InputError
from lwm_fast.tasks.bits import Bytes, pack, unpack
from lwm_fast.tasks.reconstruction import GAIN_BITS, gain_index, gain_of

Complex64Array = npt.NDArray[np.complex64]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

MOST_BITS = 12  # of one real number
_STEPS = np.geomspace(0.05, 4.0, 45)  # candidates, in units of 2 standard deviations / 2^(bits - 1)
_VALUES_LOOKED_AT = 20_000


@dataclass(frozen=True)
class PcaCodec:
    """Coefficients of the channel in the principal basis of the training users, each with the bits it deserves.

    A channel is its gain (`GAIN_BITS`) and the real and imaginary parts of its first coefficients. Bits go, one
    after another, to the number whose expected error they reduce most, which is reverse water-filling in whole bits.
    Basis, widths and steps are known to both sides.

    Args:
        basis: complex64 [k, entries], orthonormal rows.
        widths: bits of each real number, in the order real and imaginary part of the first coefficient, of the
            second ..., each at least 1.
        steps: float64 [2 k], widths of the quantisers' cells.
        size: (num_antennas, num_subcarriers).
    """

    basis: Complex64Array
    widths: tuple[int, ...]
    steps: Float64Array
    size: tuple[int, int]

    @property
    def spent_bits(self) -> int:
        """Bits sent for a channel, gain included."""
        return GAIN_BITS + sum(self.widths)

    @classmethod
    def fit(cls, csi: Complex64Array, bits: int) -> PcaCodec:
        """The codec of training csi complex64 [m, num_antennas, num_subcarriers] within a budget of bits a channel.

        Raises:
            InputError: no training csi with power; a budget that holds no number beside the gain.
        """
        if bits <= GAIN_BITS:
            raise InputError(f"bits={bits}: the gain alone takes {GAIN_BITS}; give more")
        shapes = _shapes(csi)
        shapes = shapes[np.abs(shapes).any(1)]
        if not len(shapes):
            raise InputError("pca: all training channels are zero; a basis needs channels with power")
        basis, variance = _principal(shapes)
        parts = (shapes @ basis.conj().T).view(np.float32)  # [m, 2 k]
        spread = np.sqrt(np.repeat(variance, 2) / 2)  # of each real number
        steps, errors = _quantisers(parts, spread)
        widths = _allocate(np.square(spread), errors, bits - GAIN_BITS)
        # Re and Im of a coefficient may differ by the last bit of the budget; a coefficient is kept if either is sent.
        kept = np.flatnonzero(widths.reshape(-1, 2).any(1))
        numbers = np.stack([2 * kept, 2 * kept + 1], 1).ravel()
        chosen = widths[numbers]
        return cls(
            basis[kept],
            tuple(int(width) for width in chosen),
            steps[chosen] * spread[numbers],
            (csi.shape[1], csi.shape[2]),
        )

    def encode(self, csi: Complex64Array) -> Bytes:
        """What is sent of each channel: uint8 [n, ceil(spent_bits / 8)]."""
        parts = (_shapes(csi) @ self.basis.conj().T).view(np.float32)  # [n, 2 k]
        half = self._half
        with np.errstate(invalid="ignore", divide="ignore"):
            cells = np.floor(np.where(self.steps > 0, parts / self.steps, 0.0))
        cells = np.clip(cells, -half, np.maximum(half - 1, 0)) + half
        return pack(np.column_stack([gain_index(csi), cells.astype(np.int64)]), self._fields)

    def decode(self, data: Bytes) -> Complex64Array:
        """csi complex64 [n, num_antennas, num_subcarriers] from what was sent."""
        fields = unpack(data, self._fields)
        sent = np.asarray(self.widths) > 0
        parts = np.where(sent, (fields[:, 1:] - self._half + 0.5) * self.steps, 0.0)
        coefficients = np.ascontiguousarray(parts, np.float32).view(np.complex64)  # [n, k]
        shapes = (coefficients @ self.basis) * gain_of(fields[:, 0])[:, None]
        return shapes.reshape(-1, *self.size)

    @property
    def _fields(self) -> list[int]:
        return [GAIN_BITS, *self.widths]

    @property
    def _half(self) -> Int64Array:
        """Cells on each side of zero; 0 for a number that is not sent."""
        return np.asarray((1 << np.asarray(self.widths, np.int64)) // 2)


def _shapes(csi: Complex64Array) -> Complex64Array:
    """csi over its gain as sent, complex64 [n, entries]."""
    return csi.reshape(len(csi), -1) / gain_of(gain_index(csi))[:, None]


def _principal(shapes: Complex64Array) -> tuple[Complex64Array, Float64Array]:
    """Orthonormal rows [k, entries] of descending mean power, and these powers [k]; k <= users and entries."""
    users, entries = shapes.shape
    if users <= entries:
        values, vectors = np.linalg.eigh((shapes @ shapes.conj().T).astype(np.complex128))
        rows = vectors.T.conj().astype(np.complex64) @ shapes
    else:
        values, vectors = np.linalg.eigh((shapes.T @ shapes.conj()).astype(np.complex128))
        rows = vectors.T.astype(np.complex64)
    order = np.argsort(-values)
    order = order[values[order] > 1e-6 * values.max()]  # below, the products above are rounding errors
    rows = rows[order]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), values[order] / users


def _quantisers(parts: npt.NDArray[np.float32], spread: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Best uniform quantiser for each number of bits: its step, and its mean squared error.

    Measured on the training coefficients themselves, all at unit variance and counted by their share of the energy.
    Both float64 [MOST_BITS + 1], for unit variance; 0 bits send nothing, with error 1.
    """
    strongest = np.argsort(-spread, kind="stable")[: max(2, spread.size // 8)]
    values = (parts[:, strongest] / spread[strongest]).astype(np.float64).ravel()
    weight = np.tile(np.square(spread[strongest]), len(parts))
    some = np.arange(0, values.size, max(1, -(-values.size // _VALUES_LOOKED_AT)))
    values, weight = values[some], weight[some]
    steps, errors = np.zeros(MOST_BITS + 1), np.ones(MOST_BITS + 1)
    for bits in range(1, MOST_BITS + 1):
        half = 2 ** (bits - 1)
        candidates = _STEPS * 2 / half
        found = [_error(values, weight, step, half) for step in candidates]
        best = int(np.argmin(found))
        steps[bits], errors[bits] = candidates[best], min(found[best], errors[bits - 1])
    return steps, errors


def _error(values: Float64Array, weight: Float64Array, step: float, half: int) -> float:
    cells = np.clip(np.floor(values / step), -half, half - 1)
    return float((weight * np.square(values - (cells + 0.5) * step)).sum() / weight.sum())


def _allocate(variance: Float64Array, errors: Float64Array, budget: int) -> Int64Array:
    """Bits of each number, int64, that add up to at most the budget: each goes where it reduces the error most."""
    widths = np.zeros(variance.size, np.int64)
    gains = -np.diff(errors)
    queue = [(-float(variance[i] * gains[0]), i) for i in range(variance.size)]
    heapq.heapify(queue)
    for _ in range(budget):
        if not queue:
            break
        _, i = heapq.heappop(queue)
        widths[i] += 1
        if widths[i] < MOST_BITS:
            heapq.heappush(queue, (-float(variance[i] * gains[widths[i]]), i))
    return widths
