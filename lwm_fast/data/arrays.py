"""Finding the csi among the arrays of a container, and opening it. Shared by all array readers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lwm_fast.data.channels import Channels
from lwm_fast.data.layout import Layout, find_layout, is_half
from lwm_fast.data.meta import ChannelsMeta
from lwm_fast.data.source import ReadOptions
from lwm_fast.data.store import ArrayStore, FileStore, Store
from lwm_fast.errors import InputError

# Keys of published containers: the LWM demo, the LWM challenge and WiMAE; WavesFM.
_USUAL_KEYS = ("channels", "sample", "csi")
_USUAL_LAYOUT = {"sample": "ncas"}
_LARGE_BYTES = 500e6

_log = logging.getLogger("lwm_fast")


@dataclass(frozen=True)
class ArrayInfo:
    """Shape and dtype of an array that has not been read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        names = "" if self.dtype.names is None else f" of {', '.join(self.dtype.names)}"
        kind = "compound" if names else str(self.dtype)
        return f"{kind}{names} {list(self.shape)}"


def choose_key(arrays: Mapping[str, ArrayInfo], place: str, key: str | None, layout: str | None) -> str:
    """Name of the array that holds csi: `key`, a usual name, or the only array that can be csi.

    Raises:
        InputError: no array, an unknown key, or several candidates; lists what there is.
    """
    listing = "; ".join(f"{name}: {info}" for name, info in arrays.items())
    if not arrays:
        raise InputError(f"{place}: holds no array; give a file with csi")
    if key is not None:
        if key not in arrays:
            raise InputError(f"{place}: no array {key!r}; it holds {listing}: choose one with key=")
        return key
    for name in _USUAL_KEYS:
        if name in arrays:
            return name
    plausible = [name for name, info in arrays.items() if _can_be_csi(info, place, layout)]
    if len(plausible) == 1:
        return plausible[0]
    if len(arrays) == 1:
        return next(iter(arrays))  # its own shape or dtype error says more than a list of one
    problem = "several arrays could be csi" if plausible else "no array looks like complex csi"
    raise InputError(f"{place}: {problem} ({listing}); choose one with key= (command line: --key)")


def choose_layout(name: str, info: ArrayInfo, place: str, options: ReadOptions) -> Layout:
    """Layout of the chosen array, with the checks that hold for all containers.

    Raises:
        InputError: wrong rank or dtype; float16 data that still need a scale; another size than asked for.
    """
    if not name and options.key is not None:
        raise InputError(f"{place}: key={options.key!r} is for files of several arrays; leave it out")
    wanted = options.layout
    if wanted is None and len(info.shape) == 4 and info.dtype.kind == "f":
        wanted = _USUAL_LAYOUT.get(name)
    layout = find_layout(info.shape, info.dtype, place, wanted)
    if is_half(info.dtype) and options.scale != 1:
        raise InputError(
            f"{place}: half-precision csi; unscaled channels underflow in float16 (28 GHz: up to 73% "
            "error). Store complex64, or, if the data were scaled before they were stored, pass scale=1"
        )
    _, num_antennas, num_subcarriers = layout.csi_shape(info.shape)
    if 0 in info.shape:
        raise InputError(f"{place}: shape {info.shape} holds no channel; give at least one")
    options.check_for_arrays((num_antennas, num_subcarriers), place)
    return layout


def open_channels(
    open_array: Callable[[], Any],
    layout: Layout,
    options: ReadOptions,
    meta: ChannelsMeta,
    columns: Mapping[str, npt.NDArray[Any]],
) -> Channels:
    """Channels over an array-like that can be opened again; read at once when `options.in_memory`."""
    store: Store = FileStore(open_array, layout)
    num_users = store.shape[0]
    if options.in_memory:
        store = ArrayStore(store.read(0, num_users))
    return Channels(
        store, meta=replace(meta, num_users_total=num_users), **usable_columns(columns, num_users)
    )


def array_channels(
    array: npt.NDArray[Any], layout: Layout, meta: ChannelsMeta, columns: Mapping[str, npt.NDArray[Any]]
) -> Channels:
    """Channels over an array that is in memory already; complex64 csi in order is not copied."""
    csi = layout.to_csi(array)
    meta = replace(meta, num_users_total=len(csi))
    return Channels(ArrayStore(csi), meta=meta, **usable_columns(columns, len(csi)))


def note_read_whole(path: Path, options: ReadOptions) -> None:
    """Say in the log when a large file had to be read whole although streaming was asked for."""
    size = path.stat().st_size
    if not options.in_memory and size > _LARGE_BYTES:
        _log.warning(
            "%s (%.1f GB) can only be read whole; convert it to HDF5 (Channels.save), .npy or zarr to "
            "stream it",
            path,
            size / 1e9,
        )


def usable_columns(columns: Mapping[str, npt.NDArray[Any]], num_users: int) -> dict[str, npt.NDArray[Any]]:
    """`los`, `pos` and `labels` among a container's small arrays, where they have one row per user.

    Labels are the array named labels, label, or the only one whose name starts with "label". MATLAB vectors
    [1, num_users] count as [num_users].
    """
    found: dict[str, npt.NDArray[Any]] = {}
    label_names = [name for name in columns if name.lower().startswith("label")]
    label_name = next((name for name in ("labels", "label") if name in columns), None)
    if label_name is None and len(label_names) == 1:
        label_name = label_names[0]
    for target, name in (("los", "los"), ("pos", "pos"), ("labels", label_name)):
        if name not in columns or name is None:
            continue
        values = np.asarray(columns[name])
        if values.ndim == 2 and 1 in values.shape and values.size == num_users:
            values = values.ravel()
        shape = (num_users, 3) if target == "pos" else (num_users,)
        if values.dtype.kind in "biuf" and (
            values.shape == shape or (target == "labels" and len(values) == num_users)
        ):
            found[target] = values
    return found


def is_column(name: str) -> bool:
    """True for names that `usable_columns` looks at."""
    return name in ("los", "pos") or name.lower().startswith("label")


def _can_be_csi(info: ArrayInfo, place: str, layout: str | None) -> bool:
    try:
        find_layout(info.shape, info.dtype, place, layout)
    except InputError:
        return False
    return True
