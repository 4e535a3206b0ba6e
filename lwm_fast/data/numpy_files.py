"""csi in numpy files: .npy mapped into memory, .npz (also WiMAE's) read whole."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lwm_fast.data.arrays import (
    ArrayInfo,
    array_channels,
    choose_key,
    choose_layout,
    is_column,
    note_read_whole,
    open_channels,
)
from lwm_fast.data.files import reading
from lwm_fast.data.meta import ChannelsMeta
from lwm_fast.data.source import Opened, ReadOptions
from lwm_fast.files import check_file


@dataclass(frozen=True)
class NpyArray:
    """Maps a .npy file; nothing is unpickled."""

    path: Path

    def __call__(self) -> Any:
        with reading(self.path, "a .npy array"):
            return np.load(self.path, mmap_mode="r", allow_pickle=False)

    def __str__(self) -> str:
        return str(self.path)


def is_npy(path: Path) -> bool:
    """True for .npy files."""
    return path.is_file() and path.suffix.lower() == ".npy"


def is_npz(path: Path) -> bool:
    """True for .npz files."""
    return path.is_file() and path.suffix.lower() == ".npz"


def open_npy(path: Path, options: ReadOptions) -> Opened:
    """csi of a .npy file, mapped lazily unless `options.in_memory`.

    Raises:
        InputError: damaged file, pickled objects, wrong dtype or rank.
    """
    opener = NpyArray(check_file(path))
    array = opener()
    layout = choose_layout("", ArrayInfo(array.shape, array.dtype), str(path), options)
    meta = ChannelsMeta(source=str(path), format="npy")
    return Opened(open_channels(opener, layout, options, meta, {}), (path,))


def open_npz(path: Path, options: ReadOptions) -> Opened:
    """csi of a .npz file with its `los`, `pos` and labels.

    Raises:
        InputError: damaged file, no or several arrays that could be csi, wrong dtype or rank.
    """
    check_file(path)
    with reading(path, "a .npz archive"):
        arrays = _headers(path)
        key = choose_key(arrays, str(path), options.key, options.layout)
        layout = choose_layout(key, arrays[key], f"{path}, array {key}", options)
        with np.load(path, allow_pickle=False) as archive:
            csi = archive[key]
            columns = {name: archive[name] for name in arrays if name != key and is_column(name)}
    note_read_whole(path, options)
    meta = ChannelsMeta(source=str(path), format="npz")
    return Opened(array_channels(csi, layout, meta, columns), (path,))


def _headers(path: Path) -> dict[str, ArrayInfo]:
    """Shapes and dtypes without reading the arrays."""
    npy: Any = np.lib.format  # its functions carry no types
    found: dict[str, ArrayInfo] = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if not name.endswith(".npy"):
                continue
            with archive.open(name) as member:
                version = npy.read_magic(member)
                read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                shape, _, dtype = read(member)
            found[name.removesuffix(".npy")] = ArrayInfo(shape, dtype)
    return found
