"""Batches through a device with the copies of one beside the computing of another.

Two slots take turns. While the device works on one batch, the host fills the other slot's pinned memory, one
stream copies it in and another copies results out. On the CPU the same code runs with plain copies.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch
from torch import Tensor

from lwm_fast.device_batch import DeviceBatch, Layout
from lwm_fast.graphs import Graphs
from lwm_fast.lanes import CudaLanes, HostLanes, Lanes, Slot

if TYPE_CHECKING:
    from lwm_fast.packed import PackedBatch

_log = logging.getLogger("lwm_fast")
_SLOTS = 2


@dataclass(frozen=True)
class Piece:
    """A batch and the places of its sequences in the result."""

    index: npt.NDArray[Any]
    batch: PackedBatch

    def halves(self) -> tuple[Piece, Piece]:
        middle = len(self.batch) // 2
        return self._part(0, middle), self._part(middle, len(self.batch))

    def _part(self, first: int, last: int) -> Piece:
        b = self.batch
        cu_seqlens = b.cu_seqlens[first : last + 1] - b.cu_seqlens[first]
        part = replace(
            b,
            csi=b.csi[b.offsets[first] : b.offsets[last]],
            offsets=b.offsets[first : last + 1] - b.offsets[first],
            shape=b.shape[first:last],
            cu_seqlens=cu_seqlens,
            max_seqlen=int((cu_seqlens[1:] - cu_seqlens[:-1]).max(initial=0)),
            sample_id=b.sample_id[first:last],
            scale=b.scale[first:last],
            cls=b.cls if b.cls.ndim == 1 else b.cls[first:last],
        )
        return Piece(self.index[first:last], part)


class Stream:
    """Runs ``compute`` (a batch on the device -> float32 rows) over many batches.

    A batch that does not fit into the device's memory is halved and so are those after it; nothing is lost.
    with_grids: ``compute`` wants to know the batch's grids.
    """

    def __init__(
        self,
        lanes: Lanes,
        graphs: Graphs,
        compute: Callable[[DeviceBatch], Tensor],
        *,
        with_grids: bool = False,
    ) -> None:
        self._lanes, self._graphs, self._compute, self._with_grids = lanes, graphs, compute, with_grids

    @classmethod
    def on(
        cls, device: torch.device, compute: Callable[[DeviceBatch], Tensor], *, with_grids: bool = False
    ) -> Stream:
        lanes: Lanes = CudaLanes(device) if device.type == "cuda" else HostLanes(device)
        return cls(lanes, Graphs.on(device), compute, with_grids=with_grids)

    def run(self, pieces: Iterable[Piece], *, to_host: bool) -> Iterator[tuple[Piece, Tensor]]:
        """Each piece (or its parts) with its rows, in order; rows are valid until the next are asked for.

        to_host: rows in host memory, copied beside the next batch's computing; else on the device.
        """
        slots = deque(Slot() for _ in range(_SLOTS))
        under_way: deque[tuple[Piece, Slot]] = deque()
        limit: float = float("inf")  # tokens of a batch, lowered where memory has run out
        for whole in pieces:
            waiting = deque([whole])
            while waiting:
                piece = waiting.popleft()
                tokens = int(piece.batch.cu_seqlens[-1])
                if tokens > limit and len(piece.batch) > 1:
                    waiting.extendleft(reversed(piece.halves()))
                    continue
                slot = slots.popleft()
                if not self._fits(slot, piece, to_host):
                    limit = tokens // 2
                    _log.info(
                        "out of memory with %d channels of %d tokens in all; going on with at most %d tokens",
                        len(piece.batch), tokens, limit,
                    )  # fmt: skip
                    slots.append(Slot())
                    waiting.appendleft(piece)
                    while under_way:
                        yield self._finish(under_way, slots)
                    self._graphs.clear()
                    self._lanes.release()
                    continue
                under_way.append((piece, slot))
                if len(under_way) == _SLOTS:
                    yield self._finish(under_way, slots)
        while under_way:
            yield self._finish(under_way, slots)

    def _fits(self, slot: Slot, piece: Piece, to_host: bool) -> bool:
        """Starts a piece; False where memory ran out, once the failed attempt's tensors are free again."""
        try:
            self._start(slot, piece, to_host)
        except torch.OutOfMemoryError:
            if len(piece.batch) <= 1:
                raise
            return False
        return True

    def _start(self, slot: Slot, piece: Piece, to_host: bool) -> None:
        layout = Layout.of(piece.batch, with_grids=self._with_grids)
        self._lanes.reserve(slot, layout.num_bytes)
        layout.write(piece.batch, slot.host_in)
        self._lanes.load(slot, layout.num_bytes)
        rows = self._graphs.run(layout, slot.device_in[: layout.num_bytes], self._compute)
        self._lanes.store(slot, rows, to_host)

    def _finish(self, under_way: deque[tuple[Piece, Slot]], slots: deque[Slot]) -> tuple[Piece, Tensor]:
        piece, slot = under_way.popleft()
        self._lanes.wait(slot)
        slots.append(slot)
        return piece, slot.rows
