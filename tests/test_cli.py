"""The command line: what a user types first, what it prints, and its exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from support.released import random_csi
from support.shipped import random_shipment

from lwm_fast import LWM, LWMConfig, __version__
from lwm_fast.cli import main
from lwm_fast.weights import DEFAULT, NAMES


@pytest.fixture
def source(tmp_path) -> Path:
    np.save(tmp_path / "csi.npy", random_csi(6, 32, 32))
    return tmp_path / "csi.npy"


@pytest.fixture
def weights(tmp_path) -> Path:
    torch.save(LWM.random(LWMConfig.v1_0(num_layers=1), seed=1).state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in ("env", "inspect", "convert", "embed", "demo"):
        assert command in out
        assert main([command, "--help"]) == 0


def test_env_names_versions_cpu_and_backends(capsys):
    assert main(["env"]) == 0
    out = capsys.readouterr().out
    for text in (
        torch.__version__,
        "cpu features",
        "native code path",
        "torch   available",
        "triton  unavailable:",
    ):
        assert text in out


def test_embed_inspect_and_convert(capsys, tmp_path, source, weights):
    out = tmp_path / "e.h5"
    assert main(["embed", str(source), "-o", str(out), "--weights", str(weights)]) == 0
    printed = capsys.readouterr()
    assert "6 channels" in printed.out
    assert "LWM v1.0" in printed.err
    with h5py.File(out) as file:
        assert file["embeddings"].shape == (6, 64)
        assert file.attrs["pool"] == "cls"
    assert main(["inspect", str(out)]) == 0
    assert "embeddings: float32 (6, 64)" in capsys.readouterr().out
    assert main(["inspect", str(source)]) == 0
    assert "129 tokens" in capsys.readouterr().out
    assert main(["inspect", str(weights)]) == 0
    assert "weights of LWM v1.0" in capsys.readouterr().out
    assert main(["convert", str(weights), "-o", str(tmp_path / "st")]) == 0
    assert (tmp_path / "st" / "model.safetensors").exists()
    assert main(["convert", str(weights), "-o", str(tmp_path / "st")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["embed", str(source), "-o", str(out), "--weights", str(tmp_path / "st")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["embed", str(source), "-o", str(tmp_path / "f.h5"), "--weights", str(tmp_path / "st")]) == 0


def test_options_reach_the_work(tmp_path, source, weights):
    out = tmp_path / "e.h5"
    options = ["--pool", "mean", "--normalize", "--scale", "2e6", "--batch-size", "2", "--device", "cpu"]
    assert main(["embed", str(source), "-o", str(out), "--weights", str(weights), *options]) == 0
    with h5py.File(out) as file:
        np.testing.assert_allclose(np.linalg.norm(file["embeddings"][...], axis=1), 1, rtol=1e-5)
        assert (file.attrs["pool"], file.attrs["scale"], file.attrs["batch_size"]) == ("mean", 2e6, 2)


def test_random_weights_say_so(capsys, tmp_path, source):
    assert main(["embed", str(source), "-o", str(tmp_path / "e.h5"), "--weights", "random-1.1"]) == 0
    assert "RANDOM" in capsys.readouterr().err


def test_demo(capsys, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(NAMES, DEFAULT, random_shipment(tmp_path / "shipped"))
    arguments = ["demo", "-o", str(tmp_path / "demo"), "--users", "60"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    for text in ("synthetic", "weighted F1", "channels/s", "embeddings.h5", "los.png"):
        assert text in out
    assert (tmp_path / "demo" / "los.png").read_bytes()[:4] == b"\x89PNG"
    with h5py.File(tmp_path / "demo" / "embeddings.h5") as file:
        assert file["embeddings"].shape == (60, 128)
        assert bool(file.attrs["synthetic"])
    assert main(arguments) == 0  # again, over its own results
    assert main([*arguments, "--seed", "7"]) == 2
    assert "--seed 7: lwm-fast-base were trained on this street" in capsys.readouterr().err
    assert main([*arguments, "--weights", "random-base"]) == 2
    assert "has no link heads" in capsys.readouterr().err


BAD = [
    (["embed", "{source}"], "Missing option '-o'"),
    (
        ["embed", "{source}", "-o", "{tmp}/o.h5", "--weights", "random-1.1", "--pool", "max"],
        "pool='max' is unknown",
    ),
    (
        ["embed", "{source}", "-o", "{tmp}/o.h5", "--weights", "random-1.1", "--precision", "float64"],
        "does not offer",
    ),
    (
        ["embed", "{source}", "-o", "{tmp}/o.h5", "--weights", "random-1.1", "--batch-size", "x"],
        "--batch-size x",
    ),
    (
        ["embed", "{source}", "-o", "{tmp}/o.h5", "--weights", "random-1.1", "--device", "cuda:9"],
        "--device cuda:9",
    ),
    (["embed", "{source}", "-o", "{tmp}/no/o.h5", "--weights", "random-1.1"], "cannot be written"),
    (["embed", "{tmp}/absent", "-o", "{tmp}/o.h5", "--weights", "random-1.1"], "absent"),
    (["embed", "{source}", "-o", "{tmp}/o.h5", "--weights", "{tmp}/absent.pth"], "absent.pth"),
    (["embed", "{source}", "-o", "{tmp}/o.h5", "--weights", "random-1.1", "--num-antennas", "64"], "64"),
    (
        ["embed", "{source}", "-o", "{tmp}/o.h5", "--weights", "random-1.1", "--batch-size", "0"],
        "batch_size=0",
    ),
    (["inspect", "{tmp}/absent"], "no such file or folder"),
    (["frobnicate"], "No such command"),
    (["embed", "--frobnicate"], "No such option"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_usage_and_input_exit_2_with_one_line(capsys, tmp_path, source, arguments, message):
    before = sorted(p.name for p in tmp_path.iterdir())
    assert main([a.format(source=source, tmp=tmp_path) for a in arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == before, "nothing half-written"


def test_an_unexpected_failure_exits_1(capsys, monkeypatch, source, tmp_path):
    monkeypatch.setattr("lwm_fast.cli.embed.load_model", lambda *_: 1 / 0)
    assert main(["embed", str(source), "-o", str(tmp_path / "e.h5"), "--weights", "random-1.1"]) == 1
    assert "failed: ZeroDivisionError" in capsys.readouterr().err


def test_warnings_are_one_line(capsys, tmp_path):
    np.save(tmp_path / "big.npy", random_csi(3, 32, 32) * np.complex64(1e5))
    assert (
        main(["embed", str(tmp_path / "big.npy"), "-o", str(tmp_path / "e.h5"), "--weights", "random-1.1"])
        == 0
    )
    warning = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning:")]
    assert len(warning) == 1
    assert "--scale" in warning[0]


@pytest.mark.slow
def test_interrupt_exits_130(tmp_path):
    np.save(tmp_path / "csi.npy", random_csi(4000, 32, 32))
    command = [
        sys.executable,
        "-m",
        "lwm_fast",
        "embed",
        str(tmp_path / "csi.npy"),
        "-o",
        str(tmp_path / "e.h5"),
    ]
    process = subprocess.Popen(
        [*command, "--weights", "random-1.0"],
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background inherits an ignored SIGINT, and so would the command.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "e.h5.parts").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert not (tmp_path / "e.h5").exists()


def test_a_closed_pipe_is_quiet(source):
    command = f"{sys.executable} -m lwm_fast inspect {source} | true"
    result = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=os.environ, timeout=120
    )
    assert "Traceback" not in result.stderr
