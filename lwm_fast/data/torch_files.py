"""csi in torch files (`.pt`, `.pth`): the LWM 2025 challenge's dict of channels and labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lwm_fast.data.arrays import (
    ArrayInfo,
    array_channels,
    choose_key,
    choose_layout,
    is_column,
    note_read_whole,
)
from lwm_fast.data.meta import ChannelsMeta
from lwm_fast.data.source import Opened, ReadOptions
from lwm_fast.errors import InputError
from lwm_fast.files import check_file

if TYPE_CHECKING:
    import torch

TORCH_SUFFIXES = (".pt", ".pth")


def is_torch(path: Path) -> bool:
    """True for .pt and .pth files."""
    return path.is_file() and path.suffix.lower() in TORCH_SUFFIXES


def read_torch(path: Path) -> Any:
    """What a torch file holds, if it is tensors and plain values: nothing else is unpickled.

    Raises:
        InputError: missing, empty or truncated file, a pickle that wants to run code.
    """
    import torch

    check_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle and torch errors of damaged or hostile files
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"{path}: cannot be read safely as a torch file ({reason}). It is truncated, or it holds Python "
            "objects beyond tensors, which are never executed here: fetch it again, or save a dict of "
            "tensors"
        ) from error


def open_torch(path: Path, options: ReadOptions) -> Opened:
    """csi of a tensor, or of a dict of tensors, with labels.

    Raises:
        InputError: truncated file, a pickle that wants to run code, weights instead of data, wrong shape.
    """
    import torch

    content = read_torch(path)
    tensors = {"channels": content} if isinstance(content, torch.Tensor) else content
    if not isinstance(tensors, dict):
        raise InputError(
            f"{path}: holds {type(content).__name__}; expected a tensor or a dict with 'channels' and "
            "'labels'"
        )
    found = {str(name): value for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    if any(name.endswith((".weight", ".bias")) for name in found):
        raise InputError(f"{path}: holds model weights, not channels; load them with LWM.from_pretrained")
    arrays = {name: tensor_to_numpy(value, path, options) for name, value in found.items()}
    infos = {name: ArrayInfo(array.shape, array.dtype) for name, array in arrays.items()}
    key = choose_key(infos, str(path), options.key, options.layout)
    layout = choose_layout(key, infos[key], f"{path}, tensor {key}", options)
    columns = {name: array for name, array in arrays.items() if name != key and is_column(name)}
    note_read_whole(path, options)
    meta = ChannelsMeta(source=str(path), format="torch")
    return Opened(array_channels(arrays[key], layout, meta, columns), (path,))


def tensor_to_numpy(tensor: torch.Tensor, place: object, options: ReadOptions) -> npt.NDArray[Any]:
    """The tensor as numpy, without a copy where possible.

    Raises:
        InputError: complex-half that still needs a scale.
    """
    import torch

    if tensor.dtype == torch.complex32:
        if options.scale != 1:
            raise InputError(
                f"{place}: half-precision csi; unscaled channels underflow in float16 (28 GHz: up to 73% "
                "error). Give complex64, or, if the data were scaled before they were stored, pass scale=1"
            )
        tensor = tensor.to(torch.complex64)
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return np.asarray(tensor.detach().resolve_conj().resolve_neg().cpu().numpy())
