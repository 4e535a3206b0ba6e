"""Weights as the package ships them, random and small, in a folder of their own."""

from __future__ import annotations

import json
from pathlib import Path

from lwm_fast import LWM, LWMConfig
from lwm_fast.files import sha256_of
from lwm_fast.links import LinkHeads
from lwm_fast.weights import SUMS_NAME, TRAINING_NAME


def random_shipment(folder: Path, *, num_layers: int = 1, town_seeds: tuple[int, ...] = (7,)) -> Path:
    """A folder that `lwm_fast.weights.NAMES` may point at."""
    LWM.random(LWMConfig.base(num_layers=num_layers), seed=2).save_pretrained(folder)
    LinkHeads.random(128, seed=2).save_pretrained(folder)
    training = {"streets": {"plan": {}, "town_seeds": list(town_seeds)}}
    (folder / TRAINING_NAME).write_text(json.dumps(training), encoding="utf-8")
    names = sorted(path.name for path in folder.iterdir())
    sums = "".join(f"{sha256_of(folder / name)}  {name}\n" for name in names)
    (folder / SUMS_NAME).write_text(sums, encoding="ascii")
    return folder
