"""The benchmarks run, their rows are complete, and a wrong arm stops its case. Times are never judged."""

from __future__ import annotations

import csv
import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.bench_modules import ROOT, bench_modules
from support.released import random_csi

from lwm_fast import LWM, LWMConfig, reference

timing, rows, inputs, cases, released, training, report = bench_modules(
    "timing", "rows", "inputs", "cases", "released", "released_training", "report"
)
main = bench_modules("__main__")[0].main

ALWAYS = ("case", "arm", "unit", "command")
TIMED = ("threads", "rounds", "median_s_per_item", "low_s", "high_s", "items_per_s", "note")
RATIO = ("ratio_median", "ratio_low", "ratio_high")


@pytest.fixture
def without_data(monkeypatch, tmp_path):
    monkeypatch.setenv("LWM_FAST_TEST_DATA", str(tmp_path / "absent"))
    for cached in (inputs.channels, inputs.model):
        cached.cache_clear()
    yield
    for cached in (inputs.channels, inputs.model):
        cached.cache_clear()


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames or ()) == rows.COLUMNS
        return list(reader)


def assert_complete(found: list[dict[str, str]], case: str) -> None:
    assert found
    for row in found:
        required = ALWAYS + {"numerics": ("error_vs_fp64",), "padding": RATIO}.get(case, TIMED)
        required += RATIO if row["baseline"] else ()
        assert not [name for name in required if row[name] == ""], row
        assert row["case"] == case
        assert row["command"] == f"python -m bench {case} --quick"
        if row["baseline"]:
            assert row["baseline"] in {other["arm"] for other in found}
            assert float(row["ratio_low"]) <= float(row["ratio_median"]) <= float(row["ratio_high"])
        if row["low_s"]:
            assert 0 < float(row["low_s"]) <= float(row["median_s_per_item"]) <= float(row["high_s"])


@pytest.mark.slow
@pytest.mark.parametrize("case", cases.DEFAULT)
def test_default_cases_run(shared_data, tmp_path, case):
    assert main([case, "--quick", "--out", str(tmp_path)]) == 0
    assert_complete(read(tmp_path / f"{case}.csv"), case)


@pytest.mark.slow
def test_embed_memory_runs(tmp_path):
    assert main(["embed_memory", "--quick", "--out", str(tmp_path)]) == 0
    found = read(tmp_path / "embed_memory.csv")
    assert_complete(found, "embed_memory")
    assert float(found[0]["peak_memory_mib"]) > 50  # an interpreter with torch


@pytest.mark.parametrize("case", ["tokenize", "encode", "numerics"])
def test_cases_run_on_synthetic_channels_and_say_so(without_data, tmp_path, case):
    assert main([case, "--quick", "--out", str(tmp_path)]) == 0
    found = read(tmp_path / f"{case}.csv")
    assert_complete(found, case)
    assert all("synthetic" in row["note"] for row in found)
    assert all("random weights" in row["note"] for row in found if case != "tokenize")


def test_a_case_without_its_data_is_skipped_with_the_reason(without_data, tmp_path, capsys):
    assert main(["load", "--quick", "--out", str(tmp_path)]) == 0
    assert "load: skipped" in (printed := capsys.readouterr().out)
    assert "LWM_FAST_TEST_DATA" in printed
    assert not (tmp_path / "load.csv").exists()


def test_the_environment_is_described_without_names_of_places(without_data, tmp_path):
    main(["load", "--quick", "--out", str(tmp_path)])
    text = (tmp_path / "environment.json").read_text(encoding="utf-8")
    found = json.loads(text)
    wanted = {"date", "cpu", "cores", "isa", "python", "torch", "numpy", "lwm_fast", "default_threads"}
    assert wanted <= found.keys()
    assert platform.node() not in text
    assert str(ROOT) not in text


def arm(name: str, seconds: list[float], **options: Any) -> Any:
    """An arm whose clock reads the given seconds, call after call."""
    clock = iter(seconds)
    return timing.Arm(name, lambda: 0.0, 10, timer=lambda calls: next(clock) * calls, **options)


def test_ratios_are_taken_within_rounds():
    slow = arm("slow", [4.0, 8.0, 6.0])
    fast = arm("fast", [2.0, 2.0, 1.0], baselines=("slow",), threads=2)
    first, second = timing.compare("made up", "channel", [slow, fast], rounds=3, min_seconds=0, note="n")
    assert (first.median_s_per_item, first.low_s, first.high_s) == pytest.approx((0.6, 0.4, 0.8))
    assert first.ratio_median is None
    assert (second.ratio_median, second.ratio_low, second.ratio_high) == pytest.approx((4.0, 2.0, 6.0))
    assert second.items_per_s == pytest.approx(5.0)
    assert (second.threads, second.note) == (2, "n")


def test_arms_are_interleaved():
    order: list[str] = []

    def clocked(name: str) -> Any:
        def clock(calls: int) -> float:
            order.append(name)
            return 1.0

        return timing.Arm(name, lambda: 0.0, 1, timer=clock)

    timing.interleave([clocked(name) for name in "ABC"], rounds=3, min_seconds=0)
    assert "".join(order) == "ABC" * 3


def test_short_calls_are_repeated_until_the_sample_is_long_enough():
    asked: list[int] = []

    def clock(calls: int) -> float:
        asked.append(calls)
        return 0.01 * calls

    quick = timing.Arm("quick", lambda: 0.0, 5, timer=clock)
    times = timing.interleave([quick], rounds=2, min_seconds=0.1)
    assert asked[-1] == 10
    np.testing.assert_allclose(times["quick"], 0.002)


@pytest.mark.parametrize("error", [2e-6, float("nan"), float("inf")])
def test_a_wrong_arm_is_never_timed(error):
    def clock(calls: int) -> float:
        raise AssertionError("timed")

    wrong = timing.Arm("wrong", lambda: 0.0, 1, lambda _: error, 1e-6, timer=clock)
    with pytest.raises(timing.DisagreementError, match=r"made up: 'wrong' is off by .* nothing is reported"):
        timing.compare("made up", "channel", [wrong], rounds=2, min_seconds=0)


def test_a_refused_case_writes_no_rows_and_the_run_fails(tmp_path, monkeypatch, capsys):
    tokenize = bench_modules("cases.tokenize")[0]
    real = tokenize.tokenize
    monkeypatch.setattr(tokenize, "tokenize", lambda *args, **options: 2 * real(*args, **options))
    assert main(["tokenize", "--quick", "--out", str(tmp_path)]) == 1
    assert "REFUSED: tokenize: 'lwm_fast, new array'" in capsys.readouterr().err
    assert not (tmp_path / "tokenize.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"), [(["tokenise"], "no case"), (["--rounds", "4"], "at least 5")]
)
def test_wrong_arguments(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--out", str(tmp_path)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_threads_are_restored(monkeypatch):
    monkeypatch.setenv("LWM_FAST_NUM_THREADS", "3")
    before = torch.get_num_threads()
    with timing.cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    assert os.environ["LWM_FAST_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("version", "size"), [("1.0", (32, 32)), ("1.1", (8, 32)), ("1.1", (5, 7)), ("1.1", (1, 1))]
)
def test_the_released_loop_makes_the_released_tokens(version, size):
    csi = random_csi(3, *size)
    tokens = released.collate(released.TOKENIZE[version](csi))
    assert tokens.dtype == torch.float32
    assert torch.equal(tokens, reference.tokenize(torch.from_numpy(csi), version))


@pytest.mark.parametrize("name", ["v11_8x32", "v11_32x32", "v11_30x50"])
def test_the_released_masks_are_the_released_ones(shared_data, name):
    with np.load(shared_data / "golden" / f"golden_{name}.npz") as z:
        made = training.tokenize_mask_collate(z["raw"], "1.1", np.random.RandomState(0))
        for ours, theirs in zip(made, (z["mask_tokens"], z["mask_targets"], z["mask_pos"]), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_batch_with_a_wrong_mask_is_refused(version):
    mask_collate = bench_modules("cases.mask_collate")[0]
    csi = random_csi(3, 32, 32)
    clean = reference.tokenize(torch.from_numpy(csi), version)
    tokens, targets, positions = training.tokenize_mask_collate(csi, version, np.random.RandomState(0))
    assert mask_collate.batch_error((tokens, targets, positions), clean, version) == 0.0
    assert mask_collate.batch_error((tokens, targets, positions[:, :-1]), clean, version) > 0
    assert mask_collate.batch_error((tokens, targets + 1, positions), clean, version) > 0
    shown = next(row for row in range(1, clean.shape[1]) if row not in positions[0])
    tokens[0, shown] += 1
    assert mask_collate.batch_error((tokens, targets, positions), clean, version) > 0


def test_the_published_baseline_keeps_denormals(tmp_path):
    model = LWM.random(LWMConfig.v1_0(num_layers=1))
    state = model.state_dict()
    state["layers.0.enc_self_attn.W_K.weight"][:5] = 6e-41
    torch.save(state, tmp_path / "weights.pth")
    loaded = LWM.from_pretrained(tmp_path / "weights.pth")
    published = released.as_published(tmp_path / "weights.pth", loaded)
    name = "layers.0.enc_self_attn.W_K.weight"
    assert (published.state_dict()[name][:5] != 0).all()
    assert (released.twin(loaded).state_dict()[name][:5] == 0).all()
    csi = random_csi(3, 32, 32)
    np.testing.assert_allclose(
        released.embed(published, csi, batch=2), np.asarray(loaded.encode(csi)), rtol=0, atol=2e-5
    )


def test_documents_say_what_the_result_files_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--check"]) == 0, "run `python -m bench.report`"
    for name in report.DOCUMENTS:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert text.count("<!-- results:") == text.count("<!-- end -->") > 0
        assert report.filled(text.replace("ms |", "s |")) == report.filled(text), (
            "tables come from the files alone"
        )
