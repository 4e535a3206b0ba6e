"""The Sionna example without Sionna: its conversion of path arrays to rays, its usage, its refusals."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from lwm_fast import InputError
from lwm_fast.data import ArrayGeometry, from_sionna_paths

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "trace_sionna.py"
CARRIER = 3.5e9


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("trace_sionna", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sionna_arrays(num_rx: int = 5, num_paths: int = 7) -> dict[str, np.ndarray]:
    """What `Paths.cir` and the angles look like for one transmitter; some paths absent, receiver 1 has none."""
    rng = np.random.default_rng(2)
    shape = (num_rx, 1, num_paths)
    tau = rng.uniform(1e-7, 2e-6, shape)
    tau[rng.random(shape) < 0.3] = -1.0
    tau[1] = -1.0
    a = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    a = np.where(tau >= 0, 1e-5 * a * np.exp(-2j * np.pi * CARRIER * tau), 0)
    angles = {name: rng.uniform(0, np.pi, shape) for name in ("theta_t", "theta_r")}
    angles |= {name: rng.uniform(-np.pi, np.pi, shape) for name in ("phi_t", "phi_r")}
    return {"a": a.reshape(num_rx, 1, 1, 1, num_paths, 1).astype(np.complex64), "tau": tau, **angles}


def test_rays_give_the_csi_of_sionnas_array(script):
    arrays = sionna_arrays()
    rays = script.rays_from_paths(**arrays)
    geometry = ArrayGeometry(num_antennas=4, num_subcarriers=16, rotation=0.0)
    # Sionna's line of antennas along y, half a wavelength apart: the same paths with a phase each.
    along_y = np.sin(arrays["theta_t"]) * np.sin(arrays["phi_t"])  # [num_rx, 1, num_paths]
    steering = np.exp(1j * np.pi * np.arange(4)[:, None] * along_y)  # [num_rx, antenna, num_paths]
    a = arrays["a"] * steering[:, None, None, :, :, None]
    want = from_sionna_paths(a, arrays["tau"], num_subcarriers=16, empty="keep")
    error = np.linalg.norm(rays.to_csi(geometry) - want.csi) / np.linalg.norm(want.csi)
    assert error < 2e-6


def test_rays_are_sorted_and_complete(script):
    arrays = sionna_arrays()
    rays = script.rays_from_paths(**arrays)
    assert rays.num_paths.tolist() == (arrays["tau"] >= 0).sum(axis=(1, 2)).tolist()
    assert rays.num_paths[1] == 0
    for user in range(len(rays)):
        mine = slice(rays.offsets[user], rays.offsets[user + 1])
        assert (np.diff(rays.power_db[mine]) <= 0).all()
        valid = arrays["tau"][user, 0] >= 0
        order = np.argsort(-np.abs(arrays["a"][user].ravel()[valid]))
        for name, source in (
            ("aod_zen_deg", "theta_t"), ("aod_az_deg", "phi_t"), ("aoa_zen_deg", "theta_r"), ("aoa_az_deg", "phi_r"),
        ):  # fmt: skip
            want = np.degrees(arrays[source][user, 0][valid][order])
            np.testing.assert_allclose(getattr(rays, name)[mine], want, rtol=1e-6)
        np.testing.assert_allclose(rays.delay_s[mine], arrays["tau"][user, 0][valid][order], rtol=1e-6)


def test_one_path_in_numbers(script):
    one = {
        name: np.full((1, 1, 1), value)
        for name, value in (("theta_t", 1.5), ("phi_t", -1.0), ("theta_r", 2.0))
    }
    a = np.full((1, 1, 1, 1, 1, 1), 1e-4j, np.complex64)
    rays = script.rays_from_paths(a, np.full((1, 1, 1), 3e-7), phi_r=np.full((1, 1, 1), 0.5), **one)
    assert rays.power_db[0] == pytest.approx(-80.0, abs=1e-4)
    assert rays.phase_deg[0] == pytest.approx(90.0)
    assert rays.aod_az_deg[0] == pytest.approx(np.degrees(-1.0))
    with pytest.raises(InputError, match=r"tau has shape \(1, 2, 1\); expected \[num_rx, 1, num_paths\]"):
        script.rays_from_paths(a, np.zeros((1, 2, 1)), phi_r=np.zeros(1), **one)


def test_los_flags(script):
    tau = np.array([[[1e-7, 2e-7]], [[2e-7, -1.0]], [[-1.0, -1.0]]])  # [num_rx, 1, num_paths]
    kinds = np.zeros((2, 3, 1, 2), np.uint32)  # [max_depth, num_rx, 1, num_paths]
    kinds[0, 0, 0, 1] = kinds[0, 1, 0, 0] = 1
    flags = script.los_from_paths(tau, kinds)
    assert flags.tolist() == [1, 0, -1]
    assert flags.dtype == np.int8


def test_usage_and_refusals(script, tmp_path, capsys, monkeypatch):
    assert script.main([]) == 0
    assert "python examples/trace_sionna.py munich" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "sionna", None)
    monkeypatch.setitem(sys.modules, "sionna.rt", None)
    with pytest.raises(SystemExit) as stop:
        script.main(["munich", "-o", str(tmp_path / "store")])
    assert stop.value.code == 2
    assert "pip install sionna-rt" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_help_from_the_shell(tmp_path):
    result = subprocess.run(
        [sys.executable, str(SCRIPT), "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert "--stations" in result.stdout
