"""What each street of a store is: drawn by Philox from (seed, street), never from its neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from lwm_fast.data.channels import Channels
from lwm_fast.data.synthetic import CARRIER_RANGE, StreetLayout, synthetic_streets
from lwm_fast.data.synthetic.streets import Range
from lwm_fast.errors import InputError
from lwm_fast.philox import philox4x32

GENERATOR = "lwm_fast.synthetic 2"
"""Name and version of the generator: stores of another version are not gone on with."""

LWM_SIZES = tuple(
    (num_antennas, num_subcarriers)
    for num_antennas, most in ((8, 1024), (16, 512), (32, 256), (64, 128), (128, 64))
    for num_subcarriers in (32, 64, 128, 256, 512, 1024)
    if num_subcarriers <= most
)
"""The 20 (num_antennas, num_subcarriers) pairs that LWM v1.1 was trained on."""

_STREAM = 0x53 << 24  # apart from the streams that samples draw from
_SPREAD = 0.25  # block sizes, street widths and heights of one street lie this far around its own value
_BUILDING_SIDE = 6.1  # m left between two setbacks, a little more than a layout asks for
_TOWNS = 3  # drawn until a base station fits
_ROOM_ABOVE = 1.0  # m between the antennas and the lowest roof
_HOW_COMMON = {"concrete": 1.0, "brick": 1.0, "glass": 1.0, "metal": 0.15}  # in the order of FACADES


@dataclass(frozen=True)
class StreetsPlan:
    """How many streets, and the ranges that each street draws its own values from.

    A range `(low, high)` is drawn from evenly (carrier, lengths and heights: evenly in the logarithm).
    Lengths are in metres.

    Attributes:
        streets: number of streets, a shard each.
        users_per_street: users of each, all with a path.
        seed: 0..2^64 - 1.
        carrier: Hz, within 0.5e9..100e9.
        carriers: Hz, one of which is drawn instead of `carrier`; empty for the range.
        sizes: (num_antennas, num_subcarriers), one of which is the street's.
        subcarrier_spacing: Hz, one of which is drawn: bandwidth over num_subcarriers.
        rotation: of the array about z, degrees.
        blocks: number of blocks along x, and along y.
        block_size, street_width, building_height: middle of the street's own range.
        station_height, user_height: of the antennas, below all roofs.
        open_share: share of blocks without buildings.
        setback: the most that a facade stands back.
        scatterers: number of point scatterers.
        cell_radius, los_share: as in `StreetLayout`.

    Raises:
        InputError: a value out of its range, a range that runs backwards.
    """

    streets: int
    users_per_street: int = 1000
    seed: int = 0
    carrier: Range = (2e9, 60e9)
    carriers: tuple[float, ...] = ()
    sizes: tuple[tuple[int, int], ...] = LWM_SIZES
    subcarrier_spacing: tuple[float, ...] = (15e3, 30e3, 60e3)
    rotation: Range = (-180.0, 180.0)
    blocks: tuple[int, int] = (3, 6)
    block_size: Range = (30.0, 80.0)
    street_width: Range = (10.0, 40.0)
    building_height: Range = (8.0, 60.0)
    station_height: Range = (3.0, 12.0)
    user_height: Range = (1.0, 2.5)
    open_share: Range = (0.0, 0.4)
    setback: Range = (0.5, 5.0)
    scatterers: tuple[int, int] = (0, 40)
    cell_radius: Range = (40.0, 150.0)
    los_share: Range = (0.35, 0.8)

    def __post_init__(self) -> None:
        for name, least in (("streets", 1), ("users_per_street", 1), ("seed", 0)):
            _check(name, getattr(self, name) >= least, f"at least {least}", getattr(self, name))
        _check("seed", self.seed < 1 << 64, "below 2^64", self.seed)
        for entry in fields(self):
            value = getattr(self, entry.name)
            low, high = _LIMITS.get(entry.name, (-math.inf, math.inf))
            if entry.name in _LIMITS:
                wanted = f"(low, high) with {low:g} <= low <= high <= {high:g}"
                _check(entry.name, low <= value[0] <= value[1] <= high, wanted, value)
        for carrier in self.carriers:
            low, high = CARRIER_RANGE
            _check("carriers", low <= carrier <= high, f"Hz between {low:g} and {high:g}", carrier)
        _check("sizes", len(self.sizes) > 0, "at least one size", self.sizes)
        for size in self.sizes:
            _check("sizes", min(size) >= 1, "numbers of antennas and subcarriers of at least 1", size)
        spacings = self.subcarrier_spacing
        good = len(spacings) > 0 and all(0 < hertz < math.inf for hertz in spacings)
        _check("subcarrier_spacing", good, "Hz above 0", spacings)

    def street(self, number: int) -> Street:
        """The street of that number."""
        draw = _Draws(self.seed, number)
        carrier = draw.log(self.carrier, 1e6)  # drawn even where a list replaces it, so that the rest stays
        choice = draw.uniform()
        if self.carriers:
            carrier = self.carriers[int(choice * len(self.carriers))]
        num_antennas, num_subcarriers = draw.pick(self.sizes)
        spacing = draw.pick(self.subcarrier_spacing)
        rotation = round(draw.between(self.rotation), 1)
        block, width, roof = (
            draw.log(limits, 0.1) for limits in (self.block_size, self.street_width, self.building_height)
        )
        station, user = (round(draw.between(limits), 2) for limits in (self.station_height, self.user_height))
        setback = min(round(draw.between(self.setback), 2), (block * (1 - _SPREAD) - _BUILDING_SIDE) / 2)
        lowest_roof = max(roof * (1 - _SPREAD), max(station, user) + _ROOM_ABOVE)
        # Exponential weights: all mixtures would be equally likely, were coated facades not rarer.
        facades = tuple(
            common * (round(-math.log1p(-draw.uniform()), 3) + 0.001) for common in _HOW_COMMON.values()
        )
        layout = StreetLayout(
            blocks=(draw.whole(self.blocks), draw.whole(self.blocks)),
            block_size=_around(block),
            street_width=_around(width),
            open_share=round(draw.between(self.open_share), 3),
            setback=setback,
            building_height=(lowest_roof, max(roof * (1 + _SPREAD), lowest_roof)),
            base_station_height=station,
            user_height=user,
            cell_radius=self.cell_radius,
            los_share=self.los_share,
            num_scatterers=draw.whole(self.scatterers),
            facade_shares=facades,
        )
        return Street(
            number, draw.seed(), carrier, num_antennas, num_subcarriers, spacing * num_subcarriers,
            rotation, layout,
        )  # fmt: skip


@dataclass(frozen=True)
class Street:
    """One street, ready to be traced.

    Attributes:
        number: in the plan.
        town_seed: of town, base station and users; the next one where no base station fits that town.
        carrier_frequency, bandwidth: Hz.
        num_antennas, num_subcarriers, rotation: of the array and band, degrees about z.
        layout: what town to draw.
    """

    number: int
    town_seed: int
    carrier_frequency: float
    num_antennas: int
    num_subcarriers: int
    bandwidth: float
    rotation: float
    layout: StreetLayout = field(default_factory=StreetLayout)

    def record(self) -> dict[str, Any]:
        """Everything that was drawn, as plain values."""
        return asdict(self)

    def trace(self, num_users: int) -> Channels:
        """The street's users with their rays; `meta.source` names the seed of the town that was used.

        Raises:
            InputError: several towns of this layout have no place for a base station; names the street.
        """
        for town in range(_TOWNS):
            try:
                return synthetic_streets(
                    num_users,
                    seed=self.town_seed + town,
                    carrier_frequency=self.carrier_frequency,
                    num_antennas=self.num_antennas,
                    num_subcarriers=self.num_subcarriers,
                    bandwidth=self.bandwidth,
                    rotation=self.rotation,
                    layout=self.layout,
                )
            except InputError as error:
                reason = error
        raise InputError(f"street {self.number}, after {_TOWNS} towns: {reason}")


class _Draws:
    """The numbers of one street, in the order they are asked for."""

    def __init__(self, seed: int, street: int) -> None:
        counter = np.zeros((_WORDS // 4, 4), np.uint64)
        counter[:, 0] = street & 0xFFFFFFFF
        counter[:, 1] = street >> 32
        counter[:, 3] = _STREAM | np.arange(_WORDS // 4, dtype=np.uint64)
        self._words = iter(philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32)).ravel().tolist())

    def uniform(self) -> float:
        return float(next(self._words)) * 2.0**-32

    def between(self, limits: Sequence[float]) -> float:
        return limits[0] + self.uniform() * (limits[1] - limits[0])

    def log(self, limits: Range, step: float) -> float:
        """Evenly in the logarithm, rounded to a step so that no libm shows in the result."""
        low, high = limits
        value = math.exp(self.between((math.log(low), math.log(high))))
        return min(max(round(value / step) * step, low), high)

    def whole(self, limits: tuple[int, int]) -> int:
        return limits[0] + int(self.uniform() * (limits[1] - limits[0] + 1))

    def pick(self, values: Sequence[Any]) -> Any:
        return values[int(self.uniform() * len(values))]

    def seed(self) -> int:
        return int(next(self._words)) << 32 | int(next(self._words))


_WORDS = 32  # more than a street asks for
_LIMITS = {
    "carrier": CARRIER_RANGE,
    "rotation": (-360.0, 360.0),
    "blocks": (2, 20),
    "block_size": (20.0, 500.0),
    "street_width": (6.0, 200.0),
    "building_height": (2.0, 1000.0),
    "station_height": (1.0, 500.0),
    "user_height": (0.1, 100.0),
    "open_share": (0.0, 0.9),
    "setback": (0.0, 100.0),
    "scatterers": (0, 10_000),
    "cell_radius": (10.0, 2000.0),
    "los_share": (0.01, 1.0),
}


def _around(middle: float) -> Range:
    return middle * (1 - _SPREAD), middle * (1 + _SPREAD)


def _check(name: str, good: bool, wanted: str, value: Any) -> None:
    if not good:
        raise InputError(f"{name.replace('_', '-')}: got {value}, expected {wanted}")
