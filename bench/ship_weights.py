"""`python -m bench.ship_weights RUN STREETS [--heads RUN]`: make finished weights those that the package has.

Copies RUN/model into lwm_fast/weights, with the link heads of a second stage where they were trained anew, notes beside
it what it was trained with, and writes the sums of the files.
The model card is written by hand; its tables come from `python -m bench.report`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lwm_fast import LWM
from lwm_fast.checkpoint import CONFIG_NAME, WEIGHTS_NAME
from lwm_fast.data.ray_store import RayStore
from lwm_fast.errors import InputError
from lwm_fast.files import atomic_path, sha256_of
from lwm_fast.links import LinkHeads
from lwm_fast.weights import DEFAULT, NAMES, SUMS_NAME, TRAINING_NAME

LIMIT_BYTES = 12e6
_RUN_KEYS = ("config", "data", "processes", "num_threads", "lwm_fast", "torch")


def ship(run: Path, streets: Path, folder: Path, heads: Path | None = None) -> None:
    """Fill `folder`, whose sums are written last: without them it is not read.

    heads: a run of auxiliary.heads_only on this very encoder, whose link heads are taken.

    Raises:
        InputError: weights that cannot be read, have no link heads or are too large; heads of another encoder.
    """
    read = heads or run
    model, reader = (LWM.from_pretrained(one / "model") for one in (run, read))
    if reader.link_heads is None:
        raise InputError(f"{read}: these weights have no link heads; train with auxiliary.weight above 0")
    mine, theirs = model.state_dict(), reader.state_dict()
    if mine.keys() != theirs.keys() or not all(torch.equal(mine[name], theirs[name]) for name in mine):
        raise InputError(
            f"{read}: its link heads read another encoder than {run}; train them on {run / 'model'}"
        )
    names = (WEIGHTS_NAME, CONFIG_NAME, LinkHeads.NAME)
    files = {name: (read if name == LinkHeads.NAME else run) / "model" / name for name in names}
    size = sum(path.stat().st_size for path in files.values())
    if size > LIMIT_BYTES:
        raise InputError(f"{run}: {size / 1e6:.1f} MB of weights; the package takes {LIMIT_BYTES / 1e6:g} MB")
    store = RayStore.open(streets)
    training = _notes(run)
    if heads is not None:
        training["heads"] = _notes(heads)
    training["streets"] = {
        "plan": store.plan,
        "fingerprint": store.fingerprint,
        "town_seeds": [street["town_seed"] for street in store.streets],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMS_NAME).unlink(missing_ok=True)
    for name, path in files.items():
        with atomic_path(folder / name) as temporary:
            shutil.copyfile(path, temporary)
    with atomic_path(folder / TRAINING_NAME) as temporary:
        temporary.write_text(json.dumps(training, indent=1) + "\n", encoding="utf-8")
    sums = [f"{sha256_of(folder / name)}  {name}\n" for name in (*names, TRAINING_NAME)]
    with atomic_path(folder / SUMS_NAME) as temporary:
        temporary.write_text("".join(sums), encoding="ascii")


def _notes(run: Path) -> dict[str, Any]:
    """What a run was trained with and what it cost; of the weights it began with, the name alone."""
    notes = json.loads((run / "run.json").read_text(encoding="utf-8"))
    if (model := notes["config"].get("model")) and model.get("weights"):
        model["weights"] = Path(model["weights"]).name
    cost = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return {**{name: notes[name] for name in _RUN_KEYS}, "cost": cost}


def main(arguments: Sequence[str] | None = None) -> int:
    """Ship weights; 2 for weights that cannot be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="Folder of `lwm-fast pretrain`.")
    parser.add_argument("streets", type=Path, help="The store that it was trained on.")
    parser.add_argument("--heads", type=Path, help="Folder of the run that trained its link heads anew.")
    options = parser.parse_args(arguments)
    try:
        ship(options.run, options.streets, NAMES[DEFAULT], options.heads)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print((NAMES[DEFAULT] / SUMS_NAME).read_text(encoding="ascii"), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
