"""The synthetic town: box buildings on an irregular street grid, with facades and small scatterers.

All buildings stand higher than the base station, the users and the scatterers. A ray between two of these
then never passes over a roof, so whether it is blocked is a question about the plan alone: the tracer works
in two dimensions and adds heights afterwards, without approximation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lwm_fast.errors import InputError

F32: TypeAlias = npt.NDArray[np.float32]
F64: TypeAlias = npt.NDArray[np.float64]
I64: TypeAlias = npt.NDArray[np.int64]
Bool: TypeAlias = npt.NDArray[np.bool_]
Range: TypeAlias = tuple[float, float]

FACADES = ("concrete", "brick", "glass", "metal")
_ALLEY = (2.5, 6.0)  # m between two buildings of one block
_SMALLEST_SIDE = 6.0  # m
_NARROWEST_STREET = 4.0  # m


@dataclass(frozen=True)
class StreetLayout:
    """What kind of streets to draw; every `(low, high)` is a range that the seed draws from.

    Lengths are in metres, gains in dB, shares between 0 and 1.

    Attributes:
        blocks: number of blocks along x and along y.
        block_size: side of a block.
        street_width: width of a street.
        open_share: share of blocks without buildings (squares).
        setback: the most that a facade stands back from its block's edge.
        building_height: roof height; its low end must exceed `base_station_height`.
        base_station_height: height of the base station, on a lamp post in a street.
        user_height: height of the users.
        cell_radius: users lie within a disc around the base station whose radius is in this range.
        los_share: line-of-sight share, among users with a path, that the radius is chosen for.
        num_scatterers: point scatterers (signs, vehicles, trees) in the streets.
        facade_shares: weights with which a building is of concrete, brick, glass or metal (metal-coated glass).
        min_gain_db: paths with less gain than this at 3.5 GHz are dropped.
        dynamic_range_db: so are paths this far below the user's strongest.
    """

    blocks: tuple[int, int] = (5, 5)
    block_size: Range = (30.0, 65.0)
    street_width: Range = (12.0, 26.0)
    open_share: float = 0.12
    setback: float = 3.0
    building_height: Range = (8.0, 32.0)
    base_station_height: float = 6.0
    user_height: float = 2.0
    cell_radius: Range = (65.0, 140.0)
    los_share: Range = (0.54, 0.66)
    num_scatterers: int = 20
    facade_shares: tuple[float, ...] = (0.45, 0.3, 0.15, 0.1)
    min_gain_db: float = -112.0
    dynamic_range_db: float = 25.0

    def __post_init__(self) -> None:
        for name in ("block_size", "street_width", "building_height", "cell_radius", "los_share"):
            low, high = getattr(self, name)
            if not 0 < low <= high < float("inf"):
                raise InputError(
                    f"StreetLayout.{name} is ({low}, {high}): give (low, high) with 0 < low <= high"
                )
        if min(self.blocks) < 1:
            raise InputError(f"StreetLayout.blocks is {self.blocks}: give at least (1, 1)")
        for name in ("base_station_height", "user_height", "dynamic_range_db"):
            if not getattr(self, name) > 0:
                raise InputError(f"StreetLayout.{name} is {getattr(self, name)}: give a value above 0")
        tallest = max(self.base_station_height, self.user_height)
        if self.building_height[0] <= tallest:
            raise InputError(
                f"StreetLayout.building_height starts at {self.building_height[0]} m, not above the antennas "
                f"at {tallest} m: raise building_height or lower base_station_height and user_height"
            )
        if self.street_width[0] < _NARROWEST_STREET:
            raise InputError(
                f"StreetLayout.street_width starts at {self.street_width[0]} m: give at least "
                f"{_NARROWEST_STREET} m, so that people fit in"
            )
        if not 0 <= self.open_share < 1:
            raise InputError(f"StreetLayout.open_share is {self.open_share}: give a share from 0 up to 1")
        if self.los_share[1] > 1:
            raise InputError(f"StreetLayout.los_share is {self.los_share}: shares are at most 1")
        if self.setback < 0 or self.num_scatterers < 0:
            raise InputError(
                f"StreetLayout.setback ({self.setback}) and num_scatterers ({self.num_scatterers}) "
                "must be 0 or more"
            )
        if (
            len(self.facade_shares) != len(FACADES)
            or min(self.facade_shares) < 0
            or not sum(self.facade_shares) > 0
        ):
            raise InputError(
                f"StreetLayout.facade_shares is {self.facade_shares}: give a weight of 0 or more for each of "
                f"{', '.join(FACADES)}, not all 0"
            )
        if 2 * self.setback + _SMALLEST_SIDE > self.block_size[0]:
            raise InputError(
                f"StreetLayout.block_size starts at {self.block_size[0]} m, too small for two setbacks of "
                f"{self.setback} m and a building of {_SMALLEST_SIDE} m: raise block_size or lower setback"
            )


@dataclass(frozen=True)
class Town:
    """Buildings, facades and scatterers, before a base station is placed.

    Attributes:
        boxes: float64 [num_buildings, 6], x0, y0, z0, x1, y1, z1 in metres; the town's middle is (0, 0).
        facade: int64 [num_buildings], index into FACADES.
        facade_loss_db: float64 [num_buildings], lost at each reflection to roughness and windows.
        scatterers: float64 [num_scatterers, 3], metres.
        cross_section: float64 [num_scatterers], bistatic radar cross section in m^2.
        scatter_phase: float64 [num_scatterers], degrees.
        extent: half sides of the town along x and y, metres.
    """

    boxes: F64
    facade: I64
    facade_loss_db: F64
    scatterers: F64
    cross_section: F64
    scatter_phase: F64
    extent: tuple[float, float]


def inside_boxes(x: F64, y: F64, boxes: F64, margin: float = 0.5) -> Bool:
    """Whether each point of the plan lies in a building or closer than `margin` metres to one."""
    hit = np.zeros(x.shape, np.bool_)
    for x0, y0, _, x1, y1, _ in boxes:
        hit |= (x > x0 - margin) & (x < x1 + margin) & (y > y0 - margin) & (y < y1 + margin)
    return hit


def draw_town(rng: np.random.Generator, layout: StreetLayout) -> Town:
    """Draw a town: blocks between streets, each cut into one to three buildings with alleys between."""
    edges = [_block_edges(rng, count, layout) for count in layout.blocks]
    boxes = [
        box
        for column in zip(*edges[0][:2], strict=True)
        for row in zip(*edges[1][:2], strict=True)
        for box in _buildings_of_block(rng, column, row, layout)
    ]
    town = np.array(boxes, np.float64).reshape(-1, 6)
    num_buildings = len(town)
    extent = (edges[0][2], edges[1][2])
    weights = np.array(layout.facade_shares)
    return Town(
        boxes=town,
        facade=rng.choice(len(FACADES), num_buildings, p=weights / weights.sum()),
        facade_loss_db=rng.uniform(0.0, 2.0, num_buildings),
        scatterers=_draw_scatterers(rng, town, extent, layout),
        cross_section=rng.lognormal(np.log(6.0), 0.8, layout.num_scatterers),
        scatter_phase=rng.uniform(-180.0, 180.0, layout.num_scatterers),
        extent=extent,
    )


def _block_edges(rng: np.random.Generator, count: int, layout: StreetLayout) -> tuple[F64, F64, float]:
    """First and last coordinate of each block along one axis, and half the town's side; centred on 0."""
    blocks = rng.uniform(*layout.block_size, count)
    streets = rng.uniform(*layout.street_width, count + 1)
    first = np.cumsum(streets[:count]) + np.concatenate(([0.0], np.cumsum(blocks[:-1])))
    half = float(blocks.sum() + streets.sum()) / 2
    return first - half, first + blocks - half, half


def _buildings_of_block(
    rng: np.random.Generator, column: tuple[float, float], row: tuple[float, float], layout: StreetLayout
) -> list[tuple[float, ...]]:
    if rng.random() < layout.open_share:
        return []
    along_x = bool(rng.random() < 0.5)
    first, last = column if along_x else row
    num_buildings = int(rng.integers(1, 4))
    length = last - first
    cuts = [
        first,
        *(first + length * (np.arange(1, num_buildings) + rng.uniform(-0.2, 0.2)) / num_buildings),
        last,
    ]
    alley = rng.uniform(*_ALLEY)
    boxes: list[tuple[float, ...]] = []
    for k in range(num_buildings):
        low = cuts[k] + (alley / 2 if k else 0.0)
        high = cuts[k + 1] - (alley / 2 if k < num_buildings - 1 else 0.0)
        x, y = ((low, high), row) if along_x else (column, (low, high))
        left, right, near, far = rng.uniform(0.0, layout.setback, 4)
        height = rng.uniform(*layout.building_height)
        if min(x[1] - x[0] - left - right, y[1] - y[0] - near - far) >= _SMALLEST_SIDE:
            boxes.append((x[0] + left, y[0] + near, 0.0, x[1] - right, y[1] - far, height))
    return boxes


def _draw_scatterers(
    rng: np.random.Generator, boxes: F64, extent: tuple[float, float], layout: StreetLayout
) -> F64:
    found: F64 = np.zeros((0, 3))
    top = max(layout.base_station_height, layout.user_height)
    while len(found) < layout.num_scatterers:
        size = 4 * layout.num_scatterers
        x, y = (rng.uniform(-half, half, size) for half in extent)
        z = rng.uniform(min(1.0, top / 2), top, size)
        found = np.concatenate((found, np.stack((x, y, z), 1)[~inside_boxes(x, y, boxes)]))
    return found[: layout.num_scatterers]
