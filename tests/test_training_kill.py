"""Killed with `kill -9` at any moment and resumed, a run gives the same weights bit for bit."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.training_cases import tiny_config, write_data

from lwm_fast import LWM
from lwm_fast.training import pretrain
from lwm_fast.training.records import METRICS, VALIDATION, read_table

# Each moment kills the process by itself, so that it is hit exactly.
_CHILD = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from lwm_fast.training import TrainConfig, Trainer, pretrain
from lwm_fast.training.checkpoints import Checkpoints

def kill(*_args, **_options):
    os.kill(os.getpid(), signal.SIGKILL)

folder, moment = sys.argv[1:]
if moment == "in a step":
    real, taken = Trainer.step, []
    def step(self, *args, **options):
        taken.append(1)
        return kill() if len(taken) == 4 else real(self, *args, **options)
    Trainer.step = step
elif moment == "while a checkpoint is written":
    real_save, saved = torch.save, []
    def save(state, path, **options):
        saved.append(1)
        if len(saved) == 2:
            path.write_bytes(b"half of a")
            kill()
        real_save(state, path, **options)
    torch.save = save
elif moment == "between the last and the best checkpoint":
    Checkpoints._keep_as_best = kill
pretrain(TrainConfig.load(folder + "/config.yaml"), folder + "/data/part0.npy", folder + "/run", resume=True)
"""
_MOMENTS = (
    "in a step",
    "while a checkpoint is written",
    "between the last and the best checkpoint",
    "never",
)


@pytest.mark.slow
def test_kill_and_resume_give_the_same_run(tmp_path):
    config = tiny_config(
        model={"dropout": 0.1},
        data={"snr_db": [10.0, 30.0]},
        optimizer={"batch_size": 5},
        schedule={"epochs": 4},
        run={"checkpoint_every": 2, "validate_every": 9},
    )
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    data = write_data(tmp_path / "data", count=25)
    reached = []
    for moment in _MOMENTS:
        command = [sys.executable, "-c", _CHILD, str(tmp_path), moment]
        child = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert child.returncode == (0 if moment == "never" else -signal.SIGKILL), child.stderr
        reached.append(_last_checkpoint(tmp_path / "run"))
    assert reached == [2, 4, 9, 16], "every kill was later than the one before"

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pretrain(config, data[0], tmp_path / "whole")
    finally:
        torch.set_num_threads(before)
    for which in ("model", "checkpoints/step-000000016"):
        one, other = (LWM.from_pretrained(tmp_path / run / which).state_dict() for run in ("whole", "run"))
        assert all(torch.equal(one[name], other[name]) for name in one), which
    for table, kept in (("metrics.csv", METRICS[:8]), ("validation.csv", VALIDATION)):
        rows = [
            [{name: row[name] for name in kept} for row in read_table(tmp_path / run / table)]
            for run in ("whole", "run")
        ]
        assert rows[0] == rows[1], table


def _last_checkpoint(run: Path) -> int:
    return max(int(path.name[-9:]) for path in (run / "checkpoints").glob("step-*"))
