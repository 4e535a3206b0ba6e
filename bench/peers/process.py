"""A subject: one arm in a process of its own, with its own environment and peak of memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import re
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.timing import time_calls
from lwm_fast.workers import environment

Job = Callable[[], Any]
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Subject:
    """Makes jobs by ``make(*arguments)`` in a child process and runs them there until :meth:`close`."""

    def __init__(self, make: Callable[..., Job], variables: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        with environment(variables):
            self._process = context.Process(target=_serve, args=(theirs, make), daemon=True)
            self._process.start()  # a spawned child reads its environment at its start
        theirs.close()

    def prepare(self, *arguments: Any) -> None:
        """Make the job that the other methods run; the one before is let go."""
        self._ask("prepare", *arguments)

    def run(self) -> Any:
        """Output of one call."""
        return self._ask("run")

    def seconds(self, calls: int) -> float:
        """Wall time of ``calls`` calls, taken in the child."""
        return float(self._ask("seconds", calls))

    def cpu_seconds(self, calls: int) -> float:
        """Time that all threads of the child computed during ``calls`` calls."""
        return float(self._ask("cpu_seconds", calls))

    def each(self, calls: int) -> list[float]:
        """Processor times of single calls: for one thread what a call takes on an idle machine."""
        return list(self._ask("each", calls))

    def peak_mib(self) -> float | None:
        """Peak of the child's resident memory since ``prepare``; None where the system does not tell."""
        found: float | None = self._ask("peak_mib")
        return found

    def close(self) -> None:
        self._pipe.close()
        self._process.join(timeout=10)

    def _ask(self, *message: Any) -> Any:
        self._pipe.send(message)
        failed, answer = self._pipe.recv()
        if failed:
            raise RuntimeError(f"a benchmark arm failed in its process:\n{answer}")
        return answer


class Subjects:
    """The processes of the arms, started when first asked for and kept for the next size."""

    def __init__(self, make: Callable[..., Job]) -> None:
        self._make = make
        self._running: dict[str, Subject] = {}

    def __enter__(self) -> Subjects:
        return self

    def __exit__(self, *_: object) -> None:
        for subject in self._running.values():
            subject.close()

    def of(self, name: str, variables: Mapping[str, str]) -> Subject:
        if name not in self._running:
            self._running[name] = Subject(self._make, variables)
        return self._running[name]


class _Server:
    def __init__(self, make: Callable[..., Job]) -> None:
        self._make = make
        self._job: Job = lambda: None

    def prepare(self, *arguments: Any) -> None:
        self._job = lambda: None  # before the next is built, so that its memory is its own
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")  # Linux: the peak starts anew
        self._job = self._make(*arguments)

    def run(self) -> Any:
        return self._job()

    def seconds(self, calls: int) -> float:
        return time_calls(self._job, calls)

    def cpu_seconds(self, calls: int) -> float:
        started = time.process_time()
        time_calls(self._job, calls)
        return time.process_time() - started

    def each(self, calls: int) -> list[float]:
        return [self.cpu_seconds(1) for _ in range(calls)]

    def peak_mib(self) -> float | None:
        with contextlib.suppress(OSError):
            if found := re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text()):
                return int(found[1]) / 1024
        return None


def _serve(pipe: Connection, make: Callable[..., Job]) -> None:
    server = _Server(make)
    while True:
        try:
            name, *arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((False, getattr(server, name)(*arguments)))
        except Exception:
            pipe.send((True, traceback.format_exc()))
