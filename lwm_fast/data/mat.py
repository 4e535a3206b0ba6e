"""csi in MATLAB files up to v7, read whole by scipy (v7.3 files are HDF5 and go there)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lwm_fast.data.arrays import (
    ArrayInfo,
    array_channels,
    choose_key,
    choose_layout,
    is_column,
    note_read_whole,
)
from lwm_fast.data.deepmimo_v3 import USER_FILE
from lwm_fast.data.files import reading
from lwm_fast.data.meta import ChannelsMeta
from lwm_fast.data.source import Opened, ReadOptions
from lwm_fast.errors import InputError
from lwm_fast.files import check_file


def is_mat(path: Path) -> bool:
    """True for .mat files."""
    return path.is_file() and path.suffix.lower() == ".mat"


def open_mat(path: Path, options: ReadOptions) -> Opened:
    """csi of one variable with its `los`, `pos` and labels.

    Raises:
        InputError: damaged file, one file of a DeepMIMO folder, no or several variables that could be csi.
    """
    import scipy.io

    check_file(path)
    if USER_FILE.fullmatch(path.name):
        raise InputError(f"{path}: one file of a DeepMIMO v3 scenario; give its folder {path.parent}")
    with reading(path, "a MATLAB v5 file"):
        content = scipy.io.loadmat(path)
    variables = {
        name: value
        for name, value in content.items()
        if isinstance(value, np.ndarray) and not name.startswith("__")
    }
    arrays = {name: ArrayInfo(value.shape, value.dtype) for name, value in variables.items()}
    key = choose_key(arrays, str(path), options.key, options.layout)
    layout = choose_layout(key, arrays[key], f"{path}, variable {key}", options)
    columns = {name: value for name, value in variables.items() if name != key and is_column(name)}
    meta = ChannelsMeta(source=str(path), format="mat")
    note_read_whole(path, options)
    return Opened(array_channels(variables[key], layout, meta, columns), (path,))
