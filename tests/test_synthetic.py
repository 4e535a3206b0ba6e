"""Synthetic streets: reproducibility, consistency, statistics, errors."""

from __future__ import annotations

import pickle
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import pytest
from support.plain_image_method import plain_blocked

from lwm_fast.data.channels import Channels
from lwm_fast.data.rays import RAY_COLUMNS, SPEED_OF_LIGHT, Rays
from lwm_fast.data.synthetic import StreetLayout, _serve, street_map, synthetic_streets
from lwm_fast.data.synthetic import cell as cell_module
from lwm_fast.data.synthetic.cell import Cell, draw_cell
from lwm_fast.data.synthetic.plan import StreetsPlan
from lwm_fast.data.synthetic.streets import F32, F64, FACADES, Bool
from lwm_fast.errors import InputError

GEOMETRY = ("delay_s", "aod_az_deg", "aod_zen_deg", "aoa_az_deg", "aoa_zen_deg")


@pytest.fixture(scope="module")
def cell() -> Cell:
    return draw_cell(0, StreetLayout())


class Parts(NamedTuple):
    rays: Rays
    los: Bool
    pos: F32
    station: F64


def parts(channels: Channels) -> Parts:
    """What a generated `Channels` always has, though the type allows None."""
    assert channels.rays is not None
    assert channels.los is not None
    assert channels.pos is not None
    assert channels.meta.base_station_pos is not None
    return Parts(channels.rays, channels.los == 1, channels.pos, np.array(channels.meta.base_station_pos))


def same_rays(a: Rays, b: Rays, names: tuple[str, ...] = RAY_COLUMNS) -> bool:
    return np.array_equal(a.offsets, b.offsets) and all(
        getattr(a, name).tobytes() == getattr(b, name).tobytes() for name in names
    )


def test_same_seed_same_bits_and_global_generator_untouched() -> None:
    before = str(np.random.get_state())  # noqa: NPY002  the global state is what is watched here
    one, two = synthetic_streets(300, seed=7), synthetic_streets(300, seed=7)
    assert before == str(np.random.get_state())  # noqa: NPY002
    assert same_rays(parts(one).rays, parts(two).rays)
    assert parts(one).pos.tobytes() == parts(two).pos.tobytes()
    assert np.array_equal(parts(one).los, parts(two).los)
    assert np.array_equal(one.user_index, two.user_index)
    assert one.meta == two.meta
    assert one.meta.sha256 != synthetic_streets(300, seed=7, carrier_frequency=28e9).meta.sha256


@pytest.mark.parametrize("points_at_once", [1, 77, 1000, 50_000])
def test_chunks_never_show(cell: Cell, points_at_once: int) -> None:
    num_users = 40 if points_at_once == 1 else 500
    want = _serve(cell, num_users, 3.5e9, 8192)
    got = _serve(cell, num_users, 3.5e9, points_at_once)
    assert same_rays(got.rays, want.rays)
    for field in fields(want):
        if field.name not in ("rays", "num_placed"):
            assert getattr(got, field.name).tobytes() == getattr(want, field.name).tobytes(), field.name
    assert got.num_placed == want.num_placed


def test_fewer_users_are_the_first_of_more() -> None:
    few, many = synthetic_streets(37, seed=2), synthetic_streets(400, seed=2)
    assert len(few) == 37
    assert len(many) == 400
    assert same_rays(parts(few).rays, parts(many).rays.select(slice(0, 37)))
    assert np.array_equal(parts(few).pos, parts(many).pos[:37])
    assert np.array_equal(few.user_index, many.user_index[:37])


def test_one_user() -> None:
    channels = synthetic_streets(1)
    assert channels.shape == (1, 32, 32)
    assert channels.meta.num_users_total == channels.meta.num_dropped + 1


def test_channels_carry_everything() -> None:
    channels = synthetic_streets(
        200, seed=3, num_antennas=8, num_subcarriers=16, bandwidth=20e6, rotation=10.0, max_paths=5
    )
    assert channels.shape == (200, 8, 16)
    geometry = channels.geometry
    assert geometry is not None
    assert (geometry.bandwidth, geometry.rotation, geometry.max_paths) == (20e6, 10.0, 5)
    meta = channels.meta
    assert meta.synthetic
    assert meta.format == "synthetic"
    assert meta.source == "synthetic street, seed 3"
    assert meta.carrier_frequency == 3.5e9
    assert meta.num_users_total - meta.num_dropped == 200
    assert channels.user_index[-1] == meta.num_users_total - 1
    assert (np.diff(channels.user_index) > 0).all()
    assert channels.los is not None
    assert channels.los.dtype == np.int8
    assert set(channels.los.tolist()) == {0, 1}
    assert parts(channels).pos.dtype == np.float32
    assert (parts(channels).pos[:, 2] == 2.0).all()
    assert (parts(channels).rays.num_paths >= 1).all()
    assert "synthetic" in str(channels)
    again = pickle.loads(pickle.dumps(channels))
    assert same_rays(parts(again).rays, parts(channels).rays)


def test_csi_is_finite_and_nonzero_and_default_rotation_is_lwm() -> None:
    pytest.importorskip("lwm_fast._C")
    channels = synthetic_streets(64)
    csi = channels.csi
    assert np.isfinite(csi.view(np.float32)).all()
    assert (np.abs(csi).max(axis=(1, 2)) > 0).all()
    assert channels.geometry is not None
    assert channels.geometry.rotation == -135.0


def test_line_of_sight_delay_is_distance_over_c() -> None:
    rays, los, pos, station = parts(synthetic_streets(500, seed=1))
    step = pos.astype(np.float64) - station
    distance = np.sqrt((step * step).sum(1))
    exact = (distance / SPEED_OF_LIGHT).astype(np.float32)
    first_arrival = np.minimum.reduceat(rays.delay_s, rays.offsets[:-1])
    np.testing.assert_array_max_ulp(first_arrival[los], exact[los], maxulp=1)
    assert (first_arrival[~los] > exact[~los]).all()
    # and the direct ray points at the user with the free-space phase
    user = np.flatnonzero(los)[0]
    mine = slice(rays.offsets[user], rays.offsets[user + 1])
    row = mine.start + int(np.argmin(rays.delay_s[mine]))
    assert rays.aod_az_deg[row] == pytest.approx(
        np.degrees(np.arctan2(step[user, 1], step[user, 0])), rel=1e-6
    )
    assert rays.aod_zen_deg[row] == pytest.approx(
        np.degrees(np.arccos(step[user, 2] / distance[user])), rel=1e-6
    )
    turns = -distance[user] * 3.5e9 / SPEED_OF_LIGHT
    assert np.exp(1j * np.radians(rays.phase_deg[row])) == pytest.approx(np.exp(2j * np.pi * turns), abs=1e-5)
    free_space = 20 * np.log10(SPEED_OF_LIGHT / (4 * np.pi * 3.5e9 * distance[user]))
    assert rays.power_db[row] == pytest.approx(free_space, abs=1e-4)


def test_line_of_sight_flag_agrees_with_the_map() -> None:
    _, los, pos, station = parts(synthetic_streets(200, seed=5))
    boxes = street_map(5).astype(np.float64)
    blocked = [plain_blocked(station[:2], user[:2].astype(np.float64), boxes) for user in pos]
    np.testing.assert_array_equal(~los, blocked)


def test_users_stand_in_the_streets_and_roofs_above_the_antennas() -> None:
    pos, boxes = parts(synthetic_streets(1000, seed=6)).pos, street_map(6)
    assert boxes.dtype == np.float32
    assert boxes.shape[1] == 6
    assert (boxes[:, 5] > 6.0).all()
    assert (boxes[:, 3:] > boxes[:, :3]).all()
    x, y = pos[:, 0, None], pos[:, 1, None]
    inside = (x > boxes[:, 0]) & (x < boxes[:, 3]) & (y > boxes[:, 1]) & (y < boxes[:, 4])
    assert not inside.any()
    for k in range(len(boxes)):  # no two buildings overlap
        apart = (boxes[:, :2] >= boxes[k, 3:5]).any(1) | (boxes[:, 3:5] <= boxes[k, :2]).any(1)
        assert apart.sum() == len(boxes) - 1


def test_two_carriers_share_users_delays_and_angles() -> None:
    channels = synthetic_streets(400, seed=4, carrier_frequency=28e9)
    assert channels.meta.carrier_frequency == 28e9
    low, high = parts(synthetic_streets(400, seed=4)), parts(channels)
    assert same_rays(low.rays, high.rays, GEOMETRY)
    assert np.array_equal(low.pos, high.pos)
    assert np.array_equal(low.los, high.los)
    assert np.array_equal(low.station, high.station)
    difference = low.rays.power_db - high.rays.power_db
    spreading = 20 * np.log10(28 / 3.5)
    assert np.median(difference) == pytest.approx(spreading, abs=0.5)
    assert difference.max() <= spreading + 9.1 + 3.0  # an edge costs 9 dB more, a reflection hardly anything
    assert np.percentile(difference, 10) > spreading - 3.0  # more only near the ground's Brewster angle
    assert not np.array_equal(low.rays.phase_deg, high.rays.phase_deg)


def test_paths_are_cut_and_ordered_at_the_reference_carrier() -> None:
    layout = StreetLayout()
    rays = parts(synthetic_streets(500, seed=8)).rays
    for start, stop in zip(rays.offsets[:-1], rays.offsets[1:], strict=True):
        power = rays.power_db[start:stop]
        assert (np.diff(power) <= 0).all()
        assert power[0] - power[-1] <= layout.dynamic_range_db + 1e-3
        assert power[-1] >= layout.min_gain_db - 1e-3


def test_neighbours_see_nearly_the_same(cell: Cell) -> None:
    users = cell.users(0, 4000)
    rng = np.random.default_rng(0)
    turn = rng.uniform(0, 2 * np.pi, len(users))
    near = users + np.stack((np.cos(turn), np.sin(turn), np.zeros(len(users))), 1)  # 1 m away
    both = cell.tracer.line_of_sight(users) & cell.tracer.line_of_sight(near)
    users, near = users[both][:300], near[both][:300]
    here, there = cell.paths(users), cell.paths(near)
    distance = np.hypot(*(users[:, :2] - cell.tracer.station[:2]).T)
    first_here, first_there = (np.searchsorted(p.user, np.arange(300)) for p in (here, there))
    assert (np.abs(here.length[first_here] - there.length[first_there]) <= 1.0).all()
    swing = np.radians(here.departure_azimuth[first_here] - there.departure_azimuth[first_there])
    assert (np.abs(2 * np.sin(swing / 2)) <= 1.5 / distance).all()
    # most of the other paths have a partner too: the same walls, within 1 m of length
    shared = 0
    for k in range(len(here)):
        rows = np.flatnonzero(there.user == here.user[k])
        same = (there.buildings[rows] == here.buildings[k]).all(1)
        shared += bool((same & (np.abs(there.length[rows] - here.length[k]) <= 1.01)).any())
    assert shared / len(here) > 0.85


def test_statistics_are_those_of_streets() -> None:
    shares, path_counts, gaps, gains_low = [], [], [], []
    for seed in range(5):
        channels = synthetic_streets(2000, seed=seed)
        rays, los, _, _ = parts(channels)
        total = np.add.reduceat(10 ** (rays.power_db.astype(np.float64) / 10), rays.offsets[:-1])
        level = 10 * np.log10(total)
        shares.append(los.mean())
        path_counts.append(rays.num_paths.mean())
        gaps.append(level[los].mean() - level[~los].mean())
        gains_low.append(np.sqrt(total / 32).mean())
        assert channels.meta.num_dropped > 0
    assert all(0.5 <= share <= 0.7 for share in shares), shares
    assert all(3.5 <= count <= 7 for count in path_counts), path_counts
    assert 4 <= np.mean(path_counts) <= 6
    assert all(15 <= gap <= 25 for gap in gaps), gaps
    assert all(1e-5 <= gain <= 5e-5 for gain in gains_low), gains_low
    high = parts(synthetic_streets(2000, carrier_frequency=28e9)).rays
    total = np.add.reduceat(10 ** (high.power_db.astype(np.float64) / 10), high.offsets[:-1])
    assert 1e-6 <= np.sqrt(total / 32).mean() <= 6e-6


def test_facades_of_a_plan_are_mixtures_with_little_metal() -> None:
    plan = StreetsPlan(streets=300)
    shares = np.array([plan.street(number).layout.facade_shares for number in range(300)])
    assert shares.shape == (300, len(FACADES))
    shares /= shares.sum(1, keepdims=True)
    mean = dict(zip(FACADES, shares.mean(0), strict=True))
    assert 0.02 < mean.pop("metal") < 0.12
    assert all(0.25 < share < 0.38 for share in mean.values()), mean


def test_seeds_and_layouts_give_other_streets() -> None:
    maps = [street_map(seed).tobytes() for seed in range(20)]
    assert len(set(maps)) == 20
    assert street_map(3).tobytes() == maps[3]
    small = StreetLayout(blocks=(2, 3))
    assert len(street_map(0, small)) <= 2 * 3 * 3
    assert street_map(0).tobytes() == street_map(0, StreetLayout()).tobytes()
    one, two = synthetic_streets(20, seed=0), synthetic_streets(20, seed=1)
    assert not np.array_equal(parts(one).pos, parts(two).pos)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_users": 0}, r"num_users=0.*at least 1"),
        ({"num_users": -3}, r"num_users=-3"),
        ({"num_users": 2.5}, r"num_users=2\.5"),
        ({"num_users": float("nan")}, r"num_users=nan"),
        ({"num_users": True}, r"num_users=True"),
        ({"seed": -1}, r"seed=-1.*at least 0"),
        ({"carrier_frequency": 1e6}, r"carrier_frequency=1000000\.0.*5e\+08.*1e\+11"),
        ({"carrier_frequency": 3.5e12}, r"carrier_frequency"),
        ({"carrier_frequency": float("nan")}, r"carrier_frequency=nan"),
        ({"num_antennas": 0}, r"num_antennas"),
        ({"max_paths": 0}, r"max_paths"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        synthetic_streets(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blocks": (0, 3)}, r"blocks.*\(1, 1\)"),
        ({"block_size": (50.0, 40.0)}, r"block_size.*low, high"),
        ({"street_width": (1.0, 20.0)}, r"street_width.*4\.0 m"),
        ({"street_width": (float("nan"), 20.0)}, r"street_width"),
        ({"building_height": (5.0, 30.0)}, r"building_height.*raise building_height"),
        ({"user_height": 0.0}, r"user_height"),
        ({"open_share": 1.0}, r"open_share"),
        ({"los_share": (0.5, 1.2)}, r"los_share"),
        ({"setback": -1.0}, r"setback"),
        ({"setback": 20.0}, r"setback"),
        ({"num_scatterers": -1}, r"num_scatterers"),
        ({"dynamic_range_db": -3.0}, r"dynamic_range_db"),
    ],
)
def test_bad_layouts(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        StreetLayout(**arguments)


def test_layouts_that_cannot_be_served_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_module, "_STATION_TRIES", 3)  # each try takes time and fails alike
    with pytest.raises(InputError, match=r"line-of-sight share.*cell_radius"):
        synthetic_streets(10, layout=StreetLayout(min_gain_db=0.0, blocks=(2, 1)))
    block = StreetLayout(blocks=(1, 1), block_size=(60.0, 60.0), street_width=(4.0, 4.0), open_share=0.0)
    with pytest.raises(InputError, match=r"buildings fill the town's middle"):
        synthetic_streets(10, seed=5, layout=block)  # this seed draws one building


def test_other_layouts_work_down_to_no_scatterers() -> None:
    layout = StreetLayout(blocks=(3, 3), num_scatterers=0, open_share=0.0, los_share=(0.3, 0.9))
    channels = synthetic_streets(200, seed=1, layout=layout)
    assert len(channels) == 200
