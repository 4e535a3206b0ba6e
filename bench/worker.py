"""Arms in processes of their own: an instruction set and a BLAS thread count are chosen once per process."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from bench.timing import time_calls
from lwm_fast.workers import ONE_THREAD, environment


class Worker:
    """Runs ``make(*arguments)()`` in a single-threaded child that lives until :meth:`close`."""

    def __init__(
        self, make: Callable[..., Callable[[], Any]], *arguments: Any, isa: str | None = None
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        with environment(ONE_THREAD | ({"LWM_FAST_ISA": isa} if isa else {})):
            self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
            self._process.start()  # a spawned child reads its environment at its start
        theirs.close()

    def run(self) -> Any:
        """Output of one call."""
        return self._ask(0)

    def seconds(self, calls: int) -> float:
        """Wall time of ``calls`` calls, taken in the child."""
        return float(self._ask(calls))

    def close(self) -> None:
        self._pipe.close()
        self._process.join(timeout=10)

    def _ask(self, calls: int) -> Any:
        self._pipe.send(calls)
        failed, answer = self._pipe.recv()
        if failed:
            raise RuntimeError(f"a benchmark arm failed in its process:\n{answer}")
        return answer


def _serve(pipe: Connection, make: Callable[..., Callable[[], Any]], arguments: tuple[Any, ...]) -> None:
    job: Callable[[], Any] | None = None
    while True:
        try:
            calls = pipe.recv()
        except EOFError:
            return
        try:
            job = job or make(*arguments)
            pipe.send((False, time_calls(job, calls) if calls else job()))
        except Exception:
            pipe.send((True, traceback.format_exc()))
