"""The challenge's baseline on a small model: all five tasks, resumed, within the limits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lwm_fast.finetuning
from lwm_fast import LWM, InputError, LWMConfig
from lwm_fast.challenge import (
    BASELINES,
    TASK_NAMES,
    Baseline,
    MakeConfig,
    composite,
    make_challenge,
    read_submission,
    read_task,
    run_challenge,
    score,
    score_submission,
)
from lwm_fast.cli import main
from lwm_fast.data.synthetic import synthetic_streets
from lwm_fast.tasks.fit import FitConfig

QUICK = {
    name: replace(baseline, config=FitConfig(epochs=2, lr=1e-3, batch_size=32))
    for name, baseline in BASELINES.items()
}


@pytest.fixture(scope="module")
def model() -> LWM:
    config = LWMConfig(
        "1.1", patch_len=32, embed_dim=16, num_layers=3, num_heads=2, head_dim=8, ffn_dim=32, max_len=17
    )
    return LWM.random(config, seed=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("challenge")
    street = synthetic_streets(100, seed=1).save(folder / "street.h5")
    config = MakeConfig(num_antennas=8, num_subcarriers=8, num_beams=8, hide_test=True)
    return make_challenge([street], folder / "data", config=config)


@pytest.fixture(scope="module")
def answered(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same data with the test labels in place."""
    folder = tmp_path_factory.mktemp("answered")
    config = MakeConfig(num_antennas=8, num_subcarriers=8, num_beams=8)
    return make_challenge([data.parent / "street.h5"], folder / "data", config=config)


def spy(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tasks that are trained from now on."""
    trained: list[str] = []
    finetune = lwm_fast.finetuning.finetune

    def counted(model: LWM, task: Any, *arguments: Any, **settings: Any) -> Any:
        trained.append(task.name)
        return finetune(model, task, *arguments, **settings)

    monkeypatch.setattr(lwm_fast.finetuning, "finetune", counted)
    return trained


def test_five_tasks(model: LWM, answered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = spy(monkeypatch)
    scores = run_challenge(answered, model, tmp_path / "run", baselines=QUICK, progress=False)
    assert trained == list(TASK_NAMES)
    assert all(bool((value == before[name]).all()) for name, value in model.state_dict().items())
    assert list(scores["tasks"]) == list(TASK_NAMES)
    assert scores["composite"] == pytest.approx(
        composite({k: v["score"] for k, v in scores["tasks"].items()})
    )
    assert json.loads((tmp_path / "run" / "scores.json").read_text()) == scores
    predictions = read_submission(tmp_path / "run")
    for name in TASK_NAMES:
        labels = read_task(answered, name).test_labels
        assert labels is not None
        assert len(predictions[name]) == len(labels) == 20
        assert score(name, predictions[name], labels) == scores["tasks"][name]
    assert predictions["interpolation"].dtype == np.complex64
    assert score_submission(tmp_path / "run", answered)["composite"] == scores["composite"]
    manifest = json.loads((tmp_path / "run" / "submission.json").read_text())
    assert manifest["tasks"]["los"]["head_parameters"] == 16 * 8 + 8 + 16 + 8 * 2 + 2
    assert manifest["tasks"]["los"]["trainable_parameters"] == manifest["tasks"]["los"]["head_parameters"]
    assert manifest["tasks"]["interpolation"]["head_parameters"] == 16 * 32 + 32
    assert manifest["tasks"]["beams"]["facts"]["codebook"] == "lwm"
    run_challenge(answered, model, tmp_path / "run", baselines=QUICK, progress=False)
    assert trained == list(TASK_NAMES)  # nothing was run again


def test_hidden_labels_leave_the_same_predictions(
    model: LWM, data: Path, answered: Path, tmp_path: Path
) -> None:
    names = ["los", "estimation"]
    hidden = run_challenge(data, model, tmp_path / "hidden", tasks=names, baselines=QUICK, progress=False)
    run_challenge(answered, model, tmp_path / "known", tasks=names, baselines=QUICK, progress=False)
    assert hidden["tasks"] == {}
    assert set(hidden["validation"]) == set(names)
    assert 0 <= hidden["validation"]["los"]["score"] <= 1
    one, two = read_submission(tmp_path / "hidden"), read_submission(tmp_path / "known")
    for name in names:
        np.testing.assert_array_equal(one[name], two[name])
    answers = score_submission(tmp_path / "hidden", data / "hidden")
    assert answers["missing"] == ["beams", "interpolation", "localization"]


def test_a_stopped_run_loses_one_task(
    model: LWM, answered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = spy(monkeypatch)
    counted = lwm_fast.finetuning.finetune

    def stopped(model: LWM, task: Any, *arguments: Any, **settings: Any) -> Any:
        if task.name == "localization":
            raise KeyboardInterrupt
        return counted(model, task, *arguments, **settings)

    names = ["los", "localization"]
    with monkeypatch.context() as patch:
        patch.setattr(lwm_fast.finetuning, "finetune", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_challenge(answered, model, tmp_path, tasks=names, baselines=QUICK, progress=False)
    scores = run_challenge(answered, model, tmp_path, tasks=names, baselines=QUICK, progress=False)
    assert trained == ["los", "localization"]
    assert list(scores["tasks"]) == names
    assert "composite" not in scores


def test_another_run_in_the_same_folder_is_refused(model: LWM, answered: Path, tmp_path: Path) -> None:
    run_challenge(answered, model, tmp_path, tasks=["los"], baselines=QUICK, progress=False)
    with pytest.raises(
        InputError, match="holds the result of another run: seed was 0 and is now 3; choose another"
    ):
        run_challenge(answered, model, tmp_path, tasks=["los"], baselines=QUICK, seed=3, progress=False)
    other = LWM.random(model.config, seed=2)
    with pytest.raises(InputError, match="weights_sha256 was"):
        run_challenge(answered, other, tmp_path, tasks=["los"], baselines=QUICK, progress=False)


def test_limits_are_checked_before_training(
    model: LWM, answered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = spy(monkeypatch)
    large = {"los": Baseline("patches", "all", "mlp")}  # 4 patches x 16 numbers into 512-256-128
    with pytest.raises(
        InputError, match=r"challenge, los: the head has 199,554 parameters, the limit is 100,000"
    ):
        run_challenge(answered, model, tmp_path, tasks=["los"], baselines=large, progress=False)
    wide = LWM.random(
        LWMConfig(
            "1.1",
            patch_len=32,
            embed_dim=256,
            num_layers=6,
            num_heads=2,
            head_dim=8,
            ffn_dim=1024,
            max_len=17,
        )
    )
    every = {"los": Baseline("cls", "none", "challenge-los")}
    with pytest.raises(InputError, match=r"challenge, los: 3,[0-9]{3},[0-9]{3} parameters are trained"):
        run_challenge(answered, wide, tmp_path, tasks=["los"], baselines=every, progress=False)
    assert trained == []


def test_unknown_tasks(model: LWM, answered: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no task 'beam'; did you mean 'beams'"):
        run_challenge(answered, model, tmp_path, tasks=["beam"])


def test_baseline_is_the_published_one() -> None:
    assert {name: (one.input, one.freeze, one.head) for name, one in BASELINES.items()} == {
        "los": ("cls", "all", "challenge-los"),
        "beams": ("mean_with_cls", "none", "challenge-beam"),
        "interpolation": ("patches", "last-3", "patches"),
        "estimation": ("patches", "last-3", "patches"),
        "localization": ("mean_with_cls", "last-2", "challenge-localization"),
    }


@pytest.mark.slow
def test_command_line(answered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["challenge", "--data", str(answered), "--weights", "random-1.1", "-o", str(tmp_path / "run")]
    assert main([*arguments, "--tasks", "los,localization", "--epochs", "1", "--encoder-lr", "1e-4"]) == 0
    printed = capsys.readouterr().out
    assert "los " in printed
    assert "error_m" in printed
    assert "composite: no score of beams, interpolation, estimation" in printed
    assert str(tmp_path / "run" / "submission.npz") in printed
    settings = json.loads((tmp_path / "run" / "los" / "result.json").read_text())["settings"]
    assert (settings["config"]["epochs"], settings["config"]["encoder_lr"]) == (1, 1e-4)
