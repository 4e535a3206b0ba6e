"""The one table of formats: name -> how to recognise and open it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lwm_fast.data.deepmimo_v3 import base_stations_v3, is_deepmimo_v3, open_deepmimo_v3
from lwm_fast.data.deepmimo_v4 import base_stations_v4, is_deepmimo_v4, open_deepmimo_v4
from lwm_fast.data.hdf5 import is_hdf5, open_hdf5
from lwm_fast.data.mat import is_mat, open_mat
from lwm_fast.data.numpy_files import is_npy, is_npz, open_npy, open_npz
from lwm_fast.data.ray_store import is_ray_store, open_ray_store
from lwm_fast.data.source import Opened, ReadOptions
from lwm_fast.data.torch_files import is_torch, open_torch
from lwm_fast.data.zarr_store import is_zarr, open_zarr
from lwm_fast.errors import InputError
from lwm_fast.files import check_file


@dataclass(frozen=True)
class Format:
    """One kind of source.

    Args:
        name: short name, also in `ChannelsMeta.format` (MATLAB v7.3 reports itself through hdf5).
        looks_like: for error texts.
        matches: True if a path is of this kind; looks at names and first bytes only.
        open: the reader.
        base_stations: numbers with a description, for formats that have several.
    """

    name: str
    looks_like: str
    matches: Callable[[Path], bool]
    open: Callable[[Path, ReadOptions], Opened]
    base_stations: Callable[[Path], dict[int, str]] | None = None


# First match wins: MATLAB v7.3 files are HDF5 by content, so hdf5 stands before mat.
FORMATS: tuple[Format, ...] = (
    Format(
        "deepmimo_v3", "a folder with BS1_UE_0-1000.mat", is_deepmimo_v3, open_deepmimo_v3, base_stations_v3
    ),
    Format("deepmimo_v4", "a folder with params.json", is_deepmimo_v4, open_deepmimo_v4, base_stations_v4),
    Format("ray_store", "a folder of `lwm-fast synth`", is_ray_store, open_ray_store),
    Format("zarr", "a zarr folder", is_zarr, open_zarr),
    Format("hdf5", ".h5, .hdf5, .hdf, .he5", is_hdf5, open_hdf5),
    Format("npy", ".npy", is_npy, open_npy),
    Format("npz", ".npz", is_npz, open_npz),
    Format("mat", ".mat", is_mat, open_mat),
    Format("torch", ".pt, .pth", is_torch, open_torch),
)


def find_format(path: Path) -> Format:
    """The format of a file or folder.

    Raises:
        InputError: missing, empty, a Git-LFS pointer, or of no known kind; says what was looked for.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; check the path")
    if path.is_file():
        check_file(path)
    found = next((entry for entry in FORMATS if entry.matches(path)), None)
    if found is not None:
        return found
    known = "; ".join(f"{entry.name}: {entry.looks_like}" for entry in FORMATS)
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir())
        content = (
            f"it holds {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else "it is empty"
        )
        raise InputError(
            f"{path}: not a scenario folder ({content}); looked for BS<number>_UE_<start>-<end>.mat "
            "(DeepMIMO v3), params.json (DeepMIMO v4), manifest.json (ray store) and zarr metadata: give the folder "
            "that holds them, or one data file"
        )
    raise InputError(f"{path}: unknown kind of file {path.suffix or '(no extension)'!r}; known: {known}")
