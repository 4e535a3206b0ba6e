"""Sweeps: what is run, that every row is right and kept, and that a sweep goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.evaluation_cases import small_sweep, town, write_town

from lwm_fast import LWM, InputError, LWMConfig, finetune, load_channels
from lwm_fast.evaluation import Run, Sweep, make_inputs, read_runs, run_sweep, running
from lwm_fast.evaluation.prepared import Prepared
from lwm_fast.evaluation.single import config_of
from lwm_fast.links import LinkHeads
from lwm_fast.tasks import LosTask, few, make_split
from lwm_fast.tasks.fit import fit_head
from lwm_fast.tasks.fit_config import FitConfig
from lwm_fast.tasks.heads import build_head
from lwm_fast.tasks.noise import add_noise


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    return small_sweep(tmp_path)


def places(sweep: Sweep) -> list[tuple[str, str, str]]:
    return [(run.input, run.head, run.freeze) for run in sweep.plan() if run.seed == sweep.seeds[0]]


# --------------------------------------------------------------------------------------------- what is run


def test_a_plan_is_the_product_with_seeds_fastest(sweep):
    wide = replace(sweep, inputs=("cls", "raw"), counts=(6, 10), snr_db=(None, 5.0), heads=("linear", "mlp"))
    runs = wide.plan()
    assert len(runs) == len(set(runs)) == 2 * 2 * 2 * 2 * 2
    assert [run.seed for run in runs[:4]] == [0, 1, 0, 1]
    assert runs[0] == Run("cls", "linear", count=6, seed=0)
    assert runs[0].name == "cls/linear/all/clean/6/seed0"
    assert runs[-1].name == "raw/mlp/all/5dB/10/seed1"
    assert {run.amount for run in replace(sweep, counts=(), fractions=(0.1, 1.0)).plan()} == {"10%", "100%"}
    assert {run.amount for run in replace(sweep, counts=()).plan()} == {"all"}


def test_baselines_stand_beside_every_embedding(sweep):
    found = places(replace(sweep, inputs=("cls", "patches"), heads=("default",), baselines=True))
    for name in ("raw", "raw-power", "physics", "pca", "autoencoder", "random-cls", "random-patches"):
        assert (name, "mlp", "all") in found
        assert (name, "nearest-mean", "all") in found
    assert ("raw", "cnn", "all") in found, "the paper's residual network on raw channels"
    assert ("cls", "nearest-mean", "all") in found
    assert len(found) == len(set(found)) == 19


def test_convolutions_run_along_patches_only(sweep):
    found = places(replace(sweep, inputs=("patches",), heads=("cnn",), baselines=True))
    assert ("random-patches", "cnn", "all") in found
    assert ("physics", "mlp", "all") in found, "a vector has the task's default head"
    assert not [
        name for name, head, _ in found if head == "cnn" and name in ("physics", "pca", "autoencoder")
    ]
    both = places(replace(sweep, inputs=("cls", "patches"), heads=("cnn", "mlp")))
    assert both == [("cls", "mlp", "all"), ("patches", "cnn", "all"), ("patches", "mlp", "all")]


def test_only_what_the_weights_make_is_fine_tuned(sweep):
    found = places(replace(sweep, inputs=("cls", "raw", "random-cls"), freeze=("all", "last-3")))
    assert [freeze for name, _, freeze in found if name == "cls"] == ["all", "last-3"]
    assert {freeze for name, _, freeze in found if name != "cls"} == {"all"}


def test_reconstruction_stands_beside_classical_estimators(sweep):
    found = places(replace(sweep, task="estimation", inputs=("patches",), heads=("default",), baselines=True))
    assert found == [
        ("patches", "patches", "all"), ("raw", "cnn", "all"), ("random-patches", "patches", "all"),
        ("csi", "ls", "all"), ("csi", "lmmse", "all"),
    ]  # fmt: skip


def test_positions_stand_beside_no_class_mean(sweep):
    found = places(replace(sweep, task="localization", heads=("default",), baselines=True))
    assert ("raw", "mlp-regression", "all") in found
    assert not [head for _, head, _ in found if head == "nearest-mean"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "beam"}, r"task='beam' is unknown; did you mean 'beams'"),
        ({"inputs": ("clss",)}, r"input 'clss' is unknown; did you mean"),
        ({"inputs": ()}, r"inputs=\(\); give a list of at least one"),
        ({"inputs": "cls"}, r"inputs='cls'; give a list"),
        ({"inputs": ("cls", "cls")}, r"inputs holds 'cls' more than once"),
        ({"counts": (10,), "fractions": (0.5,)}, "counts and fractions are both given"),
        ({"seeds": (0, -1)}, r"seeds=\(0, -1\)"),
        ({"epochs": 0}, "epochs=0"),
        ({"test": "all"}, r"test='all' is unknown"),
        ({"heads": ("cnn",)}, r"head \"cnn\" runs along patches and input 'cls' is one vector"),
        ({"style": "relaese"}, r"did you mean 'release'"),
        ({"label_data": ("a", "b")}, "2 sources of labels for 1 of channels"),
        ({"label_data": ("a",)}, "label_data is for beams"),
        ({"task": "estimation", "snr_db": (5.0,)}, "adds its own noise"),
        ({"learning_rates": {"rav": 1e-3}}, r"input 'rav' is unknown; did you mean raw"),
        ({"settings": {"beams": 3}}, r"has no setting 'beams'"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(sweep, changes, message):
    with pytest.raises(InputError, match=message):
        replace(sweep, **changes)


# ------------------------------------------------------------------------------------------------- the rows


def test_a_row_says_what_the_same_steps_by_hand_give(sweep, tmp_path):
    rows = run_sweep(replace(sweep, inputs=("cls",), counts=(10,), seeds=(3,)), tmp_path / "out", 1)
    examples = LosTask().examples(load_channels(sweep.data[0]))
    split = few(examples, make_split(examples, seed=3), count=10, seed=3)
    model = LWM.from_pretrained(sweep.weights)
    inputs = make_inputs("cls", examples, model, train=split.train)
    fitted = fit_head(
        build_head("linear", (128,), 2, seed=3), inputs, examples.targets, kind="classification",
        train=split.train, validation=split.validation, config=replace(FitConfig(), epochs=3), seed=3,
        metric=lambda _, scores: LosTask().score(examples[split.validation], scores)["f1_weighted"],
    )  # fmt: skip
    (row,) = rows
    for which in ("best", "last"):
        scores = LosTask().score(examples[split.test], fitted.predict(inputs[split.test], which))
        for name, value in scores.items():
            assert row[f"{which}_{name}"] == pytest.approx(value, abs=1e-8)
    assert (row["n_train"], row["n_validation"], row["n_test"]) == split.sizes == (10, 6, 12)
    assert (row["learning_rate"], row["epochs"], row["parameters"]) == (1e-3, 3, 128 * 2 + 2)
    assert row["weights_sha256"] == model.weights_info.sha256
    assert (row["metric"], row["split"], row["source"]) == ("f1_weighted", "stratified", "town.h5")


def test_raw_tokens_take_the_lower_rate_of_the_release(sweep, tmp_path):
    wide = replace(
        sweep, inputs=("raw", "cls", "physics"), heads=("mlp",), seeds=(0,), learning_rates={"physics": 2e-3}
    )
    rows = run_sweep(wide, tmp_path / "out", 1)
    assert {row["input"]: row["learning_rate"] for row in rows} == {
        "raw": 1e-4,
        "cls": 1e-3,
        "physics": 2e-3,
    }


def test_fine_tuned_rows_are_those_of_finetune(sweep, tmp_path):
    wide = replace(sweep, freeze=("last-1", "layers.0+embedding", "lora"), seeds=(1,), epochs=2)
    rows = {row["freeze"]: row for row in run_sweep(wide, tmp_path / "out", 1)}
    examples = LosTask().examples(load_channels(sweep.data[0]))
    split = few(examples, make_split(examples, seed=1), count=10, seed=1)
    result = finetune(
        LWM.from_pretrained(sweep.weights), LosTask(), examples, freeze="last-1", head="linear", split=split,
        config=replace(FitConfig.finetuning(), epochs=2), seed=1, progress=False,
    )  # fmt: skip
    assert rows["last-1"]["last_f1_weighted"] == pytest.approx(result.last["f1_weighted"], abs=1e-8)
    assert rows["last-1"]["parameters"] == result.trainable_parameters > 100_000
    assert (
        rows["layers.0+embedding"]["parameters"] > rows["last-1"]["parameters"] > rows["lora"]["parameters"]
    )


def test_fine_tuning_few_users_takes_enough_steps(sweep, tmp_path):
    prepared = Prepared(replace(sweep, epochs=None), tmp_path)
    tuned = Run("cls", "mlp", "last-1")
    assert [config_of(prepared, tuned, users).epochs for users in (6, 128, 129, 1083, 5000)] == [
        120, 120, 60, 15, 15,
    ]  # fmt: skip
    assert config_of(prepared, Run("cls", "mlp"), 6) == FitConfig.fig4()
    assert config_of(prepared, Run("raw", "cnn"), 6) == FitConfig.fig3()
    assert config_of(Prepared(sweep, tmp_path), tuned, 6).epochs == 3, "what the sweep asks for goes first"


def test_unknown_layers_are_refused_with_the_close_ones(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "execute", lambda *_: pytest.fail("a run was started"))
    with pytest.raises(InputError, match=r"layers\.9"):
        run_sweep(replace(sweep, freeze=("layers.9",), seeds=(0,)), tmp_path / "out", 1)


def test_with_the_rest_tested_there_is_no_validation_and_best_is_last(sweep, tmp_path):
    (row,) = run_sweep(replace(sweep, test="rest", seeds=(0,)), tmp_path / "out", 1)
    assert (row["n_train"], row["n_validation"], row["n_test"]) == (10, 0, 50)
    assert row["best_f1_weighted"] == row["last_f1_weighted"]


def test_noise_is_on_the_channels_and_not_on_the_labels(sweep, tmp_path):
    prepared = Prepared(replace(sweep, snr_db=(None, 5.0)), tmp_path)
    clean, noisy = prepared.examples_at(None), prepared.examples_at(5.0)
    csi = clean.channels.csi
    np.testing.assert_array_equal(noisy.channels.csi, add_noise(csi, 5.0, clean.channels.user_index, 0))
    np.testing.assert_array_equal(noisy.targets, clean.targets)
    run = Run("cls", "linear", count=10)
    assert np.abs(prepared.inputs(run) - prepared.inputs(replace(run, snr_db=5.0))).max() > 1e-3


def test_fitted_inputs_see_the_whole_training_part_but_nobody_tested_on(sweep, tmp_path, monkeypatch):
    seen: list[Any] = []
    from lwm_fast.evaluation import prepared as module

    monkeypatch.setattr(module, "make_inputs", lambda *a, train, **k: seen.append(train))
    for test in ("fixed", "rest"):
        prepared = Prepared(replace(sweep, test=test), tmp_path)
        run = Run("pca", "linear", count=10, seed=1)
        prepared.inputs(run)
        assert not np.intersect1d(seen[-1], prepared.split(run).test).size
    assert len(seen[0]) == 42, "unlabelled users of the training part count"
    assert set(seen[1]) <= set(prepared.split(run).train)


def test_reconstruction_rows_of_heads_and_of_classical_estimators(sweep, tmp_path):
    wide = replace(
        sweep, task="estimation", inputs=("patches",), heads=("default",), counts=(20,), seeds=(0,),
        settings={"snr_db": 5.0}, baselines=True, epochs=20,
    )  # fmt: skip
    rows = {(row["input"], row["head"]): row for row in run_sweep(wide, tmp_path / "out", 1)}
    assert set(rows) == {(run.input, run.head) for run in wide.plan()}
    assert rows["csi", "ls"]["best_nmse_db"] == pytest.approx(-5.0, abs=0.2), "LS is the noisy channel"
    assert rows["csi", "lmmse"]["best_nmse_db"] < -5.5
    assert rows["raw", "cnn"]["best_nmse_db"] < -5.0
    assert all(np.isfinite(row["last_nmse_db"]) for row in rows.values())
    header = (tmp_path / "out/runs.csv").read_text().splitlines()[0].split(",")
    assert len(header) == len(set(header))
    assert rows["csi", "ls"]["snr_db"] == 5.0
    more = replace(wide, baselines=False, seeds=(0, 1))
    assert len(run_sweep(more, tmp_path / "out", 1)) == 2, "a sweep of noisy channels goes on too"


def test_positions_are_scored_in_metres(sweep, tmp_path):
    (row,) = run_sweep(
        replace(
            sweep,
            task="localization",
            inputs=("physics",),
            heads=("default",),
            seeds=(0,),
            counts=(40,),
            epochs=40,
        ),
        tmp_path / "out",
        1,
    )
    assert row["metric"] == "error_m"
    assert 10 < row["best_error_m"] < 150


def test_joined_sources_keep_their_users_apart_and_match_their_other_band(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        write_town(tmp_path / f"{name}_3p5.h5", 40, seed)
        write_town(tmp_path / f"{name}_28.h5", 40, seed, carrier=28e9)
    sweep = small_sweep(
        tmp_path, task="beams", settings={"num_beams": 8}, counts=(30,), seeds=(0,),
        data=(str(tmp_path / "a_3p5.h5"), str(tmp_path / "b_3p5.h5")),
        label_data=(str(tmp_path / "a_28.h5"), str(tmp_path / "b_28.h5")),
    )  # fmt: skip
    prepared = Prepared(sweep, tmp_path / "out")
    index = prepared.examples.channels.user_index
    assert np.unique(index).size == 80
    np.testing.assert_array_equal(index[40:] - (1 << 32), index[:40])
    (row,) = run_sweep(sweep, tmp_path / "out", 1)
    assert (row["codebook"], row["num_beams"]) == ("lwm", 8)
    swapped = replace(sweep, label_data=sweep.label_data[::-1])
    with pytest.raises(InputError, match="stand elsewhere"):
        run_sweep(swapped, tmp_path / "other", 1)


# --------------------------------------------------------------------------------------- stopping and going on


def test_only_missing_runs_are_done_and_give_the_same_rows(sweep, tmp_path, monkeypatch):
    out = tmp_path / "out"
    whole = run_sweep(sweep, out, 1)
    table = out / "runs.csv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text(lines[0] + lines[1] + lines[2][: len(lines[2]) // 2])  # killed within the second row
    done = []
    execute = running.execute
    monkeypatch.setattr(running, "execute", lambda p, run: done.append(run.name) or execute(p, run))
    again = run_sweep(sweep, out, 1)
    assert done == [whole[1]["run"]]
    time = ("seconds", "train_seconds")
    assert [{k: v for k, v in row.items() if k not in time} for row in again] == [
        {k: v for k, v in row.items() if k not in time} for row in whole
    ]
    run_sweep(sweep, out, 1)
    assert len(done) == 1, "nothing is left to do"


def test_a_sweep_may_grow_but_not_change(sweep, tmp_path):
    out = tmp_path / "out"
    run_sweep(sweep, out, 1)
    grown = replace(sweep, inputs=("cls", "raw"), seeds=(0, 1, 2))
    assert len(run_sweep(grown, out, 1)) == 6
    assert len(run_sweep(sweep, out, 1)) == 2, "only the rows asked for come back"
    with pytest.raises(InputError, match=r"another sweep: sweep\.epochs was 3 and is now 4\. Inputs"):
        run_sweep(replace(sweep, epochs=4), out, 1)
    write_town(Path(sweep.data[0]), seed=9)  # other users under the same name
    with pytest.raises(InputError, match="data_sha256 was"):
        run_sweep(sweep, out, 1)


def test_a_sweep_does_not_go_on_with_other_link_heads(sweep, tmp_path):
    out, model = tmp_path / "out", LWM.random(LWMConfig.base(num_layers=1), seed=1)
    linked = replace(sweep, weights=str(tmp_path / "linked"), inputs=("link-los",))
    for seed in (2, 3):
        model.link_heads = LinkHeads.random(model.config.embed_dim, seed=seed)
        model.save_pretrained(tmp_path / "linked")
        if seed == 2:
            assert len(run_sweep(linked, out, 1)) == 2
    with pytest.raises(InputError, match="another sweep: link_heads_sha256 was"):
        run_sweep(linked, out, 1)


def test_the_same_files_in_another_place_are_the_same_sweep(sweep, tmp_path):
    out = tmp_path / "out"
    run_sweep(sweep, out, 1)
    moved = tmp_path / "moved"
    moved.mkdir()
    Path(sweep.data[0]).rename(moved / "town.h5")
    assert len(run_sweep(replace(sweep, data=(str(moved / "town.h5"),)), out, 1)) == 2


def test_a_failing_run_costs_no_other(sweep, tmp_path):
    wide = replace(sweep, heads=("knn", "linear"), seeds=(0,), counts=(3,))  # five neighbours of three users
    with pytest.raises(InputError, match=r"1 of 2 runs failed; cls/knn/all/clean/3/seed0: head KNeighbors"):
        run_sweep(wide, tmp_path / "out", 1)
    assert [row["head"] for row in read_runs(tmp_path / "out")] == ["linear"]
    assert (tmp_path / "out" / "table.md").exists()


def test_impossible_splits_are_refused_before_anything_is_computed(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "execute", lambda *_: pytest.fail("a run was started"))
    for changes, message in (
        ({"counts": (10, 43)}, "43 training users of 42"),
        ({"counts": (), "fractions": (0.001,)}, "is no user"),
        ({"counts": (1,)}, "no training user"),
    ):
        with pytest.raises(InputError, match=message):
            run_sweep(replace(sweep, **changes), tmp_path / "out", 1)
    assert not (tmp_path / "out" / "runs.csv").exists()


def test_folders_that_hold_something_else_are_refused(sweep, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "runs.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"holds runs\.csv without sweep\.json"):
        run_sweep(sweep, out, 1)
    (out / "sweep.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        run_sweep(sweep, out, 1)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        run_sweep(sweep, file, 1)
    with pytest.raises(InputError, match="workers=0"):
        run_sweep(sweep, tmp_path / "new", 0)
    with pytest.raises(InputError, match="there is no table of runs"):
        read_runs(tmp_path / "nowhere")


def test_threads_and_random_state_are_left_as_they_were(sweep, tmp_path):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    run_sweep(sweep, tmp_path / "out", 1)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_what_a_folder_is_about_can_be_read(sweep, tmp_path):
    run_sweep(sweep, tmp_path / "out", 1)
    about = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert about["format"] == "lwm_fast.sweep"
    assert about["sweep"]["task"] == "los"
    assert str(tmp_path) not in json.dumps(about), "no path of this machine"


@pytest.mark.slow
def test_two_processes_give_the_rows_of_one(sweep, tmp_path):
    wide = replace(sweep, inputs=("cls", "raw"), heads=("linear",), seeds=(0, 1))
    alone, together = (run_sweep(wide, tmp_path / str(workers), workers) for workers in (1, 2))
    time = ("seconds", "train_seconds")
    for one, other in zip(alone, together, strict=True):
        for name in one:
            assert name in time or one[name] == other[name], name


def test_town_is_what_the_other_tests_take_it_for():
    assert (town().los == np.arange(60) % 2).all()
