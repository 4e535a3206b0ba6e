"""Writes a ray store of synthetic streets with several processes; killed, it goes on where it was."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from lwm_fast.data.ray_store import RayStore, Shard, begin_store, finish_store, read_shard, summary_of
from lwm_fast.data.synthetic.plan import GENERATOR, StreetsPlan
from lwm_fast.errors import InputError
from lwm_fast.progress import Progress
from lwm_fast.workers import cores, in_workers

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
        for number, shard in _traced(plan, place, todo, min(workers or cores(), len(todo))):
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
    write = functools.partial(_write_street, plan, folder)
    yield from in_workers(write, todo, workers, place=folder, kept="the finished streets")


def _write_street(plan: StreetsPlan, folder: Path, number: int) -> Shard:
    channels = plan.street(number).trace(plan.users_per_street)
    channels.save(folder / shard_name(number))
    return summary_of(shard_name(number), channels)
