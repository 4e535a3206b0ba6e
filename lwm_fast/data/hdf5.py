"""csi in HDF5 files: the LWM demo, WavesFM, any file with one complex dataset, and MATLAB v7.3 files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lwm_fast.data.arrays import ArrayInfo, choose_key, choose_layout, is_column, open_channels
from lwm_fast.data.files import reading
from lwm_fast.data.layout import Layout
from lwm_fast.data.meta import ChannelsMeta
from lwm_fast.data.saved import is_saved, open_saved
from lwm_fast.data.source import Opened, ReadOptions
from lwm_fast.files import check_file

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5")
_MAGIC = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class HDF5Array:
    """Opens one dataset; a fresh process opens the file anew."""

    path: Path
    key: str

    def __call__(self) -> Any:
        import h5py

        with reading(self.path, "HDF5"):
            return h5py.File(self.path, "r")[self.key]

    def __str__(self) -> str:
        return f"{self.path}, dataset {self.key}"


def is_hdf5(path: Path) -> bool:
    """True for the usual suffixes and for MATLAB v7.3 files, which are HDF5 behind a 512-byte header."""
    if not path.is_file():
        return False
    if path.suffix.lower() in HDF5_SUFFIXES:
        return True
    with path.open("rb") as file:
        head = file.read(512 + len(_MAGIC))
    return head.startswith(_MAGIC) or head[512:] == _MAGIC


def open_hdf5(path: Path, options: ReadOptions) -> Opened:
    """csi of one dataset, read lazily unless `options.in_memory`.

    MATLAB v7.3 stores the axes in reverse; shapes, `layout` and the result follow MATLAB's order.

    Raises:
        InputError: damaged file, no or several datasets that could be csi, wrong dtype or rank.
    """
    import h5py

    check_file(path)
    with reading(path, "HDF5"), h5py.File(path, "r") as file:
        if is_saved(file):
            return open_saved(path, file, options)
        matlab = _is_matlab(file)
        arrays = _datasets(file, matlab)
        key = choose_key(arrays, str(path), options.key, options.layout)
        layout = choose_layout(key, arrays[key], f"{path}, dataset {key}", options)
        columns = {
            name: np.asarray(file[name]).T if matlab else np.asarray(file[name])
            for name in arrays
            if name != key and is_column(name)
        }
    if matlab:
        layout = Layout(layout.axes[::-1])
    meta = ChannelsMeta(source=str(path), format="matlab_v7.3" if matlab else "hdf5")
    return Opened(open_channels(HDF5Array(path, key), layout, options, meta, columns), (path,))


def _is_matlab(file: Any) -> bool:
    return bool(file.userblock_size) or any("MATLAB_class" in item.attrs for item in file.values())


def _datasets(file: Any, matlab: bool) -> dict[str, ArrayInfo]:
    import h5py

    found: dict[str, ArrayInfo] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None and not name.startswith("#"):
            found[name] = ArrayInfo(tuple(item.shape[::-1] if matlab else item.shape), item.dtype)

    file.visititems(visit)
    return found
