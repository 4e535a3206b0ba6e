"""What a `ChannelStore` reads samples from: mapped arrays, files read row by row, and mapped rays.

Each kind has `take(rows)`: what holds the samples, and their places in it; `digest()`: a hash of what it holds,
cheap and independent of where it lies; `row_in_file(row)` for error texts.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lwm_fast.data.meta import ChannelsMeta
from lwm_fast.data.rays import ArrayGeometry, Complex64Array, Int64Array, Rays
from lwm_fast.errors import InputError

USED_COLUMNS = ("power_db", "phase_deg", "delay_s", "aod_zen_deg", "aod_az_deg")
"""The ray columns that csi is made of, in the order in which C++ takes them."""
_BLOCK, _BLOCKS = 4096, 16

RayColumns = tuple[npt.NDArray[Any], ...]


class BadRowsError(InputError):
    """Rows of a source that cannot be read."""

    def __init__(self, message: str, rows: Int64Array) -> None:
        super().__init__(message)
        self.rows = rows


@dataclass
class MappedArray:
    """csi that lies in memory, or in a file mapped into memory, C-contiguous complex64."""

    name: str
    meta: ChannelsMeta
    path: Path | None
    offset: int
    shape: tuple[int, int, int]
    array: Complex64Array | None = field(default=None, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        return self.shape[1:]

    def __len__(self) -> int:
        return self.shape[0]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "array": self.array if self.path is None else None}

    def csi(self) -> Complex64Array:
        if self.array is None:
            assert self.path is not None
            num_bytes = 8 * int(np.prod(self.shape, dtype=np.int64))
            self.array = view_of(map_file(self.path), self.offset, num_bytes, np.complex64).reshape(
                self.shape
            )
        return self.array

    def take(self, rows: Int64Array) -> tuple[Complex64Array, Int64Array]:
        return self.csi(), rows

    def digest(self) -> str:
        flat = self.csi().reshape(-1).view(np.uint8)
        return digest_of([str(self.shape), *sampled_bytes(flat)])

    def row_in_file(self, row: int) -> int:
        return row


@dataclass
class ReadArray:
    """csi that a store reads from its file when asked (chunked or compressed HDF5, zarr)."""

    name: str
    meta: ChannelsMeta
    store: Any  # data.store.Store

    @property
    def size(self) -> tuple[int, int]:
        size: tuple[int, int] = self.store.shape[1:]
        return size

    def __len__(self) -> int:
        return int(self.store.shape[0])

    def take(self, rows: Int64Array) -> tuple[Complex64Array, Int64Array]:
        ordered, places = np.unique(rows, return_inverse=True)  # files want rows in order
        try:
            return self._read(ordered), places.astype(np.int64)
        except (OSError, InputError, ValueError):
            bad = np.array([row for row in ordered if self._unreadable(int(row))], np.int64)
            if not bad.size:
                raise
        raise BadRowsError(
            f"{self.name}: {'sample' if bad.size == 1 else 'samples'} {', '.join(map(str, bad[:8]))} cannot "
            "be read (a damaged chunk?): fetch or write the file again, or leave such samples out with "
            'on_bad="skip"',
            bad,
        )

    def _read(self, ordered: Int64Array) -> Complex64Array:
        csi = np.empty((len(ordered), *self.size), np.complex64)
        for i, row in enumerate(ordered):
            csi[i] = self.store.read(int(row), int(row) + 1)[0]
        return csi

    def _unreadable(self, row: int) -> bool:
        try:
            self.store.read(row, row + 1)
        except (OSError, InputError, ValueError):
            return True
        return False

    def digest(self) -> str:
        rows = np.linspace(0, len(self) - 1, min(len(self), 4)).astype(np.int64)
        parts = [str(tuple(self.store.shape))]
        for row in rows:
            readable = not self._unreadable(int(row))
            parts.append(str(self.store.read(int(row), int(row) + 1).tobytes()) if readable else "damaged")
        return digest_of(parts)

    def row_in_file(self, row: int) -> int:
        return row


@dataclass
class RaySource:
    """Rays of many users, in memory or mapped from a file; users without a ray are passed over.

    columns: where the offsets and `USED_COLUMNS` lie in the file, (byte offset, entries) each; None in memory
    users: rows in the file, int64 [n]; None where every user has a ray
    los: int8 [num_users], 1 LoS, 0 NLoS, -1 no path, by row in the file; None where the source does not say
    """

    name: str
    meta: ChannelsMeta
    geometry: ArrayGeometry
    count: int
    path: Path | None = None
    columns: dict[str, tuple[int, int]] | None = None
    users: Int64Array | None = None
    rays: RayColumns | None = field(default=None, repr=False)
    los: npt.NDArray[np.int8] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return self.count

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "rays": self.rays if self.path is None else None}

    def open(self) -> RayColumns:
        """(offsets int64 [num_users + 1], then the used columns float32 [num_rays])."""
        if self.rays is None:
            assert self.path is not None
            assert self.columns is not None
            memory = map_file(self.path)
            self.rays = tuple(
                view_of(memory, start, entries * (8 if name == "offsets" else 4), _DTYPES[name == "offsets"])
                for name, (start, entries) in self.columns.items()
            )
        return self.rays

    def close(self) -> None:
        """Let go of the mapping; it is made again when needed."""
        if self.path is not None:
            self.rays = None

    def take(self, rows: Int64Array) -> tuple[RayColumns, Int64Array]:
        """(columns, the users of `rows` in them).

        Raises:
            BadRowsError: users whose offsets leave the columns.
        """
        rays = self.open()
        users = rows if self.users is None else self.users[rows]
        first, last = rays[0][users], rays[0][users + 1]
        bad = (first < 0) | (last < first) | (last > len(rays[1]))
        if bad.any():
            raise BadRowsError(
                f"{self.name}: the rays of user {users[bad][0]} lie outside the columns (rays/offsets is "
                'damaged): fetch or write the file again, or leave such users out with on_bad="skip"',
                rows[bad],
            )
        return rays, users

    def los_of(self, users: Int64Array) -> npt.NDArray[np.int8]:
        """LoS of users of the file, -1 where it is unknown."""
        return np.full(len(users), -1, np.int8) if self.los is None else self.los[users]

    def digest(self) -> str:
        parts: list[str | bytes] = [str(self.count), json.dumps(str(self.geometry))]
        for column in self.open():
            parts += [str(column.shape), *sampled_bytes(np.ascontiguousarray(column).view(np.uint8))]
        return digest_of(parts)

    def row_in_file(self, row: int) -> int:
        return row if self.users is None else int(self.users[row])


_DTYPES = (np.dtype("<f4"), np.dtype("<i8"))


def rays_in_memory(
    rays: Rays,
    geometry: ArrayGeometry,
    name: str,
    meta: ChannelsMeta,
    los: npt.NDArray[np.int8] | None = None,
) -> RaySource:
    """A source over `Rays`."""
    users = users_with_rays(rays.offsets)
    columns = (rays.offsets, *(getattr(rays, column) for column in USED_COLUMNS))
    count = len(rays) if users is None else users.size
    return RaySource(name, meta, geometry, count, None, None, users, columns, los)


def users_with_rays(offsets: Int64Array) -> Int64Array | None:
    """Users that own a ray; None where all do."""
    present = np.diff(offsets) != 0
    return None if present.all() else np.flatnonzero(present)


def map_file(path: Path) -> npt.NDArray[np.uint8]:
    """The bytes of a file, mapped read-only."""
    try:
        return np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be mapped ({error}); fetch or write the file again") from error


def view_of(
    memory: npt.NDArray[np.uint8], start: int, num_bytes: int, dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """Entries of a mapped file."""
    return memory[start : start + num_bytes].view(dtype)


def check_inside(path: Path, name: str, start: int, num_bytes: int) -> None:
    """Raises InputError when a dataset ends beyond its file: reading the mapping would kill the process."""
    size = os.path.getsize(path)
    if start + num_bytes > size:
        raise InputError(
            f"{path}, dataset {name}: ends at byte {start + num_bytes} but the file has {size}; it is "
            "truncated: fetch or write it again"
        )


def sampled_bytes(flat: npt.NDArray[np.uint8]) -> Iterable[bytes]:
    """Length, and blocks spread over the whole."""
    yield str(flat.size).encode()
    for start in np.linspace(0, max(0, flat.size - _BLOCK), _BLOCKS).astype(np.int64):
        yield flat[start : start + _BLOCK].tobytes()


def digest_of(parts: Iterable[str | bytes]) -> str:
    """Hex SHA-256 of the parts one after another."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(part.encode() if isinstance(part, str) else part)
        hasher.update(b"\0")
    return hasher.hexdigest()
