"""The cases by name. Each module has ``run(settings) -> list[Row]``."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from bench.inputs import Settings
from bench.rows import Row

DEFAULT = (
    *("tokenize", "rays_to_csi", "load", "encode", "numerics", "import_time"),
    *("mask_collate", "padding", "loader", "train_step"),
)
ON_REQUEST = ("embed_memory",)  # takes minutes and 2 GB of temporary disk


def find(name: str) -> Callable[[Settings], list[Row]]:
    """The case's function; only the module asked for is imported."""
    run: Callable[[Settings], list[Row]] = importlib.import_module(f"bench.cases.{name}").run
    return run
