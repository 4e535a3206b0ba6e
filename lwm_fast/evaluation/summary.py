"""Runs over seeds put together: mean and spread, and tables that people read."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lwm_fast.errors import InputError
from lwm_fast.evaluation.table import read_runs
from lwm_fast.files import atomic_path

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Summary:
    """One score of one group of runs that differ by their seed.

    Attributes:
        input, head, freeze, snr_db, amount: the group.
        score: a column of the runs, such as "best_f1_weighted".
        n: runs.
        mean, sd, min, max: over the runs; sd is the population's, 0 for one run.
    """

    input: str
    head: str
    freeze: str
    snr_db: float | None
    amount: str
    score: str
    n: int
    mean: float
    sd: float
    min: float
    max: float


def summarize(
    runs: str | os.PathLike[str] | Iterable[Record], scores: Sequence[str] | None = None
) -> list[Summary]:
    """Mean, spread and extremes of each group of runs, in the order in which groups appear.

    Args:
        runs: a table of runs, its folder, or rows as `read_runs` gives them.
        scores: columns; None takes every score.

    Raises:
        InputError: no such table, no runs, an unknown score.
    """
    rows = read_runs(runs) if isinstance(runs, (str, os.PathLike)) else list(runs)
    if not rows:
        raise InputError("summarize: there are no runs; let the evaluation finish at least one")
    known = [name for name in rows[0] if name.startswith(("best_", "last_")) and name != "best_epoch"]
    for name in scores or ():
        if name not in known:
            raise InputError(f"summarize: no score {name!r}; there are: {', '.join(known)}")
    groups: dict[tuple[str, str, str, float | None, str], list[Record]] = {}
    for row in rows:
        place = (row["input"], row["head"], row["freeze"], row["snr_db"], row["amount"])
        groups.setdefault(place, []).append(row)
    result = []
    for group, members in groups.items():
        for name in scores or known:
            values = np.array([row[name] for row in members if row[name] is not None], np.float64)
            if values.size:
                mean, sd = _moments(values)
                spread = (mean, sd, float(values.min()), float(values.max()))
                result.append(Summary(*group, name, int(values.size), *spread))
    return result


def _moments(values: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    if not np.isfinite(values).all():  # an exact reconstruction has -inf dB
        return float(values.mean()), math.nan
    return float(values.mean()), float(values.std())


def markdown(rows: Sequence[Record]) -> str:
    """A table of the task's own score, a line a method and a column an amount of training users, and who wins.

    The score is that of the best epoch by validation, or of the last where there was none.
    """
    metric = rows[0]["metric"]
    score = f"best_{metric}"
    lower = lower_is_better(metric)
    summaries = summarize(rows, [score])
    amounts = list(dict.fromkeys(item.amount for item in summaries))
    lines: dict[tuple[str, str, str, float | None], dict[str, Summary]] = {}
    for item in summaries:
        lines.setdefault((item.input, item.head, item.freeze, item.snr_db), {})[item.amount] = item
    effort = {
        (row["input"], row["head"], row["freeze"], row["snr_db"]): (row["learning_rate"], row["parameters"])
        for row in rows
    }
    most = max(item.n for item in summaries)
    chosen = "best epoch by validation" if any(row["n_validation"] for row in rows) else "last epoch"
    text = [
        f"{rows[0]['task']}, {rows[0]['source']}, weights {rows[0]['weights']}, split {rows[0]['split']}, tested on "
        f"{'all others' if rows[0]['test'] == 'rest' else 'a fixed part'}: {metric} ({'lower' if lower else 'higher'} "
        f"is better), {chosen}, mean ± population sd over {most} seed{'s' if most > 1 else ''}.",
        "",
        "| input | head | trained of LWM | SNR | learning rate | parameters | " + " | ".join(amounts) + " |",
        "|---|---|---|---|---|---|" + "---|" * len(amounts),
    ]
    for place, cells in lines.items():
        name, head, freeze, snr_db = place
        rate, parameters = effort[place]
        values = [_cell(cells.get(amount), most) for amount in amounts]
        about = [
            name, head, "nothing" if freeze == "all" else freeze, "clean" if snr_db is None else f"{snr_db:g} dB",
            "-" if rate is None else f"{rate:g}", f"{parameters:,}" if parameters else "-",
        ]  # fmt: skip
        text.append("| " + " | ".join([*about, *values]) + " |")
    text += ["", "Who wins (ties: the difference of the means is within the joint spread):", ""]
    for amount in amounts:
        text.append(f"- {amount}: {winners([item for item in summaries if item.amount == amount], lower)}")
    return "\n".join(text) + "\n"


def winners(items: Sequence[Summary], lower: bool) -> str:
    """The best of a column, who ties with it, and the next one that does not."""
    order = sorted(items, key=lambda item: item.mean if lower else -item.mean)
    first = order[0]
    ties = [item for item in order[1:] if _ties(first, item)]
    behind = [item for item in order[1:] if item not in ties]
    text = _named(first)
    if ties:
        text += "; ties with " + ", ".join(_named(item) for item in ties)
    if behind:
        text += f"; then {_named(behind[0])}"
    if first.n < 2:
        text += " (one seed: no spread is known)"
    return text


def lower_is_better(metric: str) -> bool:
    """True for errors."""
    return not metric.startswith(("f1", "accuracy", "top", "r2"))


def write_summary(rows: Sequence[Record], folder: Path) -> None:
    """``summary.csv`` (a line a group and score) and ``table.md`` beside the runs."""
    items = summarize(rows)
    with (
        atomic_path(folder / "summary.csv") as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(Summary.__dataclass_fields__)
        for item in items:
            values = (getattr(item, name) for name in Summary.__dataclass_fields__)
            writer.writerow([f"{value:.9g}" if isinstance(value, float) else value for value in values])
    with atomic_path(folder / "table.md") as temporary:
        temporary.write_text(markdown(rows), encoding="utf-8")


def _ties(first: Summary, other: Summary) -> bool:
    if first.mean == other.mean:
        return True
    return abs(first.mean - other.mean) <= math.hypot(first.sd, other.sd)


def _cell(item: Summary | None, most: int) -> str:
    if item is None:
        return ""
    text = f"{item.mean:.3f}" + (f" ± {item.sd:.3f}" if item.n > 1 else "")
    return text if item.n == most else f"{text} (n={item.n})"


def _named(item: Summary) -> str:
    extra = "" if item.freeze == "all" else f", {item.freeze}"
    extra += "" if item.snr_db is None else f", {item.snr_db:g} dB"
    return f"{item.input} ({item.head}{extra}) {item.mean:.3f}"
