"""Synthetic streets: the traced paths, on hand-made scenes and against a plain image method."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from support.plain_image_method import plain_blocked, plain_reflections

from lwm_fast.data.rays import SPEED_OF_LIGHT
from lwm_fast.data.synthetic import StreetLayout, street_map
from lwm_fast.data.synthetic.beams import Blockage
from lwm_fast.data.synthetic.cell import draw_cell
from lwm_fast.data.synthetic.gains import (
    MOST_BOUNCES,
    Paths,
    fresnel_ground,
    fresnel_wall,
    gains,
    knife_edge_db,
    permittivity,
)
from lwm_fast.data.synthetic.streets import F64, FACADES, I64, Town
from lwm_fast.data.synthetic.trace import Tracer


def make_town(boxes: list[list[float]], scatterers: list[list[float]] | None = None) -> Town:
    points = np.array(scatterers or [], np.float64).reshape(-1, 3)
    return Town(
        boxes=np.array(boxes, np.float64).reshape(-1, 6),
        facade=np.zeros(len(boxes), np.int64),
        facade_loss_db=np.zeros(len(boxes)),
        scatterers=points,
        cross_section=np.full(len(points), 4 * np.pi),
        scatter_phase=np.full(len(points), 30.0),
        extent=(200.0, 200.0),
    )


def at(*points: tuple[float, float, float]) -> F64:
    return np.array(points, np.float64)


def kinds(paths: Paths) -> dict[str, I64]:
    bounces = (paths.buildings >= 0).sum(1)
    ground, edge = paths.sin_ground > 0, paths.edge > 0
    return {
        "direct": np.flatnonzero((bounces == 0) & ~ground & ~edge & (paths.phase == 0)),
        "ground": np.flatnonzero((bounces == 0) & ground),
        "once": np.flatnonzero((bounces == 1) & ~ground),
        "once_ground": np.flatnonzero((bounces == 1) & ground),
        "twice": np.flatnonzero(bounces == 2),
        "thrice": np.flatnonzero(bounces == 3),
        "edge": np.flatnonzero(edge),
        "scattered": np.flatnonzero(paths.phase != 0),
    }


def test_open_field_has_the_direct_and_the_ground_path() -> None:
    station, user = np.array([0.0, 0.0, 6.0]), at((30.0, 40.0, 2.0))
    paths = Tracer(make_town([]), station)(user)
    kind = kinds(paths)
    assert len(paths) == 2
    direct, ground = kind["direct"][0], kind["ground"][0]
    assert paths.length[direct] == pytest.approx(np.sqrt(50**2 + 4**2), rel=1e-15)
    assert paths.length[ground] == pytest.approx(np.sqrt(50**2 + 8**2), rel=1e-15)
    azimuth = np.degrees(np.arctan2(40, 30))
    np.testing.assert_allclose(paths.departure_azimuth, azimuth, rtol=1e-14)
    np.testing.assert_allclose(paths.arrival_azimuth, azimuth - 180, rtol=1e-14)
    down = np.degrees(np.arctan2(50, -4))
    assert paths.departure_zenith[direct] == pytest.approx(down, rel=1e-12)
    assert paths.arrival_zenith[direct] == pytest.approx(180 - down, rel=1e-12)
    # the ground path leaves downwards and arrives from below
    assert paths.departure_zenith[ground] == pytest.approx(np.degrees(np.arctan2(50, -8)), rel=1e-12)
    assert paths.arrival_zenith[ground] == pytest.approx(paths.departure_zenith[ground], rel=1e-15)


def test_single_wall_reflection_has_the_image_length_and_angles() -> None:
    town = make_town([[-100.0, 10.0, 0.0, 100.0, 20.0, 15.0]])  # its wall y = 10 faces the street
    station, user = np.array([0.0, 0.0, 6.0]), at((40.0, 4.0, 2.0))
    paths = Tracer(town, station)(user)
    once = kinds(paths)["once"]
    assert len(once) == 1
    dx, dy, dz = 40.0, 16.0 - 0.0, 4.0  # the user mirrored in y = 10 lies at y = 16
    length = np.sqrt(dx**2 + dy**2 + dz**2)
    assert paths.length[once[0]] == pytest.approx(length, rel=1e-15)
    assert paths.departure_azimuth[once[0]] == pytest.approx(np.degrees(np.arctan2(dy, dx)), rel=1e-13)
    assert paths.arrival_azimuth[once[0]] == pytest.approx(np.degrees(np.arctan2(dy, -dx)), rel=1e-13)
    assert paths.cosines[once[0], 0] == pytest.approx(dy / length, rel=1e-13)
    assert len(kinds(paths)["once_ground"]) == 1
    gain, phase = gains(paths, town, 3.5e9)
    wavelength = SPEED_OF_LIGHT / 3.5e9
    coefficient = fresnel_wall(paths.cosines[once, 0], np.array([permittivity("concrete", 3.5e9)]))[0]
    field = wavelength / (4 * np.pi * length) * coefficient * np.exp(-2j * np.pi * length / wavelength)
    assert gain[once[0]] == pytest.approx(20 * np.log10(np.abs(field)), abs=1e-9)
    assert phase[once[0]] == pytest.approx(np.degrees(np.angle(field)), abs=1e-6)


@pytest.mark.parametrize(
    ("box", "free"),
    [
        ([18.0, -1.0, 0.0, 22.0, 1.0, 9.0], False),  # in between
        ([18.0, 0.5, 0.0, 22.0, 3.0, 9.0], True),  # beside
        ([42.0, -1.0, 0.0, 45.0, 1.0, 9.0], True),  # behind the user
        ([-9.0, -1.0, 0.0, -5.0, 1.0, 9.0], True),  # behind the base station
    ],
)
def test_a_box_in_between_blocks_and_nothing_else(box: list[float], free: bool) -> None:
    tracer = Tracer(make_town([box]), np.array([0.0, 0.0, 6.0]))
    users = at((40.0, 0.0, 2.0))
    assert bool(tracer.line_of_sight(users)[0]) is free
    kind = kinds(tracer(users))
    assert len(kind["direct"]) == len(kind["ground"]) == int(free)
    assert (len(kind["edge"]) > 0) is not free


def test_street_canyon_double_bounces_have_the_image_lengths_and_are_reciprocal() -> None:
    town = make_town([[-200.0, 10.0, 0.0, 200.0, 30.0, 20.0], [-200.0, -30.0, 0.0, 200.0, -8.0, 20.0]])
    a, b = np.array([0.0, 1.0, 6.0]), np.array([37.0, -3.0, 2.0])
    there, back = Tracer(town, a)(b[None]), Tracer(town, b)(a[None])
    # up then down: y mirrored in 10, then in -8, and the other way round
    expected = sorted(np.sqrt(37.0**2 + dy**2 + 4.0**2) for dy in (4.0 + 36.0, 36.0 - 4.0))
    for paths in (there, back):
        np.testing.assert_allclose(np.sort(paths.length[kinds(paths)["twice"]]), expected, rtol=1e-14)
        # up, down, up: y = 1 is mirrored in 10, -8, 10 to 55, and in -8, 10, -8 to -53, seen from y = -3
        thrice = [np.sqrt(37.0**2 + dy**2 + 4.0**2) for dy in (50.0, 58.0)]
        np.testing.assert_allclose(np.sort(paths.length[kinds(paths)["thrice"]]), thrice, rtol=1e-14)
    np.testing.assert_allclose(np.sort(there.length), np.sort(back.length), rtol=1e-14)
    forth, reverse = (np.argsort(p.length) for p in (there, back))
    np.testing.assert_allclose(there.departure_azimuth[forth], back.arrival_azimuth[reverse], atol=1e-10)
    np.testing.assert_allclose(there.departure_zenith[forth], back.arrival_zenith[reverse], atol=1e-10)
    np.testing.assert_allclose(
        gains(there, town, 3.5e9)[0][forth], gains(back, town, 3.5e9)[0][reverse], atol=1e-9
    )


def test_user_behind_a_building_gets_corner_and_roof_edges() -> None:
    town = make_town([[10.0, -10.0, 0.0, 20.0, 10.0, 12.0]])
    station, user = np.array([0.0, 14.0, 6.0]), at((30.0, 4.0, 2.0))
    paths = Tracer(town, station)(user)
    edges = kinds(paths)["edge"]
    assert len(edges) == len(paths) == 2
    straight = np.degrees(np.arctan2(-10, 30))
    roof, corner = edges[np.argsort(np.abs(paths.departure_azimuth[edges] - straight))]
    # over the roof: the rays that just clear it from either side meet above it (Bullington)
    distance = np.hypot(30.0, 10.0)
    enter, leave = 12.0 / 30.0, 20.0 / 30.0  # the straight line enters through y = 10 (x = 12)
    rise, fall = 6.0 / (enter * distance), 10.0 / ((1 - leave) * distance)
    meet = (2.0 - 6.0 + fall * distance) / (rise + fall)
    height = 6.0 + rise * meet
    length = np.hypot(meet, height - 6.0) + np.hypot(distance - meet, height - 2.0)
    assert paths.length[roof] == pytest.approx(length, rel=1e-13)
    assert paths.departure_azimuth[roof] == pytest.approx(straight, rel=1e-13)
    assert paths.departure_zenith[roof] == pytest.approx(90 - np.degrees(np.arctan(rise)), rel=1e-12)
    wavelength = 0.08
    clearance = height - (6.0 - 4.0 * meet / distance)
    v = clearance * np.sqrt(2 * distance / (wavelength * meet * (distance - meet)))
    gain, _ = gains(paths, town, SPEED_OF_LIGHT / wavelength)
    expected = 20 * np.log10(wavelength / (4 * np.pi * length)) - knife_edge_db(np.array(v))
    assert gain[roof] == pytest.approx(expected, abs=1e-9)
    # round the far upper corner, which bends the ray towards the building
    near, far = np.array([20.05, -3.95]), np.array([9.95, -6.05])
    legs = np.hypot(*near), np.hypot(*far)
    assert paths.length[corner] == pytest.approx(np.hypot(sum(legs), 4.0), rel=1e-13)
    assert paths.departure_azimuth[corner] == pytest.approx(
        np.degrees(np.arctan2(near[1], near[0])), rel=1e-12
    )
    bend = np.arccos(near @ far / (legs[0] * legs[1]))
    v = bend * np.sqrt(2 / (wavelength * (1 / legs[0] + 1 / legs[1])))
    expected = 20 * np.log10(wavelength / (4 * np.pi * paths.length[corner])) - knife_edge_db(np.array(v))
    assert gain[corner] == pytest.approx(expected, abs=1e-6)


def test_scatterer_follows_the_radar_equation() -> None:
    town = make_town([], scatterers=[[30.0, 0.0, 3.0]])
    paths = Tracer(town, np.array([0.0, 0.0, 6.0]))(at((30.0, 20.0, 2.0)))
    row = kinds(paths)["scattered"][0]
    leg_out, leg_back = np.hypot(30.0, 3.0), np.hypot(20.0, 1.0)
    assert paths.length[row] == pytest.approx(leg_out + leg_back, rel=1e-14)
    wavelength = SPEED_OF_LIGHT / 3.5e9
    power = wavelength**2 * (4 * np.pi) / ((4 * np.pi) ** 3 * leg_out**2 * leg_back**2)
    assert gains(paths, town, 3.5e9)[0][row] == pytest.approx(10 * np.log10(power), abs=1e-9)


def test_formulas_at_known_points() -> None:
    # normal incidence, n = 2: R = (1 - 2) / (1 + 2); grazing: -1; Brewster's angle: no TM reflection
    assert fresnel_wall(np.array([1.0]), np.array([4.0 + 0j]))[0] == pytest.approx(-1 / 3)
    assert fresnel_wall(np.array([1e-9]), np.array([4.0 + 0j]))[0] == pytest.approx(-1)
    assert fresnel_ground(np.array([1.0]), 4.0 + 0j)[0] == pytest.approx(1 / 3)
    assert abs(fresnel_ground(np.array([np.sqrt(1 / 5)]), 4.0 + 0j)[0]) < 1e-12
    # at the edge of the shadow half the field is left: 6 dB; deep in it 13 + 20 log10 v
    assert knife_edge_db(np.array([0.0]))[0] == pytest.approx(6.03, abs=0.05)
    assert knife_edge_db(np.array([100.0]))[0] == pytest.approx(53, abs=0.1)
    assert permittivity("concrete", 1e9) == pytest.approx(5.31 - 17.98j * 0.0326)
    # metal mirrors at every angle and carrier
    metal = np.array([permittivity("metal", 3.5e9), permittivity("metal", 60e9)])
    np.testing.assert_allclose(np.abs(fresnel_wall(np.array([0.3, 1.0]), metal)), 1.0, atol=2e-3)


def test_each_wall_of_a_path_costs_its_own_facade_and_loss() -> None:
    town = make_town([[-200.0, 10.0, 0.0, 200.0, 30.0, 20.0], [-200.0, -30.0, 0.0, 200.0, -8.0, 20.0]])
    lossy = dataclasses.replace(
        town, facade=np.array([0, FACADES.index("glass")]), facade_loss_db=np.array([0.5, 1.25])
    )
    paths = Tracer(town, np.array([0.0, 1.0, 6.0]))(at((37.0, -3.0, 2.0)))
    row = kinds(paths)["thrice"][0]
    walls, cosine = paths.buildings[row], paths.cosines[row, 0]
    assert walls.tolist() in ([0, 1, 0], [1, 0, 1])
    np.testing.assert_allclose(paths.cosines[row], cosine, rtol=1e-12)  # parallel walls
    epsilon = np.array([permittivity(name, 3.5e9) for name in ("concrete", "glass")])
    lost = 20 * np.log10(np.abs(fresnel_wall(np.full(2, cosine), epsilon))) - np.array([0.5, 1.25])
    free = 20 * np.log10(SPEED_OF_LIGHT / 3.5e9 / (4 * np.pi * paths.length[row]))
    assert gains(paths, lossy, 3.5e9)[0][row] == pytest.approx(free + lost[walls].sum(), abs=1e-9)


def test_reflections_equal_a_plain_image_method_without_pruning() -> None:
    layout = StreetLayout(blocks=(2, 3), open_share=0.0, cell_radius=(30.0, 140.0), los_share=(0.2, 0.95))
    cell = draw_cell(1, layout)
    users = cell.users(0, 300)[:20]
    paths = cell.tracer(users)
    rows = np.flatnonzero((paths.buildings[:, 0] >= 0) & (paths.sin_ground == 0))
    plan = np.sqrt(paths.length[rows] ** 2 - (cell.tracer.station[2] - users[0, 2]) ** 2)
    traced = {
        (int(u), tuple(int(b) for b in buildings if b >= 0), round(float(v), 6))
        for u, buildings, v in zip(paths.user[rows], paths.buildings[rows], plan, strict=True)
    }
    plain = {
        (u, buildings, round(length, 6))
        for u, user in enumerate(users)
        for buildings, length in plain_reflections(
            cell.tracer.station[:2], user[:2], cell.town.boxes, MOST_BOUNCES
        )
    }
    counts = np.bincount([len(buildings) for _, buildings, _ in plain], minlength=MOST_BOUNCES + 1)
    assert (counts[1:] >= 10).all(), counts
    assert len(traced) == len(rows)
    assert traced <= plain
    # windows are found by sampling 33 points a wall: slivers narrower than that may be missed
    assert len(plain - traced) <= 0.02 * len(plain)


def test_blockage_equals_a_plain_slab_test() -> None:
    rng = np.random.default_rng(3)
    boxes = np.array(street_map(2), np.float64)
    a, b = rng.uniform(-120, 120, (2, 400, 2))
    b[:20, 0] = a[:20, 0]  # exactly along y
    b[20:40, 1] = a[20:40, 1]
    b[40:50] = a[40:50]  # no length
    got = Blockage(boxes)(a[:, 0], a[:, 1], b[:, 0], b[:, 1])
    want = np.array([plain_blocked(p, q, boxes) for p, q in zip(a, b, strict=True)])
    assert 0.2 < want.mean() < 0.95
    np.testing.assert_array_equal(got, want)
