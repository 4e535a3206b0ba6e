"""Arrays that are computed once: kept as .npy files that several processes map into memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import nn

from lwm_fast.errors import InputError
from lwm_fast.files import atomic_path
from lwm_fast.model import LWM

Array: TypeAlias = npt.NDArray[Any]


def digest_of(*parts: object) -> str:
    """Hex SHA-256 of arrays (dtype, shape and contents) and of the text of anything else."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype} {part.shape};".encode())
            digest.update(np.ascontiguousarray(part).data.cast("B") if part.size else b"")
        else:
            digest.update(f"{part!r};".encode())
    return digest.hexdigest()


def digest_of_model(model: LWM) -> str:
    """Hex SHA-256 of a model's configuration and weights, wherever they came from."""
    return digest_of(model.config.to_dict(), *_named(model))


def digest_of_link_heads(model: LWM) -> str | None:
    """Hex SHA-256 of a model's link heads, which `digest_of_model` leaves out; None without any."""
    return None if model.link_heads is None else digest_of(*_named(model.link_heads))


def _named(module: nn.Module) -> list[object]:
    state = module.state_dict()
    return [part for name in sorted(state) for part in (name, state[name].cpu().numpy())]


class ArrayCache:
    """A folder of arrays, or (without a folder) a dictionary of them.

    Files are written whole or not at all, so processes may share a folder; two that need the same array at
    once both compute it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._kept: dict[str, Array] = {}
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(
                    f"{folder}: cannot be made ({error.strerror}); choose another folder"
                ) from error

    def get(self, name: str, key: str, make: Callable[[], Array]) -> Array:
        """The array of this name and key (a digest of all it depends on), made if it is not there."""
        label = _label(name, key)
        if label not in self._kept:
            path = self._path(label)
            if path is None or not path.exists():
                self.put(name, key, make())
            if path is not None:
                # Copy on write: torch takes only arrays that it may write to.
                self._kept[label] = np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
        return self._kept[label]

    def put(self, name: str, key: str, array: Array) -> None:
        """Keep an array under a name and key."""
        label = _label(name, key)
        path = self._path(label)
        if path is None:
            self._kept[label] = array
        elif not path.exists():
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, array, allow_pickle=False)

    def _path(self, label: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{label}.npy"


def _label(name: str, key: str) -> str:
    return f"{name}-{key[:20]}"
