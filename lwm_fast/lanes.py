"""The copies of a stream of batches: pinned memory, CUDA streams and events, or plain copies on the CPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor


def _none() -> Tensor:
    return torch.empty(0, dtype=torch.uint8)


@dataclass
class Slot:
    """Memory of one batch on its way: bytes in, float32 rows out, and what the device has done with it."""

    host_in: Tensor = field(default_factory=_none)
    device_in: Tensor = field(default_factory=_none)
    host_out: Tensor = field(default_factory=_none)
    rows: Tensor = field(default_factory=_none)
    computed: Any = None  # event: device_in has been read and the rows are written
    stored: Any = None  # event: the rows are in host_out


class Lanes(Protocol):
    def reserve(self, slot: Slot, num_bytes: int) -> None:
        """Make the slot's input memory large enough."""

    def load(self, slot: Slot, num_bytes: int) -> None:
        """host_in -> device_in, before whatever is computed next."""

    def store(self, slot: Slot, rows: Tensor, to_host: bool) -> None:
        """Make ``rows`` the slot's result, in host memory where asked for."""

    def wait(self, slot: Slot) -> None:
        """Return when the slot's rows can be read."""

    def release(self) -> None:
        """Give unused memory back to the device."""


class HostLanes:
    """Plain copies, done at once: the CPU, and the pattern of what CUDA does."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def reserve(self, slot: Slot, num_bytes: int) -> None:
        if len(slot.host_in) < num_bytes:
            slot.host_in = torch.empty(num_bytes, dtype=torch.uint8)
            slot.device_in = torch.empty(num_bytes, dtype=torch.uint8, device=self._device)

    def load(self, slot: Slot, num_bytes: int) -> None:
        slot.device_in[:num_bytes].copy_(slot.host_in[:num_bytes])

    def store(self, slot: Slot, rows: Tensor, to_host: bool) -> None:
        slot.rows = rows.cpu() if to_host else rows

    def wait(self, slot: Slot) -> None:
        pass

    def release(self) -> None:
        pass


class CudaLanes:
    """One stream copies in, the caller's current stream computes, one stream copies out."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._in, self._out = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def reserve(self, slot: Slot, num_bytes: int) -> None:
        if len(slot.host_in) < num_bytes:
            slot.host_in = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
            slot.device_in = torch.empty(num_bytes, dtype=torch.uint8, device=self._device)
            # Memory of the caller's stream: what was queued on it there comes first, and freeing waits.
            self._in.wait_stream(torch.cuda.current_stream(self._device))
            slot.device_in.record_stream(self._in)

    def load(self, slot: Slot, num_bytes: int) -> None:
        if slot.computed is not None:
            self._in.wait_event(slot.computed)
        with torch.cuda.stream(self._in):
            slot.device_in[:num_bytes].copy_(slot.host_in[:num_bytes], non_blocking=True)
        torch.cuda.current_stream(self._device).wait_event(self._in.record_event())

    def store(self, slot: Slot, rows: Tensor, to_host: bool) -> None:
        slot.computed = torch.cuda.current_stream(self._device).record_event()
        if not to_host:
            slot.rows, slot.stored = rows, None
            return
        if len(slot.host_out) < rows.numel() or slot.host_out.dtype != rows.dtype:
            slot.host_out = torch.empty(rows.numel(), dtype=rows.dtype, pin_memory=True)
        slot.rows = slot.host_out[: rows.numel()].view(rows.shape)
        self._out.wait_event(slot.computed)
        with torch.cuda.stream(self._out):
            slot.rows.copy_(rows, non_blocking=True)
        rows.record_stream(self._out)
        slot.stored = self._out.record_event()

    def wait(self, slot: Slot) -> None:
        if slot.stored is not None:
            slot.stored.synchronize()
        elif slot.computed is not None:
            slot.computed.synchronize()  # the host may fill host_in again

    def release(self) -> None:
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
