"""How the axes of an array in a file map to csi [batch, num_antennas, num_subcarriers]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lwm_fast.data.rays import Complex64Array
from lwm_fast.errors import InputError

LETTERS = "n sample, a antenna, s subcarrier, c real/imaginary pair, 1 an axis of length one"


@dataclass(frozen=True)
class Layout:
    """Axes of an array, one letter each: n sample, a antenna, s subcarrier, c real/imaginary, 1 singleton.

    `"nas"` is complex csi, `"n1as"` has a singleton user-antenna axis, `"nasc"` and `"ncas"` hold real
    numbers with the real and imaginary part on the last or second axis, `"nsa"` has subcarriers before
    antennas.
    """

    axes: str

    def __post_init__(self) -> None:
        letters = self.axes.replace("1", "")
        if sorted(letters) not in (sorted("nas"), sorted("nasc")):
            raise InputError(
                f"layout={self.axes!r}: give one letter per axis ({LETTERS}); n, a and s exactly once, c at "
                "most "
                'once, for example "nas", "n1as", "ncas" or "nasc"'
            )

    @property
    def sample_axis(self) -> int:
        """Position of the sample axis."""
        return self.axes.index("n")

    @property
    def has_pair(self) -> bool:
        """True when real and imaginary parts lie on an axis of their own."""
        return "c" in self.axes

    def csi_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """(num_users, num_antennas, num_subcarriers) of an array of this shape."""
        return shape[self.axes.index("n")], shape[self.axes.index("a")], shape[self.axes.index("s")]

    def check(self, shape: tuple[int, ...], dtype: np.dtype[Any], place: str) -> None:
        """Raises InputError when an array of this shape and dtype does not have this layout."""
        if len(shape) != len(self.axes):
            raise InputError(
                f"{place}: layout={self.axes!r} has {len(self.axes)} axes but the array has shape {shape}; "
                f"give one letter per axis ({LETTERS})"
            )
        for axis, (letter, size) in enumerate(zip(self.axes, shape, strict=True)):
            wanted = {"1": 1, "c": 2}.get(letter, size)
            if size != wanted:
                raise InputError(
                    f"{place}: layout={self.axes!r} wants length {wanted} on axis {axis}, but the array has "
                    f"shape {shape}; correct layout="
                )
        if is_complex(dtype) == self.has_pair:
            kind = "complex" if is_complex(dtype) else "real"
            remedy = "leave the letter c out of" if is_complex(dtype) else "name the pair axis with c in"
            raise InputError(
                f"{place}: layout={self.axes!r} does not fit {kind} data of dtype {dtype}: {remedy} layout="
            )

    def to_csi(self, raw: npt.NDArray[Any]) -> Complex64Array:
        """Rows of the file's array as complex64 [rows, num_antennas, num_subcarriers], C-contiguous."""
        order = [self.axes.index(letter) for letter in "nas"]
        if self.has_pair:
            order.append(self.axes.index("c"))
        singletons = [axis for axis, letter in enumerate(self.axes) if letter == "1"]
        view = raw.transpose(*singletons, *order)
        view = view.reshape(view.shape[len(singletons) :])  # [rows, a, s] or [rows, a, s, 2]
        if self.has_pair:
            pairs = np.ascontiguousarray(view, dtype=np.float32)
            return pairs.view(np.complex64)[..., 0]
        names = view.dtype.names
        if names is None:
            return np.ascontiguousarray(view, dtype=np.complex64)
        csi = np.empty(view.shape, dtype=np.complex64)
        csi.real, csi.imag = view[names[0]], view[names[1]]
        return csi


def is_complex(dtype: np.dtype[Any]) -> bool:
    """True for numpy complex types and for compounds of a real and an imaginary field (MATLAB, HDF5)."""
    if dtype.names is None:
        return dtype.kind == "c"
    return tuple(name.lower() for name in dtype.names) in (("real", "imag"), ("r", "i"), ("re", "im"))


def is_half(dtype: np.dtype[Any]) -> bool:
    """True when the numbers are stored as float16."""
    fields = [dtype] if dtype.names is None else [dtype[name] for name in dtype.names]
    return any(part == np.float16 for part in fields)


def find_layout(
    shape: tuple[int, ...], dtype: np.dtype[Any], place: str, layout: str | None = None
) -> Layout:
    """The layout asked for, checked, or the only one that an array of this shape and dtype can have.

    Raises:
        InputError: wrong rank, real data without a pair axis, several possible pair axes.
    """
    if layout is not None:
        found = Layout(layout)
        found.check(shape, dtype, place)
        return found
    if is_complex(dtype):
        return _complex_layout(shape, place)
    if dtype.kind != "f":
        raise InputError(
            f"{place}: dtype {dtype} where complex csi [batch, num_antennas, num_subcarriers] was expected; "
            "convert it, for example csi.astype(numpy.complex64)"
        )
    return _real_layout(shape, dtype, place)


def _complex_layout(shape: tuple[int, ...], place: str) -> Layout:
    if len(shape) == 3:
        return Layout("nas")
    if len(shape) == 4 and shape[1] == 1:
        return Layout("n1as")
    if len(shape) == 2:
        raise InputError(
            f"{place}: shape {shape} has two axes, one channel at most; add the batch axis with csi[None]"
        )
    if len(shape) == 4:
        raise InputError(
            f"{place}: shape {shape} has {shape[1]} user antennas on axis 1; choose one, for example "
            'csi[:, 0], or name the axes with layout= (for example layout="na1s")'
        )
    raise InputError(
        f"{place}: shape {shape} has {len(shape)} axes; csi is [batch, num_antennas, num_subcarriers] or "
        "[batch, 1, num_antennas, num_subcarriers]"
    )


def _real_layout(shape: tuple[int, ...], dtype: np.dtype[Any], place: str) -> Layout:
    names = {4: ("cnas", "ncas", "nasc"), 5: ("n1asc", "nc1as")}.get(len(shape), ())
    fitting = [
        axes
        for axes in names
        if all(size == {"1": 1, "c": 2}.get(letter, size) for letter, size in zip(axes, shape, strict=True))
    ]
    if len(fitting) == 1:
        return Layout(fitting[0])
    if fitting:
        choices = " or ".join(f'layout="{axes}"' for axes in fitting)
        raise InputError(
            f"{place}: real data of shape {shape} has several axes of length 2, so the real/imaginary axis "
            f"is ambiguous; say which with {choices} ({LETTERS})"
        )
    if len(shape) == 3 and 2 in (shape[0], shape[-1]):
        raise InputError(
            f"{place}: real data of shape {shape} looks like one channel with a real/imaginary axis; add the "
            "batch axis with csi[None]"
        )
    raise InputError(
        f"{place}: real data ({dtype}, shape {shape}) where complex csi was expected; LWM needs real and "
        "imaginary parts: give complex data, or real data with an axis of length 2 named by layout="
    )
