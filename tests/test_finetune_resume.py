"""Runs in a folder: killed and taken up again they end as if nothing had been; other runs are refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.finetuning_cases import CONFIG, easy_channels, small_model

from lwm_fast import InputError, finetune
from lwm_fast.tasks.fit import FitConfig

_TESTS = Path(__file__).resolve().parent


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(out, **more):
    more = {"freeze": "last-2", "config": CONFIG, "progress": False, **more}
    return finetune(small_model(), "los", easy_channels(), out=out, **more)


def test_a_killed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    whole = run(tmp_path / "whole")
    environment = {**os.environ, "PYTHONPATH": str(_TESTS), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "support.finetuning_cases", str(tmp_path / "cut")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        lines = []
        for line in process.stdout:
            lines.append(line.strip())
            if line.strip() == "saved 2":
                process.send_signal(signal.SIGKILL)
                break
    assert lines == ["saved 1", "saved 2"]
    assert not (tmp_path / "cut" / "result.json").exists()
    cut = run(tmp_path / "cut", resume=True)
    for a, b in ((whole.model, cut.model), (whole.head, cut.head)):
        assert all(
            torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
        )
    assert cut.history == whole.history
    assert (cut.best, cut.last, cut.best_epoch) == (whole.best, whole.last, whole.best_epoch)


def test_a_finished_run_is_given_back_without_training(tmp_path, monkeypatch):
    first = run(tmp_path / "run")
    monkeypatch.setattr("lwm_fast.tasks.loop.Loop.epoch", None)
    again = run(tmp_path / "run", resume=True)
    assert again.best == first.best
    assert again.history == first.history


def test_a_folder_with_a_run_needs_resume_and_the_same_run(tmp_path):
    run(tmp_path / "run")
    with pytest.raises(InputError, match="holds a run already; go on with resume=True"):
        run(tmp_path / "run")
    with pytest.raises(InputError, match=r"config.epochs was 4 and is now 5"):
        run(tmp_path / "run", resume=True, config=FitConfig(**{**CONFIG.to_dict(), "epochs": 5}))
    with pytest.raises(InputError, match="freeze was 'last-2' and is now 'last-1'"):
        run(tmp_path / "run", resume=True, freeze="last-1")
    with pytest.raises(InputError, match="weights_digest was"):
        finetune(
            small_model(dropout=0.1).__class__.random(small_model().config, seed=9), "los", easy_channels(),
            freeze="last-2", config=CONFIG, out=tmp_path / "run", resume=True,
        )  # fmt: skip
    with pytest.raises(InputError, match="data was"):
        finetune(
            small_model(), "los", easy_channels(seed=1), freeze="last-2", config=CONFIG, out=tmp_path / "run",
            resume=True,
        )  # fmt: skip


def test_other_folders_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        run(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        run(tmp_path / "notes.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_damaged_checkpoint_is_named(tmp_path):
    run(tmp_path / "run")
    (tmp_path / "run" / "last.torch").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="a damaged checkpoint"):
        run(tmp_path / "run", resume=True)


def test_other_software_is_warned_of(tmp_path):
    run(tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "num_threads": 77}))
    with pytest.warns(UserWarning, match="num_threads was 77 and is now 1"):
        run(tmp_path / "run", resume=True)


def test_frozen_runs_are_kept_too(tmp_path):
    first = run(tmp_path / "run", freeze="all")
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "run.json", "last.torch", "model", "head.safetensors", "predictions.npz", "result.json",
    }  # fmt: skip
    assert run(tmp_path / "run", freeze="all", resume=True).best == first.best
    estimator = run(tmp_path / "estimator", freeze="all", head="nearest-mean")
    assert run(tmp_path / "estimator", freeze="all", head="nearest-mean", resume=True).best == estimator.best
