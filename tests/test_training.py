"""Runs: what they write, that they learn, and what they refuse."""

from __future__ import annotations

import json
import math
import os
import signal
import threading

import numpy as np
import pytest
import torch
from support.training_cases import tiny_config, write_data

from lwm_fast import LWM, InputError
from lwm_fast.training import NonFiniteLossError, Trainer, pretrain
from lwm_fast.training.folder import RunFolder
from lwm_fast.training.records import METRICS, VALIDATION, Table, read_table


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch):
    """Drawing takes longer than these runs; the first test does it."""
    if "all_of_its_files" not in request.node.name:
        monkeypatch.setattr(RunFolder, "draw_curves", lambda self, **_: None)


def weights_of(folder):
    return dict(LWM.from_pretrained(folder).state_dict())


def test_a_run_learns_and_writes_all_of_its_files(tmp_path):
    data, out = write_data(tmp_path / "data"), tmp_path / "run"
    config = tiny_config(
        model={"input_scale": "power", "dropout": 0.0},
        schedule={"epochs": 12},
        optimizer={"lr": 1e-2},
        run={"tensorboard": True},
    )
    summary = pretrain(config, data, out)
    assert (summary.step, summary.stopped_by) == (summary.total_steps, None)
    metrics, validation = read_table(out / "metrics.csv"), read_table(out / "validation.csv")
    assert [int(row["step"]) for row in metrics] == list(range(1, summary.total_steps + 1))
    assert tuple(metrics[0]) == METRICS
    assert tuple(validation[0]) == VALIDATION
    for row in metrics:
        assert float(row["nmse_db"]) == pytest.approx(10 * math.log10(float(row["loss"])), abs=1e-5)
        assert float(row["grad_norm"]) > 0
        assert 0 <= float(row["data_wait"]) <= 1
        assert int(row["channels"]) <= 10
    for seq_len in (17, 33):
        scores = [row for row in validation if int(row["seq_len"]) == seq_len]
        assert len(scores) == 12
        assert {int(row["samples"]) for row in scores} == {6}, "a fifth of the bucket, the same every time"
        assert float(scores[-1]["nmse_db"]) < float(scores[0]["nmse_db"]) - 0.3
    assert (out / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert list((out / "tensorboard").iterdir())
    names = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert [name[:5] for name in names] == ["best-", "step-"], "the last and the best are kept"
    best, last = (weights_of(out / "checkpoints" / name) for name in names)
    exported = weights_of(out / "model")
    assert all(torch.equal(exported[name], best[name]) for name in exported)
    assert last.keys() == exported.keys()
    assert json.loads((out / "run.json").read_text())["processes"] == 1


def test_data_that_never_enter_a_run_are_its_validation(tmp_path):
    """The training share and the validation share of a store do not overlap and cover it."""
    seen, scored = set(), set()
    real_step, real_validate = Trainer.step, Trainer.validate

    def step(self, batch, *args, **options):
        seen.update(int(i) for i in batch.sample_id)
        return real_step(self, batch, *args, **options)

    def validate(self, batches):
        kept = list(batches)
        scored.update(int(i) for _, batch in kept for i in batch.sample_id)
        return real_validate(self, kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        patch.setattr(Trainer, "validate", validate)
        pretrain(tiny_config(schedule={"epochs": 1}), write_data(tmp_path / "data"), tmp_path / "run")
    assert not seen & scored
    assert seen | scored == set(range(60))


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_stopping_and_resuming_changes_nothing(tmp_path, version):
    data = write_data(tmp_path / "data", version)
    config = tiny_config(version, model={"dropout": 0.2})
    whole = pretrain(config, data, tmp_path / "whole")
    for stop in (1, 4, 7):
        part = pretrain(config, data, tmp_path / "parts", resume=True, max_steps=stop)
        assert (part.step, part.stopped_by) == (stop, "max_steps")
    assert pretrain(config, data, tmp_path / "parts", resume=True).step == whole.step
    one, other = weights_of(tmp_path / "whole/model"), weights_of(tmp_path / "parts/model")
    assert all(torch.equal(one[name], other[name]) for name in one)
    for table, kept in (("metrics.csv", METRICS[:8]), ("validation.csv", VALIDATION)):
        rows = [
            [{k: row[k] for k in kept} for row in read_table(tmp_path / run / table)]
            for run in ("whole", "parts")
        ]
        assert rows[0] == rows[1]
    again = pretrain(config, data, tmp_path / "parts", resume=True)
    assert (again.step, again.stopped_by, again.samples_per_s) == (whole.step, None, 0.0)


def test_dropout_changes_a_run_and_its_seed_does(tmp_path):
    data, found = write_data(tmp_path / "data"), []
    for name, model in (("a", {"dropout": 0.0}), ("b", {"dropout": 0.3}), ("c", {"dropout": 0.3, "seed": 1})):
        pretrain(tiny_config(model=model), data, tmp_path / name, max_steps=2)
        found.append(float(read_table(tmp_path / name / "metrics.csv")[-1]["loss"]))
    assert len(set(found)) == 3


def test_bfloat16_trains(tmp_path):
    config = tiny_config(run={"precision": "bfloat16"})
    pretrain(config, write_data(tmp_path / "data"), tmp_path / "run", max_steps=3)
    assert all(math.isfinite(float(row["loss"])) for row in read_table(tmp_path / "run/metrics.csv"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="refused where there is no GPU")
def test_float16_needs_a_gpu(tmp_path):
    with pytest.raises(InputError, match=r'run.precision="float16" needs a GPU'):
        pretrain(tiny_config(run={"precision": "float16"}), write_data(tmp_path / "data"), tmp_path / "run")


def test_a_second_stage_starts_from_the_first(tmp_path):
    data = write_data(tmp_path / "data")
    pretrain(tiny_config(), data, tmp_path / "one", max_steps=2)
    model = str(tmp_path / "one/model")
    config = tiny_config(model={"weights": model}, optimizer={"lr": 1e-12, "weight_decay": 0.0})
    pretrain(config, data, tmp_path / "two", max_steps=1)
    one, two = weights_of(model), weights_of(tmp_path / "two/model")
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-9)
    with pytest.raises(InputError, match="make the recipe's model section fit"):
        pretrain(tiny_config(model={"weights": model, "num_layers": 2}), data, tmp_path / "three")


def test_what_cannot_go_on_is_refused_with_the_difference(tmp_path):
    data, out = write_data(tmp_path / "data"), tmp_path / "run"
    pretrain(tiny_config(), data, out, max_steps=2)
    with pytest.raises(InputError, match="holds a run already; go on with --resume"):
        pretrain(tiny_config(), data, out)
    with pytest.raises(InputError, match=r"optimizer.lr was 0.001 and is now 0.002.*config.yaml"):
        pretrain(tiny_config(optimizer={"lr": 2e-3}), data, out, resume=True)
    with pytest.raises(InputError, match=r"the data had the fingerprint \w+"):
        pretrain(tiny_config(), data[:1], out, resume=True)
    about = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**about, "processes": 4}))
    with pytest.raises(InputError, match="the run had 4 processes and now has 1"):
        pretrain(tiny_config(), data, out, resume=True)
    (out / "run.json").write_text(json.dumps({**about, "num_threads": 64}))
    with pytest.warns(UserWarning, match="num_threads was 64"):
        pretrain(tiny_config(run={"log_every": 2}), data, out, resume=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        pretrain(tiny_config(), data, tmp_path / "full", resume=True)


def test_too_little_data_is_refused(tmp_path):
    data = write_data(tmp_path / "data", count=1)
    with pytest.raises(InputError, match=r"no training batch|validation"):
        pretrain(tiny_config(data={"validation": 0.999}), data[:1], tmp_path / "run")


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_batch(tmp_path, monkeypatch):
    data, out = write_data(tmp_path / "data"), tmp_path / "run"
    config = tiny_config()
    real = Trainer.step

    def step(self, batch, epoch, lr, **options):
        if (tmp_path / "poison").exists():
            with torch.no_grad():
                self.model.decoder_bias.fill_(float("nan"))
        return real(self, batch, epoch, lr, **options)

    monkeypatch.setattr(Trainer, "step", step)
    pretrain(config, data, out, max_steps=3)
    before = weights_of(out / "checkpoints/step-000000003")
    (tmp_path / "poison").touch()
    with pytest.raises(
        NonFiniteLossError, match=r"step 3 \(epoch 0\): the loss is nan; the batch is in .*npz"
    ):
        pretrain(config, data, out, resume=True)
    with np.load(out / "nonfinite-step000000003-rank0.npz", allow_pickle=False) as kept:
        assert len(kept["sample_id"]) > 0
        assert kept["csi"].dtype == np.complex64
        assert len(kept["masked_index"]) == kept["mask_cu"][-1]
        assert int(kept["epoch"]) == 0
    (tmp_path / "poison").unlink()
    assert all(torch.equal(w, weights_of(out / "checkpoints/step-000000003")[n]) for n, w in before.items())
    assert pretrain(config, data, out, resume=True).stopped_by is None


def test_a_corrupt_sample_stops_the_run_by_name_or_is_left_out(tmp_path):
    data = write_data(tmp_path / "data")
    csi = np.load(data[0])
    csi[7, 3, 5] = np.nan
    np.save(data[0], csi)
    with pytest.raises(InputError, match=r"part0.npy.*NaN or Inf in the csi of sample 7"):
        pretrain(tiny_config(), data, tmp_path / "run")
    summary = pretrain(tiny_config(data={"on_bad": "skip"}), data, tmp_path / "skipping")
    assert summary.step == summary.total_steps
    channels = sum(int(row["channels"]) for row in read_table(tmp_path / "skipping/metrics.csv"))
    scored = sum(score.samples for score in summary.scores)
    assert channels + 2 * scored == 2 * 59


@pytest.mark.parametrize("when", ["model.safetensors", "state.torch", "metrics.csv"])
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch, when):
    data, out, config = write_data(tmp_path / "data"), tmp_path / "run", tiny_config()
    pretrain(config, data, out, max_steps=2)
    full = OSError(28, "No space left on device")

    def fail(*_args, **_options):
        raise full

    with monkeypatch.context() as patch:
        if when == "model.safetensors":
            patch.setattr("safetensors.torch.save_file", fail)
        elif when == "state.torch":
            patch.setattr(torch, "save", fail)
        else:
            patch.setattr(Table, "add", fail)
        with pytest.raises(InputError, match=r"cannot be written \(no space left\).*--resume"):
            pretrain(config, data, out, resume=True)
    names = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert "step-000000002" in names
    assert not [name for name in names if name.endswith(".tmp")]
    assert pretrain(config, data, out, resume=True).stopped_by is None


def test_a_damaged_checkpoint_is_named(tmp_path):
    data, out, config = write_data(tmp_path / "data"), tmp_path / "run", tiny_config()
    pretrain(config, data, out, max_steps=2)
    (out / "checkpoints/step-000000002/state.torch").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match=r"step-000000002: a damaged checkpoint"):
        pretrain(config, data, out, resume=True)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_saves_and_stops(tmp_path, monkeypatch, name):
    data, out, config = write_data(tmp_path / "data"), tmp_path / "run", tiny_config()
    real = Trainer.step

    def step(self, *args, **options):
        if not (out / "metrics.csv").exists() or len(read_table(out / "metrics.csv")) == 2:
            os.kill(os.getpid(), getattr(signal, name))
        return real(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        summary = pretrain(config, data, out)
    assert summary.stopped_by == name
    assert 3 <= summary.step <= 4, "the step under way is finished"
    assert (out / f"checkpoints/step-{summary.step:09d}").is_dir()
    pretrain(config, data, tmp_path / "whole")
    pretrain(config, data, out, resume=True)
    one, other = weights_of(tmp_path / "whole/model"), weights_of(out / "model")
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_more_samples_than_a_validation_looks_at(tmp_path):
    config = tiny_config(data={"max_validation": 6}, optimizer={"batch_size": 2})
    summary = pretrain(config, write_data(tmp_path / "data"), tmp_path / "run")
    assert [score.samples for score in summary.scores] == [3, 3]
    assert not pretrain(
        tiny_config(data={"validation": 0.0}), write_data(tmp_path / "data"), tmp_path / "blind"
    ).scores
    assert (tmp_path / "blind/model/model.safetensors").exists(), "the last weights, where nothing says best"


def test_training_outside_the_main_thread(tmp_path):
    data, found = write_data(tmp_path / "data"), []
    run = threading.Thread(
        target=lambda: found.append(pretrain(tiny_config(), data, tmp_path / "run", max_steps=1))
    )
    run.start()
    run.join(120)
    assert found[0].step == 1


def test_a_half_written_row_is_cut(tmp_path):
    path = tmp_path / "m.csv"
    path.write_text("step,loss\n1,0.5\n2,0.4\n3,0.3\n4,0.")
    Table(path, ("step", "loss"), after=2).add([{"step": 3, "loss": 0.25}])
    assert path.read_text().split() == ["step,loss", "1,0.5", "2,0.4", "3,0.25"]
