"""Weights from files, folders and the hub; every fault is one clear error and nothing is ever executed."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lwm_fast import LWM, InputError, LWMConfig
from lwm_fast.checkpoint import flush_denormals


@pytest.fixture
def model() -> LWM:
    return LWM.random(LWMConfig.v1_1(num_layers=2, max_len=70), seed=1)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(m == n and torch.equal(x, y) for (m, x), (n, y) in pairs)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_version_and_sizes_come_from_the_tensors(tmp_path, version):
    make = LWMConfig.v1_0 if version == "1.0" else LWMConfig.v1_1
    original = LWM.random(make(num_layers=3), seed=2)
    path = tmp_path / "some_v9_name.pth"
    torch.save(original.state_dict(), path)
    loaded = LWM.from_pretrained(path)
    assert loaded.config == original.config
    assert same(loaded, original)
    assert not loaded.training
    assert all(p.requires_grad and p.is_contiguous() for p in loaded.parameters())


def test_the_real_v1_0_weights(shared_data):
    loaded = LWM.from_pretrained(shared_data / "weights" / "lwm_v1.0_model_weights.pth")
    assert loaded.config == LWMConfig.v1_0()
    assert loaded.weights_info.denormals_flushed == 104_876
    assert loaded.weights_info.sha256.startswith("838d9f35")
    assert loaded.decoder.weight.is_contiguous()  # stored with strides (1, 16)


def wrap_data_parallel(state):
    return {f"module.{name}": value for name, value in state.items()}


def wrap_compiled(state):
    return {f"_orig_mod.module.{name}": value for name, value in state.items()}


def wrap_optimizer(state):
    return {"epoch": 3, "model_state_dict": wrap_data_parallel(state), "optimizer_state_dict": {"lr": 0.1}}


@pytest.mark.parametrize("wrap", [wrap_data_parallel, wrap_compiled, wrap_optimizer])
def test_wrapped_checkpoints(tmp_path, model, wrap):
    path = tmp_path / "wrapped.pt"
    torch.save(wrap(model.state_dict()), path)
    assert same(LWM.from_pretrained(path), model)


def test_strides_are_honoured(tmp_path, model):
    state = model.state_dict()
    state["decoder.weight"] = state["decoder.weight"].t().contiguous().t()
    path = tmp_path / "strided.pth"
    torch.save(state, path)
    assert torch.load(path, weights_only=True)["decoder.weight"].stride() == (1, 32)
    assert same(LWM.from_pretrained(path), model)


def test_save_pretrained_round_trip(tmp_path, model):
    path = model.save_pretrained(tmp_path / "saved")
    assert path.name == "model.safetensors"
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["lwm_version"] == "1.1"
    assert config["format_version"] == 1
    for source in (tmp_path / "saved", path):
        loaded = LWM.from_pretrained(source)
        assert same(loaded, model)
        assert loaded.config == model.config
    assert sorted(p.name for p in (tmp_path / "saved").iterdir()) == ["config.json", "model.safetensors"]


def test_sizes_that_tensors_cannot_tell_come_from_config_json(tmp_path):
    model = LWM.random(LWMConfig.v1_1(num_layers=1, num_heads=4, head_dim=32), seed=1)
    model.save_pretrained(tmp_path)
    assert LWM.from_pretrained(tmp_path).config.num_heads == 4


def test_foreign_config_json_is_ignored(tmp_path, model):
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert same(LWM.from_pretrained(tmp_path), model)


def test_denormals_are_flushed_and_counted(tmp_path, model):
    state = model.state_dict()
    weight = state["layers.0.enc_self_attn.W_Q.weight"].clone()
    weight[0, :5] = torch.tensor([1e-40, -1e-41, 6e-39, 0.0, 2e-38])
    state["layers.0.enc_self_attn.W_Q.weight"] = weight
    torch.save(state, tmp_path / "d.pth")
    loaded = LWM.from_pretrained(tmp_path / "d.pth")
    assert loaded.weights_info.denormals_flushed == 3
    assert loaded.layers[0].enc_self_attn.W_Q.weight[0, :5].tolist() == [0, 0, 0, 0, pytest.approx(2e-38)]
    loaded.save_pretrained(tmp_path / "out")
    from safetensors import safe_open

    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata()["denormals_flushed"] == "3"


def test_flush_leaves_everything_else():
    state = {"a": torch.tensor([1.0, -1e-30, 0.0]), "b": torch.tensor([1e-7], dtype=torch.float16)}
    flushed, count = flush_denormals(state)
    assert count == 0
    assert all(torch.equal(flushed[name], state[name]) for name in state)


def test_half_precision_checkpoints_become_float32(tmp_path, model):
    torch.save({name: value.half() for name, value in model.state_dict().items()}, tmp_path / "half.pth")
    loaded = LWM.from_pretrained(tmp_path / "half.pth")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


# ------------------------------------------------------------------------------------------------ faults


class Explosive:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_malicious_pickle_is_not_executed(tmp_path, model):
    marker = tmp_path / "executed"
    for name, save in (("zip.pth", torch.save), ("plain.pth", lambda x, p: p.write_bytes(pickle.dumps(x)))):
        path = tmp_path / name
        save({**model.state_dict(), "extra": Explosive(marker)}, path)
        with pytest.raises(InputError, match="could run code"):
            LWM.from_pretrained(path)
        assert not marker.exists()


@pytest.mark.parametrize("keep", [0, 10, 1000, 100_000])
def test_a_truncated_file_is_named(tmp_path, model, keep):
    whole = tmp_path / "whole.pth"
    torch.save(model.state_dict(), whole)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(whole.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"cut\.pth"):
        LWM.from_pretrained(cut)


def test_a_truncated_safetensors_file_is_named(tmp_path, model):
    path = model.save_pretrained(tmp_path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="not a readable safetensors"):
        LWM.from_pretrained(path)


def test_a_git_lfs_pointer_is_named(tmp_path):
    path = tmp_path / "model.pth"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(InputError, match="git lfs pull"):
        LWM.from_pretrained(path)


def break_missing(state):
    del state["linear.bias"]


def break_extra(state):
    state["classifier.weight"] = torch.zeros(2)


def break_shape(state):
    state["linear.bias"] = torch.zeros(3)


def break_dtype(state):
    state["linear.bias"] = torch.zeros(128, dtype=torch.int64)


def break_nan(state):
    state["linear.bias"] = torch.full((128,), float("nan"))


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (break_missing, r"missing linear\.bias"),
        (break_extra, r"unexpected classifier\.weight"),
        (break_shape, r"linear\.bias is \(3,\), not \(128,\)"),
        (break_dtype, r"linear\.bias is torch\.int64"),
        (break_nan, r"NaN or Inf in linear\.bias"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, model, damage, match):
    state = dict(model.state_dict())
    damage(state)
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(InputError, match=match):
        LWM.from_pretrained(tmp_path / "bad.pth")


def test_other_models_and_other_contents_are_refused(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="not LWM weights"):
        LWM.from_pretrained(tmp_path / "other.pth")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(InputError, match="holds a list"):
        LWM.from_pretrained(tmp_path / "list.pth")
    torch.save({"epoch": 1}, tmp_path / "empty.pth")
    with pytest.raises(InputError, match="without tensors"):
        LWM.from_pretrained(tmp_path / "empty.pth")


def test_folders_without_or_with_several_weights(tmp_path, model):
    with pytest.raises(InputError, match="holds no weights file"):
        LWM.from_pretrained(tmp_path)
    for name in ("a.pth", "b.pth"):
        torch.save(model.state_dict(), tmp_path / name)
    with pytest.raises(InputError, match=r"a\.pth, b\.pth.*filename="):
        LWM.from_pretrained(tmp_path)
    assert same(LWM.from_pretrained(tmp_path, filename="b.pth"), model)
    with pytest.raises(InputError, match=r"no file 'c\.pth'"):
        LWM.from_pretrained(tmp_path, filename="c.pth")


def test_a_path_that_is_nothing(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        LWM.from_pretrained(tmp_path / "absent.pth")


def test_unwritable_folder(tmp_path, model):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be made a folder"):
        model.save_pretrained(tmp_path / "file" / "inner")


# --------------------------------------------------------------------------------------------------- hub

OFFLINE = """
import sys, lwm_fast
try:
    print(lwm_fast.LWM.from_pretrained(sys.argv[1], revision=sys.argv[2] or None).config.lwm_version)
except lwm_fast.InputError as error:
    print("InputError:", error)
"""


def run_offline(cache: Path, repo: str, revision: str = "") -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache), "HF_HOME": str(cache)}
    command = [sys.executable, "-c", OFFLINE, repo, revision]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=120
    ).stdout


def test_hub_ids_come_from_the_cache_when_offline(tmp_path, model):
    folder = tmp_path / "models--wi-lab--lwm-v1.1"
    for revision, content in (("a" * 40, model), ("b" * 40, LWM.random(LWMConfig.v1_0(num_layers=1)))):
        snapshot = folder / "snapshots" / revision / "models"
        snapshot.mkdir(parents=True)
        torch.save(content.state_dict(), snapshot / "model.pth")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    assert run_offline(tmp_path, "wi-lab/lwm-v1.1").strip() == "1.1"
    assert run_offline(tmp_path, "wi-lab/lwm-v1.1", "b" * 40).strip() == "1.0"
    assert "InputError: wi-lab/absent: no such local path" in run_offline(tmp_path, "wi-lab/absent")


def test_loaded_safetensors_equal_the_pth(tmp_path, model):
    torch.save(model.state_dict(), tmp_path / "m.pth")
    path = LWM.from_pretrained(tmp_path / "m.pth").save_pretrained(tmp_path / "st")
    tensors = load_file(path)
    assert all(torch.equal(tensors[name], value) for name, value in model.state_dict().items())
