"""CUDA graphs of the batches that come again: recorded at a layout's second batch, replayed from then on.

About forty launches a batch go through Python otherwise. A graph reads its own copy of the batch's bytes, so
batches of any content and of equal layout share it. ``LWM_FAST_CUDA_GRAPHS=0`` turns recording off.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lwm_fast.device_batch import DeviceBatch, Layout

_log = logging.getLogger("lwm_fast")
_SWITCH = "LWM_FAST_CUDA_GRAPHS"
_MAX_BYTES = 4 << 30  # of device memory that graphs may hold: not yet measured

Compute = Callable[[DeviceBatch], Tensor]


class Recorder(Protocol):
    def record(self, compute: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor, int]:
        """(replay, the tensor that every replay writes, bytes held)."""


class CudaRecorder:
    def record(self, compute: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor, int]:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        graph = torch.cuda.CUDAGraph()
        # Other threads may use CUDA meanwhile: a data loader that pins memory does.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            output = compute()
        return graph.replay, output, torch.cuda.memory_reserved() - before


class HostRecorder:
    """A graph's twin without CUDA: replaying computes again, into the same tensor, from the same memory."""

    def record(self, compute: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor, int]:
        output = compute()
        return lambda: output.copy_(compute()), output, output.nbytes


@dataclass(frozen=True)
class _Recorded:
    source: Tensor  # uint8, what the graph reads
    replay: Callable[[], object]
    output: Tensor
    num_bytes: int


class Graphs:
    """Recorded graphs by layout; those of mixed lengths and those over the memory cap run eagerly."""

    def __init__(self, recorder: Recorder | None, max_bytes: int = _MAX_BYTES) -> None:
        self._recorder, self._max_bytes = recorder, max_bytes
        self._seen: set[Layout] = set()
        self._recorded: dict[Layout, _Recorded] = {}
        self._lock = threading.Lock()  # copy, replay and copy of the output belong together

    @classmethod
    def on(cls, device: torch.device) -> Graphs:
        """For a device: none where there is no CUDA, or where the environment says so."""
        wanted = device.type == "cuda" and os.environ.get(_SWITCH, "1") != "0"
        return cls(CudaRecorder() if wanted else None)

    def __len__(self) -> int:
        return len(self._recorded)

    def run(self, layout: Layout, buffer: Tensor, compute: Compute) -> Tensor:
        """``compute`` of the batch in ``buffer``, by its graph where there is one; the result is the caller's."""
        if self._recorder is None or not layout.equal_length:
            return compute(layout.read(buffer))
        with self._lock:
            recorded = self._recorded.get(layout)
            if recorded is None:
                held = sum(r.num_bytes for r in self._recorded.values())
                if layout not in self._seen or held >= self._max_bytes:
                    self._seen.add(layout)  # the first run also compiles the kernels
                    return compute(layout.read(buffer))
                try:
                    recorded = self._record(self._recorder, layout, buffer, compute)
                except RuntimeError as error:  # memory that runs out while recording does not always say so
                    self._recorder = None
                    _log.warning("CUDA graphs are off, one could not be recorded: %s", error)
            if recorded is None:
                return compute(layout.read(buffer))
            recorded.source.copy_(buffer)
            recorded.replay()
            return recorded.output.clone()

    def clear(self) -> None:
        """Forget all graphs and free their memory."""
        with self._lock:
            self._recorded.clear()
            self._seen.clear()

    def _record(self, recorder: Recorder, layout: Layout, buffer: Tensor, compute: Compute) -> _Recorded:
        source = buffer.clone()
        replay, output, num_bytes = recorder.record(lambda: compute(layout.read(source)))
        recorded = _Recorded(source, replay, output, num_bytes + source.nbytes)
        self._recorded[layout] = recorded
        return recorded
