"""`python -m bench.weights`: weights of our own beside the release and honest baselines, on cities never trained on.

    python -m bench.weights --data CITIES --released lwm_v1.0.pth --weights FOLDER --ablation FOLDER \\
        --streets STORE --out RUN

runs the jobs of `bench.weights_jobs` by `lwm-fast evaluate`, and writes their summaries (mean and spread over the
splits, nothing of single users) into bench/results/weights/. What RUN holds already is not run again, and models may
come one after another: the summaries are made of all that RUN holds.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.weights_jobs import (
    ABLATION,
    CITIES,
    JOBS,
    MASKED,
    NAMES,
    OURS,
    RANDOM,
    RELEASED,
    REPEAT,
    SEEDS,
    Job,
)

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results" / "weights"
COLUMNS = (
    "model", "input", "head", "amount", "score", "n", "mean", "sd", "min", "max", "n_train", "n_test", "learning_rate",
    "epochs", "split", "source", "weights_sha256", "lwm_fast",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.weights", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the cities' scenario folders")
    parser.add_argument("--out", type=Path, required=True, help="folder of all runs; goes on there")
    parser.add_argument("--weights", help="ours: a folder or name")
    parser.add_argument("--ablation", help="ours, trained by masked channel modelling alone")
    parser.add_argument(
        "--repeat", action="append", default=[], help="ours from another seed; may be given again"
    )
    parser.add_argument("--released", help="file of the released v1.0 weights; the baselines run with it")
    parser.add_argument("--untrained", action="store_true", help="random weights of our sizes")
    parser.add_argument("--streets", help="ray store: what predicts without labels is fitted to it")
    parser.add_argument("--only", default=",".join(NAMES), help=f"jobs: {', '.join(NAMES)}")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the summaries")
    options = parser.parse_args(argv)
    wanted = [name.strip() for name in options.only.split(",")]
    if unknown := sorted(set(wanted) - set(NAMES)):
        parser.error(f"no job is called {', '.join(unknown)}; there are {', '.join(NAMES)}")
    models = {OURS: options.weights, ABLATION: options.ablation, RELEASED: options.released}
    models |= {f"{REPEAT}-{number}": folder for number, folder in enumerate(options.repeat, 1)}
    models |= {RANDOM: RANDOM if options.untrained else None}
    for name in wanted:
        for model, weights in models.items():
            if weights is not None:
                started = time.perf_counter(), time.process_time()
                run(name, model, weights, options)
                spent = time.perf_counter() - started[0], time.process_time() - started[1]
                print(f"{name}, {model}: {spent[0]:.0f} s, {spent[1]:.0f} s of processor time", flush=True)
        write_results(name, options.out / name, options.results)
    return 0


def run(name: str, model: str, weights: str, options: argparse.Namespace) -> None:
    """One job with one model, as far as it is not done."""
    from lwm_fast.evaluation import run_sweep

    place = options.out / name / model
    if name == MASKED:
        masked(model, weights, options.data, place)
        return
    job: Job = JOBS[name]
    if job.streets and options.streets is None:
        print(f"{name}: left out, it needs --streets")
        return
    shared = (
        options.out / "cache" / model
    )  # arrays are named by what they are made of: all jobs may share them
    shared.mkdir(parents=True, exist_ok=True)
    place.mkdir(parents=True, exist_ok=True)
    if not (place / "cache").exists():
        (place / "cache").symlink_to(shared.resolve())
    for part in job.parts.get(model.partition("-")[0] if model.startswith(REPEAT) else model, ()):
        sweep = job.sweep(part, weights, options.data, options.streets)
        run_sweep(sweep, place, options.workers)


def masked(model: str, weights: str, data: Path, place: Path) -> None:
    """Masked reconstruction of each city; baselines, which know no weights, under the masks of both versions."""
    from lwm_fast import load_channels
    from lwm_fast.evaluation.masked import masked_scores, write_scores
    from lwm_fast.weights import load_model

    place.mkdir(parents=True, exist_ok=True)
    encoder = load_model(weights)
    methods = {RANDOM: ("neighbour", "pursuit"), RELEASED: ("model", "neighbour")}.get(model, ("model",))
    for city in CITIES:
        path = place / f"{city}.csv"
        if not path.exists():
            channels = load_channels(data / f"{city}_3p5")
            write_scores(masked_scores(encoder, channels, seeds=SEEDS, methods=methods), path)


def write_results(name: str, folder: Path, results: Path) -> None:
    """The summary of a job: a row for each model, input, head, amount and score."""
    rows: list[dict[str, Any]] = []
    for place in sorted(folder.iterdir()) if folder.is_dir() else []:
        rows += _masked_rows(place) if name == MASKED else _sweep_rows(place)
    if not rows:
        return
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{name}.csv"
    temporary = path.with_suffix(".part")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)


def _sweep_rows(place: Path) -> Iterable[dict[str, Any]]:
    from lwm_fast.evaluation import read_runs, summarize

    if not (place / "runs.csv").is_file() or not (runs := read_runs(place)):
        return
    first = {(run["input"], run["head"], run["amount"]): run for run in runs}
    scores = [name for name in runs[0] if name.startswith("best_") and name != "best_epoch"]
    for item in summarize(runs, scores):
        about = first[item.input, item.head, item.amount]
        spread = {key: f"{getattr(item, key):.5g}" for key in ("mean", "sd", "min", "max")}
        yield {
            **{key: about[key] for key in COLUMNS if key in about},
            "model": place.name, "score": item.score.removeprefix("best_"), "n": item.n, **spread,
        }  # fmt: skip


def _masked_rows(place: Path) -> Iterable[dict[str, Any]]:
    import numpy as np

    for path in sorted(place.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            found: list[Mapping[str, str]] = list(csv.DictReader(file))
        for method in dict.fromkeys(row["method"] for row in found):
            own = [row for row in found if row["method"] == method]
            for score in ("nmse", "nmse_median", "nmse_hidden"):
                values = np.array([float(row[score]) for row in own])
                numbers = {
                    "mean": values.mean(),
                    "sd": values.std(),
                    "min": values.min(),
                    "max": values.max(),
                }
                yield {
                    "model": place.name, "input": "csi", "head": method,
                    "amount": f"{float(own[0]['mask_ratio']):.0%} masked",
                    "score": score, "n": len(own), **{key: f"{value:.5g}" for key, value in numbers.items()},
                    "n_train": 0, "n_test": own[0]["users"], "source": f"{path.stem}_3p5",
                }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
