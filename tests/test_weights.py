"""Weights by name: found without a network, checked against their sums, the default of every command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.released import random_csi
from support.shipped import random_shipment

from lwm_fast import LWM, InputError, LWMConfig, weights
from lwm_fast.cli import main
from lwm_fast.data.ray_store import RayStore
from lwm_fast.data.synthetic.plan import StreetsPlan
from lwm_fast.data.synthetic.write import write_streets
from lwm_fast.links import LinkHeads, link_state
from lwm_fast.transformer import LWMEncoder


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = random_shipment(tmp_path / "shipped")
    monkeypatch.setitem(weights.NAMES, weights.DEFAULT, folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_name_is_enough(shipped):
    by_name, by_folder = LWM.from_pretrained("lwm-fast-base"), LWM.from_pretrained(shipped)
    assert by_name.config == LWMConfig.base(num_layers=1)
    csi = random_csi(3, 16, 32)
    assert np.array_equal(by_name.encode(csi), by_folder.encode(csi))
    assert np.array_equal(by_name.encode(csi), LWM.from_pretrained().encode(csi))
    assert by_name.weights_info is not None
    assert by_name.weights_info.source == "lwm-fast-base"
    assert by_name.weights_info.sha256 == weights.shipped_sums("lwm-fast-base")["model.safetensors"]


def test_link_state_takes_the_name(shipped):
    csi = random_csi(3, 16, 32)
    found, expected = link_state("lwm-fast-base", csi), link_state(LWM.from_pretrained(shipped), csi)
    assert np.array_equal(found.los, expected.los)
    assert len(found) == 3


def test_a_folder_of_that_name_wins(shipped, tmp_path):
    random_shipment(tmp_path / "lwm-fast-base", num_layers=2)
    assert LWM.from_pretrained("lwm-fast-base").config.num_layers == 2


def test_unknown_names_are_told_what_there_is(shipped):
    assert weights.folder_of("lwm-fast-bas") is None
    with pytest.raises(InputError, match=r"lwm-fast-bas: no such file or folder.*lwm-fast-base"):
        LWM.from_pretrained("lwm-fast-bas")


def test_damaged_weights_are_refused(shipped, capsys):
    content = bytearray((shipped / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (shipped / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"model.safetensors differs from the one that was shipped; install"):
        LWM.from_pretrained("lwm-fast-base")
    assert main(["env"]) == 0
    assert "lwm-fast-base: unusable" in capsys.readouterr().out
    (shipped / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model.safetensors is missing; install"):
        weights.folder_of("lwm-fast-base")
    (shipped / "SHA256SUMS").unlink()
    with pytest.raises(InputError, match="these weights are not in this installation"):
        weights.training_of("lwm-fast-base")


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("random-1.0", LWMConfig.v1_0()),
        ("random-1.1", LWMConfig.v1_1()),
        ("random-base", LWMConfig.base()),
    ],
)
def test_random_weights_by_name(name, config):
    model = weights.load_model(name, seed=4)
    assert model.config == config
    other = LWM.random(config, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert weights.load_model(model) is model
    assert weights.random_config("random-2.0") is None


def test_commands_take_them_by_themselves(shipped, tmp_path, capsys):
    np.save(tmp_path / "csi.npy", random_csi(5, 32, 32))
    assert main(["embed", "csi.npy", "-o", "e.h5"]) == 0
    assert "weights: LWM v1.1 from lwm-fast-base" in capsys.readouterr().err
    assert main(["inspect", "lwm-fast-base"]) == 0
    assert "1 layers, 8 heads x 16, embed_dim 128" in capsys.readouterr().out
    assert main(["env"]) == 0
    digest = weights.shipped_sums("lwm-fast-base")["model.safetensors"]
    assert f"lwm-fast-base: sha256 as shipped, model.safetensors {digest[:12]}" in capsys.readouterr().out
    assert main(["convert", "lwm-fast-base", "-o", "copy"]) == 0
    assert LWM.from_pretrained("copy").config.positions == "grid"


def test_the_encoder_for_scikit_learn_too(shipped):
    csi = random_csi(4, 8, 32)
    assert np.array_equal(LWMEncoder().fit_transform(csi), LWM.from_pretrained(shipped).encode(csi))


def test_a_finished_run_is_shipped(shipped, tmp_path, monkeypatch, capsys):
    from support.bench_modules import bench_modules  # skips where there is no bench/

    (ship,) = bench_modules("ship_weights")
    store = write_streets(StreetsPlan(streets=2, users_per_street=3, seed=5), tmp_path / "streets", workers=1)
    run = tmp_path / "run"
    random_shipment(run / "model", num_layers=2)
    notes = {"config": {"a": 1}, "data": "f", "processes": 1, "num_threads": 1, "lwm_fast": "0", "torch": "2"}
    (run / "run.json").write_text(json.dumps({**notes, "format": "lwm_fast.run"}), encoding="utf-8")
    (run / "summary.json").write_text('{"step": 3}', encoding="utf-8")
    monkeypatch.setitem(weights.NAMES, weights.DEFAULT, tmp_path / "package")
    assert ship.main([str(run), str(tmp_path / "streets")]) == 0
    assert capsys.readouterr().out.count("\n") == 4
    assert LWM.from_pretrained("lwm-fast-base").config.num_layers == 2
    training = weights.training_of("lwm-fast-base")
    assert training is not None
    assert (training["config"], training["cost"]) == ({"a": 1}, {"step": 3})
    towns = [street["town_seed"] for street in RayStore.open(store.folder).streets]
    assert training["streets"]["town_seeds"] == towns
    assert training["streets"]["plan"]["seed"] == 5

    second = tmp_path / "second"
    shutil.copytree(run, second)
    own = {**notes, "config": {"model": {"weights": str(run / "model")}}}
    (second / "run.json").write_text(json.dumps(own), encoding="utf-8")
    learnt = LinkHeads.random(LWMConfig.base().embed_dim, seed=9)
    learnt.save_pretrained(second / "model")
    assert ship.main([str(run), str(tmp_path / "streets"), "--heads", str(second)]) == 0
    heads = LWM.from_pretrained("lwm-fast-base").link_heads
    assert heads is not None
    assert torch.equal(heads.cls.weight, learnt.cls.weight)
    training = weights.training_of("lwm-fast-base")
    assert training is not None
    assert training["heads"]["config"]["model"]["weights"] == "model", "no folder of this machine"
    LWM.random(LWMConfig.base(num_layers=2), seed=4).save_pretrained(second / "model")
    learnt.save_pretrained(second / "model")
    capsys.readouterr()
    assert ship.main([str(run), str(tmp_path / "streets"), "--heads", str(second)]) == 2
    assert "its link heads read another encoder than" in capsys.readouterr().err

    (run / "model" / LinkHeads.NAME).unlink()
    assert ship.main([str(run), str(tmp_path / "streets")]) == 2
    assert "these weights have no link heads" in capsys.readouterr().err
