"""The GPU harness walks through every stage without a GPU, and judges and counts as it says. Times are never judged."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from support.bench_modules import ROOT, bench_modules

gpu, timing, ceilings, layout, device, rows = bench_modules(
    "gpu.__main__", "gpu.timing", "gpu.ceilings", "gpu.layout", "gpu.device", "rows"
)

CASES = [
    ("ops", "attention-17"),
    ("ops", "attention-v1.0"),
    ("ops", "tail-v1.0"),
    ("ops", "patch_embed-v1.0"),
    ("ops", "linear"),
    ("ops", "norm"),
    ("ops", "mcm_loss"),
    ("encoder", "encode-17"),
    ("tune", "tune-norm-v1.1"),
    pytest.param("ops", "attention-mixed", marks=pytest.mark.slow),
    pytest.param("ops", "tail-v1.1", marks=pytest.mark.slow),
    pytest.param("encoder", "encoder-v1.0", marks=pytest.mark.slow),
    pytest.param("encoder", "encoder-mixed", marks=pytest.mark.slow),
    pytest.param("train", "train-129", marks=pytest.mark.slow),
    pytest.param("train", "train-mixed", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("stage", "case"), CASES)
def test_dry_runs(stage: str, case: str, tmp_path: Path) -> None:
    assert gpu.main([stage, case, "--dry-run", "--out", str(tmp_path)]) == 0
    found = rows.read_csv(tmp_path / f"gpu_{stage}.csv")
    assert any(row.arm.startswith("lwm_fast") or stage == "tune" for row in found)
    for row in found:
        assert "dry run" in row.device
        assert row.command == f"bench/gpu.sh {stage} {case}"
        assert row.median_s_per_item is not None or "not run: " in row.note, row
    assert json.loads((tmp_path / f"gpu_{stage}.json").read_text(encoding="utf-8"))["dry_run"] is True


def test_a_dry_run_never_reaches_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["ops", "norm", "--dry-run"])
    assert stopped.value.code == 2
    assert "measures nothing" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_device_is_said_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["ops"])
    assert "sees no CUDA device" in capsys.readouterr().err


def settings(seconds: float = 60.0) -> Any:
    return timing.GpuSettings(device.Cpu(), 2, timing.Budget(seconds), 0.0)


def arm(name: str, error: float, *, ours: bool = False, fails: bool = False) -> Any:
    def make() -> Any:
        if fails:
            raise RuntimeError("no kernel image\nmore lines")
        return lambda i: torch.ones(3)

    return timing.GpuArm(name, make, lambda _: error, 1e-3, ours)


def compare(arms: list[Any], seconds: float = 60.0) -> list[Any]:
    found: list[Any] = timing.compare("made up", "channel", arms, settings(seconds), items=4, copies=2)
    return found


def test_peers_that_fail_or_are_wrong_become_rows_with_the_reason() -> None:
    found = compare(
        [arm("lwm_fast", 0.0, ours=True), arm("wrong", 1.0), arm("broken", 0.0, fails=True), arm("good", 0.0)]
    )
    notes = {row.arm: row.note for row in found if row.median_s_per_item is None}
    assert "made up: 'wrong' is off by 1, allowed are 0.001" in notes["wrong"]
    assert notes["broken"] == "not run: RuntimeError: no kernel image"
    timed = [(row.arm, row.loop) for row in found if row.median_s_per_item is not None]
    assert timed == [("lwm_fast", "host"), ("lwm_fast", "graph"), ("good", "host"), ("good", "graph")]
    assert all(row.baseline.startswith("good, ") for row in found if row.arm == "lwm_fast")


@pytest.mark.parametrize("error", [1.0, float("nan")])
def test_ours_must_not_be_wrong(error: float) -> None:
    with pytest.raises(timing.DisagreementError, match="'lwm_fast' is off by"):
        compare([arm("lwm_fast", error, ours=True)])


def test_peers_are_left_out_when_the_time_is_up_and_ours_are_not() -> None:
    found = compare([arm("lwm_fast", 0.0, ours=True), arm("peer", 0.0)], seconds=-1.0)
    assert [row.arm for row in found if row.median_s_per_item is not None] == ["lwm_fast"] * 2
    assert "no time left" in next(row.note for row in found if row.arm == "peer")


def test_rows_of_other_cases_are_kept(tmp_path: Path) -> None:
    for case in ("norm", "mcm_loss"):
        gpu.main(["ops", case, "--dry-run", "--out", str(tmp_path)])
    found = rows.read_csv(tmp_path / "gpu_ops.csv")
    assert {row.command for row in found} == {"bench/gpu.sh ops norm", "bench/gpu.sh ops mcm_loss"}


@pytest.mark.parametrize(
    ("version", "seq_len", "gflop", "rate"),
    [
        ("1.0", 129, 0.197, 1.5e6),
        ("1.1", 65, 0.333, 2.4e6),
        ("1.1", 129, 0.712, 1.12e6),
        ("1.1", 513, 4.04, 1.42e5),
    ],
)
def test_ceilings(version: str, seq_len: int, gflop: float, rate: float) -> None:
    assert ceilings.encoder_flops(version, seq_len) == pytest.approx(gflop * 1e9, rel=5e-3)
    assert ceilings.encoder_rate(version, seq_len) == pytest.approx(rate, rel=1e-2)


def test_the_mix_has_the_lengths_of_the_20_pairs() -> None:
    lengths = layout.mixed_lengths(0)
    assert sorted(set(lengths)) == [17, 33, 65, 129, 257, 513]
    assert [lengths.count(n) for n in (17, 33, 65, 129, 257, 513)] == [1, 2, 3, 4, 5, 5]
    packed = layout.Layout.of(lengths, torch.device("cpu"))
    assert packed.runs()[1] == (17, 17 + 2 * 33, 33)
    assert packed.position()[17:51].tolist() == [*range(33), 0]


def test_gpu_sh_tells_how_it_is_used() -> None:
    answer = subprocess.run(
        ["bash", str(ROOT / "bench" / "gpu.sh")],
        capture_output=True,
        text=True,
        env={**os.environ, "RESULTS": "/dev"},
    )
    assert answer.returncode == 2
    assert "check|ops|encoder|train|tune|all" in answer.stdout
