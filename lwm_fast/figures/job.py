"""What a figure is made from: cities, weights, where it goes, and how large its sweeps are."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwm_fast.errors import InputError
from lwm_fast.evaluation import Sweep, read_runs, run_sweep
from lwm_fast.figures.cities import City
from lwm_fast.files import atomic_path
from lwm_fast.model import LWM
from lwm_fast.plots import save
from lwm_fast.weights import load_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]

SCORE = "best_f1_weighted"
_FINGERPRINT = 12  # digits that still name data and weights
_PALETTE = 256  # colours of a picture: a third of its bytes, and no difference to be seen


@dataclass(frozen=True)
class FigureSettings:
    """Sizes of the sweeps behind the figures.

    Args:
        counts: training users of Fig. 4; the paper goes from 6 to 80% of Denver.
        seeds: of every sweep.
        few_counts, few_seeds: the controls of Fig. 4 at few labels, where one split says little.
        codebooks: numbers of beams in Fig. 3; the paper has 16, 32, 64, 128 and 256.
        fractions: of the training users, Fig. 3.
        epochs: of every head instead of the figure's own; None in earnest.

    Raises:
        InputError: an empty list.
    """

    counts: tuple[int, ...] = (6, 13, 25, 100, 271, 677, 1083)
    seeds: tuple[int, ...] = (0, 1, 2)
    few_counts: tuple[int, ...] = (6, 25, 100)
    few_seeds: tuple[int, ...] = tuple(range(10))
    codebooks: tuple[int, ...] = (16, 64)
    fractions: tuple[float, ...] = (0.1, 0.5, 1.0)
    epochs: int | None = None

    def __post_init__(self) -> None:
        for part in fields(self):
            if getattr(self, part.name) == ():
                raise InputError(f"figures: {part.name} is empty; give at least one")

    @classmethod
    def quick(cls) -> FigureSettings:
        """A smoke test: two epochs, one seed, few users. Its numbers mean nothing."""
        return cls(
            counts=(6, 25), seeds=(0,), few_counts=(6,), few_seeds=(0, 1), codebooks=(8, 16), fractions=(0.5, 1.0),
            epochs=2,
        )  # fmt: skip


@dataclass(frozen=True)
class Job:
    """Everything a figure needs.

    Args:
        cities: of `find_cities`; figures of one city take the first whose name holds "denver", as the paper, else
            the first.
        weights: as for `lwm_fast.weights.load_model`.
        out: folder of pictures and tables, and of the sweeps in `runs`.
        settings: how large.
        workers: processes of a sweep; None is one a core.
        show_progress: as in `lwm_fast.progress.Progress`.
    """

    cities: Sequence[City]
    weights: str
    out: Path
    settings: FigureSettings = field(default_factory=FigureSettings)
    workers: int | None = None
    show_progress: bool | None = None

    @property
    def city(self) -> City:
        """The city of figures that show one."""
        return next((city for city in self.cities if "denver" in city.name), self.cities[0])

    def model(self) -> LWM:
        """The model of the weights."""
        return load_model(self.weights)

    def sweep(self, task: str, data: Sequence[City], **settings: Any) -> Sweep:
        """A sweep on the 3.5 GHz channels of cities, with this job's weights and epochs; no baselines of its own."""
        sources = tuple(str(city.low) for city in data)
        epochs = self.settings.epochs
        return Sweep(task, sources, self.weights, epochs=epochs, baselines=False, **settings)

    def run(self, name: str, sweeps: Sequence[Sweep]) -> list[Row]:
        """All rows of sweeps that share a folder, `runs/name`; only what is missing there is run."""
        place = self.out / "runs" / name
        rows: dict[str, Row] = {}
        for sweep in sweeps:
            run_sweep(sweep, place, self.workers, show_progress=self.show_progress)
            wanted = {run.name for run in sweep.plan()}
            rows |= {row["run"]: row for row in read_runs(place) if row["run"] in wanted}
        shutil.rmtree(place / "cache", ignore_errors=True)  # embeddings: large, and made again where needed
        return list(rows.values())

    def picture(self, figure: Figure, name: str) -> Path:
        """Write a picture into `out`."""
        path = self.out / f"{name}.png"
        save(figure, path, dpi=110, palette=_PALETTE)
        return path

    def table(self, rows: Sequence[Row], name: str) -> Path:
        """Write rows as a CSV file into `out`; columns are those of all rows, in order of appearance."""
        path = self.out / f"{name}.csv"
        columns = dict.fromkeys(column for row in rows for column in row)
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(columns), restval="", lineterminator="\n")
            writer.writeheader()
            for row in rows:
                writer.writerow({key: _short(key, value) for key, value in row.items()})
        return path


def scores(rows: Sequence[Row], x: str, **labels: Any) -> dict[float, list[float]]:
    """x -> scores of the runs whose columns hold `labels`, for a curve."""
    points: dict[float, list[float]] = {}
    for row in rows:
        if all(row[key] == value for key, value in labels.items()):
            at = 1.0 if row[x] is None else float(row[x])
            points.setdefault(at, []).append(row[SCORE])
    return points


def smaller(sweep: Sweep, **changes: Any) -> Sweep:
    """The sweep with other inputs, heads, noise or counts: its runs belong into the same folder."""
    return replace(sweep, **changes)


def _short(column: str, value: Any) -> Any:
    """Six digits of a number and twelve of a fingerprint: a table of a thousand runs is kept beside a picture."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value[:_FINGERPRINT] if column.endswith("sha256") and value else value
