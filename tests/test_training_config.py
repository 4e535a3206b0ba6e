"""Recipes and configurations: what is read, what is refused, and the learning rate that follows."""

from __future__ import annotations

import math

import pytest
import yaml

from lwm_fast import InputError
from lwm_fast.data import PRETRAINING_SIZES
from lwm_fast.training import Schedule, TrainConfig, recipes
from lwm_fast.training.config import differences
from lwm_fast.training.sections import ScheduleSection


def test_the_recipes_say_what_was_published():
    assert recipes() == (
        "lwm-fast-base", "lwm-fast-base-heads", "lwm-fast-base-mcm", "lwm-v1.0", "lwm-v1.1", "lwm-v1.1-laptop"
    )  # fmt: skip
    old, new = TrainConfig.load("lwm-v1.0"), TrainConfig.load("lwm-v1.1")
    assert old.model.lwm_config().num_layers == 12
    assert (old.optimizer.name, old.optimizer.lr, old.optimizer.weight_decay) == ("adam", 1e-4, 1e-5)
    assert (old.optimizer.batch_size, old.masking.loss, old.data.sizes) == (64, "mse_var", ((32, 32),))
    assert (old.schedule.kind, old.schedule.gamma, old.schedule.step_epochs) == ("step", 0.9, 10)
    assert (new.optimizer.name, new.optimizer.lr, new.optimizer.weight_decay) == ("adamw", 5e-4, 0.05)
    assert (new.optimizer.batch_size, new.masking.loss, new.schedule.epochs) == (128, "nmse", 50)
    assert new.optimizer.betas == (0.9, 0.999)
    assert new.data.sizes == PRETRAINING_SIZES
    assert (new.schedule.kind, new.schedule.warmup_epochs, new.schedule.min_lr) == ("cosine", 5, 1e-8)


@pytest.mark.parametrize("name", recipes())
def test_a_configuration_survives_yaml(name, tmp_path):
    config = TrainConfig.load(name)
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    assert TrainConfig.load(tmp_path / "c.yaml") == config
    assert differences(config.to_dict(), yaml.safe_load(config.to_yaml())) == []


def test_overrides():
    config = TrainConfig.load(
        "lwm-v1.1",
        [
            "optimizer.lr=1e-3",
            "model.dropout=0",
            "data.rotation=[0, 90]",
            "optimizer.clip_norm=null",
            "data.sizes=[[8, 32]]",
        ],
    )
    assert (config.optimizer.lr, config.model.dropout, config.optimizer.clip_norm) == (1e-3, 0.0, None)
    assert (config.data.rotation, config.data.sizes) == ((0.0, 90.0), ((8, 32),))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.lrr=1"], r"lwm-v1.1: unknown key 'optimizer.lrr'; did you mean 'optimizer.lr'\?"),
        (["optimiser.lr=1"], r"unknown key 'optimiser'; did you mean 'optimizer'\?"),
        (["optimizer.lr=fast"], r"optimizer.lr='fast': a number was expected"),
        (["optimizer.lr=-1"], r"optimizer.lr=-1.0: a positive number was expected"),
        (["optimizer.batch_size=1.5"], r"optimizer.batch_size=1.5: a whole number or null was expected"),
        (["optimizer.batch_size=true"], r"a whole number or null was expected"),
        (["optimizer.token_budget=100"], "give one of them and set the other to null"),
        (["optimizer.betas=[0.9]"], "a list of a number, 2 long was expected"),
        (["data.sizes=[[8, 32, 1]]"], "data.sizes"),
        (["model.dropout=1.5"], r"dropout=1.5 must lie in \[0, 1\)"),
        (["model.lwm_version=2.0"], "lwm_version"),
        (["model.init=deep"], 'model.init=\'deep\': "default" or "shallow" was expected'),
        (["masking.loss=mse"], "masking.loss='mse'"),
        (["schedule.warmup_steps=3"], "warmup_steps and warmup_epochs are both given"),
        (["optimizer"], "section.key=value was expected"),
        (["optimizer.lr.x=1"], "lr is a value, not a section"),
        (["optimizer=3"], "section.key=value"),
        (["optimizer.lr=[1"], "not valid YAML"),
    ],
)
def test_bad_settings_are_refused(overrides, message):
    with pytest.raises(InputError, match=message):
        TrainConfig.load("lwm-v1.1", overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [", "not valid YAML"),
        ("- 1", "sections of settings"),
        ("model: 3", "model must be a section"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        TrainConfig.load(tmp_path / "c.yaml")


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(InputError, match=r"did you mean 'lwm-v1.1'\?"):
        TrainConfig.load("lwm-v11")


def test_cosine_with_warm_up():
    s = Schedule(ScheduleSection(epochs=4, warmup_epochs=1, min_lr=1e-8), 5e-4, 25)
    assert s.total == 100
    assert s.rate(0, 0) == pytest.approx(5e-4 / 25)
    assert s.rate(24, 0) == pytest.approx(5e-4)
    assert s.rate(25, 1) == pytest.approx(5e-4)
    assert s.rate(62, 2) == pytest.approx(1e-8 + (5e-4 - 1e-8) * 0.5 * (1 + math.cos(math.pi * 37 / 74)))
    assert s.rate(99, 3) == pytest.approx(1e-8)
    rates = [s.rate(i, i // 25) for i in range(25, 100)]
    assert rates == sorted(rates, reverse=True)


def test_the_step_schedule_falls_by_epochs_and_not_by_steps():
    s = Schedule(ScheduleSection(epochs=30, kind="step", gamma=0.9, step_epochs=10), 1e-4, 7)
    assert s.rate(0, 0) == s.rate(69, 9) == 1e-4
    assert s.rate(70, 10) == pytest.approx(0.9e-4)
    assert s.rate(209, 29) == pytest.approx(0.81e-4)


def test_steps_end_a_run_early():
    s = Schedule(ScheduleSection(epochs=9, steps=11, kind="constant"), 1.0, 4)
    assert s.total == 11
    assert [s.rate(i, 0) for i in (0, 10)] == [1.0, 1.0]
    assert Schedule(ScheduleSection(epochs=2, steps=11), 1.0, 4).total == 8
