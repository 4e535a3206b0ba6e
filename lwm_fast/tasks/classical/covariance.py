"""Covariances of csi at unit power, ready to estimate channels from a comb of noisy entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]
Complex64Array = npt.NDArray[np.complex64]
Complex128Array = npt.NDArray[np.complex128]
Rows = npt.NDArray[np.int64]

PRODUCT_SHARE = 0.1  # of the Kronecker product in a full covariance


class Covariance(Protocol):
    """A second-order model of csi [num_antennas, num_subcarriers], fitted on users of unit power."""

    def __init__(self, shapes: Complex64Array, antennas: Rows, subcarriers: Rows) -> None:
        """shapes complex64 [m, num_antennas, num_subcarriers]; antennas and subcarriers: where pilots are."""

    def estimate(
        self, pilots: Complex64Array, signal: Float64Array, noise: Float64Array, white: float
    ) -> Complex128Array:
        """The linear estimate of least mean square error.

        pilots complex64 [n, len(antennas), len(subcarriers)]; signal float64 [n], mean power of an entry's clean
        csi; noise float64 [n], that of its noise; white, above 0: the share of the covariance that is taken to be
        white, against what few training users leave out. Returns complex128 [n, num_antennas, num_subcarriers].
        """


@dataclass(frozen=True)
class _Diagonal:
    """A covariance R [size, size] in the form R[places, places] = U diag(values) U^H.

    Args:
        vectors: U, complex128 [m, m].
        values: float64 [m].
        cross: R[:, places] U, complex128 [size, m].
        places: int64 [m].
    """

    vectors: Complex128Array
    values: Float64Array
    cross: Complex128Array
    places: Rows

    @classmethod
    def of(cls, covariance: Complex128Array, places: Rows) -> _Diagonal:
        values, vectors = np.linalg.eigh(covariance[np.ix_(places, places)])
        return cls(vectors, np.maximum(values, 0.0), covariance[:, places] @ vectors, places)

    def whitened(self, white: float) -> _Diagonal:
        """The form of (1 - white) R + white I."""
        cross = (1 - white) * self.cross
        cross[self.places] += white * self.vectors
        return _Diagonal(self.vectors, (1 - white) * self.values + white, cross, self.places)


class KroneckerCovariance:
    """Antenna covariance times subcarrier covariance: few numbers, so few users suffice."""

    def __init__(self, shapes: Complex64Array, antennas: Rows, subcarriers: Rows) -> None:
        over_antennas, over_subcarriers = marginals(shapes)
        self._antennas = _Diagonal.of(over_antennas, antennas)
        self._subcarriers = _Diagonal.of(over_subcarriers, subcarriers)

    def estimate(
        self, pilots: Complex64Array, signal: Float64Array, noise: Float64Array, white: float
    ) -> Complex128Array:
        """See `Covariance.estimate`; each factor is whitened."""
        a, s = self._antennas.whitened(white), self._subcarriers.whitened(white)
        values = a.values[:, None] * s.values  # [pilot antennas, pilot subcarriers]
        power = signal[:, None, None]
        inner = a.vectors.conj().T @ pilots @ s.vectors.conj()
        inner *= power / (power * values + noise[:, None, None])
        return np.asarray(a.cross @ inner @ s.cross.T)


class FullCovariance:
    """Covariance of all entries, with a tenth of the Kronecker product, which gives it full rank.

    It knows that a delay goes with an angle, which the product does not.
    """

    def __init__(self, shapes: Complex64Array, antennas: Rows, subcarriers: Rows) -> None:
        self._shape = shapes.shape[1:]
        flat = shapes.reshape(len(shapes), -1)
        sample = flat.T @ flat.conj() / np.float32(len(flat))
        product = np.kron(*marginals(shapes))
        mixed = (1 - PRODUCT_SHARE) * sample + PRODUCT_SHARE * product
        self._diagonal = _Diagonal.of(mixed, (antennas[:, None] * self._shape[1] + subcarriers).ravel())

    def estimate(
        self, pilots: Complex64Array, signal: Float64Array, noise: Float64Array, white: float
    ) -> Complex128Array:
        """See `Covariance.estimate`."""
        form = self._diagonal.whitened(white)
        power = signal[:, None]
        inner = pilots.reshape(len(pilots), -1) @ form.vectors.conj()
        inner *= power / (power * form.values + noise[:, None])
        return np.asarray(inner @ form.cross.T).reshape(-1, *self._shape)


def marginals(shapes: Complex64Array) -> tuple[Complex128Array, Complex128Array]:
    """Covariances over antennas [N, N] and subcarriers [SC, SC] of csi [m, N, SC] at unit power, traces N and SC."""
    users, num_antennas, num_subcarriers = shapes.shape
    wide = shapes.astype(np.complex128)  # a loading of 1e-9 counts: products in float32 would drown it
    rows = wide.transpose(1, 0, 2).reshape(num_antennas, -1)
    columns = wide.transpose(2, 0, 1).reshape(num_subcarriers, -1)
    return (
        rows @ rows.conj().T / (users * num_subcarriers),
        columns @ columns.conj().T / (users * num_antennas),
    )
