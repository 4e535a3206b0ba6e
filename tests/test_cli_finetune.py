"""`lwm-fast finetune`."""

from __future__ import annotations

import json

import pytest
from support.finetuning_cases import easy_channels, small_model

from lwm_fast import LWM
from lwm_fast.cli import main


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    easy_channels().save(tmp_path / "channels.h5")
    small_model().save_pretrained(tmp_path / "weights")
    return [
        "finetune", "--task", "los", "--data", str(tmp_path / "channels.h5"), "--weights", str(tmp_path / "weights"),
        "--out", str(tmp_path / "run"), "--fit", "epochs=2", "--fit", "lr=1e-3", "--threads", "1",
    ]  # fmt: skip


def test_a_run_is_made_and_goes_on_with_resume(arguments, tmp_path, capsys):
    assert main([*arguments, "--freeze", "last-1", "--input", "mean"]) == 0
    shown = capsys.readouterr()
    assert "trained parameters" in shown.out
    assert "best (epoch" in shown.out
    assert "f1_weighted" in shown.out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["settings"]["freeze"] == "last-1"
    assert result["settings"]["config"]["lr"] == 1e-3
    assert len(result["history"]) == 2
    assert LWM.from_pretrained(tmp_path / "run" / "model").config.num_layers == 3
    assert main([*arguments, "--freeze", "last-1", "--input", "mean"]) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert main([*arguments, "--freeze", "last-1", "--input", "mean", "--resume"]) == 0
    assert main([*arguments, "--freeze", "last-2", "--input", "mean", "--resume"]) == 2
    assert "freeze was 'last-1' and is now 'last-2'" in capsys.readouterr().err


def test_components_heads_and_few_users(arguments, tmp_path, capsys):
    more = ["--freeze", "layers.2,embedding.norm", "--head", "linear", "--count", "10", "--split", "random"]
    assert main([*arguments, *more]) == 0
    assert "train, validation, test: (10, 6, 12)" in capsys.readouterr().err
    settings = json.loads((tmp_path / "run" / "result.json").read_text())["settings"]
    assert settings["freeze"] == ["layers.2", "embedding.norm"]
    assert settings["head"] == "linear"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--freeze", "layers.9"], "close ones: layers."),
        (["--fit", "epoch=3"], "--fit: unknown key 'epoch'; did you mean 'epochs'"),
        (["--fit", "epochs"], "KEY=VALUE was expected"),
        (["--set", "beams=3"], "has no setting 'beams'"),
        (["--head", "mpl"], "did you mean 'mlp'"),
        (["--label-data", "a", "--label-data", "b"], "1 --data and 2 --label-data"),
    ],
)
def test_bad_input_is_exit_code_2_and_one_clear_line(arguments, capsys, more, message):
    assert main([*arguments, *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
