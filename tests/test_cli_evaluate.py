"""`lwm-fast evaluate`: from the command line to a table, stopped and taken up again, and what it says of mistakes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.evaluation_cases import small_sweep, write_town

from lwm_fast.cli import main
from lwm_fast.evaluation import read_runs


@pytest.fixture
def place(tmp_path) -> Path:
    small_sweep(tmp_path)  # writes town.h5 and weights
    return tmp_path


def arguments(place: Path, *more: str) -> list[str]:
    return [
        "evaluate", "--task", "los", "--data", str(place / "town.h5"), "--weights", str(place / "weights"),
        "--heads", "linear", "--epochs", "2", "--workers", "1", "--out", str(place / "out"), *more,
    ]  # fmt: skip


def test_a_sweep_is_run_and_its_table_printed(place, capsys):
    more = ("--inputs", "raw,cls", "--counts", "6,10", "--seeds", "0:3", "--snr", "clean,5", "--no-baselines")
    assert main(arguments(place, *more)) == 0
    printed = capsys.readouterr()
    assert "| cls | linear | nothing | 5 dB |" in printed.out
    assert printed.out.count("| raw | linear |") == 2
    assert "24 runs" in printed.err
    rows = read_runs(place / "out")
    assert {(row["input"], row["count"], row["seed"], row["snr_db"]) for row in rows} == {
        (name, count, seed, snr)
        for name in ("raw", "cls")
        for count in (6, 10)
        for seed in range(3)
        for snr in (None, 5.0)
    }


def test_the_same_command_goes_on_with_more(place, capsys):
    assert main(arguments(place, "--counts", "6", "--seeds", "0", "--no-baselines")) == 0
    before = (place / "out" / "runs.csv").read_text()
    assert main(arguments(place, "--counts", "6", "--seeds", "0,1", "--no-baselines")) == 0
    assert "1 of 2 runs are done" in capsys.readouterr().err
    after = (place / "out" / "runs.csv").read_text()
    assert after.startswith(before)
    assert len(after.splitlines()) == 3


def test_settings_of_the_task_and_of_loading_reach_it(place):
    write_town(place / "other.h5", carrier=28e9)
    more = (
        "--label-data", str(place / "other.h5"), "--set", "num_beams=8", "--set", "codebook=half-open",
        "--counts", "20", "--seeds", "0", "--scale", "2e6", "--lr", "cls=5e-4", "--split", "position", "--no-baselines",
    )  # fmt: skip
    command = arguments(place, *more)
    command[2] = "beams"
    assert main(command) == 0
    (row,) = read_runs(place / "out")
    assert (row["codebook"], row["num_beams"], row["learning_rate"]) == ("half-open", 8, 5e-4)
    assert row["split"].startswith("position, ")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--inputs", "clss"), "error: input 'clss' is unknown; did you mean"),
        (("--counts", "six"), "--counts: 'six': invalid literal"),
        (("--counts", "100"), "error: los: 100 training users of 42"),
        (("--fractions", "0.0001"), "is no user; raise it"),
        (("--counts", "6", "--fractions", "0.5"), "counts and fractions are both given"),
        (("--seeds", "0:1:2"), "--seeds"),
        (("--split-fractions", "0.7,0.3"), "three shares were expected"),
        (("--lr", "cls"), "INPUT=RATE was expected"),
        (("--set", "num_beams"), "KEY=VALUE was expected"),
        (("--set", "a=["), "not valid YAML"),
        (("--set", "beams=3"), "task 'los' has no setting 'beams'"),
        (("--weights", "nowhere.pth"), "nowhere.pth: no such file or folder"),
        (("--label-data", "x", "--label-data", "y"), "2 sources of labels for 1 of channels"),
    ],
)
def test_mistakes_are_named_and_leave_no_runs(place, capsys, more, message):
    assert main(arguments(place, *more)) == 2
    assert message in capsys.readouterr().err
    assert not (place / "out" / "runs.csv").exists()


def test_cities_whose_users_do_not_match_are_refused(place, capsys):
    write_town(place / "short.h5", users=50, carrier=28e9)
    command = arguments(place, "--label-data", str(place / "short.h5"))
    command[2] = "beams"
    assert main(command) == 2
    assert "no channel at the label band for 10 of 60 users" in capsys.readouterr().err


def nobody_left(group: int, seconds: float = 30.0) -> bool:
    """True as soon as a process group is empty."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_ctrl_c_stops_at_once_and_the_command_goes_on(place):
    more = ("--inputs", "raw", "--heads", "mlp", "--epochs", "40", "--seeds", "0:8", "--no-baselines")
    command = [sys.executable, "-m", "lwm_fast", *arguments(place, *more), "--workers", "2"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored in background jobs
    )  # fmt: skip
    table = place / "out" / "runs.csv"
    while process.poll() is None and not (table.exists() and len(table.read_text().splitlines()) > 1):
        time.sleep(0.02)
    assert process.poll() is None, "it was over before it could be stopped"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert nobody_left(process.pid), "a worker goes on"
    done = len(read_runs(place / "out"))
    assert 1 <= done < 8
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    assert len(read_runs(place / "out")) == 8
