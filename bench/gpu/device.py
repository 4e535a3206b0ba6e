"""The GPU as the harness uses it, and a CPU in its place for dry runs."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

Run = Callable[[int], Any]  # does the job on copy i of its inputs

_NVIDIA_SMI = (
    "name",
    "driver_version",
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "power.limit",
    "temperature.gpu",
)


class Device(Protocol):
    """Clock, graphs, memory and compiler of the device under test."""

    torch_device: torch.device
    dry: bool
    l2_bytes: int

    def name(self) -> str: ...

    def seconds(self, run: Run, calls: int) -> float:
        """Time on the device of calls 0..calls-1, without what came before."""

    def recorded(self, run: Run, calls: int) -> Callable[[], Any]:
        """Calls 0..calls-1 as one graph to replay."""

    def peak_mib(self, run: Run) -> float | None:
        """Most memory that one call holds beyond what was held before it."""

    def compiled(self, function: Callable[..., Any], mode: str | None) -> Callable[..., Any]: ...

    def describe(self) -> dict[str, Any]: ...


class Cuda:
    """The current CUDA device."""

    dry = False

    def __init__(self) -> None:
        self.torch_device = torch.device("cuda")
        self.l2_bytes = torch.cuda.get_device_properties(0).L2_cache_size

    def name(self) -> str:
        return torch.cuda.get_device_name(0)

    def seconds(self, run: Run, calls: int) -> float:
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        started.record()
        for i in range(calls):
            run(i)
        ended.record()
        ended.synchronize()
        return float(started.elapsed_time(ended)) * 1e-3

    def recorded(self, run: Run, calls: int) -> Callable[[], Any]:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # what is built at a first call must not be recorded
            run(0)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = [run(i) for i in range(calls)]

        def replay() -> Any:
            graph.replay()
            return kept

        return replay

    def peak_mib(self, run: Run) -> float | None:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(0)
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def compiled(self, function: Callable[..., Any], mode: str | None) -> Callable[..., Any]:
        return torch.compile(function, mode=mode, fullgraph=True, dynamic=False)

    def describe(self) -> dict[str, Any]:
        properties = torch.cuda.get_device_properties(0)
        found: dict[str, Any] = {
            "gpu": properties.name,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_mib": properties.total_memory >> 20,
            "l2_mib": properties.L2_cache_size >> 20,
            "cuda": torch.version.cuda,
        }
        return found | _nvidia_smi()


class Cpu:
    """A CPU in the GPU's place, for dry runs: wall clock, calls instead of graphs, nothing behind torch.compile."""

    dry = True
    l2_bytes = 0

    def __init__(self) -> None:
        self.torch_device = torch.device("cpu")

    def name(self) -> str:
        return "dry run on a CPU, not a measurement"

    def seconds(self, run: Run, calls: int) -> float:
        started = time.perf_counter()
        for i in range(calls):
            run(i)
        return time.perf_counter() - started

    def recorded(self, run: Run, calls: int) -> Callable[[], Any]:
        return lambda: [run(i) for i in range(calls)]

    def peak_mib(self, run: Run) -> float | None:
        run(0)
        return None

    def compiled(self, function: Callable[..., Any], mode: str | None) -> Callable[..., Any]:
        return torch.compile(function, backend="eager", fullgraph=True, dynamic=False)

    def describe(self) -> dict[str, Any]:
        return {"gpu": self.name()}


def _nvidia_smi() -> dict[str, str]:
    """Driver and clocks, as the driver tells them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {"nvidia_smi": "not found"}
    query = [program, f"--query-gpu={','.join(_NVIDIA_SMI)}", "--format=csv,noheader", "--id=0"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=60)
    values = [value.strip() for value in answer.stdout.strip().split(",")]
    if answer.returncode or len(values) != len(_NVIDIA_SMI):
        return {"nvidia_smi": f"failed: {(answer.stderr or answer.stdout).strip()}"}
    return dict(zip(_NVIDIA_SMI, values, strict=True))
