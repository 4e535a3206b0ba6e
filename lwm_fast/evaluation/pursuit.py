"""Hidden entries of a channel from the visible ones by matching pursuit: what a few plane waves explain."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_FINER = 4  # directions and delays are looked for on a grid so many times finer than the channel's own
_ENOUGH = 1e-4  # of the visible energy: less is left alone


def pursue(
    csi: npt.NDArray[np.complex64], visible: npt.NDArray[np.bool_], waves: int = 16
) -> npt.NDArray[np.complex64]:
    """One channel as a sum of plane waves fitted to its visible entries.

    Orthogonal matching pursuit (Pati, Rezaiifar, Krishnaprasad, 1993): the wave exp(2j pi (u antenna + v subcarrier))
    that explains most of what is left is added, and the amplitudes of all waves are fitted anew by least squares. u
    and v lie on a grid four times finer than the channel's.

    Args:
        csi: complex [num_antennas, num_subcarriers]; entries that are not visible are not looked at.
        visible: bool of the same shape.
        waves: at most so many; fewer where they leave less than 1e-4 of the visible energy.

    Returns:
        complex64 of the same shape, all entries by the fitted waves; zero where nothing visible is not zero.
    """
    size = csi.shape
    grid = (_FINER * size[0], _FINER * size[1])
    seen: npt.NDArray[np.complex128] = np.where(visible, csi, 0).astype(np.complex128)
    wanted: npt.NDArray[np.complex128] = seen[visible]  # [V]
    energy = float(np.square(np.abs(wanted)).sum())
    # A column a wave.
    everywhere: npt.NDArray[np.complex128] = np.empty((size[0] * size[1], 0), np.complex128)
    amplitudes: npt.NDArray[np.complex128] = np.empty(0, np.complex128)
    left: npt.NDArray[np.complex128] = seen
    for _ in range(min(waves, wanted.size)):
        if float(np.square(np.abs(left)).sum()) <= _ENOUGH * energy:
            break
        strength = np.abs(np.fft.fft2(left, grid))
        row, column = np.unravel_index(int(strength.argmax()), grid)
        wave = np.outer(
            np.exp(2j * np.pi * row / grid[0] * np.arange(size[0])),
            np.exp(2j * np.pi * column / grid[1] * np.arange(size[1])),
        )
        everywhere = np.column_stack([everywhere, wave.ravel()])
        solved = np.linalg.lstsq(everywhere[visible.ravel()], wanted, rcond=None)
        amplitudes = solved[0].astype(np.complex128)
        left = np.where(visible, seen - (everywhere @ amplitudes).reshape(size), 0)
    return np.asarray((everywhere @ amplitudes).reshape(size), np.complex64)
