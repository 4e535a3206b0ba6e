"""The examples run as they are shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
# Those that need a model, data or Sionna of the reader's have tests of their own.
ELSEWHERE = {"drop_in.py": "test_drop_in.py", "trace_sionna.py": "test_trace_sionna.py"}
NAMES = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name not in ELSEWHERE)


def test_there_are_examples_and_each_has_a_test():
    assert NAMES
    for name, file in ELSEWHERE.items():
        assert name in (Path(__file__).parent / file).read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_example_runs(name, tmp_path):
    command = [sys.executable, str(EXAMPLES / name)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


@pytest.mark.slow
def test_the_scenario_example_on_real_data(shared_data, tmp_path):
    scenario = shared_data / "scenarios" / "city_18_denver_3p5"
    weights = shared_data / "weights" / "lwm_v1.0_model_weights.pth"
    command = [sys.executable, str(EXAMPLES / "embed_scenario.py"), str(scenario), str(weights)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout.split("accuracy ")[1].split()[0]) > 0.8
