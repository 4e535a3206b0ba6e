"""Importing lwm_fast: light, quiet, and complete."""

from __future__ import annotations

import subprocess
import sys

import pytest

import lwm_fast


def run(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert result.stderr == ""
    return result.stdout


def test_every_public_name_resolves():
    for name in lwm_fast.__all__:
        assert getattr(lwm_fast, name) is not None
    assert set(dir(lwm_fast)) == set(lwm_fast.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lwm_fast.nothing


def test_torch_and_numpy_are_enough_to_import_and_to_run_a_model():
    optional = (
        "h5py",
        "scipy",
        "safetensors",
        "huggingface_hub",
        "click",
        "matplotlib",
        "zarr",
        "deepmimo",
        "triton",
        "sklearn",
    )
    code = (
        f"import sys\nfor name in {optional!r}: sys.modules[name] = None\n"
        "import numpy as np, torch, lwm_fast\n"
        "model = lwm_fast.LWM.random(lwm_fast.LWMConfig.v1_1(num_layers=1))\n"
        "csi = np.full((2, 8, 32), 1e-5 + 1e-5j, np.complex64)\n"
        "print(model.encode(csi).shape, lwm_fast.tokenize(csi, '1.1').shape)\n"
    )
    assert run(code).strip() == "(2, 128) (2, 17, 32)"


def test_importing_is_cheap_and_leaves_global_state_alone():
    code = """
import random, sys
import numpy as np, torch
before = set(sys.modules)
state = lambda: (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate())
first, threads = state(), torch.get_num_threads()
import lwm_fast
lwm_fast.LWM, lwm_fast.tokenize
assert first == state() and threads == torch.get_num_threads()
print(len([name for name in set(sys.modules) - before if not name.startswith("lwm_fast")]))
"""
    # Modules beyond torch's own: the command line, the readers and the plots are not among them.
    assert int(run(code)) < 40
