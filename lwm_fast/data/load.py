"""`load_channels`: one entrance for every source of channels."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lwm_fast.data.arrays import ArrayInfo, array_channels, choose_layout
from lwm_fast.data.channels import Channels
from lwm_fast.data.checks import validate, warn_about_scale
from lwm_fast.data.files import fingerprint
from lwm_fast.data.formats import find_format
from lwm_fast.data.meta import ChannelsMeta
from lwm_fast.data.source import Opened, ReadOptions
from lwm_fast.errors import InputError


def load_channels(
    source: Any,
    *,
    num_antennas: int | tuple[int, int] | None = None,
    num_subcarriers: int | None = None,
    bandwidth: float | None = None,
    rotation: float | tuple[float, float, float] | None = None,
    base_station: int | None = None,
    max_paths: int | None = None,
    scale: float | None = None,
    key: str | None = None,
    layout: str | None = None,
    empty: str | None = None,
    in_memory: bool = True,
    progress: bool = False,
    num_threads: int = 0,
) -> Channels:
    """Channels from a DeepMIMO scenario, an array file, an array or a loaded dataset.

    Args:
        source: path of a DeepMIMO v3 or v4 scenario folder, of a ray store (`lwm-fast synth`; its rays are
            read into memory), of a .h5/.hdf5, .mat, .npy, .npz, .pt or zarr file, or of a file written by
            `Channels.save`; a numpy array or torch tensor; a DeepMIMO v4 `Dataset` or `MacroDataset`;
            `Channels`.
        num_antennas: for rays (DeepMIMO) the array to build, one number or (horizontal, vertical), default
            32; for finished csi the size that the source must have.
        num_subcarriers: likewise, default 32.
        bandwidth: Hz, rays only; default 30 kHz per subcarrier.
        rotation: degrees about z or (x, y, z), rays only; default -135, as LWM.
        base_station: number, DeepMIMO only; default the only one, or LWM's choice in scenarios it used
            (Denver and Indianapolis 3, O1 4, other cities 1).
        max_paths: rays per user, rays only; default 20.
        scale: factor for the tokens; default 1e6, LWM's for unscaled channels. It is recorded, not applied
            here.
        key: name of the dataset, variable or array to read, where a file holds several.
        layout: axes of the array, one letter each: n sample, a antenna, s subcarrier, c real/imaginary pair,
            1 an axis of length one; default recognised from shape and dtype, for example "nas", "n1as",
            "ncas". MATLAB files: MATLAB's order.
        empty: users without a path: "drop" (default for rays), "error" (default for finished csi) or "keep".
        in_memory: False leaves HDF5, .npy and zarr data on disk and reads them in parts.
        progress: show a bar while the data are checked.
        num_threads: for building and checking csi; 0 means as many as the process may use.

    Returns:
        `Channels`; users with a path only, unless `empty` says otherwise.

    Raises:
        InputError: whatever is wrong with the source, with the remedy.

    Warns:
        UserWarning: when the median |H| times the scale is far from what LWM was trained on.
    """
    if scale is not None and not (np.isfinite(scale) and scale > 0):
        raise InputError(f"scale={scale!r}: must be finite and positive; LWM uses 1e6 for unscaled channels")
    options = ReadOptions(
        num_antennas=num_antennas,
        num_subcarriers=num_subcarriers,
        bandwidth=bandwidth,
        rotation=rotation,
        max_paths=max_paths,
        base_station=base_station,
        scale=scale,
        key=key,
        layout=layout,
        in_memory=in_memory,
        num_threads=num_threads,
    )
    opened = open_source(source, options)
    channels = opened.channels
    if opened.files:
        digest = fingerprint(opened.files, Path(source).expanduser())
        # A file written by Channels.save keeps the fingerprint of the original source.
        channels.meta = replace(channels.meta, sha256=channels.meta.sha256 or digest)
    if scale is not None:
        channels.meta = replace(channels.meta, scale=float(scale))
    channels = validate(channels, empty or opened.empty, progress=progress, num_threads=num_threads)
    warn_about_scale(channels)
    return channels


def open_source(source: Any, options: ReadOptions) -> Opened:
    """The source opened by its reader, users not yet checked.

    Raises:
        InputError: a source of no known kind, or what its reader finds wrong.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source).expanduser()
        return find_format(path).open(path, options)
    if isinstance(source, Channels):
        return _reopen(source, options)
    if isinstance(source, np.ndarray):
        return _open_array(source, options)
    torch = sys.modules.get("torch")  # who has a tensor has imported torch
    if torch is not None and isinstance(source, torch.Tensor):
        from lwm_fast.data.torch_files import tensor_to_numpy

        return _open_array(tensor_to_numpy(source, "csi", options), options)
    from lwm_fast.data.deepmimo_dataset import is_dataset, open_dataset

    if is_dataset(source):
        return open_dataset(source, options)
    raise InputError(
        f"load_channels: cannot read {type(source).__name__}; give a path, a numpy array, a torch tensor, a "
        "DeepMIMO v4 Dataset or Channels"
    )


def _open_array(array: np.ndarray[Any, Any], options: ReadOptions) -> Opened:
    layout = choose_layout("", ArrayInfo(array.shape, array.dtype), "csi", options)
    return Opened(array_channels(array, layout, ChannelsMeta(), {}))


def _reopen(channels: Channels, options: ReadOptions) -> Opened:
    if channels.rays is None:
        options.check_for_arrays(channels.shape[1:], channels.meta.source)
        return Opened(channels[:], empty="keep")
    return Opened(channels.with_geometry(**options.geometry_changes), empty="keep")
