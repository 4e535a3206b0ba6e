"""csi in zarr folders (format 2 and 3), read lazily. Needs the extra `lwm_fast[zarr]`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lwm_fast.data.arrays import ArrayInfo, choose_key, choose_layout, is_column, open_channels
from lwm_fast.data.files import reading
from lwm_fast.data.meta import ChannelsMeta
from lwm_fast.data.source import Opened, ReadOptions
from lwm_fast.errors import InputError

_MARKS = ("zarr.json", ".zarray", ".zgroup")


@dataclass(frozen=True)
class ZarrArray:
    """Opens one array; a fresh process opens the folder anew."""

    path: Path
    key: str

    def __call__(self) -> Any:
        root = _open(self.path)
        return root[self.key] if self.key else root

    def __str__(self) -> str:
        return f"{self.path}, array {self.key or '(root)'}"


def is_zarr(path: Path) -> bool:
    """True for a folder with zarr metadata."""
    return path.is_dir() and any((path / mark).is_file() for mark in _MARKS)


def open_zarr(path: Path, options: ReadOptions) -> Opened:
    """csi of one array, read lazily unless `options.in_memory`.

    Raises:
        InputError: zarr is not installed; damaged folder; no or several arrays that could be csi.
    """
    root = _open(path)
    with reading(path, "zarr"):
        nodes = {"": root} if hasattr(root, "dtype") else dict(root.arrays())
        arrays = {name: ArrayInfo(tuple(node.shape), np.dtype(node.dtype)) for name, node in nodes.items()}
        key = choose_key(arrays, str(path), options.key, options.layout)
        layout = choose_layout(key, arrays[key], f"{path}, array {key or '(root)'}", options)
        columns = {name: np.asarray(nodes[name][...]) for name in nodes if name != key and is_column(name)}
        version = getattr(getattr(root, "metadata", None), "zarr_format", None)
        meta = ChannelsMeta(
            source=str(path),
            format="zarr",
            format_version=None if version is None else str(version),
        )
        channels = open_channels(ZarrArray(path, key), layout, options, meta, columns)
    files = tuple(file for file in path.rglob("*") if file.is_file())
    return Opened(channels, files)


def _open(path: Path) -> Any:
    try:
        import zarr
    except ImportError as error:
        raise InputError(
            f"{path}: reading zarr needs the zarr package: pip install lwm_fast[zarr]"
        ) from error
    with reading(path, "zarr"):
        return zarr.open(str(path), mode="r")
