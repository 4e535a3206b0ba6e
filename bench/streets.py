"""`python -m bench.streets`: how generated streets compare with 3GPP's street canyon and with traced cities.

Writes bench/results/streets.csv: for each source, group of users and quantity three quantiles. The cities
are there where the shared data is; only these numbers leave it.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import umi
from bench.inputs import ROOT, shared_data
from lwm_fast.data.describe import describe
from lwm_fast.data.ray_statistics import POWER_QUANTILES, QUANTILES, RayStatistics
from lwm_fast.data.synthetic.plan import StreetsPlan
from lwm_fast.data.synthetic.write import write_streets
from lwm_fast.files import atomic_path

CARRIER = 3.5e9  # Hz, of the cities
CITIES = {
    "Denver BS3": ("city_18_denver_3p5", 3),
    "Fort Worth BS1": ("city_12_fortworth_3p5", 1),
    "Santa Clara BS1": ("city_11_santaclara_3p5", 1),
}
UMI = "3GPP UMi"
UMI_DISTANCE = {"LoS": 60.0, "NLoS": 75.0}  # m
COLUMNS = ("source", "group", "users", "quantity", "low", "middle", "high", "percent", "command")

Line = tuple[str, str, int | str, str, float | str, float, float | str, str]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.streets", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--streets", type=int, default=100, help="of 1000 users each (default 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    options = parser.parse_args(argv)
    lines = [
        *generated(options.streets, options.seed),
        *published(),
        *(line for name in CITIES for line in city(name)),
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    command = f"python -m bench.streets --streets {options.streets} --seed {options.seed}"
    with (
        atomic_path(options.out / "streets.csv") as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for line in lines:
            cells = [f"{cell:.5g}" if isinstance(cell, float) else cell for cell in line]
            writer.writerow([*cells, command])
    print(f"{options.out / 'streets.csv'}: {len(lines)} rows")
    return 0


def generated(streets: int, seed: int) -> Iterator[Line]:
    """Default streets, all at the cities' carrier."""
    with tempfile.TemporaryDirectory() as folder:
        write_streets(StreetsPlan(streets=streets, seed=seed, carriers=(CARRIER,)), folder)
        found = describe(folder).rays
    assert found is not None
    yield from _lines("generated streets", found)


def city(name: str) -> Iterator[Line]:
    """A traced city, if its data is there."""
    folder, base_station = CITIES[name]
    data = shared_data()
    if data is not None:
        found = describe(data / "scenarios" / folder, base_station=base_station).rays
        assert found is not None
        yield from _lines(name, found)


def published() -> Iterator[Line]:
    """What 3GPP TR 38.901 says of a street canyon."""
    for group, distance in UMI_DISTANCE.items():
        clusters = float(umi.CLUSTERS[group])
        yield (UMI, group, "", "paths", "", clusters, "", "clusters")
        of = {
            name: umi.spread(group, name, CARRIER)
            for name in ("delay_spread_s", "departure_spread_deg", "arrival_spread_deg")
        }
        of["excess_loss_db"] = umi.excess_loss_db(group, CARRIER, distance)
        if group == "LoS":
            of["strongest_share"] = umi.strongest_share()
        for name, values in of.items():
            low, middle, high = values
            yield (UMI, group, "", name, low, middle, high, _percent(QUANTILES))


def _lines(source: str, found: RayStatistics) -> Iterator[Line]:
    for group, of in found.groups.items():
        yield (source, group, of.users, "mean_paths", "", of.mean_paths, "", "mean")
        low, _, middle, _, high = of.power_db
        yield (source, group, of.users, "power_db", low, middle, high, _percent(POWER_QUANTILES[::2]))
        for name in (
            *("paths", "delay_spread_s", "departure_spread_deg", "arrival_spread_deg"),
            *("strongest_share", "excess_loss_db"),
        ):
            low, middle, high = getattr(of, name)
            yield (source, group, of.users, name, low, middle, high, _percent(QUANTILES))


def _percent(quantiles: Sequence[int]) -> str:
    return "/".join(str(percent) for percent in quantiles)


if __name__ == "__main__":
    sys.exit(main())
