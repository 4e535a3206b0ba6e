"""Arms in processes of their own: an instruction set and a BLAS thread count are chosen once per process."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from bench.timing import time_calls

_BLAS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Worker:
    """Runs ``make(*arguments)()`` in a single-threaded child that lives until :meth:`close`."""

    def __init__(
        self, make: Callable[..., Callable[[], Any]], *arguments: Any, isa: str | None = None
    ) -> None:
        wanted = dict.fromkeys((*_BLAS, "LWM_FAST_NUM_THREADS"), "1") | ({"LWM_FAST_ISA": isa} if isa else {})
        before = {name: os.environ.get(name) for name in wanted}
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        os.environ.update(wanted)  # a spawned child reads its environment at its start
        try:
            self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
            self._process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
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
