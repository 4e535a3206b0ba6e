"""Trace a city scene of Sionna RT into a ray store to pre-train on: python examples/trace_sionna.py munich -o STORE

Needs `pip install sionna-rt` and, without a GPU, LLVM: see docs/sionna.md. Stopped, the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lwm_fast.data import ArrayGeometry, Channels, ChannelsMeta, Rays
from lwm_fast.data.ray_store import begin_store, finish_store, read_shard, summary_of
from lwm_fast.errors import InputError
from lwm_fast.philox import Stream, uniform

RECEIVERS_AT_ONCE = 256  # bounds memory
ROOF = 1.0  # m: what stands higher than this above the ground is no place for a user
MIN_SEEN = 0.2  # share of its users that a base station must see: most places are courtyards
PLACES = 20  # tried for each base station
MARGIN = 0.15  # of the scene's sides, left free at its edges


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "scene", help="built-in scene on flat ground: munich, etoile, simple_street_canyon, ..."
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the store")
    parser.add_argument("--stations", type=int, default=8, help="base stations, a shard each (default 8)")
    parser.add_argument("--users", type=int, default=1000, help="users placed around each (default 1000)")
    parser.add_argument("--radius", type=float, default=150.0, help="of the users' square, m (default 150)")
    parser.add_argument("--carrier", type=float, default=3.5e9, help="Hz (default 3.5e9)")
    parser.add_argument("--station-height", type=float, default=10.0, help="m above ground (default 10)")
    parser.add_argument("--user-height", type=float, default=1.5, help="m above ground (default 1.5)")
    parser.add_argument("--depth", type=int, default=3, help="most reflections of a path (default 3)")
    parser.add_argument("--samples", type=int, default=200_000, help="rays a station shoots (default 200000)")
    parser.add_argument("--seed", type=int, default=0)
    if not (sys.argv[1:] if argv is None else argv):
        parser.print_help()
        return 0
    options = parser.parse_args(argv)
    try:
        trace(options)
    except InputError as error:
        parser.error(str(error))
    return 0


def trace(options: argparse.Namespace) -> None:
    """Trace what is missing of the store that the options ask for."""
    try:
        import sionna.rt
    except ImportError as error:
        raise InputError(f"Sionna RT cannot be imported ({error}): pip install sionna-rt") from error
    if not hasattr(sionna.rt.scene, options.scene):
        raise InputError(f"{options.scene}: no built-in scene of Sionna RT {sionna.rt.__version__}")
    scene = sionna.rt.load_scene(getattr(sionna.rt.scene, options.scene))
    scene.frequency = options.carrier
    single = {"num_rows": 1, "num_cols": 1, "pattern": "iso", "polarization": "V"}
    scene.tx_array = sionna.rt.PlanarArray(**single)  # one element: lwm_fast makes the array from the angles
    scene.rx_array = sionna.rt.PlanarArray(**single)

    plan = {name: value for name, value in vars(options).items() if name != "out"}
    stations = place_stations(scene, options)
    streets = [
        {"carrier_frequency": options.carrier, "scene": options.scene, "base_station_pos": station.tolist()}
        for station in stations
    ]
    generator = f"sionna-rt {sionna.rt.__version__}"
    if begin_store(options.out, plan, streets, generator=generator):
        print(f"{options.out}: complete already")
        return
    shards = []
    for number, station in enumerate(stations):
        path = options.out / f"{options.scene}-{number:05d}.h5"
        if not path.exists():
            started = time.perf_counter()
            channels = trace_station(sionna.rt, scene, station, number, options)
            channels.save(path)
            seconds = time.perf_counter() - started
            print(
                f"{path}: {len(channels)} of {options.users} users have a path, {seconds:.1f} s", flush=True
            )
        shards.append(summary_of(path.name, read_shard(path)))
    store = finish_store(options.out, shards)
    print(f"{options.out}: {len(store)} base stations, {store.num_users} users")


def trace_station(
    rt: Any, scene: Any, station: npt.NDArray[np.float32], number: int, options: argparse.Namespace
) -> Channels:
    """Users around one base station [3] that have a path to it."""
    users = place_users(scene, station, options.users, number + 1, options)
    scene.remove("station")
    scene.add(rt.Transmitter("station", position=station.tolist()))
    solver, parts, los = rt.PathSolver(), [], []
    for start in range(0, len(users), RECEIVERS_AT_ONCE):
        for name in list(scene.receivers):
            scene.remove(name)
        for row, user in enumerate(users[start : start + RECEIVERS_AT_ONCE]):
            scene.add(rt.Receiver(f"user{row}", position=user.tolist()))
        paths = solver(
            scene, max_depth=options.depth, samples_per_src=options.samples, refraction=False, seed=options.seed + 1
        )  # fmt: skip
        a, tau = paths.cir(normalize_delays=False, out_type="numpy")
        angles = [getattr(paths, name).numpy() for name in ("theta_t", "phi_t", "theta_r", "phi_r")]
        parts.append(rays_from_paths(a, tau, *angles))
        los.append(los_from_paths(tau, paths.interactions.numpy()))
    rays, seen = Rays.concatenate(parts), np.concatenate(los)
    reached = np.flatnonzero(rays.num_paths)
    if not len(reached):
        raise InputError(
            f"{options.scene}: no user has a path to base station {number} at {station.tolist()} m; use "
            "another --seed, more --users or a larger --depth"
        )
    meta = ChannelsMeta(
        source=f"Sionna RT {rt.__version__}, scene {options.scene}, base station {number}",
        format="sionna_rt",
        carrier_frequency=options.carrier,
        base_station=number,
        base_station_pos=(float(station[0]), float(station[1]), float(station[2])),
        num_users_total=len(users),
        num_dropped=len(users) - len(reached),
        synthetic=True,
    )
    columns = {"los": seen[reached], "pos": users[reached], "user_index": reached}
    return Channels.from_rays(rays.select(reached), ArrayGeometry(), meta=meta, **columns)


def rays_from_paths(
    a: npt.ArrayLike,
    tau: npt.ArrayLike,
    theta_t: npt.ArrayLike,
    phi_t: npt.ArrayLike,
    theta_r: npt.ArrayLike,
    phi_r: npt.ArrayLike,
) -> Rays:
    """Rays of each receiver, strongest first, from what Sionna RT gives for one transmitter and single antennas.

    Args:
        a: complex [num_rx, 1, 1, 1, num_paths, 1], `Paths.cir(normalize_delays=False, out_type="numpy")`: its
            phase holds -2 pi carrier tau, as `Rays.phase_deg` does.
        tau: seconds [num_rx, 1, num_paths]; negative where there is no path.
        theta_t, phi_t, theta_r, phi_r: zenith and azimuth of departure and arrival, radians, like `tau`.
    """
    delay = np.asarray(tau, np.float64)  # [num_rx, 1, num_paths]
    if delay.ndim != 3 or delay.shape[1] != 1:
        raise InputError(f"tau has shape {delay.shape}; expected [num_rx, 1, num_paths]: one transmitter")
    gain = np.asarray(a).reshape(delay.shape)[:, 0]  # [num_rx, num_paths]
    delay = delay[:, 0]
    with np.errstate(divide="ignore"):
        power = np.where(delay >= 0, 20 * np.log10(np.abs(gain)), -np.inf)  # -inf: no path
    order = np.argsort(-power, axis=1, kind="stable")

    def column(values: npt.ArrayLike) -> npt.NDArray[Any]:
        return np.take_along_axis(np.asarray(values).reshape(power.shape), order, axis=1)

    return Rays.from_padded(
        column(power),
        phase_deg=column(np.degrees(np.angle(gain))),
        delay_s=column(delay),
        aod_az_deg=column(np.degrees(phi_t)),
        aod_zen_deg=column(np.degrees(theta_t)),
        aoa_az_deg=column(np.degrees(phi_r)),
        aoa_zen_deg=column(np.degrees(theta_r)),
    )


def los_from_paths(tau: npt.ArrayLike, interactions: npt.ArrayLike) -> npt.NDArray[np.int8]:
    """1, 0 or -1 for line of sight, other paths only, or none, int8 [num_rx].

    Args:
        tau: as in `rays_from_paths`.
        interactions: kinds, 0 for none, [max_depth, num_rx, 1, num_paths].
    """
    valid = np.asarray(tau)[:, 0] >= 0  # [num_rx, num_paths]
    direct = valid & (np.asarray(interactions)[:, :, 0] == 0).all(axis=0)
    return np.where(direct.any(axis=1), 1, np.where(valid.any(axis=1), 0, -1)).astype(np.int8)


def place_stations(scene: Any, options: argparse.Namespace) -> npt.NDArray[np.float32]:
    """Base stations [stations, 3] in the streets, metres, each of which sees MIN_SEEN of the users around it."""
    import mitsuba as mi

    chosen: list[npt.NDArray[np.float32]] = []
    tried = place(scene, PLACES * options.stations, options.station_height, options.seed, sample=0)
    for station in tried:
        users = place_users(scene, station, RECEIVERS_AT_ONCE, 0, options)
        ray = mi.Ray3f(mi.Point3f(*station.tolist()), mi.Vector3f((users - station).T.copy()))
        blocked = np.array(scene.mi_scene.ray_test(mi.Ray3f(ray, 0.999)))  # up to the user, not beyond
        if (~blocked).mean() >= MIN_SEEN:
            chosen.append(station)
        if len(chosen) == options.stations:
            return np.stack(chosen)
    raise InputError(
        f"{options.scene}: {len(chosen)} of {len(tried)} places see {MIN_SEEN:.0%} of the users within "
        f"{options.radius} m, {options.stations} are needed; use a smaller --radius or fewer --stations"
    )


def place_users(
    scene: Any, station: npt.NDArray[np.float32], count: int, sample: int, options: argparse.Namespace
) -> npt.NDArray[np.float32]:
    """Users [count, 3] in the streets of the square around a base station [3], metres."""
    square = (station[:2] - options.radius, station[:2] + options.radius)
    return place(scene, count, options.user_height, options.seed, sample=sample, within=square)


def place(
    scene: Any, count: int, height: float, seed: int, *, sample: int, within: Any = None
) -> npt.NDArray[np.float32]:
    """Points [count, 3] in the streets of a scene on flat ground, `height` above it, metres.

    Args:
        within: ((x0, y0), (x1, y1)); None for the whole scene but its edges.
    """
    import mitsuba as mi

    box = scene.mi_scene.bbox()
    low, high = (np.array(corner, np.float64) for corner in (box.min, box.max))
    sides = (high - low)[:2]
    first, last = low[:2] + MARGIN * sides, high[:2] - MARGIN * sides
    if within is not None:
        first, last = np.maximum(first, within[0]), np.minimum(last, within[1])
    drawn = uniform(seed, sample, 0, Stream.NOISE, 40 * count).reshape(-1, 2)
    plan = (first + drawn * (last - first)).astype(np.float32)  # twenty tries for each point
    above = np.full(len(plan), high[2] + 10, np.float32)
    down = mi.Vector3f(0, 0, -1)
    hit = scene.mi_scene.ray_intersect(mi.Ray3f(mi.Point3f(plan[:, 0], plan[:, 1], above), down))
    top = above - np.array(hit.t)  # of whatever is there; -inf beside the scene
    ground = top[np.isfinite(top)].min(initial=np.inf)
    outdoors = plan[top <= ground + ROOF][:count]
    if len(outdoors) < count:
        raise InputError(
            f"only {len(outdoors)} of {count} points lie in the streets between {first.round()} and "
            f"{last.round()} m; use another --seed or --radius"
        )
    return np.column_stack((outdoors, np.full(count, ground + height, np.float32))).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
