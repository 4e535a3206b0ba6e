"""Weights for the native engine: packed again when they change, collapsed only where exact, run by the right code."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.native_cases import small
from support.released import output_of, plain, random_csi, relative_error

from lwm_fast import _C, LWM, InputError, backends, native_weights, reference
from lwm_fast.embed_file import embed_to_file
from lwm_fast.pooling import POOLS

NATIVE = backends.BACKENDS["native"]


def step(model: LWM) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    model(torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0)))[0].square().mean().backward()
    optimizer.step()


def load(model: LWM) -> None:
    model.load_state_dict(LWM.random(model.config, seed=11).state_dict())


def assign(model: LWM) -> None:
    model.load_state_dict(LWM.random(model.config, seed=11).state_dict(), assign=True)


def edit(model: LWM) -> None:
    with torch.no_grad():
        layer = model.layers[1]
        assert isinstance(layer, reference.LayerV11)
        layer.pos_ffn.fc1.bias[3] += 0.5


@pytest.mark.parametrize("change", [step, load, assign, edit])
def test_changed_weights_are_packed_again(change: Callable[[LWM], None]):
    model, csi = small("1.1"), random_csi(3, 8, 32)
    before: Any = model.encode(csi)
    packed = native_weights.engine(model)
    assert native_weights.engine(model) is packed
    change(model)
    assert native_weights.engine(model) is not packed
    after: Any = model.encode(csi)
    tokens = reference.tokenize(torch.from_numpy(csi).to(torch.complex128), "1.1")
    assert not np.array_equal(after, before)
    assert relative_error(after, output_of(plain(model), tokens)[:, 0]) < 1e-6


def test_a_copy_has_an_engine_of_its_own():
    model, csi = small("1.1"), random_csi(2, 8, 32)
    before = model.encode(csi)
    twin = copy.deepcopy(model)
    edit(twin)
    assert np.array_equal(model.encode(csi), before)
    assert not np.array_equal(twin.encode(csi), before)


def with_uniform_heads(value: float) -> LWM:
    model = small("1.0")
    with torch.no_grad():
        for layer, dead in zip(model.layers, (range(12), range(2, 9)), strict=True):
            assert isinstance(layer, reference.LayerV10)
            layer.enc_self_attn.W_K.weight.view(12, 5, 64)[list(dead)] = value
    return model


@pytest.mark.parametrize("value", [0.0, 6e-41])
def test_uniform_heads_collapse_exactly(value):
    model, csi = with_uniform_heads(value), random_csi(3, 32, 32)
    layers = native_weights.packable(model, collapse=True)["layers"]
    assert [layer["qkv"].shape for layer in layers] == [(3, 0, 64), (3, 25, 64)]
    tokens = reference.tokenize(torch.from_numpy(csi).to(torch.complex128), "1.0")
    exact = output_of(plain(model), tokens)
    for pool in ("cls", "tokens"):
        assert relative_error(model.encode(csi, pool=pool), POOLS[pool](exact)) < 1e-6


def test_heads_of_a_model_in_training_do_not_collapse():
    model = with_uniform_heads(0.0)
    layers = native_weights.packable(model, collapse=False)["layers"]
    assert [layer["qkv"].shape for layer in layers] == [(3, 60, 64)] * 2
    assert all(layer["mean"] is None for layer in layers)
    collapsed = native_weights.engine(model)
    assert native_weights.engine(model.train()) is not collapsed


def test_the_weights_hold_no_denormals():
    model = with_uniform_heads(6e-41)
    layer = native_weights.packable(model, collapse=False)["layers"][0]
    assert not layer["qkv"][1].any()


def test_the_fastest_code_that_takes_the_model_is_used(monkeypatch):
    offered = {"float32": ["portable", "avx2", "avx512"], "bf16x3": ["amx"], "bfloat16": ["amx"]}
    monkeypatch.setattr(_C, "encoder_isas", offered.__getitem__)
    monkeypatch.delenv("LWM_FAST_ISA", raising=False)
    v1_1 = reference.SIZES["1.1"]
    assert str(native_weights.code_path("float32", v1_1)) == "float32 on avx512"
    assert str(native_weights.code_path("bfloat16", v1_1)) == "bfloat16 on amx"
    assert str(native_weights.code_path("bf16x3", v1_1)) == "bf16x3 on amx"
    for other in ({"embed_dim": 144}, {"ffn_dim": 500}, {"head_dim": 17}, {"embed_dim": 544}):
        assert native_weights.code_path("bfloat16", v1_1._replace(**other)).precision == "float32"
    monkeypatch.setenv("LWM_FAST_ISA", "avx2")
    assert str(native_weights.code_path("bfloat16", v1_1)) == "float32 on avx2"
    monkeypatch.setenv("LWM_FAST_ISA", "amx")
    assert str(native_weights.code_path("bfloat16", v1_1)) == "bfloat16 on amx"
    assert str(native_weights.code_path("float32", v1_1)) == "float32 on avx512"
    monkeypatch.setitem(offered, "bfloat16", [])
    monkeypatch.delenv("LWM_FAST_ISA")
    assert str(native_weights.code_path("bfloat16", v1_1)) == "float32 on avx512"


def test_an_instruction_set_that_does_not_run_here_is_refused(monkeypatch):
    monkeypatch.setenv("LWM_FAST_ISA", "abacus")
    with pytest.raises(ValueError, match="abacus"):
        native_weights.engine(small("1.1"))


def test_a_run_resumes_only_on_the_same_code(tmp_path: Path, monkeypatch):
    from lwm_fast import Channels

    model, channels = small("1.1"), Channels.from_arrays(random_csi(3, 8, 32))
    output = embed_to_file(model, channels, tmp_path / "e.h5")
    assert embed_to_file(model, channels, output, resume=True) == output
    monkeypatch.setattr(NATIVE, "code_path", lambda model, precision: "float32 on abacus", raising=False)
    with pytest.raises(InputError, match=r"code_path was 'float32 on \w+' and is now 'float32 on abacus'"):
        embed_to_file(model, channels, output, resume=True)
