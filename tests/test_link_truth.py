"""The truth about links: that of a plain loop over rays, in the array, band and level in which the csi is seen."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.released import random_csi

from lwm_fast import InputError
from lwm_fast.data import ArrayGeometry, Channels, ChannelsMeta, ChannelStore, MCMCollator, RayPlan, Rays
from lwm_fast.data.augment import Augmentation
from lwm_fast.data.link_truth import link_truth
from lwm_fast.links import LinkState

FIELDS = ("los", "power_db", "mean_delay_s", "delay_spread_s", "direction")
CARRIER = 14e9


def some_rays(users: int, seed: int, *, most: int = 9, latest: float = 3e-6) -> Rays:
    """0..most rays a user."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(rng.integers(0, most + 1, users))])
    total = int(offsets[-1])

    def column(low: float, high: float) -> np.ndarray[Any, Any]:
        return rng.uniform(low, high, total).astype(np.float32)

    angles = [column(-180, 180), column(20, 160), column(-180, 180), column(20, 160)]
    return Rays(offsets, column(-120, -80), column(-180, 180), column(1e-7, latest), *angles)


def street(users: int, seed: int, *, los: bool = True, **options: Any) -> Channels:
    rng = np.random.default_rng(seed)
    rays = some_rays(users, seed, **options)
    flags = rng.integers(0, 2, users).astype(np.int8)
    flags[::5] = -1
    meta = ChannelsMeta(carrier_frequency=CARRIER)
    return Channels.from_rays(rays, ArrayGeometry(8, 16, spacing=0.7), los=flags if los else None, meta=meta)


def plain_truth(
    channels: Channels, user: int, shape: Any, geometry: Any, max_paths: int
) -> tuple[float, ...]:
    """power_db, mean delay, spread, direction of one user by a loop in float64."""
    rays = channels.rays
    assert rays is not None
    first, last = rays.offsets[user], rays.offsets[user + 1]
    bandwidth, spacing = geometry[6], geometry[7]
    heard = [
        i for i in range(first, min(last, first + max_paths)) if float(rays.delay_s[i]) * bandwidth < shape[1]
    ]
    if not heard:
        return (math.nan,) * 4
    gains = [10 ** (float(rays.power_db[i]) / 10) for i in heard]
    delays = [float(rays.delay_s[i]) for i in heard]
    mean = sum(g * t for g, t in zip(gains, delays, strict=True)) / sum(gains)
    spread = math.sqrt(sum(g * (t - mean) ** 2 for g, t in zip(gains, delays, strict=True)) / sum(gains))
    best = heard[gains.index(max(gains))]
    zenith, azimuth = math.radians(rays.aod_zen_deg[best]), math.radians(rays.aod_az_deg[best])
    toward = (math.sin(zenith) * math.cos(azimuth), math.sin(zenith) * math.sin(azimuth), math.cos(zenith))
    turns = 2 * spacing * sum(a * d for a, d in zip(geometry[:3], toward, strict=True))
    return 10 * math.log10(sum(gains)), mean, spread, (turns + 1) % 2 - 1


@pytest.mark.parametrize("sizes", [((8, 32), (16, 64), (4, 8)), ()])
@pytest.mark.parametrize("max_paths", [1, 3, 20, (1, 5)])
def test_truth_is_that_of_a_loop_over_rays(sizes, max_paths):
    streets = [street(40, 1), street(25, 2, latest=6e-5)]  # the second has rays too late for its band
    plan = RayPlan(sizes=sizes, rotation=(-180, 180), max_paths=max_paths, seed=4)
    store = ChannelStore(streets, plan=plan)
    index = np.random.default_rng(0).permutation(len(store))
    gathered = store.gather(3, index)
    truth = link_truth(gathered)
    unheard = 0
    for i, number in enumerate(index):
        source = 0 if number < len(store._sources[0]) else 1
        user = int(gathered.row[i])
        power, mean, spread, direction = plain_truth(
            streets[source], user, gathered.shape[i], gathered.geometry[i], int(gathered.panel[i, 1])
        )
        unheard += math.isnan(power)
        found = [getattr(truth, name)[i] for name in FIELDS]
        los = float(streets[source].los[user])
        wanted = [math.nan if los < 0 or math.isnan(power) else los, power, mean, spread, direction]
        np.testing.assert_allclose(found[:4], wanted[:4], rtol=1e-5, atol=1e-12)
        np.testing.assert_allclose(
            (found[4] - wanted[4] + 1) % 2 - 1, 0 if wanted[4] == wanted[4] else np.nan, atol=1e-5
        )
    assert unheard, "some samples of the case have no ray that the band can tell"
    assert all(getattr(truth, name).dtype == np.float32 for name in FIELDS)


def test_the_power_is_that_of_the_csi():
    """Far paths add up incoherently over a wide band, so their summed power is the csi's mean power."""
    store = ChannelStore(street(60, 3, most=1), plan=RayPlan(sizes=((8, 64),)))
    gathered = store.gather(0, np.arange(len(store)))
    batch = MCMCollator(truth=True)(gathered)
    power = np.square(np.abs(batch.csi.reshape(len(batch), -1).astype(np.complex128))).mean(1) * 64
    np.testing.assert_allclose(batch.truth.power_db, 10 * np.log10(power), atol=1e-3)


def test_finished_csi_and_sources_without_los_are_unknown():
    store = ChannelStore(
        [random_csi(3, 8, 32, seed=0), street(20, 1, los=False)], plan=RayPlan(sizes=((8, 32),))
    )
    truth = link_truth(store.gather(0, [0, 5, 1, 7, 2]))
    assert np.isnan(truth.los).all()
    for name in FIELDS[1:]:
        assert np.isnan(getattr(truth, name)).tolist() == [True, False, True, False, True], name


def test_no_samples_and_no_rays():
    store = ChannelStore(random_csi(3, 8, 32, seed=0))
    for index in ([], [1]):
        truth = link_truth(store.gather(0, index))
        assert len(truth) == len(index)
        assert all(np.isnan(getattr(truth, name)).all() for name in FIELDS)


def test_los_survives_a_file(tmp_path):
    channels = street(30, 6)
    channels.save(tmp_path / "street.h5")
    plan = RayPlan(sizes=((8, 32),))
    truths = [
        link_truth(store.gather(0, np.arange(len(store))))
        for store in (ChannelStore(channels, plan=plan), ChannelStore(tmp_path / "street.h5", plan=plan))
    ]
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(truths[0], name), getattr(truths[1], name))
    assert np.isfinite(truths[0].los).any()


@pytest.mark.parametrize("scale", [None, 2e5])
def test_gains_are_brought_to_the_reference_carrier(scale):
    plain, brought = (
        ChannelStore(street(30, 6), plan=RayPlan(sizes=((8, 32),), reference_carrier=reference))
        for reference in (None, 3.5e9)
    )
    index = np.arange(len(plain))
    one, other = (MCMCollator(truth=True, scale=scale)(store.gather(0, index)) for store in (plain, brought))
    level = 20 * math.log10(CARRIER / 3.5e9)
    np.testing.assert_allclose(other.scale / one.scale, 10 ** (level / 20), rtol=1e-6)
    np.testing.assert_allclose(other.truth.power_db - one.truth.power_db, level, atol=1e-4)
    np.testing.assert_array_equal(one.csi, other.csi)
    for name in ("los", "mean_delay_s", "delay_spread_s", "direction"):
        np.testing.assert_array_equal(getattr(one.truth, name), getattr(other.truth, name))


def test_a_reference_needs_carriers():
    channels = street(5, 1)
    channels.meta = replace(channels.meta, carrier_frequency=None)
    with pytest.raises(InputError, match=r"does not say its carrier, which reference_carrier=3\.5e"):
        ChannelStore(channels, plan=RayPlan(sizes=((8, 32),), reference_carrier=3.5e9))
    with pytest.raises(InputError, match=r"reference_carrier=-1 Hz; it must be finite and positive"):
        RayPlan(reference_carrier=-1)


def test_the_truth_follows_the_gain_and_not_the_phase():
    store = ChannelStore(street(30, 6), plan=RayPlan(sizes=((8, 32),)))
    gathered = store.gather(2, np.arange(len(store)))
    augment = Augmentation(phase=True, gain_db=(-3, 5), seed=1)
    one, other = (MCMCollator(truth=True, augment=a)(gathered) for a in (None, augment))
    gains = augment.gains_db(gathered.index, 2)
    np.testing.assert_allclose(other.truth.power_db - one.truth.power_db, gains, atol=1e-4)
    np.testing.assert_array_equal(other.truth.direction, one.truth.direction)


def test_links_of_some_samples():
    links = LinkState(*(np.arange(5, dtype=np.float32) + i for i in range(5)))
    part = links[1:3]
    assert len(part) == 2
    assert part.direction.tolist() == [5, 6]
