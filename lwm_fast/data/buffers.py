"""Memory for batches that is used again once nobody can see the batch that lay in it."""

from __future__ import annotations

import math
import threading
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

_MAX_KEPT = 32  # blocks waiting to be used again; more are given back to the system
_ROUND = 1 << 16


class _Lease:
    """Owner of the memory of arrays made by `BufferPool.take`: it dies with the last of them."""

    def __init__(self, block: npt.NDArray[np.uint8]) -> None:
        self.__array_interface__ = block.__array_interface__


class BufferPool:
    """Hands out arrays over recycled memory: fresh pages cost more than the work done in them.

    An array, and everything that shares its memory (views, torch tensors), keeps its block; when the last is
    gone the block is used for a later batch. With `pin` arrays lie in page-locked memory, which torch's own
    allocator recycles once copies to the device are through. Threads may share a pool.
    """

    def __init__(self, *, pin: bool = False) -> None:
        self.pin = pin
        self._free: list[npt.NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _new_pool, (self.pin,)

    def take(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An array of undefined content."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if self.pin:
            import torch

            pinned = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
            return pinned.view(dtype).reshape(shape)
        block = self._block(size)
        lease = _Lease(block)
        weakref.finalize(lease, self._give_back, block)
        return np.asarray(lease)[:size].view(dtype).reshape(shape)

    def _block(self, size: int) -> npt.NDArray[np.uint8]:
        with self._lock:
            fitting = [i for i, block in enumerate(self._free) if block.size >= size]
            if fitting:
                return self._free.pop(min(fitting, key=lambda i: self._free[i].size))
        return np.empty(max(_ROUND, -(-size // _ROUND) * _ROUND), np.uint8)

    def _give_back(self, block: npt.NDArray[np.uint8]) -> None:
        with self._lock:
            if len(self._free) < _MAX_KEPT:
                self._free.append(block)


def _new_pool(pin: bool) -> BufferPool:
    return BufferPool(pin=pin)
