"""`lwm-fast pretrain`: the options, the exit codes, and the way from data to embeddings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from support.training_cases import tiny_config, write_data

from lwm_fast.cli import main
from lwm_fast.training import recipes


@pytest.fixture
def setting(tmp_path):
    (tmp_path / "recipe.yaml").write_text(tiny_config().to_yaml())
    data = write_data(tmp_path / "data")
    return [
        "pretrain",
        "--config",
        str(tmp_path / "recipe.yaml"),
        *(x for p in data for x in ("--data", str(p))),
    ]


def test_pretrain_resume_and_embed(capsys, tmp_path, setting):
    out = tmp_path / "run"
    assert main([*setting, "--out", str(out), "--max-steps", "2", "--set", "optimizer.lr=2e-3"]) == 0
    assert "step 2 of 12" in capsys.readouterr().out
    assert yaml.safe_load((out / "config.yaml").read_text())["optimizer"]["lr"] == 2e-3
    assert main([*setting, "--out", str(out)]) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert main([*setting, "--out", str(out), "--resume"]) == 2
    assert "optimizer.lr was 0.002 and is now 0.001" in capsys.readouterr().err
    assert main([*setting, "--out", str(out), "--resume", "--set", "optimizer.lr=2e-3"]) == 0
    printed = capsys.readouterr().out
    assert "step 12 of 12" in printed
    assert "17 tokens  NMSE" in printed
    source = str(tmp_path / "data/part0.npy")
    assert main(["embed", source, "-o", str(tmp_path / "e.h5"), "--weights", str(out / "model")]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config", "lwm-v1.2"], "did you mean"),
        (["--set", "optimizer.momentum=1"], "unknown key 'optimizer.momentum'"),
        (["--set", "run.precision=float64"], "run.precision='float64'"),
        (["--data", "{tmp}/absent.npy"], "absent.npy"),
        (["--max-steps", "0"], "max-steps"),
        (["--out", "{tmp}/recipe.yaml"], "is a file; choose a folder"),
        (["--set", "model.max_len=20"], "33"),
    ],
)
def test_bad_usage_exits_2(capsys, tmp_path, setting, options, message):
    arguments = [*setting, "--out", str(tmp_path / "run"), *(o.format(tmp=tmp_path) for o in options)]
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists(), "nothing half-written"


def test_the_help_names_the_recipes(capsys):
    assert main(["pretrain", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for name in recipes():
        assert name in out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_exits_130_with_everything_saved(tmp_path, setting, name):
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "lwm_fast",
        *setting,
        "--out",
        str(out),
        "--set",
        "schedule.epochs=100000",
    ]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (out / "checkpoints").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "go on with --resume" in err
    assert (out / "model/model.safetensors").exists()
