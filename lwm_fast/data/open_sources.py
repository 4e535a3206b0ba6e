"""Opening the sources of a `ChannelStore`: mapped where the file allows it, read row by row otherwise."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from lwm_fast.data.channels import Channels
from lwm_fast.data.files import reading
from lwm_fast.data.load import open_source
from lwm_fast.data.meta import ChannelsMeta
from lwm_fast.data.ray_store import RayStore, is_ray_store
from lwm_fast.data.rays import ArrayGeometry
from lwm_fast.data.saved import is_saved
from lwm_fast.data.source import ReadOptions
from lwm_fast.data.sources import (
    USED_COLUMNS,
    MappedArray,
    RaySource,
    ReadArray,
    check_inside,
    rays_in_memory,
    users_with_rays,
)
from lwm_fast.data.store import ArrayStore, FileStore
from lwm_fast.data.store import RayStore as RaysInStore
from lwm_fast.errors import InputError

AnySource = MappedArray | ReadArray | RaySource
_ALIGNED = 8  # bytes: complex64 pairs and int64


def open_sources(source: Any) -> list[AnySource]:
    """The sources that a path, `Channels` or an array stands for; a ray store gives one per shard.

    Nothing but headers and ray offsets is read, so bad samples are found when they are used.

    Raises:
        InputError: a source of no known kind, or what its reader finds wrong.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source).expanduser()
        if is_ray_store(path):
            store = RayStore.open(path)
            return [_mapped_rays(store.path(i)) or _whole(store.path(i)) for i in range(len(store))]
        if path.is_file() and (mapped := _mapped_rays(path)) is not None:
            return [mapped]
        return [_whole(path)]
    if isinstance(source, Channels):
        return [_from_channels(source, source.meta.source)]
    channels = open_source(source, ReadOptions()).channels
    return [_from_channels(channels, channels.meta.source)]


def _whole(path: Path) -> AnySource:
    channels = open_source(path, ReadOptions(in_memory=False)).channels
    return _from_channels(channels, str(path))


def _from_channels(channels: Channels, name: str) -> AnySource:
    store, meta = channels._store, channels.meta
    if isinstance(store, RaysInStore):
        return rays_in_memory(store.rays, store.geometry, name, meta, channels.los)
    if isinstance(store, ArrayStore):
        return MappedArray(name, meta, None, 0, store.shape, store.csi)
    if isinstance(store, FileStore) and (mapped := _mapped_array(store, name, meta)) is not None:
        return mapped
    return ReadArray(str(store.open_array) if isinstance(store, FileStore) else name, meta, store)


def _mapped_array(store: FileStore, name: str, meta: ChannelsMeta) -> MappedArray | None:
    """The file's csi as a mapping; None where it is compressed, chunked, converted or turned."""
    array = store.array
    if array.dtype != np.complex64 or store.layout.axes not in ("nas", "n1as"):
        return None
    if isinstance(array, np.memmap):
        if not array.flags.c_contiguous or array.filename is None:
            return None
        path, offset = Path(array.filename), int(array.offset)
    else:
        where = _contiguous_offset(array)
        if where is None:
            return None
        path, offset, name = Path(array.file.filename), where, str(store.open_array)
    if offset % _ALIGNED:
        return None
    check_inside(path, name, offset, array.nbytes)
    return MappedArray(name, meta, path, offset, store.shape)


def _contiguous_offset(dataset: Any) -> int | None:
    """Byte offset of an HDF5 dataset that lies in one piece in its own file."""
    import h5py

    if not isinstance(dataset, h5py.Dataset) or dataset.chunks is not None or dataset.external:
        return None
    if dataset.file.userblock_size or dataset.dtype.byteorder == ">":
        return None
    offset = dataset.id.get_offset()
    return None if offset is None else int(offset)


def _mapped_rays(path: Path) -> RaySource | None:
    """The rays of a file of `Channels.save`, mapped; None where it is another file or not contiguous."""
    import h5py

    from lwm_fast.data.hdf5 import is_hdf5

    if not is_hdf5(path):
        return None
    with reading(path, "HDF5"), h5py.File(path, "r") as file:
        if not is_saved(file) or "rays" not in file:
            return None
        columns: dict[str, tuple[int, int]] = {}
        for name in ("offsets", *USED_COLUMNS):
            dataset = file["rays"][name]
            start = _contiguous_offset(dataset)
            if start is None or start % _ALIGNED or dataset.dtype != ("<i8" if name == "offsets" else "<f4"):
                return None
            check_inside(path, f"rays/{name}", start, dataset.nbytes)
            columns[name] = (start, dataset.size)
        lengths = {columns[name][1] for name in USED_COLUMNS}
        offsets = np.asarray(file["rays/offsets"])
        los = np.asarray(file["los"], np.int8) if "los" in file else None
        fields = json.loads(file.attrs["meta"])
        geometry = ArrayGeometry(**json.loads(file.attrs["geometry"]))
    if len(lengths) != 1 or offsets.size == 0:
        raise InputError(
            f"{path}: its ray columns have {sorted(lengths)} entries; they must be equally long: fetch or "
            "write the file again"
        )
    users = users_with_rays(offsets)
    count = offsets.size - 1 if users is None else users.size
    position = fields["base_station_pos"]
    meta = ChannelsMeta(**{**fields, "base_station_pos": None if position is None else tuple(position)})
    return RaySource(str(path), meta, geometry, count, path, columns, users, los=los)
