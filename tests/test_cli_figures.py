"""`lwm-fast figures`: options reach the figures, mistakes are named, exit codes are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import lwm_fast.figures as figures
from lwm_fast import InputError
from lwm_fast.cli.figures import command
from lwm_fast.data.synthetic import synthetic_streets


@pytest.fixture
def city(tmp_path) -> Path:
    folder = tmp_path / "cities"
    folder.mkdir()
    synthetic_streets(20, seed=1).save(folder / "town_3p5.h5")
    return folder


def run(*arguments: object) -> Any:
    return CliRunner().invoke(command, [str(part) for part in arguments])


def test_a_figure_from_the_shell(city, tmp_path):
    done = run("--data", city, "--weights", "random-1.1", "--out", tmp_path / "out", "--only", 6, "--quick")
    assert done.exit_code == 0, done.output
    assert "QUICK" in done.output
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["fig6-cls.png", "fig6-maps.png", "fig6.csv"]
    assert all(name in done.output for name in written)


def test_options_become_settings(city, tmp_path, monkeypatch):
    seen: dict[str, Any] = {}
    monkeypatch.setattr(figures, "make_figures", lambda *given, **named: seen.update(named) or [])
    done = run(
        "--data", city, "--weights", "w", "--out", tmp_path, "--only", 3, "--only", 4, "--seeds", 5, "--counts",
        "6,25", "--codebooks", "16,32", "--fractions", "0.1,1", "--workers", 2,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    settings = seen["settings"]
    assert settings.seeds == (0, 1, 2, 3, 4)
    assert (settings.counts, settings.codebooks, settings.fractions) == ((6, 25), (16, 32), (0.1, 1.0))
    assert settings.epochs is None
    assert (seen["only"], seen["workers"]) == (("3", "4"), 2)


def test_mistakes(city, tmp_path):
    missing = run("--data", city)
    assert missing.exit_code == 2
    assert "--out" in missing.output
    words = run("--data", city, "--weights", "w", "--out", tmp_path, "--counts", "few")
    assert words.exit_code == 2
    assert "--counts 'few'" in words.output
    unknown = run("--data", city, "--weights", "w", "--out", tmp_path, "--only", "2")
    assert isinstance(unknown.exception, InputError)
    assert "figure '2' is not known" in str(unknown.exception)
