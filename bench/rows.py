"""One row schema for every case, its CSV file and its table on the terminal."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lwm_fast.files import atomic_path


@dataclass(frozen=True)
class Row:
    """One measured arm. Fields that do not apply are None and stay empty in the file.

    Times are seconds an item of ``unit``; low and high are the extremes of the rounds. Ratios are taken
    within a round: time of ``baseline`` / time of ``arm``. ``error_vs_fp64`` is relative (Frobenius) against
    the same work in float64, or against what ``note`` names. On a GPU, ``loop`` is "host" where Python launches
    every call and "graph" where one launch replays a recorded graph; ``share_of_ceiling`` is of the rate that the
    arithmetic allows (bench/gpu/ceilings.py). An arm that could not run has no times and says why in ``note``.
    """

    case: str
    arm: str
    unit: str
    baseline: str = ""
    version: str = ""
    num_antennas: int | None = None
    num_subcarriers: int | None = None
    seq_len: int | None = None
    batch: int | None = None
    threads: int | None = None
    precision: str = ""
    rounds: int | None = None
    median_s_per_item: float | None = None
    low_s: float | None = None
    high_s: float | None = None
    items_per_s: float | None = None
    ratio_median: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    error_vs_fp64: float | None = None
    peak_memory_mib: float | None = None
    loop: str = ""
    tokens_per_s: float | None = None
    share_of_ceiling: float | None = None
    build_s: float | None = None
    device: str = ""
    note: str = ""
    command: str = ""


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))
_KINDS = {field.name: str(field.type) for field in dataclasses.fields(Row)}


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows under the schema's header; the file appears whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([_cell(getattr(row, name)) for name in COLUMNS] for row in rows)


def read_csv(path: Path) -> list[Row]:
    """The rows of a file that :func:`write_csv` wrote, also of one written before a column was added."""
    with open(path, newline="", encoding="utf-8") as file:
        return [
            Row(**{name: _value(name, text) for name, text in line.items()}) for line in csv.DictReader(file)
        ]


def table(rows: Sequence[Row]) -> str:
    """The rows for a terminal: time, rate, ratio with its spread, error."""
    header = ("size", "arm", "threads", "precision", "time/item", "items/s", "ratio", "to", "error")
    lines = [header, *(_line(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _line(row: Row) -> tuple[str, ...]:
    size = f"v{row.version} " if row.version else ""
    if row.num_antennas is None and row.seq_len is not None:
        size += f"{row.seq_len} tokens"
    if row.num_antennas is not None:
        size += f"{row.num_antennas}x{row.num_subcarriers}"
    ratio = ""
    if row.ratio_median is not None:
        ratio = f"{row.ratio_median:.2f} ({row.ratio_low:.2f}-{row.ratio_high:.2f})"
    time = row.note.split("; ")[-1] if row.median_s_per_item is None and row.device else ""
    time = time if row.median_s_per_item is None else f"{1e6 * row.median_s_per_item:.4g} us/{row.unit}"
    rate = "" if row.items_per_s is None else f"{row.items_per_s:.4g}"
    error = "" if row.error_vs_fp64 is None else f"{row.error_vs_fp64:.1e}"
    memory = "" if row.peak_memory_mib is None else f" {row.peak_memory_mib:.0f} MiB"
    return (
        size,
        row.arm + (f", {row.loop}" if row.loop else "") + memory,
        str(row.threads or ""),
        row.precision,
        time,
        rate,
        ratio,
        row.baseline,
        error,
    )


def _value(name: str, text: str) -> Any:
    kind = _KINDS[name]
    if kind == "str":
        return text
    if text == "":
        return None
    return int(text) if kind.startswith("int") else float(text)


def _cell(value: object) -> object:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else value
