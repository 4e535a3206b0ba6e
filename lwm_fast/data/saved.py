"""The package's own HDF5 file of channels: written whole or not at all, rays kept as rays."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lwm_fast.data.meta import ChannelsMeta
from lwm_fast.data.rays import RAY_COLUMNS, ArrayGeometry, Rays
from lwm_fast.errors import InputError
from lwm_fast.files import atomic_path

if TYPE_CHECKING:
    from lwm_fast.data.channels import Channels
    from lwm_fast.data.source import Opened, ReadOptions

_MARK = "lwm_fast_channels"  # attribute that holds the format version
_VERSION = 1
# Every dataset starts at a multiple of its largest item, so that it can be memory-mapped and read in place.
_ALIGNED = {"alignment_threshold": 1, "alignment_interval": 8}
_COLUMNS = ("los", "pos", "labels", "user_index")


def save_channels(channels: Channels, path: Path) -> Path:
    """Write `channels` to an HDF5 file in constant memory; see `Channels.save`."""
    import h5py

    try:
        with atomic_path(path) as temporary:
            if channels.rays is not None:
                temporary.write_bytes(_image(channels))
            else:
                with h5py.File(temporary, "w", **_ALIGNED) as file:
                    _write(channels, file)
    except (OSError, RuntimeError) as error:  # h5py reports a full disk as either
        raise InputError(
            f"{path}: writing failed ({error}); nothing was left behind: free space or choose another folder"
        ) from error
    return path


def _image(channels: Channels) -> bytes:
    """The file's bytes, for rays, which are in memory anyway: plain writing fails cleanly on a full disk.

    HDF5 itself meets a full disk while it closes the file, and then cannot even close it.
    """
    import h5py

    with h5py.File("image", "w", driver="core", backing_store=False, **_ALIGNED) as file:
        _write(channels, file)
        file.flush()
        return bytes(file.id.get_file_image())


def _write(channels: Channels, file: Any) -> None:
    file.attrs[_MARK] = _VERSION
    file.attrs["meta"] = json.dumps(asdict(channels.meta))
    for name in _COLUMNS:
        if (values := getattr(channels, name)) is not None:
            file[name] = values
    if channels.rays is not None and channels.geometry is not None:
        file.attrs["geometry"] = json.dumps(asdict(channels.geometry))
        for name in ("offsets", *RAY_COLUMNS):
            file[f"rays/{name}"] = getattr(channels.rays, name)
    else:
        csi = file.create_dataset("csi", shape=channels.shape, dtype=np.complex64)
        start = 0
        for chunk in channels.iter_csi():
            csi[start : start + len(chunk)] = chunk
            start += len(chunk)


def is_saved(file: Any) -> bool:
    """True for an open HDF5 file written by `save_channels`."""
    return _MARK in file.attrs


def open_saved(path: Path, file: Any, options: ReadOptions) -> Opened:
    """Channels of an open file written by `save_channels`, as they were saved.

    Raises:
        InputError: written by a newer version; options that do not fit.
    """
    from lwm_fast.data.channels import Channels
    from lwm_fast.data.hdf5 import HDF5Array
    from lwm_fast.data.layout import Layout
    from lwm_fast.data.source import Opened
    from lwm_fast.data.store import ArrayStore, FileStore, RayStore, Store

    version = int(file.attrs[_MARK])
    if version > _VERSION:
        raise InputError(f"{path}: saved in format {version}, newer than {_VERSION}; update lwm_fast")
    fields = json.loads(file.attrs["meta"])
    position = fields["base_station_pos"]
    meta = ChannelsMeta(**{**fields, "base_station_pos": None if position is None else tuple(position)})
    columns = {name: np.asarray(file[name]) for name in _COLUMNS if name in file}
    if "rays" in file:
        options.check_for_rays(str(path))
        geometry = options.geometry(ArrayGeometry(**json.loads(file.attrs["geometry"])))
        rays = Rays(**{name: np.asarray(file["rays"][name]) for name in ("offsets", *RAY_COLUMNS)})
        store: Store = RayStore(rays, geometry, options.num_threads)
    else:
        options.check_for_arrays(tuple(file["csi"].shape[1:]), str(path))
        store = FileStore(HDF5Array(path, "csi"), Layout("nas"))
        if options.in_memory:
            store = ArrayStore(store.read(0, store.shape[0]))
    # Users without a path were dealt with before saving.
    return Opened(Channels(store, meta=meta, **columns), (path,), empty="keep")
