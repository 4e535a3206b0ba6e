"""bench/ is part of the checkout and never installed: without it the tests that import this are skipped."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "bench").is_dir():
    pytest.skip("bench/ is part of the checkout, not of the package", allow_module_level=True)
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))


def bench_modules(*names: str) -> list[Any]:
    """`bench.<name>` of each name."""
    return [importlib.import_module(f"bench.{name}") for name in names]
