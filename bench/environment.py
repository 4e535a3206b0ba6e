"""What the figures were measured on, without names of hosts or places."""

from __future__ import annotations

import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lwm_fast import _C, __version__
from lwm_fast.files import atomic_path
from lwm_fast.workers import cores


def environment() -> dict[str, Any]:
    """Processor, versions, threads and date; the load tells whether the machine was quiet."""
    cpu = _C.cpu_info()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "cpu": _cpu_model(),
        "cores": cores(),
        "isa": cpu["isa"],
        "available_isas": cpu["available_isas"],
        "cpu_features": cpu["features"],
        "default_threads": {"lwm_fast": cpu["num_threads"], "torch": torch.get_num_threads()},
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "lwm_fast": __version__,
    }


def write_environment(folder: Path) -> None:
    with atomic_path(folder / "environment.json") as temporary:
        temporary.write_text(json.dumps(environment(), indent=2) + "\n", encoding="utf-8")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
