"""Where csi comes from: an array in memory, a lazily opened file, or rays. One small interface."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from lwm_fast.data.layout import Layout
from lwm_fast.data.rays import ArrayGeometry, Complex64Array, Int64Array, Rays
from lwm_fast.errors import InputError


class Store(Protocol):
    """Rows of csi. `read` returns fresh or shared memory that the caller must not write to."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(num_users, num_antennas, num_subcarriers)."""
        ...

    def read(self, start: int, stop: int) -> Complex64Array:
        """Rows `start:stop`, complex64 [rows, num_antennas, num_subcarriers], C-contiguous."""
        ...

    def select(self, rows: Int64Array) -> Store:
        """The chosen rows, in the order asked for."""
        ...


@dataclass(frozen=True)
class ArrayStore:
    """An array in memory, complex64 [num_users, num_antennas, num_subcarriers], C-contiguous."""

    csi: Complex64Array

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.csi.shape  # type: ignore[return-value]

    def read(self, start: int, stop: int) -> Complex64Array:
        return self.csi[start:stop]

    def select(self, rows: Int64Array) -> ArrayStore:
        if rows.size and rows[-1] - rows[0] == rows.size - 1 and (np.diff(rows) == 1).all():
            return ArrayStore(self.csi[rows[0] : rows[-1] + 1])  # a run of rows needs no copy
        return ArrayStore(self.csi[rows])


@dataclass(frozen=True)
class RayStore:
    """csi built from rays when it is read."""

    rays: Rays
    geometry: ArrayGeometry
    num_threads: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.rays), self.geometry.size, self.geometry.num_subcarriers

    def read(self, start: int, stop: int) -> Complex64Array:
        return self.rays.to_csi(self.geometry, start=start, stop=stop, num_threads=self.num_threads)

    def select(self, rows: Int64Array) -> RayStore:
        return RayStore(self.rays.select(rows), self.geometry, self.num_threads)


@dataclass
class FileStore:
    """Rows read from a file only when asked for.

    Args:
        open_array: returns the open array-like (h5py dataset, numpy memmap, zarr array); must be picklable,
            so that another process can open the file anew.
        layout: how the file's axes map to csi.
    """

    open_array: Callable[[], Any]
    layout: Layout
    _array: Any = field(default=None, repr=False)
    _process: int = field(default=0, repr=False)

    @property
    def array(self) -> Any:
        """The open array-like; opened on first use in this process (handles do not survive a fork)."""
        if self._array is None or self._process != os.getpid():
            self._array, self._process = self.open_array(), os.getpid()
        return self._array

    def __getstate__(self) -> dict[str, Any]:
        return {"open_array": self.open_array, "layout": self.layout, "_array": None, "_process": 0}

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.layout.csi_shape(self.array.shape)

    def read(self, start: int, stop: int) -> Complex64Array:
        rows = (slice(None),) * self.layout.sample_axis + (slice(start, stop),)
        try:
            raw = self.array[rows]
        except OSError as error:
            raise InputError(
                f"rows {start}:{stop} of {self.open_array} cannot be read ({error}); the file may be "
                "truncated or damaged: fetch or write it again"
            ) from error
        return self.layout.to_csi(np.asarray(raw))

    def select(self, rows: Int64Array) -> SubsetStore:
        return SubsetStore(self, rows)


@dataclass(frozen=True)
class SubsetStore:
    """Chosen rows of a lazily read store."""

    base: FileStore
    rows: Int64Array

    @property
    def shape(self) -> tuple[int, int, int]:
        _, num_antennas, num_subcarriers = self.base.shape
        return self.rows.size, num_antennas, num_subcarriers

    def read(self, start: int, stop: int) -> Complex64Array:
        rows = self.rows[start:stop]
        out = np.empty((rows.size, *self.shape[1:]), dtype=np.complex64)
        # Files answer slices far faster than lists of rows: read each run of consecutive rows at once.
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        for first, last in zip([0, *breaks], [*breaks, rows.size], strict=True):
            if last > first:
                out[first:last] = self.base.read(int(rows[first]), int(rows[last - 1]) + 1)
        return out

    def select(self, rows: Int64Array) -> SubsetStore:
        return SubsetStore(self.base, self.rows[rows])
