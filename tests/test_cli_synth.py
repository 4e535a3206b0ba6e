"""`lwm-fast synth`: what it prints, its options, its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lwm_fast import Channels, InputError
from lwm_fast.cli import main
from lwm_fast.data.ray_store import RayStore
from lwm_fast.data.synthetic import synthetic_streets


def synth(out: Path, *more: str) -> int:
    return main(
        ["synth", "-o", str(out), "--streets", "2", "--users-per-street", "15", "--workers", "1", *more]
    )


def test_synth_and_inspect(capsys, tmp_path):
    out = tmp_path / "store"
    assert synth(out) == 0
    printed = capsys.readouterr().out
    assert "2 streets, 30 users, 30 of them now in" in printed
    assert "users/s)" in printed
    assert "bytes a user" in printed
    assert synth(out) == 0  # finished: nothing to do
    assert "now in" not in capsys.readouterr().out
    assert main(["inspect", str(out)]) == 0
    printed = capsys.readouterr().out
    for words in ("ray_store", "shards", "30 to embed", "paths", "delay spread", "power", "LWM v1.0"):
        assert words in printed


def test_help_shows_the_defaults(capsys):
    assert main(["synth", "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "--street-width LOW:HIGH M. Default: 10:40." in printed
    assert "[default: 2e9:60e9]" in printed


def test_options_reach_the_plan_and_the_streets(tmp_path):
    out = tmp_path / "store"
    options = [
        "--seed",
        "3",
        "--carrier",
        "3.5e9,28e9",
        "--sizes",
        "8x32,16X64",
        "--subcarrier-spacing",
        "120e3",
    ]
    assert synth(out, *options, "--street-width", "9:10", "--rotation", "45", "--scatterers", "2:4") == 0
    plan = json.loads((out / "manifest.json").read_text())["plan"]
    assert plan["carriers"] == [3.5e9, 28e9]
    assert plan["sizes"] == [[8, 32], [16, 64]]
    assert plan["street_width"] == [9.0, 10.0]
    assert plan["rotation"] == [45.0, 45.0]
    assert plan["scatterers"] == [2, 4]
    for channels in RayStore.open(out):
        assert channels.meta.carrier_frequency in (3.5e9, 28e9)
        assert channels.shape[1:] in ((8, 32), (16, 64))
        assert channels.geometry.bandwidth == 120e3 * channels.geometry.num_subcarriers
        assert channels.geometry.rotation == 45.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--carrier", "60e9:2e9"], "carrier: got (60000000000.0, 2000000000.0), expected (low, high) with"),
        (["--carrier", "1e3:2e9"], "carrier: got"),
        (["--carrier", "3.5e9,1e12"], "carriers: got 1000000000000.0, expected Hz between"),
        (["--carrier", "nan"], "carriers: got nan"),
        (["--carrier", "3.5GHz"], "--carrier: '3.5GHz': expected"),
        (["--carrier", "1e9:2e9:3e9"], "--carrier: '1e9:2e9:3e9': expected LOW:HIGH"),
        (["--street-width", "1:20"], "street-width: got (1.0, 20.0), expected (low, high) with 6 <= low"),
        (["--street-width", "nan:20"], "street-width: got (nan, 20.0)"),
        (["--street-width", "wide"], "--street-width: 'wide': expected LOW:HIGH"),
        (["--scatterers", "1.5:3"], "--scatterers: '1.5:3': expected LOW:HIGH"),
        (["--los-share", "0.5:1.5"], "los-share: got"),
        (["--sizes", "32"], "--sizes: '32': expected NxSC"),
        (["--sizes", "0x32"], "sizes: got (0, 32)"),
        (["--subcarrier-spacing", "0"], "subcarrier-spacing: got (0.0,), expected Hz above 0"),
        (["--streets", "0"], "streets: got 0, expected at least 1"),
        (["--users-per-street", "0"], "users-per-street: got 0, expected at least 1"),
        (["--seed", "-1"], "seed: got -1, expected at least 0"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_bad_options_write_nothing_and_exit_with_2(capsys, tmp_path, options, message):
    assert synth(tmp_path / "store", *options) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_another_plan_exits_with_2(capsys, tmp_path):
    assert synth(tmp_path / "store") == 0
    assert synth(tmp_path / "store", "--seed", "9") == 2
    assert "seed was 0 and is now 9" in capsys.readouterr().err


def test_a_town_without_a_place_for_the_base_station_is_drawn_anew(capsys, tmp_path, monkeypatch):
    seeds: list[int] = []

    def first_towns_fail(num_users: int, *, seed: int, **options: Any) -> Channels:
        seeds.append(seed)
        if len(seeds) < 3:
            raise InputError("no base station in this town")
        return synthetic_streets(num_users, seed=seed, **options)

    monkeypatch.setattr("lwm_fast.data.synthetic.plan.synthetic_streets", first_towns_fail)
    assert synth(tmp_path / "store") == 0
    store = RayStore.open(tmp_path / "store")
    first = store.streets[0]["town_seed"]
    assert seeds == [first, first + 1, first + 2, store.streets[1]["town_seed"]]
    assert store.shard(0).meta.source == f"synthetic street, seed {first + 2}"


def test_a_street_without_any_place_for_the_base_station_is_named(capsys, tmp_path, monkeypatch):
    def every_town_fails(num_users: int, **options: Any) -> Channels:
        raise InputError("no base station in this town")

    monkeypatch.setattr("lwm_fast.data.synthetic.plan.synthetic_streets", every_town_fails)
    assert synth(tmp_path / "store") == 2
    assert "error: street 0, after 3 towns: no base station in this town" in capsys.readouterr().err
