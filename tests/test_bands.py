"""Users of two bands: matched by their number, checked by their place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lwm_fast import Channels, InputError
from lwm_fast.data import ChannelsMeta
from lwm_fast.tasks import match_users


def band(users: list[int], seed: int = 0, **changes: Any) -> Channels:
    """csi that holds the user's number, at places that follow from it."""
    index = np.array(users, dtype=np.int64)
    csi = (index[:, None, None] + np.zeros((1, 2, 3)) + 1j * seed).astype(np.complex64)
    pos = np.stack([index * 2.5, index * -1.5, np.full(index.size, 2.0)], axis=1)
    meta = ChannelsMeta(source=f"band {seed}", base_station=3, base_station_pos=(1, 2, 6), num_users_total=99)
    columns: dict[str, Any] = {"pos": pos.astype(np.float32), "user_index": index}
    columns |= {name: value for name, value in changes.items() if name in ("pos", "user_index")}
    meta = replace(meta, **{name: value for name, value in changes.items() if name not in columns})
    return Channels.from_arrays(csi, meta=meta, **columns)


@pytest.mark.parametrize("users", [[4], [7, 3, 9], [0, 1, 2, 3, 5, 7, 9, 11], []])
def test_label_channels_come_in_the_order_of_the_inputs(users: list[int]) -> None:
    matched = match_users(band(users), band([0, 1, 2, 3, 4, 5, 7, 9, 11, 30], seed=1))
    assert matched.user_index.tolist() == users
    assert matched.csi[:, 0, 0].tolist() == [user + 1j for user in users]


def test_joined_cities_in_the_same_order_pass() -> None:
    inputs = Channels.concatenate([band([3, 1]), band([1, 2])])
    labels = Channels.concatenate([band([3, 1], seed=1), band([1, 2], seed=1)])
    assert match_users(inputs, labels).csi[:, 0, 0].tolist() == [3 + 1j, 1 + 1j, 1 + 1j, 2 + 1j]


def test_joined_cities_in_another_order_are_refused() -> None:
    inputs = Channels.concatenate([band([3, 1]), band([1, 2])])
    labels = Channels.concatenate([band([1, 2], seed=1), band([3, 1], seed=1)])
    with pytest.raises(InputError, match="user 1 occurs more than once in the inputs; match each city alone"):
        match_users(inputs, labels)


def test_missing_users_are_counted_and_named() -> None:
    with pytest.raises(InputError, match=r"band 1 does not match band 0: .* for 2 of 4 users \(users 5, 8\)"):
        match_users(band([1, 5, 2, 8]), band([1, 2, 9], seed=1))
    with pytest.raises(InputError, match="for 1 of 1 users"):  # beyond the last number known
        match_users(band([100]), band([1, 2, 9], seed=1))


def test_users_who_stand_elsewhere_are_refused() -> None:
    labels = band([1, 2, 3], seed=1)
    assert labels.pos is not None
    labels.pos[1, 0] += 4
    with pytest.raises(InputError, match="1 of 3 users stand elsewhere, 4 m apart for user 2"):
        match_users(band([1, 2, 3]), labels)


def test_base_stations_must_agree() -> None:
    with pytest.raises(InputError, match="base station 3 for the inputs and 1 for the labels"):
        match_users(band([1]), band([1], base_station=1))
    with pytest.raises(InputError, match="base stations stand 5 m apart"):
        match_users(band([1]), band([1], base_station_pos=(4, 6, 6)))
    assert len(match_users(band([1]), band([1], base_station=None, base_station_pos=None))) == 1


def test_without_positions_the_sources_must_be_as_large() -> None:
    assert len(match_users(band([1, 2], pos=None), band([1, 2, 3]))) == 2
    with pytest.raises(InputError, match="the sources have 99 and 98 users"):
        match_users(band([1, 2], pos=None), band([1, 2, 3], num_users_total=98))


@pytest.mark.parametrize("city", ["city_18_denver", "city_12_fortworth", "city_11_santaclara"])
def test_real_bands_match_and_real_cities_do_not(shared_data, city: str) -> None:
    from lwm_fast import load_channels

    inputs = load_channels(shared_data / "scenarios" / f"{city}_3p5")
    labels = load_channels(shared_data / "scenarios" / f"{city}_28")
    shuffled = inputs[np.random.default_rng(0).permutation(len(inputs))]
    np.testing.assert_array_equal(match_users(shuffled, labels).pos, shuffled.pos)
    other = "city_12_fortworth" if city == "city_18_denver" else "city_18_denver"
    with pytest.raises(InputError, match="does not match"):
        match_users(inputs, load_channels(shared_data / "scenarios" / f"{other}_28"))
