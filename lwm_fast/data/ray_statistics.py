"""What rays say about the radio of their place: paths, power, spreads of delay and angle, line of sight.

The spreads are those of 3GPP TR 38.901, so that they can be held against its tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lwm_fast.data.channels import Channels
from lwm_fast.data.rays import SPEED_OF_LIGHT, Rays

POWER_QUANTILES = (5, 25, 50, 75, 95)  # percent
QUANTILES = (10, 50, 90)  # percent, of everything else

F64 = npt.NDArray[np.float64]
Quantiles = tuple[float, ...]


@dataclass(frozen=True)
class GroupStatistics:
    """Statistics over users with a path, all of them in line of sight or none, or of unknown kind.

    Attributes:
        users: number of them.
        mean_paths, most_paths: paths of a user.
        paths: QUANTILES of the number of paths of a user.
        power_db: POWER_QUANTILES of a user's power, summed over paths, dB.
        delay_spread_s: QUANTILES of the rms delay spread, weighted by power, seconds.
        departure_spread_deg, arrival_spread_deg: QUANTILES of the azimuth spread at the base station and at the
            user: sqrt(-2 ln |sum_k p_k e^{j phi_k}|), p_k the paths' shares of power, in degrees (3GPP TR
            38.901, annex A).
        strongest_share: QUANTILES of the strongest path's share of the power.
        excess_loss_db: QUANTILES of what the power lies below free space over the straight distance, dB; None
            where positions or carrier are unknown. Below 0 where paths add to the direct one.
    """

    users: int
    mean_paths: float
    most_paths: int
    paths: Quantiles
    power_db: Quantiles
    delay_spread_s: Quantiles
    departure_spread_deg: Quantiles
    arrival_spread_deg: Quantiles
    strongest_share: Quantiles
    excess_loss_db: Quantiles | None = None


@dataclass(frozen=True)
class RayStatistics:
    """Statistics over users with a path.

    Attributes:
        groups: for "LoS" and "NLoS", those that there are; "all" where the source does not say.
    """

    groups: dict[str, GroupStatistics]

    def rows(self) -> list[tuple[str, str]]:
        """Names and texts for a listing."""
        at = "/".join(str(percent) for percent in QUANTILES)
        out = []
        for name, group in self.groups.items():
            lines = [
                (f"paths {name}", f"{group.mean_paths:.2f} a user in the mean, up to {group.most_paths}"),
                (
                    f"power {name}",
                    f"{' / '.join(f'{value:.1f}' for value in group.power_db)} dB "
                    f"({'/'.join(str(percent) for percent in POWER_QUANTILES)}%)",
                ),
                ("  delay spread", f"{_listed(group.delay_spread_s, 1e9)} ns (rms, {at}%)"),
                (
                    "  azimuth spread",
                    f"departure {_listed(group.departure_spread_deg)}, "
                    f"arrival {_listed(group.arrival_spread_deg)} degrees",
                ),
                ("  strongest path", f"{_listed(group.strongest_share)} of the power"),
            ]
            if group.excess_loss_db is not None:
                lines.append(("  below free space", f"{_listed(group.excess_loss_db)} dB"))
            out += lines
        return out


def ray_statistics(
    rays: Rays, los: npt.NDArray[np.int8] | None, free_space_db: F64 | None = None
) -> RayStatistics | None:
    """Statistics of rays, for users in line of sight and others apart; None when no user has a path.

    Args:
        rays: of some users.
        los: their flags: 1, 0, -1 without a path; None if unknown.
        free_space_db: [users], the gain that free space would give them, as by `free_space_gain_db`.
    """
    users = np.flatnonzero(rays.num_paths)
    if not len(users):
        return None
    figures = _Figures(rays, users)
    below = None if free_space_db is None else free_space_db[users] - figures.power_db
    groups = {"all": np.ones(len(users), np.bool_)}
    if los is not None:
        groups = {"LoS": los[users] == 1, "NLoS": los[users] == 0}
    return RayStatistics(
        {name: _group(figures, np.flatnonzero(rows), below) for name, rows in groups.items() if rows.any()}
    )


def free_space_gain_db(channels: Channels) -> F64 | None:
    """Gain of free space from the base station to each user, dB, float64 [users].

    None where the positions, the base station's or the carrier are unknown, as in a store of several.
    """
    station, carrier = channels.meta.base_station_pos, channels.meta.carrier_frequency
    if channels.pos is None or station is None or carrier is None:
        return None
    step = channels.pos.astype(np.float64) - np.asarray(station, np.float64)
    distance = np.sqrt((step * step).sum(1))
    with np.errstate(divide="ignore"):
        return np.asarray(20 * np.log10(SPEED_OF_LIGHT / (4 * np.pi * carrier * distance)))


class _Figures:
    """One number a user of everything that is counted."""

    def __init__(self, rays: Rays, users: npt.NDArray[np.int64]) -> None:
        starts = rays.offsets[users]
        self.num_paths = rays.num_paths[users]
        owner = np.repeat(np.arange(len(users)), self.num_paths)
        gain = 10.0 ** (rays.power_db.astype(np.float64) / 10)  # [num_rays]
        power = np.add.reduceat(gain, starts)  # [users]
        share = gain / power[owner]
        self.power_db = 10 * np.log10(power)
        self.strongest = np.maximum.reduceat(share, starts)
        # From each user's first ray on, so that squares of long delays do not cancel.
        late = rays.delay_s.astype(np.float64) - rays.delay_s[starts].astype(np.float64)[owner]
        mean = np.add.reduceat(share * late, starts)
        self.delay_spread = np.sqrt(np.maximum(np.add.reduceat(share * late**2, starts) - mean**2, 0.0))
        self.departure = _azimuth_spread(rays.aod_az_deg, share, starts)
        self.arrival = _azimuth_spread(rays.aoa_az_deg, share, starts)


def _azimuth_spread(azimuth_deg: npt.NDArray[np.float32], share: F64, starts: npt.NDArray[np.int64]) -> F64:
    # From each user's first ray on, so that a single path has no spread at all.
    owner = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(share))))
    turn = np.radians(azimuth_deg.astype(np.float64) - azimuth_deg[starts].astype(np.float64)[owner])
    length = np.abs(np.add.reduceat(share * np.exp(1j * turn), starts))
    with np.errstate(divide="ignore"):  # opposite paths of equal power have no direction: infinite
        return np.asarray(np.degrees(np.sqrt(np.maximum(-2 * np.log(length), 0.0))))


def _group(figures: _Figures, rows: npt.NDArray[np.int64], below: F64 | None) -> GroupStatistics:
    def at(values: npt.NDArray[Any], percents: tuple[int, ...] = QUANTILES) -> Quantiles:
        return tuple(float(q) for q in np.percentile(values[rows], percents))

    paths = figures.num_paths[rows]
    return GroupStatistics(
        users=len(rows),
        mean_paths=float(paths.mean()),
        most_paths=int(paths.max()),
        paths=at(figures.num_paths),
        power_db=at(figures.power_db, POWER_QUANTILES),
        delay_spread_s=at(figures.delay_spread),
        departure_spread_deg=at(figures.departure),
        arrival_spread_deg=at(figures.arrival),
        strongest_share=at(figures.strongest),
        excess_loss_db=None if below is None else at(below),
    )


def _listed(values: Quantiles, factor: float = 1.0) -> str:
    return " / ".join(f"{value * factor:.3g}" for value in values)
