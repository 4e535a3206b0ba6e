"""Model configurations: released sizes, strict keys, JSON."""

from __future__ import annotations

import dataclasses

import pytest

from lwm_fast import InputError, LWMConfig


def test_released_sizes():
    assert LWMConfig() == LWMConfig.v1_0()
    assert (LWMConfig.v1_1().embed_dim, LWMConfig.v1_1().max_len) == (128, 513)
    assert LWMConfig.v1_1(num_layers=6).num_layers == 6


def test_it_is_frozen_and_round_trips():
    config = LWMConfig.v1_1(max_len=1025)
    assert LWMConfig.from_dict(config.to_dict()) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.max_len = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"num_layer": 3}, "did you mean 'num_layers'"),
        ({"zzz": 3}, "known keys"),
        ({"lwm_version": "2.0"}, "unknown; use one of"),
        ({"patch_len": 32}, "does not fit"),
        ({"num_layers": 0}, "num_layers=0"),
        ({"num_layers": 2.5}, r"num_layers=2\.5"),
        ({"dropout": 1.0}, "dropout"),
        ({"format_version": 99}, "newer than this lwm_fast"),
    ],
)
def test_faults_are_named(values, match):
    with pytest.raises(InputError, match=match):
        LWMConfig.from_dict(values)


def test_json_faults_are_named(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{")
    with pytest.raises(InputError, match=r"config\.json"):
        LWMConfig.from_json(path)
    path.write_text("[1]")
    with pytest.raises(InputError, match="JSON object"):
        LWMConfig.from_json(path)
