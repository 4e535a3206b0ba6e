"""Weights by name: those that come with the package, and random ones to try things out."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwm_fast.errors import InputError
from lwm_fast.files import sha256_of

if TYPE_CHECKING:
    from lwm_fast.config import LWMConfig
    from lwm_fast.model import LWM

DEFAULT = "lwm-fast-base"
"""What every command and function uses when no weights are named."""

NAMES = {DEFAULT: Path(__file__).resolve().parent / DEFAULT}
"""Folders of the weights that come with the package."""

SUMS_NAME, TRAINING_NAME = "SHA256SUMS", "training.json"
RANDOM_NAMES = ("random-1.0", "random-1.1", "random-base")
HELP = f"{DEFAULT}, or a weights file, folder or hub id; {', '.join(RANDOM_NAMES)} for a trial."


def folder_of(name: str | os.PathLike[str]) -> Path | None:
    """The folder of weights that come with the package, checked against their sums; None for any other name.

    Raises:
        InputError: a file of these weights is missing or not the one that was shipped.
    """
    folder = NAMES.get(str(name))
    if folder is not None:
        for file, digest in shipped_sums(str(name)).items():
            path = folder / file
            if not path.is_file() or sha256_of(path) != digest:
                state = "differs from the one that was shipped" if path.is_file() else "is missing"
                raise InputError(f"{name}: {path} {state}; install lwm_fast again")
    return folder


def shipped_sums(name: str) -> dict[str, str]:
    """The sha256 of each file of weights in `NAMES`, by file name.

    Raises:
        InputError: the installation lacks these weights.
    """
    path = NAMES[name] / SUMS_NAME
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise InputError(
            f"{name}: these weights are not in this installation (no {path}); install lwm_fast again"
        ) from error
    return {file: digest for digest, file in (line.split() for line in lines)}


def training_of(name: str) -> dict[str, Any] | None:
    """What weights of `NAMES` were trained with: config, streets, versions; None for any other name."""
    folder = folder_of(name)
    if folder is None:
        return None
    notes: dict[str, Any] = json.loads((folder / TRAINING_NAME).read_text(encoding="utf-8"))
    return notes


def random_config(name: str) -> LWMConfig | None:
    """The sizes that one of `RANDOM_NAMES` stands for; None for any other name."""
    from lwm_fast.config import LWMConfig

    made = {"random-1.0": LWMConfig.v1_0, "random-1.1": LWMConfig.v1_1, "random-base": LWMConfig.base}
    return made[name]() if name in made else None


def load_model(weights: str | os.PathLike[str] | LWM = DEFAULT, *, seed: int = 0) -> LWM:
    """The model that is meant: a model as it is, what `LWM.from_pretrained` takes, or one of `RANDOM_NAMES`.

    Args:
        weights: see above.
        seed: of random weights.

    Raises:
        InputError: as `LWM.from_pretrained`.
    """
    from lwm_fast.model import LWM

    if isinstance(weights, LWM):
        return weights
    config = random_config(str(weights))
    return LWM.from_pretrained(weights) if config is None else LWM.random(config, seed=seed)
