"""Statistics of rays, on rays whose statistics are known, and on channels that know their geometry."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lwm_fast.data.channels import Channels
from lwm_fast.data.describe import describe
from lwm_fast.data.ray_statistics import GroupStatistics, free_space_gain_db, ray_statistics
from lwm_fast.data.rays import SPEED_OF_LIGHT, Rays
from lwm_fast.data.synthetic import synthetic_streets
from lwm_fast.data.synthetic.plan import StreetsPlan
from lwm_fast.data.synthetic.write import write_streets


def make_rays(offsets: list[int], power_db: list[float], **columns: list[float]) -> Rays:
    names = ("phase_deg", "delay_s", "aod_az_deg", "aod_zen_deg", "aoa_az_deg", "aoa_zen_deg")
    given = {name: columns.get(name, [0.0] * len(power_db)) for name in names}
    return Rays(np.array(offsets), np.array(power_db), **{name: np.array(v) for name, v in given.items()})


def only(rays: Rays, free_space_db: np.ndarray | None = None) -> GroupStatistics:
    found = ray_statistics(rays, None, free_space_db)
    assert found is not None
    assert list(found.groups) == ["all"]
    return found.groups["all"]


def test_known_rays() -> None:
    rays = make_rays([0, 3, 3, 4], [-80.0, -80.0, -80.0, -90.0], delay_s=[1e-6, 2e-6, 3e-6, 5e-6])
    found = ray_statistics(rays, np.array([1, -1, 0], np.int8), np.array([-76.0, 0.0, -70.0]))
    assert found is not None
    los, nlos = found.groups["LoS"], found.groups["NLoS"]
    assert (los.users, los.mean_paths, los.most_paths, los.paths) == (1, 3.0, 3, (3.0, 3.0, 3.0))
    assert (nlos.users, nlos.mean_paths, nlos.most_paths) == (1, 1.0, 1)
    # delays of 1, 2, 3 us with equal power: sqrt(2/3) us; a single path has no spread
    assert los.delay_spread_s == pytest.approx([np.sqrt(2 / 3) * 1e-6] * 3, rel=1e-6)
    assert nlos.delay_spread_s == (0.0, 0.0, 0.0)
    assert los.power_db == pytest.approx([-80 + 10 * np.log10(3)] * 5)
    assert nlos.power_db == pytest.approx([-90.0] * 5)
    assert los.strongest_share == pytest.approx([1 / 3] * 3)
    assert los.excess_loss_db == pytest.approx([4 - 10 * np.log10(3)] * 3)
    assert nlos.excess_loss_db == pytest.approx([20.0] * 3)


def test_no_user_with_a_path_and_no_user_at_all() -> None:
    assert ray_statistics(make_rays([0, 0], []), None) is None
    assert ray_statistics(make_rays([0], []), np.zeros(0, np.int8)) is None


def test_azimuth_spread_is_that_of_3gpp_and_circular() -> None:
    # shares 3/4 and 1/4, 40 degrees apart, once across the seam at 180 degrees
    power = [10 * np.log10(3.0), 0.0]
    there = only(make_rays([0, 2], power, aod_az_deg=[10.0, 50.0], aoa_az_deg=[160.0, -160.0]))
    length = abs(0.75 + 0.25 * np.exp(1j * np.radians(40.0)))
    expected = np.degrees(np.sqrt(-2 * np.log(length)))
    assert there.departure_spread_deg == pytest.approx([expected] * 3, rel=1e-6)
    assert there.arrival_spread_deg == pytest.approx([expected] * 3, rel=1e-6)
    # near angles: the deviation weighted by power
    near = only(make_rays([0, 2], power, aod_az_deg=[0.0, 1.0]))
    assert near.departure_spread_deg[1] == pytest.approx(np.sqrt(0.75 * 0.25), rel=1e-3)
    alone = only(make_rays([0, 1], [-70.0], aod_az_deg=[123.4]))
    assert alone.departure_spread_deg == (0.0, 0.0, 0.0)
    assert not np.signbit(alone.departure_spread_deg).any()


def test_turning_all_paths_changes_no_spread() -> None:
    rng = np.random.default_rng(0)
    angles, power = rng.uniform(-180, 180, 60), rng.uniform(-110, -80, 60)
    offsets = [0, 1, 8, 30, 60]
    here = only(make_rays(offsets, list(power), aod_az_deg=list(angles)))
    turned = only(make_rays(offsets, list(power), aod_az_deg=list((angles + 277.0) % 360 - 180)))
    assert turned.departure_spread_deg == pytest.approx(here.departure_spread_deg, rel=1e-4)


def test_free_space_gain_of_channels() -> None:
    channels = synthetic_streets(50, seed=1)
    gain = free_space_gain_db(channels)
    assert gain is not None
    assert channels.pos is not None
    distance = np.linalg.norm(channels.pos - np.array(channels.meta.base_station_pos), axis=1)
    np.testing.assert_allclose(
        gain, 20 * np.log10(SPEED_OF_LIGHT / (4 * np.pi * 3.5e9 * distance)), atol=1e-4
    )
    assert channels.rays is not None
    assert channels.geometry is not None
    meta = dataclasses.replace(channels.meta, carrier_frequency=None)
    unknown = Channels.from_rays(channels.rays, channels.geometry, pos=channels.pos, meta=meta)
    assert free_space_gain_db(unknown) is None


def test_direct_paths_lie_on_free_space_and_listings_show_everything(tmp_path) -> None:
    plan = StreetsPlan(streets=2, users_per_street=60, seed=4, carrier=(2e9, 6e9))
    store = write_streets(plan, tmp_path, workers=1, show_progress=False)
    described = describe(tmp_path).rays
    assert described is not None
    seen = described.groups["LoS"]
    assert seen.excess_loss_db is not None  # though carriers and base stations differ
    assert seen.excess_loss_db[-1] < 0.01  # the direct path and what adds to it
    assert seen.users + described.groups["NLoS"].users == store.num_users == 120
    text = str(describe(tmp_path))
    for words in (
        *("paths LoS", "paths NLoS", "power NLoS", "delay spread", "azimuth spread", "strongest path"),
        "below free space",
    ):
        assert words in text
