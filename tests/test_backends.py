"""The backend table: forced backends run or say why not; nothing falls back silently."""

from __future__ import annotations

import pytest
import torch
from lwm_fast.kernels import runtime
from support.released import random_csi

from lwm_fast import LWM, BackendUnavailableError, InputError, LWMConfig, backends, use_backend
from lwm_fast.cli import main

CPU = torch.device("cpu")


def test_the_cpu_uses_the_first_backend_that_can():
    assert backends.select(CPU).name == "native"
    assert backends.select(CPU, training=True).name == "torch"
    assert backends.select(CPU, precision="bf16x3").name == "native"
    assert backends.select(CPU, precision="float16").name == "torch"
    assert backends.select(CPU, config=LWMConfig.v1_1(head_dim=65, num_heads=1)).name == "torch"


def test_force_by_name_for_a_block_and_for_good():
    with use_backend("torch"):
        assert backends.forced() == "torch"
    assert backends.forced() is None
    use_backend("torch")
    assert backends.forced() == "torch"
    use_backend(None)
    assert backends.forced() is None


def test_native_says_where_it_cannot_run():
    native = backends.BACKENDS["native"]
    assert native.available(torch.device("cuda")) == "it runs on the CPU, not on cuda"
    assert native.supports(LWMConfig.v1_1(embed_dim=1024)) is None
    reason = native.supports(LWMConfig.v1_1(embed_dim=1025))
    assert reason == "it takes embed_dim from 2 to 1024 and head_dim from 1 to 64; this model has 1025 and 16"
    with use_backend("native"), pytest.raises(BackendUnavailableError, match="native: it does not train"):
        LWM.random(LWMConfig.v1_0(num_layers=1)).train()(torch.zeros(1, 3, 16))


def test_triton_without_a_gpu_says_why(monkeypatch):
    monkeypatch.setattr(runtime, "INTERPRET", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        BackendUnavailableError, match=r"triton: (torch sees no CUDA device|triton is not installed)"
    ):
        use_backend("triton")
    assert backends.forced() is None
    monkeypatch.setattr(runtime, "HAVE_TRITON", False)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'lwm_fast\[gpu\]'"):
        use_backend("triton")


def test_triton_runs_on_cuda_devices_and_leaves_the_cpu_alone(monkeypatch):
    monkeypatch.setattr(runtime, "HAVE_TRITON", True)
    monkeypatch.setattr(runtime, "INTERPRET", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cuda = torch.device("cuda")
    for training in (False, True):
        assert backends.select(cuda, training=training, config=LWMConfig.v1_1()).name == "triton"
    assert backends.select(cuda, config=LWMConfig.v1_1(embed_dim=24)).name == "torch"
    assert backends.select(cuda, precision="float16").name == "triton"
    reason = backends.BACKENDS["triton"].available(CPU)
    assert reason == "it runs on CUDA devices, not on cpu"


def test_env_shows_the_state_of_every_backend(capsys):
    assert main(["env"]) == 0
    _, _, cpu = capsys.readouterr().out.partition("backends on cuda")
    cuda, _, cpu = cpu.partition("backends on cpu")
    assert "triton  unavailable: " in cuda or "triton  available" in cuda
    assert "native  available" in cpu
    assert "torch   available" in cpu


def test_an_unknown_name_lists_the_known_ones(monkeypatch):
    with pytest.raises(InputError, match=r"'cuda'; there are triton, native, torch"):
        use_backend("cuda")
    monkeypatch.setenv("LWM_FAST_BACKEND", "tirton")
    with pytest.raises(InputError, match=r"LWM_FAST_BACKEND: no backend is called 'tirton'"):
        backends.select(CPU)


def test_the_environment_forces_and_raises_the_reason(monkeypatch):
    model = LWM.random(LWMConfig.v1_0(num_layers=1))
    monkeypatch.setenv("LWM_FAST_BACKEND", "native")
    with pytest.raises(BackendUnavailableError, match="native: it does not offer precision='float16' on cpu"):
        model.encode(random_csi(1, 32, 32), precision="float16")
    monkeypatch.setenv("LWM_FAST_BACKEND", "torch")
    assert model.encode(random_csi(1, 32, 32)).shape == (1, 64)


def test_a_precision_that_nothing_offers_says_what_is_offered():
    with (
        use_backend("torch"),
        pytest.raises(BackendUnavailableError, match=r"bf16x3.*it offers float32, bfloat16, float16"),
    ):
        LWM.random().encode(random_csi(1, 32, 32), precision="bf16x3")
