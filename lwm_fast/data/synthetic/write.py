"""Writes a ray store of synthetic streets with several processes; killed, it goes on where it was."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path

from lwm_fast.data.ray_store import RayStore, Shard, begin_store, finish_store, read_shard, summary_of
from lwm_fast.data.synthetic.plan import GENERATOR, StreetsPlan
from lwm_fast.errors import InputError
from lwm_fast.progress import Progress

logger = logging.getLogger("lwm_fast")


def write_streets(
    plan: StreetsPlan, folder: str | Path, *, workers: int | None = None, show_progress: bool | None = None
) -> RayStore:
    """Trace every street of a plan into a ray store, or what is missing of it.

    Streets that lie in the folder already are kept; every dataset and attribute of the finished store is the
    same however often the work was stopped and however many processes did it.

    Args:
        plan: what to draw.
        folder: of the store; made if it is missing.
        workers: processes; None means one for each core that this process may use.
        show_progress: as in `lwm_fast.progress.Progress`.

    Raises:
        InputError: a store of another plan in the folder; a place that cannot be written to or is full; a
            damaged shard; a street that cannot be drawn; a worker that was killed. What is finished stays.
    """
    if workers is not None and workers < 1:
        raise InputError(f"workers: got {workers}, expected at least 1")
    place = Path(folder).expanduser()
    streets = [plan.street(number).record() for number in range(plan.streets)]
    if begin_store(place, asdict(plan), streets, generator=GENERATOR):
        return RayStore.open(place)
    there = [number for number in range(plan.streets) if (place / shard_name(number)).exists()]
    shards = {
        number: summary_of(shard_name(number), read_shard(place / shard_name(number))) for number in there
    }
    todo = [number for number in range(plan.streets) if number not in shards]
    if there:
        logger.info("%s: going on, %d of %d streets are done", place, len(there), plan.streets)
    users = plan.users_per_street
    with Progress(
        plan.streets * users, "tracing", unit="users", show=show_progress, done=len(there) * users
    ) as progress:
        for number, shard in _traced(plan, place, todo, min(workers or _cores(), len(todo))):
            shards[number] = shard
            progress.update(shard.num_users)
    return finish_store(place, [shards[number] for number in range(plan.streets)])


def shard_name(number: int) -> str:
    """File name of a street's shard."""
    return f"street-{number:05d}.h5"


def _traced(plan: StreetsPlan, folder: Path, todo: list[int], workers: int) -> Iterator[tuple[int, Shard]]:
    """The shards of these streets as they are written, in any order."""
    if workers <= 1:
        for number in todo:
            yield number, _write_street(plan, folder, number)
        return
    # Not forked: torch may have threads. Each worker loads the package once, in a second or two.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        futures = {pool.submit(_write_street, plan, folder, number): number for number in todo}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise InputError(
            f"{folder}: a worker process was killed (out of memory?); the finished streets are kept: run "
            "again, with fewer workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _write_street(plan: StreetsPlan, folder: Path, number: int) -> Shard:
    channels = plan.street(number).trace(plan.users_per_street)
    channels.save(folder / shard_name(number))
    return summary_of(shard_name(number), channels)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed cannot stop its workers, and they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
