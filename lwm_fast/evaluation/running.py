"""`run_sweep`: the runs of a sweep that are missing, side by side, each on disk as soon as it is finished."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from lwm_fast.data.ray_store import RayStore
from lwm_fast.errors import InputError
from lwm_fast.evaluation.cache import digest_of_link_heads
from lwm_fast.evaluation.inputs import INPUTS
from lwm_fast.evaluation.prepared import Prepared
from lwm_fast.evaluation.single import Row, columns, execute, trained
from lwm_fast.evaluation.summary import write_summary
from lwm_fast.evaluation.sweep import CSI, Run, Sweep
from lwm_fast.evaluation.table import RunTable, read_runs
from lwm_fast.finetuning.freeze import trained_part
from lwm_fast.progress import Progress
from lwm_fast.workers import ONE_THREAD, cores, in_workers

logger = logging.getLogger("lwm_fast")


def run_sweep(
    sweep: Sweep,
    out: str | os.PathLike[str],
    workers: int | None = None,
    *,
    show_progress: bool | None = None,
) -> list[dict[str, Any]]:
    """Run what is missing of a sweep, and summarise it.

    Writes ``runs.csv`` (a row a run, appended as runs end), ``sweep.json``, ``summary.csv`` and ``table.md`` into
    `out`; the inputs of heads are kept in ``cache`` and may be deleted. Started again with the same sweep, or one
    with more inputs, counts, SNRs, heads or seeds, only the missing runs are done. A run gives the same numbers
    whatever the number of workers.

    Args:
        sweep: what to run.
        out: folder, made if it is missing.
        workers: processes with one thread each; None is one for each core that this process may use. 1 runs
            everything here.
        show_progress: as in `lwm_fast.progress.Progress`.

    Returns:
        The rows of this sweep, as `read_runs` gives them, in the order of `sweep.plan()`.

    Raises:
        InputError: anything wrong with the sweep, its data or weights, before the first run; runs of another
            sweep in the folder; after all other runs, those that failed.
    """
    if workers is not None and workers < 1:
        raise InputError(f"workers={workers}; give at least 1")
    place = Path(out).expanduser()
    runs = sweep.plan()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{place}: cannot be made ({error.strerror}); choose another folder") from error
    prepared = Prepared(sweep, place)
    for run in runs:  # what is impossible is refused before anything is computed
        prepared.split(run)
    for freeze in sweep.freeze:
        if freeze != "lora":
            trained_part(prepared.model, trained(freeze))
    table = RunTable(place, about(prepared), columns(prepared))
    missing = [run for run in runs if run.name not in table.done]
    if missing and len(missing) < len(runs):
        logger.info("%s: going on, %d of %d runs are done", place, len(runs) - len(missing), len(runs))
    failed: list[str] = []
    _embed(prepared, missing, show_progress)
    with Progress(
        len(runs), "evaluating", unit="runs", show=show_progress, done=len(runs) - len(missing)
    ) as bar:
        for run, row in _rows(prepared, place, missing, min(workers or cores(), len(missing))):
            if isinstance(row, InputError):
                failed.append(f"{run.name}: {row}")
            else:
                table.add(row)
            bar.update(1)
    wanted = {run.name: number for number, run in enumerate(runs)}
    rows = sorted(
        (row for row in read_runs(place) if row["run"] in wanted), key=lambda row: wanted[row["run"]]
    )
    if rows:
        write_summary(rows, place)
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise InputError(f"{place}: {len(failed)} of {len(runs)} runs failed; {failed[0]}{more}")
    return rows


def about(prepared: Prepared) -> dict[str, Any]:
    """What all runs of a folder have in common."""
    sweep = {name: value for name, value in prepared.sweep.to_dict().items() if name not in Sweep.PRODUCT}
    for name in ("data", "label_data"):  # the same files in another place are the same data
        sweep[name] = [Path(source).name for source in sweep[name]]
    sweep["weights"] = Path(sweep["weights"]).name
    if prepared.sweep.zero_label_data is not None:
        sweep["zero_label_data"] = RayStore.open(prepared.sweep.zero_label_data).fingerprint
    same = {"sweep": sweep, "data_sha256": prepared.data_sha256, "weights_sha256": prepared.weights_sha256}
    if (heads := digest_of_link_heads(prepared.model)) is not None:
        same["link_heads_sha256"] = heads
    return same


def _embed(prepared: Prepared, runs: Sequence[Run], show: bool | None) -> None:
    """Compute what encoders make of all users, once, with all threads."""
    wanted: dict[tuple[str, float | None, int | None], Run] = {}
    for run in runs:
        if run.input != CSI and run.freeze == "all" and INPUTS[run.input].pool is not None:
            seed = run.seed if INPUTS[run.input].seeded else None
            wanted.setdefault((run.input, run.snr_db, seed), run)
    # Patches first: the pass that makes them makes all pools.
    order = sorted(wanted.values(), key=lambda run: INPUTS[run.input].pool != "patches")
    with Progress(len(order), "embedding", unit="inputs", show=show) as bar:
        for run in order:
            prepared.inputs(run)
            bar.update(1)


def _rows(
    prepared: Prepared, place: Path, runs: Sequence[Run], workers: int
) -> Iterator[tuple[Run, Row | InputError]]:
    """Each run with its row, or with what went wrong, as they end."""
    if workers <= 1:
        with _one_thread():
            for run in runs:
                yield run, _attempt(prepared, run)
        return
    yield from in_workers(
        _in_worker,
        runs,
        workers,
        place=place,
        kept="finished runs",
        variables=ONE_THREAD,
        start=_start_worker,
        arguments=(prepared.sweep, place),
    )


def _attempt(prepared: Prepared, run: Run) -> Row | InputError:
    try:
        return execute(prepared, run)
    except InputError as error:
        return error


_prepared: Prepared | None = None  # of a worker process


def _start_worker(sweep: Sweep, place: Path) -> None:
    global _prepared
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the parent has said it all
    logger.setLevel(logging.ERROR)
    _prepared = Prepared(sweep, place)


def _in_worker(run: Run) -> Row | InputError:
    assert _prepared is not None
    return _attempt(_prepared, run)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
