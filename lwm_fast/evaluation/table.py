"""The table of finished runs: a CSV whose rows are on disk as soon as they are added."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lwm_fast.errors import InputError
from lwm_fast.files import atomic_path
from lwm_fast.training.config import differences
from lwm_fast.training.records import read_table

RUNS, ABOUT = "runs.csv", "sweep.json"
FORMAT = "lwm_fast.sweep"
_WHOLE = (
    "count",
    "seed",
    "n_train",
    "n_validation",
    "n_test",
    "epochs",
    "best_epoch",
    "parameters",
    "num_beams",
)
_TEXT = (
    "run", "task", "input", "head", "freeze", "amount", "metric", "split", "test", "source", "data_sha256",
    "weights", "weights_sha256", "precision", "lwm_fast", "cpu", "codebook",
)  # fmt: skip


def read_runs(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Finished runs of a table or of the folder that holds it, numbers as numbers and empty cells as None.

    Raises:
        InputError: no such table, or another file.
    """
    place = Path(path)
    place = place / RUNS if place.is_dir() else place
    if not place.is_file():
        raise InputError(f"{place}: there is no table of runs; give the folder of an evaluation")
    try:
        rows = read_table(place)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{place}: cannot be read as a table of runs ({error})") from error
    if rows and "run" not in rows[0]:
        raise InputError(f"{place}: has no column run; give the folder of an evaluation")
    return [{name: _value(name, text) for name, text in row.items()} for row in rows]


def _value(name: str, text: str) -> Any:
    if name in _TEXT:
        return text
    if text == "":
        return None
    try:
        return int(text) if name in _WHOLE else float(text)
    except ValueError:
        return text


class RunTable:
    """``runs.csv`` and ``sweep.json``, which says what all its runs have in common.

    One process adds rows, each in one write that reaches the disk before the next; a kill loses no row that was
    added, and a half-written last row is cut off.
    """

    def __init__(self, folder: Path, about: dict[str, Any], columns: Sequence[str]) -> None:
        self._path, self._columns = folder / RUNS, list(columns)
        _check_same(folder / ABOUT, about)
        kept = read_table(self._path) if self._path.exists() else []
        if kept and list(kept[0]) != self._columns:
            raise InputError(
                f"{self._path}: has other columns than this version writes; choose another folder"
            )
        self.done = {row["run"] for row in kept}
        with atomic_path(self._path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(kept)

    def add(self, row: dict[str, Any]) -> None:
        """Append the row of a finished run."""
        text = io.StringIO()
        csv.DictWriter(text, self._columns).writerow({name: _short(value) for name, value in row.items()})
        try:
            with self._path.open("a", newline="", encoding="utf-8") as file:
                file.write(text.getvalue())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(
                f"{self._path}: cannot be written ({error.strerror}); make room and run again, finished runs are kept"
            ) from error
        self.done.add(row["run"])


def _short(value: Any) -> Any:
    return f"{value:.9g}" if isinstance(value, float) else value


def _check_same(path: Path, about: dict[str, Any]) -> None:
    """Write down what the table's runs have in common, or compare it with what is written."""
    now = json.loads(json.dumps({"format": FORMAT, "format_version": 1, **about}))
    if not path.exists():
        if path.parent.joinpath(RUNS).exists():
            raise InputError(f"{path.parent}: holds {RUNS} without {ABOUT}; choose another folder")
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); choose another folder") from error
    found = differences(before, now) if isinstance(before, dict) else ["it is no record of a sweep"]
    if found:
        raise InputError(
            f"{path.parent}: holds runs of another sweep: {'; '.join(found)}. Inputs, counts, fractions, SNRs, heads, "
            "freezing and seeds may grow; for anything else choose another folder"
        )
