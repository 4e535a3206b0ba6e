"""Work shared among processes: what they see, what comes back, and that none of them outlives its purpose."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from lwm_fast import InputError
from lwm_fast.workers import ONE_THREAD, cores, environment, in_workers

_started = ""


def start(word: str) -> None:
    global _started
    _started = word


def describe(number: int) -> tuple[int, str, str | None, bool]:
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return number * number, _started, os.environ.get("OMP_NUM_THREADS"), ignored


def end_oneself(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_or_return(place: Path) -> int:
    """Nothing to do in a folder; elsewhere the worker leaves its number and waits for ever."""
    if not place.is_dir():
        place.write_text(str(os.getpid()))
        time.sleep(600)
    return 0


def test_the_environment_comes_back(monkeypatch):
    monkeypatch.setenv("LWM_FAST_A", "before")
    monkeypatch.delenv("LWM_FAST_B", raising=False)
    with environment({"LWM_FAST_A": "1", "LWM_FAST_B": "2"}):
        assert (os.environ["LWM_FAST_A"], os.environ["LWM_FAST_B"]) == ("1", "2")
    assert os.environ["LWM_FAST_A"] == "before"
    assert "LWM_FAST_B" not in os.environ


def test_every_item_comes_back_once(monkeypatch, tmp_path):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = dict(
        in_workers(
            describe,
            [3, 1, 2],
            2,
            place=tmp_path,
            kept="runs",
            variables=ONE_THREAD,
            start=start,
            arguments=("a",),
        )
    )
    assert found == {number: (number**2, "a", "1", True) for number in (1, 2, 3)}
    assert "OMP_NUM_THREADS" not in os.environ
    assert cores() >= 1


def test_a_killed_worker_is_an_error_that_says_what_stays(tmp_path):
    with pytest.raises(
        InputError, match=r"a worker process was killed .*; finished runs are kept: run again"
    ):
        list(in_workers(end_oneself, [1], 1, place=tmp_path, kept="finished runs"))


@pytest.mark.skipif(os.name == "nt", reason="asks for a process by its number")
def test_workers_end_when_the_iteration_is_given_up(tmp_path):
    busy = tmp_path / "busy"
    work = in_workers(wait_or_return, [busy, tmp_path], 2, place=tmp_path, kept="runs")
    assert next(work) == (tmp_path, 0)
    while not (busy.exists() and busy.read_text()):
        time.sleep(0.01)
    work.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(busy.read_text()), 0)
