"""`Channels`: the csi of many users with what is known about them, held in memory, in a file or as rays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lwm_fast.data.meta import ChannelsMeta, merge_meta
from lwm_fast.data.rays import ArrayGeometry, Complex64Array, Float32Array, Int64Array, Rays
from lwm_fast.data.store import ArrayStore, RayStore, Store
from lwm_fast.errors import InputError

Int8Array = npt.NDArray[np.int8]
Index = slice | Sequence[int] | npt.NDArray[Any]

CHUNK_BYTES = 64 * 2**20  # csi held at once while streaming
_SAMPLE_USERS = 256  # users looked at for the printed median |H|


class Channels:
    """csi complex64 [num_users, num_antennas, num_subcarriers] with labels, positions and provenance.

    Make one with `load_channels`, `Channels.from_arrays` or `Channels.from_rays`. Slicing and `concatenate`
    give new `Channels`. The csi is the linear channel gain before the scale (`meta.scale`, LWM's 1e6) is
    applied.

    Attributes:
        los: int8 [num_users]: 1 LoS, 0 NLoS, -1 no path; or None.
        pos: float32 [num_users, 3] in metres, or None.
        labels: array [num_users, ...] from the source, or None.
        user_index: int64 [num_users], row of each user in the source.
        meta: `ChannelsMeta`.
    """

    def __init__(
        self,
        store: Store,
        *,
        los: npt.ArrayLike | None = None,
        pos: npt.ArrayLike | None = None,
        labels: npt.ArrayLike | None = None,
        user_index: npt.ArrayLike | None = None,
        meta: ChannelsMeta | None = None,
    ) -> None:
        self._store = store
        self._csi: Complex64Array | None = store.csi if isinstance(store, ArrayStore) else None
        num_users = store.shape[0]
        self.los: Int8Array | None = _column("los", los, np.int8, (num_users,))
        self.pos: Float32Array | None = _column("pos", pos, np.float32, (num_users, 3))
        self.labels: npt.NDArray[Any] | None = _column("labels", labels, None, (num_users,))
        index = np.arange(num_users) if user_index is None else user_index
        self.user_index: Int64Array = np.asarray(_column("user_index", index, np.int64, (num_users,)))
        self.meta = meta if meta is not None else ChannelsMeta(num_users_total=num_users)

    @classmethod
    def from_arrays(cls, csi: npt.ArrayLike, **columns: Any) -> Channels:
        """Channels from an array [num_users, num_antennas, num_subcarriers] in memory.

        Args:
            csi: complex; complex64 C-contiguous data is used without a copy, other complex dtypes are
                converted.
            columns: `los`, `pos`, `labels`, `user_index`, `meta` as in the class.

        Raises:
            InputError: real data or another rank; columns of another length.
        """
        array = np.asarray(csi)
        if array.ndim != 3 or array.dtype.kind != "c":
            raise InputError(
                f"Channels.from_arrays: csi is {array.dtype} {array.shape}; it must be complex "
                "[num_users, num_antennas, num_subcarriers] (load_channels takes other layouts)"
            )
        return cls(ArrayStore(np.ascontiguousarray(array, dtype=np.complex64)), **columns)

    @classmethod
    def from_rays(
        cls, rays: Rays, geometry: ArrayGeometry | None = None, *, num_threads: int = 0, **columns: Any
    ) -> Channels:
        """Channels whose csi is built on demand from rays.

        Args:
            rays: of all users, kept.
            geometry: array and band; None means the LWM settings.
            num_threads: for building csi; 0 means as many as the process may use.
            columns: `los`, `pos`, `labels`, `user_index`, `meta` as in the class.
        """
        return cls(RayStore(rays, geometry or ArrayGeometry(), num_threads), **columns)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(num_users, num_antennas, num_subcarriers)."""
        return self._store.shape

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def rays(self) -> Rays | None:
        """The rays, when the source has them."""
        return self._store.rays if isinstance(self._store, RayStore) else None

    @property
    def geometry(self) -> ArrayGeometry | None:
        """Array and band used for the rays; None for other sources."""
        return self._store.geometry if isinstance(self._store, RayStore) else None

    @property
    def csi(self) -> Complex64Array:
        """All csi, complex64 [num_users, num_antennas, num_subcarriers]; built or read once, then kept."""
        if self._csi is None:
            self._csi = self._store.read(0, len(self))
        return self._csi

    def read(self, start: int, stop: int) -> Complex64Array:
        """csi of users `start:stop` without keeping it: memory stays constant for files and rays.

        The result may share memory with the channels; do not write to it.
        """
        first, last, _ = slice(start, stop).indices(len(self))
        last = max(first, last)
        return self._store.read(first, last) if self._csi is None else self._csi[first:last]

    def iter_csi(self, chunk: int | None = None) -> Iterator[Complex64Array]:
        """csi in order, `chunk` users at a time (default: about 64 MiB), read without keeping it.

        Raises:
            InputError: a chunk below 1.
        """
        size = self.default_chunk if chunk is None else chunk
        if size < 1:
            raise InputError(f"iter_csi: chunk={chunk}; must be at least 1 user")
        for start in range(0, len(self), size):
            yield self.read(start, start + size)

    @property
    def default_chunk(self) -> int:
        """Users whose csi takes about 64 MiB, at least 1."""
        _, num_antennas, num_subcarriers = self.shape
        return max(1, CHUNK_BYTES // (8 * num_antennas * num_subcarriers))

    def __getitem__(self, index: Index) -> Channels:
        """The chosen users (slice, int array or bool mask) as new `Channels`, in the order asked for.

        Raises:
            InputError: a single number, a mask of another length, an index out of range.
        """
        rows = _rows(index, len(self))
        store = self._store.select(rows)
        part = Channels(
            store,
            los=None if self.los is None else self.los[rows],
            pos=None if self.pos is None else self.pos[rows],
            labels=None if self.labels is None else self.labels[rows],
            user_index=self.user_index[rows],
            meta=self.meta,
        )
        if self._csi is not None and part._csi is None:
            part._csi = self._csi[rows]
        return part

    @staticmethod
    def concatenate(parts: Sequence[Channels]) -> Channels:
        """Users of all parts one after another.

        Rays are kept if all parts have them with one geometry; otherwise the csi is read into memory. A
        column (los, pos, labels) is kept if all parts have it.

        Raises:
            InputError: no part, sizes that differ, scales that differ.
        """
        parts = list(parts)
        sizes = sorted({part.shape[1:] for part in parts})
        if len(sizes) != 1:
            raise InputError(
                f"concatenate: the parts have the sizes {sizes} (num_antennas, num_subcarriers); all must "
                "be equal: use with_geometry on ray sources, or give encode a list"
                if sizes
                else "concatenate: the list is empty; give at least one Channels"
            )

        def join(name: str) -> npt.NDArray[Any] | None:
            columns = [getattr(part, name) for part in parts]
            shapes = {None if column is None else column.shape[1:] for column in columns}
            return np.concatenate(columns) if len(shapes) == 1 and None not in shapes else None

        stores = [part._store for part in parts]
        ray_stores = [store for store in stores if isinstance(store, RayStore)]
        if len(ray_stores) == len(stores) and len({store.geometry for store in ray_stores}) == 1:
            store: Store = replace(ray_stores[0], rays=Rays.concatenate([s.rays for s in ray_stores]))
        else:
            store = ArrayStore(np.concatenate([part.csi for part in parts]))
        return Channels(
            store,
            los=join("los"),
            pos=join("pos"),
            labels=join("labels"),
            user_index=join("user_index"),
            meta=merge_meta([part.meta for part in parts]),
        )

    def with_geometry(self, **changes: Any) -> Channels:
        """The same users and rays seen by another array or band.

        Args:
            changes: any of `num_antennas`, `num_subcarriers`, `bandwidth`, `rotation`, `max_paths`, `spacing`
                (see `ArrayGeometry`).

        Raises:
            InputError: the source has no rays; a name that is not part of the geometry.
        """
        if not isinstance(self._store, RayStore):
            raise InputError(
                f"with_geometry: {self.meta.source} ({self.meta.format}) holds csi of a fixed size, not "
                "rays; load a DeepMIMO scenario folder to choose the size"
            )
        try:
            geometry = replace(self._store.geometry, **changes)
        except TypeError as error:
            names = ", ".join(self._store.geometry.__dataclass_fields__)
            raise InputError(f"with_geometry: {error}; known names: {names}") from error
        return Channels(
            replace(self._store, geometry=geometry),
            los=self.los,
            pos=self.pos,
            labels=self.labels,
            user_index=self.user_index,
            meta=self.meta,
        )

    def median_gain(self) -> float:
        """Median over users of the mean |H| of a user (linear gain, before the scale); NaN without users.

        Large sources are judged by 256 users spread evenly.
        """
        if len(self) == 0:
            return float("nan")
        rows = np.linspace(0, len(self) - 1, min(len(self), _SAMPLE_USERS)).astype(np.int64)
        store = self._store if self._csi is None else ArrayStore(self._csi)
        return float(np.median(np.abs(store.select(rows).read(0, rows.size)).mean(axis=(1, 2))))

    def save(self, path: str | Path) -> Path:
        """Write to an HDF5 file (complete or not at all) that `load_channels` reads back; rays stay rays.

        Raises:
            InputError: the folder is missing or cannot be written to.
        """
        from lwm_fast.data.saved import save_channels

        return save_channels(self, Path(path))

    def __repr__(self) -> str:
        from lwm_fast.data.describe import summary

        return summary(self)


def _column(
    name: str, values: npt.ArrayLike | None, dtype: npt.DTypeLike, shape: tuple[int, ...]
) -> npt.NDArray[Any] | None:
    if values is None:
        return None
    column = np.asarray(values, dtype=dtype)
    if column.dtype.kind not in "biuf":
        raise InputError(f"{name} has dtype {column.dtype}; give numbers (encode class names as integers)")
    if column.shape[: len(shape)] != shape:
        raise InputError(
            f"{name} has shape {column.shape}; {shape[0]} users need {shape}: give one row per user, in csi "
            "order"
        )
    return column


def _rows(index: Index, num_users: int) -> Int64Array:
    everyone = np.arange(num_users, dtype=np.int64)
    if isinstance(index, slice):
        return everyone[index]
    wanted = np.asarray(index)
    if wanted.ndim != 1:
        raise InputError(
            f"channels[{index!r}]: give a slice, a list of users or a mask; one user is channels[i:i + 1], "
            "its matrix channels.csi[i]"
        )
    if wanted.size == 0:
        return everyone[:0]
    if wanted.dtype.kind not in "iub":
        raise InputError(f"channels[...]: index of dtype {wanted.dtype}; give whole numbers or a bool mask")
    try:
        return np.asarray(everyone[wanted])
    except IndexError as error:
        raise InputError(f"channels[...]: {error}; there are {num_users} users") from error
