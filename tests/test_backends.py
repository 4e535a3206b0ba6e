"""The backend table: forced backends run or say why not; nothing falls back silently."""

from __future__ import annotations

import pytest
import torch
from support.released import random_csi

from lwm_fast import LWM, BackendUnavailableError, InputError, LWMConfig, backends, use_backend

CPU = torch.device("cpu")


def test_the_cpu_uses_the_first_backend_that_can():
    assert backends.select(CPU).name == "torch"
    assert backends.select(CPU, training=True).name == "torch"


def test_force_by_name_for_a_block_and_for_good():
    with use_backend("torch"):
        assert backends.forced() == "torch"
    assert backends.forced() is None
    use_backend("torch")
    assert backends.forced() == "torch"
    use_backend(None)
    assert backends.forced() is None


@pytest.mark.parametrize("name", ["triton", "native"])
def test_a_backend_that_is_not_here_says_so(name):
    with pytest.raises(BackendUnavailableError, match="not part of this version"):
        use_backend(name)
    assert backends.forced() is None


def test_an_unknown_name_lists_the_known_ones(monkeypatch):
    with pytest.raises(InputError, match=r"'cuda'; there are triton, native, torch"):
        use_backend("cuda")
    monkeypatch.setenv("LWM_FAST_BACKEND", "tirton")
    with pytest.raises(InputError, match=r"LWM_FAST_BACKEND: no backend is called 'tirton'"):
        backends.select(CPU)


def test_the_environment_forces_and_raises_the_reason(monkeypatch):
    model = LWM.random(LWMConfig.v1_0(num_layers=1))
    monkeypatch.setenv("LWM_FAST_BACKEND", "native")
    with pytest.raises(BackendUnavailableError, match="native: the native CPU encoder is not part"):
        model.encode(random_csi(1, 32, 32))
    monkeypatch.setenv("LWM_FAST_BACKEND", "torch")
    assert model.encode(random_csi(1, 32, 32)).shape == (1, 64)


def test_a_precision_that_nothing_offers_says_what_is_offered():
    with pytest.raises(BackendUnavailableError, match=r"bf16x3.*it offers float32, bfloat16, float16"):
        LWM.random().encode(random_csi(1, 32, 32), precision="bf16x3")
