"""What a run writes down as it goes: plain CSV files that survive a kill, and TensorBoard."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwm_fast.errors import InputError
from lwm_fast.files import atomic_path

if TYPE_CHECKING:
    from lwm_fast.training.link_loss import LinkScore
    from lwm_fast.training.trainer import BucketScore

METRICS = (
    "step", "epoch", "loss", "nmse_db", "grad_norm", "lr", "channels", "tokens", "channels_per_s",
    "tokens_per_s", "data_wait", "seconds", "link_loss", "los_accuracy", "direction_accuracy", "power_rmse_db",
    "delay_rmse", "spread_rmse",
)  # fmt: skip
LINKS = METRICS[-5:]  # empty in runs without link heads
VALIDATION = ("step", "epoch", "seq_len", "samples", "loss", "nmse_db", "pooled_nmse_db", *LINKS)


def decibel(ratio: float) -> float:
    """10 log10, -inf of zero."""
    return 10 * math.log10(ratio) if ratio > 0 else -math.inf


class Table:
    """A CSV file whose rows are on disk as soon as they are added.

    `step` is its first column: opening it cuts the rows after a step, which a resumed run will write again,
    and a row that a kill left half-written.
    """

    def __init__(self, path: Path, columns: Sequence[str], *, after: int) -> None:
        self._path, self._columns = path, columns
        kept = [row for row in read_table(path) if int(row["step"]) <= after] if path.exists() else []
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(kept)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows in one write."""
        text = io.StringIO()
        csv.DictWriter(text, self._columns).writerows(rows)
        with self._path.open("a", newline="", encoding="utf-8") as file:
            file.write(text.getvalue())


def read_table(path: Path) -> list[dict[str, str]]:
    """Whole rows of a CSV file of a run; a half-written last one is left out."""
    with path.open(newline="", encoding="utf-8") as file:
        text = file.read()
    reader = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    return [row for row in reader if None not in row and None not in row.values()]


class Records:
    """``metrics.csv``, ``validation.csv`` and ``tensorboard/`` of a run folder; rows after `after` are cut."""

    def __init__(self, out: Path, *, after: int, tensorboard: bool) -> None:
        self._metrics = Table(out / "metrics.csv", METRICS, after=after)
        self._validation = Table(out / "validation.csv", VALIDATION, after=after)
        self._writer = _writer(out / "tensorboard", after) if tensorboard else None

    def metrics(self, row: dict[str, Any]) -> None:
        """One row of training metrics."""
        self._metrics.add([{name: _short(row[name]) for name in METRICS}])
        self._board("train", row, row["step"], skip=("step", "seconds"))

    def validation(self, step: int, epoch: int, scores: Sequence[BucketScore]) -> None:
        """One row a bucket."""
        rows = [
            {
                "step": step, "epoch": epoch, "seq_len": s.seq_len, "samples": s.samples, "loss": s.loss,
                "nmse_db": decibel(s.nmse), "pooled_nmse_db": decibel(s.pooled_nmse), **links_row(s.links),
            }
            for s in scores
        ]  # fmt: skip
        self._validation.add([{name: _short(row[name]) for name in VALIDATION} for row in rows])
        for row in rows:
            place = f"validation/{row['seq_len']}"
            self._board(place, row, step, skip=("step", "epoch", "seq_len", "samples"))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _board(self, group: str, row: dict[str, Any], step: int, skip: Sequence[str]) -> None:
        if self._writer is not None:
            for name, value in row.items():
                if name not in skip and value is not None:
                    self._writer.add_scalar(f"{group}/{name}", value, step)


def links_row(score: LinkScore | None) -> dict[str, float | None]:
    """The columns LINKS."""
    return {name: None if score is None else getattr(score, name) for name in LINKS}


def _short(value: Any) -> Any:
    return f"{value:.9g}" if isinstance(value, float) else value


def _writer(folder: Path, after: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            'run.tensorboard needs tensorboard: pip install "lwm_fast[train]", or set run.tensorboard=false'
        ) from error
    return SummaryWriter(str(folder), purge_step=after + 1)
