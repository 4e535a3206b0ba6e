"""Work shared among processes, which end with the process that started them and leave Ctrl-C to it."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from lwm_fast.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")

# What keeps math libraries of a process to one thread, if it is set before they are loaded.
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LWM_FAST_NUM_THREADS"), "1"
)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables that processes started within the block see; what was set before comes back."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def in_workers(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    *,
    place: Path,
    kept: str,
    variables: Mapping[str, str] | None = None,
    start: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
) -> Iterator[tuple[Item, Result]]:
    """Each item with what `work(item)` gave, as they end; an iteration given up ends the workers at once.

    Args:
        work: a function that can be pickled; what it writes must be written whole or not at all.
        items: what to work on, hashable.
        workers: number of processes.
        place: where the results go, for the error.
        kept: what stays when a worker is killed, for the error.
        variables: of the workers' environment, beside the parent's.
        start: called once in each worker as `start(*arguments)`.

    Raises:
        InputError: a worker was killed.
    """
    context = multiprocessing.get_context("spawn")  # not forked: torch may have threads
    stopped, stop = context.Pipe(duplex=False)  # an Event would wait for killed workers to wake up
    with environment(variables or {}):
        pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(stopped, start, arguments))
        futures = {pool.submit(work, item): item for item in items}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise InputError(
            f"{place}: a worker process was killed (out of memory?); {kept} are kept: run again, with fewer workers"
        ) from error
    finally:
        stop.close()  # whatever still runs is given up: Ctrl-C does not wait for it
        pool.shutdown(cancel_futures=True)
        stopped.close()


def _start(stopped: Connection, start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_exit_after, args=(stopped,), daemon=True).start()
    if start is not None:
        start(*arguments)


def _exit_after(stopped: Connection) -> None:
    """A parent that was killed cannot stop its workers either, and they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([stopped, parent.sentinel])
    os._exit(1)
