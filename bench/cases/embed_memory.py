"""Peak memory and wall time of `lwm-fast embed` on a file of 2 GB, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from bench.inputs import ROOT, CaseSkippedError, Settings, relative_error
from bench.rows import Row
from bench.timing import DisagreementError
from lwm_fast import LWM, LWMConfig

_SIZE = (8, 32)  # 17 tokens
_BLOCK = 10_000  # channels written at once
_CHECKED = 256  # of them are embedded again and compared
_LIMIT = 1e-6  # the file's embeddings against encode on the same channels


def run(settings: Settings) -> list[Row]:
    if not Path("/proc/self/status").exists():
        raise CaseSkippedError("reads a process's peak memory from /proc, which this system does not have")
    count = settings.pick(1_000_000, 20_000)
    model = LWM.random(LWMConfig.v1_1(num_layers=1))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = _write_channels(folder / "channels.h5", count)
        model.save_pretrained(folder / "weights")
        seconds, peak = _embed(folder, "1")
        with h5py.File(folder / "embeddings.h5") as file:
            embeddings = file["embeddings"]
            error = relative_error(embeddings[: len(first)], model.encode(first))
            if len(embeddings) != count or not error <= _LIMIT:
                raise DisagreementError(f"embed_memory: {len(embeddings)} embeddings, off by {error:.3g}")
    num_bytes = 8 * count * _SIZE[0] * _SIZE[1]
    row = Row(
        case="embed_memory",
        arm="lwm-fast embed",
        unit="channel",
        version="1.1",
        num_antennas=_SIZE[0],
        num_subcarriers=_SIZE[1],
        seq_len=17,
        batch=count,
        threads=1,
        precision="float32",
        rounds=1,
        median_s_per_item=seconds / count,
        low_s=seconds / count,
        high_s=seconds / count,
        items_per_s=count / seconds,
        peak_memory_mib=peak,
        note=f"{num_bytes / 1e9:.3f} GB HDF5 in {seconds:.0f} s, one-layer model, random weights; VmHWM",
    )
    return [row]


def _write_channels(path: Path, count: int) -> NDArray[np.complex64]:
    """Random channels of the usual magnitude, block by block; returns the first few."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_dataset("channels", (count, *_SIZE), np.complex64)
        for start in range(0, count, _BLOCK):
            parts = rng.standard_normal((min(_BLOCK, count - start), *_SIZE, 2), np.float32) * np.float32(
                1e-5
            )
            data[start : start + len(parts)] = parts.view(np.complex64)[..., 0]
        first: NDArray[np.complex64] = data[:_CHECKED]
    return first


def _embed(folder: Path, threads: str) -> tuple[float, float]:
    """Wall seconds and peak resident MiB of the command."""
    command = [sys.executable, "-m", "lwm_fast", "embed", "channels.h5", "-o", "embeddings.h5"]
    command += ["--weights", "weights", "--device", "cpu", "--threads", threads]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "LWM_FAST_NUM_THREADS": threads, "PYTHONPATH": paths}
    log = folder / "log.txt"
    started, peak = time.perf_counter(), 0.0
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
        while process.poll() is None:
            peak = max(peak, _peak_mib(process.pid))
            time.sleep(0.01)
    if process.returncode != 0:
        raise RuntimeError(f"lwm-fast embed failed:\n{log.read_text(encoding='utf-8')}")
    return time.perf_counter() - started, peak


def _peak_mib(pid: int) -> float:
    """Highest resident size so far. (ru_maxrss would count the parent's pages before exec.)"""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return max((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), default=0.0)
