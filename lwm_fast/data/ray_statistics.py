"""What rays say about the radio of their place: paths, power, delay spread, line of sight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lwm_fast.data.rays import Rays

QUANTILES = (5, 25, 50, 75, 95)  # percent


@dataclass(frozen=True)
class RayStatistics:
    """Statistics over users with a path.

    Attributes:
        paths: mean number of paths of a user, and the most.
        delay_spread_s: median over users of the root-mean-square delay spread, weighted by power, seconds.
        power_db: for "LoS" and "NLoS" ("all" where the source does not say) the QUANTILES of a user's power,
            summed over paths, dB.
    """

    paths: tuple[float, int]
    delay_spread_s: float
    power_db: dict[str, tuple[float, ...]]

    def rows(self) -> list[tuple[str, str]]:
        """Names and texts for a listing."""
        at = "/".join(str(percent) for percent in QUANTILES)
        return [
            ("paths", f"{self.paths[0]:.2f} a user in the mean, up to {self.paths[1]}"),
            ("delay spread", f"{self.delay_spread_s * 1e9:.3g} ns in the median (rms)"),
            *(
                (f"power {name}", f"{' / '.join(f'{value:.1f}' for value in values)} dB ({at}%)")
                for name, values in self.power_db.items()
            ),
        ]


def ray_statistics(rays: Rays, los: npt.NDArray[np.int8] | None) -> RayStatistics | None:
    """Statistics of rays with the LoS flags of their users (1, 0, -1); None when no user has a path."""
    users = np.flatnonzero(rays.num_paths)
    if not len(users):
        return None
    starts = rays.offsets[users]
    gain = 10.0 ** (rays.power_db.astype(np.float64) / 10)  # [num_rays]
    power = np.add.reduceat(gain, starts)  # [users]
    owner = np.repeat(np.arange(len(users)), rays.num_paths[users])
    # From each user's first ray on, so that squares of long delays do not cancel.
    late = rays.delay_s.astype(np.float64) - rays.delay_s[starts].astype(np.float64)[owner]
    share = gain / power[owner]
    mean = np.add.reduceat(share * late, starts)
    spread = np.sqrt(np.maximum(np.add.reduceat(share * late**2, starts) - mean**2, 0.0))
    groups = {"all": np.ones(len(users), np.bool_)}
    if los is not None:
        groups = {"LoS": los[users] == 1, "NLoS": los[users] == 0}
    return RayStatistics(
        paths=(rays.num_rays / len(users), int(rays.num_paths.max())),
        delay_spread_s=float(np.median(spread)),
        power_db={
            name: tuple(float(q) for q in np.percentile(10 * np.log10(power[rows]), QUANTILES))
            for name, rows in groups.items()
            if rows.any()
        },
    )
