"""Channels from rays against the formula in float64 numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lwm_fast import _C

Z_AXIS = (0.0, 0.0, 1.0)
NAMES = ("power_db", "phase_deg", "delay_s", "zenith_deg", "azimuth_deg")


def lwm_axis(rotation_deg: float) -> tuple[float, float, float]:
    r = np.deg2rad(rotation_deg)
    return float(-np.sin(r)), float(np.cos(r)), 0.0


def make_rays(
    counts: list[int], max_delay: float, seed: int = 0
) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    rng = np.random.default_rng(seed)
    offsets = np.cumsum([0] + counts)
    ranges = ((-160, -60), (-400, 400), (0, max_delay), (0, 180), (-180, 180))
    columns = {n: rng.uniform(*r, offsets[-1]).astype(np.float32) for n, r in zip(NAMES, ranges, strict=True)}
    return offsets, columns


def native_csi(
    offsets: NDArray[Any],
    columns: dict[str, NDArray[Any]],
    shape: tuple[int, int, int],
    axis_h: tuple[float, float, float],
    axis_v: tuple[float, float, float] = Z_AXIS,
    **options: Any,
) -> NDArray[Any]:
    rays: dict[str, Any] = dict(columns)
    out = np.full(shape, np.nan, np.complex64)
    _C.rays_to_csi(offsets, **rays, axis_h=axis_h, axis_v=axis_v, out=out, **options)
    return out


def plain_csi(
    offsets: NDArray[Any],
    columns: dict[str, NDArray[Any]],
    shape: tuple[int, int, int],
    axis_h: tuple[float, float, float],
    axis_v: tuple[float, float, float] = Z_AXIS,
    num_v: int = 1,
    bandwidth: float = 960e3,
    spacing: float = 0.5,
    max_paths: int = 20,
) -> NDArray[Any]:
    num_users, num_antennas, num_subcarriers = shape
    csi = np.zeros(shape, np.complex128)
    element = np.arange(num_antennas)
    h, v = element % (num_antennas // num_v), element // (num_antennas // num_v)
    for user in range(num_users):
        rays = slice(offsets[user], min(offsets[user] + max_paths, offsets[user + 1]))
        power, phase, delay, zenith, azimuth = (columns[name][rays].astype(np.float64) for name in NAMES)
        kept = delay * bandwidth < num_subcarriers
        power, phase, delay = power[kept], np.deg2rad(phase[kept]), delay[kept]
        zenith, azimuth = np.deg2rad(zenith[kept]), np.deg2rad(azimuth[kept])
        direction = np.stack(
            [np.sin(zenith) * np.cos(azimuth), np.sin(zenith) * np.sin(azimuth), np.cos(zenith)]
        )  # [3, P]
        travel = np.outer(h, axis_h @ direction) + np.outer(v, axis_v @ direction)  # [N, P]
        steering = np.exp(2j * np.pi * spacing * travel)
        response = np.exp(
            -2j * np.pi * np.outer(delay * bandwidth / num_subcarriers, np.arange(num_subcarriers))
        )
        gain = np.sqrt(10 ** (power / 10) / num_subcarriers) * np.exp(1j * phase)
        csi[user] = (steering * gain) @ response
    return csi


def worst_error(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    norms = np.linalg.norm(expected, axis=(1, 2))
    errors = np.linalg.norm(actual - expected, axis=(1, 2))
    assert np.all(errors[norms == 0] == 0)
    return float(np.max(errors[norms > 0] / norms[norms > 0], initial=0.0))


@pytest.mark.parametrize(
    ("num_antennas", "num_subcarriers"),
    [(32, 32), (1, 1), (1, 3), (3, 1), (5, 17), (8, 1024), (16, 33), (128, 64), (128, 1024)],
)
def test_lwm_array(num_antennas: int, num_subcarriers: int) -> None:
    """The worst relative error of a user, measured: 1.8e-7 (one float32 sum of up to 40 products)."""
    counts = [3, 0, 20, 1, 25, 2]
    bandwidth = 30e3 * num_subcarriers
    offsets, columns = make_rays(counts, 1.1 * num_subcarriers / bandwidth)
    shape, axis = (6, num_antennas, num_subcarriers), lwm_axis(-135.0)
    out = native_csi(offsets, columns, shape, axis, bandwidth=bandwidth)
    expected = plain_csi(offsets, columns, shape, axis, bandwidth=bandwidth)
    assert worst_error(out, expected) < 5e-7
    assert not out[1].any()


def test_spec_formula_of_the_lwm_array() -> None:
    """exp(j pi m sin(zenith) sin(azimuth - rotation)): the form that the LWM settings are given in."""
    offsets, columns = make_rays([1], 1e-6)
    out = native_csi(offsets, columns, (1, 32, 32), lwm_axis(-135.0))
    power, phase, delay, zenith, azimuth = (float(column[0]) for column in columns.values())
    sines = np.sin(np.deg2rad(zenith)) * np.sin(np.deg2rad(azimuth + 135.0))
    steering = np.exp(1j * np.pi * np.arange(32) * sines)
    response = np.exp(-2j * np.pi * np.arange(32) * delay * 960e3 / 32)
    gain = np.sqrt(10 ** (power / 10) / 32) * np.exp(1j * np.deg2rad(phase))
    assert worst_error(out, gain * np.outer(steering, response)[None]) < 5e-7


@pytest.mark.parametrize(("num_h", "num_v"), [(8, 4), (1, 5), (4, 1), (3, 7)])
def test_panels(num_h: int, num_v: int) -> None:
    offsets, columns = make_rays([4, 9], 2e-5)
    shape, axis_h, axis_v = (2, num_h * num_v, 30), (0.6, 0.0, 0.8), (0.0, 1.0, 0.0)
    options: dict[str, Any] = {"num_v": num_v, "bandwidth": 1e6, "spacing": 0.7, "max_paths": 8}
    out = native_csi(offsets, columns, shape, axis_h, axis_v, **options)
    expected = plain_csi(offsets, columns, shape, axis_h, axis_v, **options)
    assert worst_error(out, expected) < 5e-7


def test_long_delays_are_dropped_and_the_last_kept_one_is_not() -> None:
    offsets = np.array([0, 2, 3])
    columns: dict[str, Any] = {name: np.zeros(3, np.float32) for name in NAMES}
    columns["delay_s"] = np.array([32.0, 31.5, 1e9], np.float32)  # samples, at a bandwidth of 1
    out = native_csi(offsets, columns, (2, 4, 32), lwm_axis(0.0), bandwidth=1.0)
    np.testing.assert_allclose(np.abs(out[0]), np.sqrt(1 / 32), rtol=1e-6)
    assert not out[1].any()


def test_a_user_depends_on_itself_alone() -> None:
    offsets, columns = make_rays([3, 20, 0, 7, 1] * 40, 3e-5)
    axis = lwm_axis(30.0)

    def run(first: int, last: int, num_threads: int) -> NDArray[Any]:
        rays = {name: column[offsets[first] : offsets[last]] for name, column in columns.items()}
        own = offsets[first : last + 1] - offsets[first]
        return native_csi(own, rays, (last - first, 16, 40), axis, num_threads=num_threads)

    whole = run(0, 200, 1)
    for num_threads in (2, 3, 5):
        np.testing.assert_array_equal(run(0, 200, num_threads), whole)
    for user in (0, 1, 103, 199):
        np.testing.assert_array_equal(run(user, user + 1, 1)[0], whole[user])


def test_no_users() -> None:
    offsets, columns = make_rays([], 1e-6)
    assert native_csi(offsets, columns, (0, 4, 4), lwm_axis(0.0)).shape == (0, 4, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": np.array([0, 5])}, r"offsets ends at 5 but each ray array holds 4"),
        ({"offsets": np.array([-1, 4])}, r"offsets\[0\] is -1"),
        ({"offsets": np.array([3, 2])}, r"offsets\[1\] is 2, less than offsets\[0\] = 3"),
        ({"phase_deg": np.zeros(3, np.float32)}, r"phase_deg: .* shape \[4\], got shape \[3\]"),
        ({"out": np.zeros((2, 4, 4), np.complex64)}, r"out: .* shape \[1, any, any\]"),
        ({"num_v": 3}, r"num_v: got 3, expected a divisor of out's 4 antennas"),
        ({"num_v": 0}, r"num_v: got 0"),
        ({"max_paths": 0}, r"max_paths: got 0"),
        ({"bandwidth": 0.0}, r"bandwidth: got 0"),
        ({"bandwidth": np.nan}, r"bandwidth: got nan"),
        ({"axis_h": (np.inf, 0.0, 0.0)}, r"axis_h: got inf"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    columns = {name: np.zeros(4, np.float32) for name in NAMES}
    arguments: dict[str, Any] = {
        "offsets": np.array([0, 4]),
        **columns,
        "axis_h": lwm_axis(0.0),
        "axis_v": Z_AXIS,
    }
    arguments["out"] = np.zeros((1, 4, 4), np.complex64)
    with pytest.raises(ValueError, match=message):
        _C.rays_to_csi(**{**arguments, **change})
