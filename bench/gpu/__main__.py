"""`python -m bench.gpu STAGE [CASE ...]`: time one stage on the GPU and write its rows."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from bench.environment import environment
from bench.gpu.device import Cpu, Cuda, Device
from bench.gpu.timing import Budget, GpuSettings
from bench.inputs import ROOT
from bench.rows import Row, read_csv, table, write_csv
from bench.timing import DisagreementError
from lwm_fast.files import atomic_path

# Stage -> modules with ``cases(settings)``, in the order in which they get the stage's time.
STAGES = {
    "ops": ("stage_attention", "stage_tail", "stage_small_ops"),
    "encoder": ("stage_encoder", "stage_encode"),
    "train": ("stage_train",),
    "tune": ("stage_tune",),
}
_RESULTS = ROOT / "bench" / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 when one of our arms was wrong or failed; the other cases are still timed."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("stage", choices=tuple(STAGES))
    parser.add_argument("case", nargs="*", help="cases of the stage; default: all")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds, at least 5 (default 7)")
    parser.add_argument("--seconds", type=float, default=360.0, help="time after which peers are left out")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="folder for the rows")
    parser.add_argument(
        "--dry-run", action="store_true", help="tiny sizes on the CPU: shows that the harness works"
    )
    options = parser.parse_args(arguments)
    device = _device(parser, options)
    rounds = 1 if device.dry else options.rounds
    settings = GpuSettings(device, rounds, Budget(options.seconds), 0.0 if device.dry else 0.02)
    known = dict(_cases(options.stage, settings))
    if unknown := sorted(set(options.case) - set(known)):
        parser.error(
            f"no case of {options.stage} is called {', '.join(unknown)}; there are {', '.join(known)}"
        )
    command = " ".join(filter(None, ("bench/gpu.sh", options.stage, *options.case)))
    refused, found = False, []
    for name in options.case or known:
        try:
            rows = known[name]()
        except DisagreementError as error:
            print(f"REFUSED: {error}", file=sys.stderr, flush=True)
            refused = True
            continue
        except Exception:  # the other cases are still worth their time
            print(f"FAILED: {name}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
            refused = True
            continue
        found += [dataclasses.replace(row, command=command) for row in rows]
        print(f"{name}\n{table(rows)}\n", flush=True)
        _write(options.out, options.stage, found, device)
    print(_summary(found))
    return int(refused)


def _device(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Device:
    if options.dry_run:
        if options.out.resolve() == _RESULTS:
            parser.error("--dry-run measures nothing: give --out another folder than bench/results")
        return Cpu()
    if options.rounds < 5:
        parser.error(f"--rounds {options.rounds}: medians and spreads need at least 5 rounds")
    if os.environ.get("TRITON_INTERPRET", "0") == "1":
        parser.error("TRITON_INTERPRET=1 runs the kernels in Python: unset it")
    if not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --dry-run --out FOLDER walks through the stage on the CPU")
    return Cuda()


def _cases(stage: str, settings: GpuSettings) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    for name in STAGES[stage]:
        yield from importlib.import_module(f"bench.gpu.{name}").cases(settings)


def _write(folder: Path, stage: str, found: Sequence[Row], device: Device) -> None:
    """Rows of this run, and of earlier ones for other cases; the environment beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"gpu_{stage}.csv"
    fresh = {_job(row) for row in found}
    kept = [row for row in read_csv(path) if _job(row) not in fresh] if path.exists() else []
    write_csv(path, [*kept, *found])
    about = environment() | device.describe() | {"triton": _triton_version(), "dry_run": device.dry}
    with atomic_path(folder / f"gpu_{stage}.json") as temporary:
        temporary.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _job(row: Row) -> tuple[object, ...]:
    return (
        row.case,
        row.version,
        row.seq_len,
        row.num_antennas,
        row.num_subcarriers,
        row.batch,
        row.note.split(";")[0],
    )


def _triton_version() -> str:
    try:
        return str(importlib.import_module("triton").__version__)
    except ImportError:
        return "not installed"


def _summary(rows: Sequence[Row]) -> str:
    """Ours beside the fastest peer, and what could not run."""
    lines = ["ours against the fastest peer (above 1 is faster):"]
    for row in rows:
        if row.ratio_median is not None:
            size = f"v{row.version} {row.seq_len or 'mixed'}".strip()
            lines.append(
                f"  {row.case:34} {size:12} {row.precision:9} {row.loop:5} {row.ratio_median:6.2f}x "
                f"({row.ratio_low:.2f}-{row.ratio_high:.2f})  {row.items_per_s:11.4g} {row.unit}s/s  "
                f"to {row.baseline}"
            )
    absent = sorted(
        {f"{row.arm}: {row.note.split('; ')[-1]}" for row in rows if row.median_s_per_item is None}
    )
    return "\n".join([*lines, *(["not timed:"] if absent else []), *(f"  {line}" for line in absent)])


if __name__ == "__main__":
    sys.exit(main())
