"""Rows of result files as Markdown: what the tables of the documents are made of."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"

Found = dict[str, str]  # one row of a result file


def rows(name: str, /, **labels: str) -> list[Found]:
    """Rows of a result file whose columns hold ``labels``."""
    with open(RESULTS / f"{name}.csv", newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if all(row[k] == v for k, v in labels.items())]


def one(found: Sequence[Found], **labels: str) -> Found:
    return next(row for row in found if all(row[k] == v for k, v in labels.items()))


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    body = [header, ["---"] * len(header), *lines]
    return "".join("| " + " | ".join(line) + " |\n" for line in body)


def seconds(row: Found) -> str:
    value = float(row["median_s_per_item"])
    unit, factor = ("s", 1.0) if value >= 1 else ("ms", 1e3) if value >= 1e-3 else ("us", 1e6)
    return f"{value * factor:.3g} {unit}"


def ratio(row: Found) -> str:
    low, middle, high = (float(row[f"ratio_{name}"]) for name in ("low", "median", "high"))
    digits = 0 if middle >= 100 else 1
    return f"**{middle:.{digits}f}x** ({low:.{digits}f}-{high:.{digits}f})"


def size(row: Found) -> str:
    return f"v{row['version']} {row['num_antennas']}x{row['num_subcarriers']}, {row['seq_len']} tokens"


def sizes(found: Sequence[Found]) -> list[list[Found]]:
    """Rows grouped by model, size and threads, in file order."""
    groups: dict[tuple[str, ...], list[Found]] = {}
    for row in found:
        key = tuple(row[name] for name in ("version", "num_antennas", "num_subcarriers"))
        groups.setdefault(key, []).append(row)
    return list(groups.values())
