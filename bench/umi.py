"""The street canyon of 3GPP TR 38.901 (UMi), as far as it can be held against traced paths.

Path loss: table 7.4.1-1, users nearer than the break point. Spreads, K-factor and clusters: table 7.5-6, part 1;
spreads are normal in their decimal logarithm, frequencies below 2 GHz count as 2 GHz. The table speaks of
clusters, each of 20 rays, not of paths.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from lwm_fast.data.ray_statistics import QUANTILES
from lwm_fast.data.rays import SPEED_OF_LIGHT

_NORMAL = (-1.2816, 0.0, 1.2816)  # standard normal deviates of QUANTILES
assert QUANTILES == (10, 50, 90)

CLUSTERS = {"LoS": 12, "NLoS": 19}
K_DB = (9.0, 5.0)  # mean and deviation, LoS
USER_HEIGHT = 2.0  # m

# mean and deviation of the decimal logarithm: constant, and factor of log10(1 + f in GHz)
_SPREADS = {
    ("LoS", "delay_spread_s"): ((-7.14, -0.24), (0.38, 0.0)),
    ("NLoS", "delay_spread_s"): ((-6.83, -0.24), (0.28, 0.16)),
    ("LoS", "departure_spread_deg"): ((1.21, -0.05), (0.41, 0.0)),
    ("NLoS", "departure_spread_deg"): ((1.53, -0.23), (0.33, 0.11)),
    ("LoS", "arrival_spread_deg"): ((1.73, -0.08), (0.28, 0.014)),
    ("NLoS", "arrival_spread_deg"): ((1.81, -0.08), (0.30, 0.05)),
}


def spread(group: str, name: str, carrier: float) -> tuple[float, ...]:
    """QUANTILES of a spread ("delay_spread_s", "departure_spread_deg", "arrival_spread_deg") at a carrier in Hz."""
    bend = math.log10(1 + max(carrier / 1e9, 2.0))
    mean, deviation = (constant + factor * bend for constant, factor in _SPREADS[group, name])
    return _quantiles(lambda normal: 10 ** (mean + deviation * normal))


def strongest_share() -> tuple[float, ...]:
    """QUANTILES of the direct path's share of the power in line of sight, from the K-factor."""
    mean, deviation = K_DB
    return _quantiles(lambda normal: 1 / (1 + 10 ** (-(mean + deviation * normal) / 10)))


def excess_loss_db(group: str, carrier: float, distance: float) -> tuple[float, ...]:
    """QUANTILES of the path loss beyond free space at a distance in metres, dB."""
    gigahertz, log = carrier / 1e9, math.log10(distance)
    seen = 32.4 + 21 * log + 20 * math.log10(gigahertz)
    hidden = 22.4 + 35.3 * log + 21.3 * math.log10(gigahertz) - 0.3 * (USER_HEIGHT - 1.5)
    loss, deviation = (seen, 4.0) if group == "LoS" else (max(seen, hidden), 7.82)
    free = 20 * math.log10(4 * math.pi * distance * carrier / SPEED_OF_LIGHT)
    return _quantiles(lambda normal: loss + deviation * normal - free)


def _quantiles(of: Callable[[float], float]) -> tuple[float, ...]:
    return tuple(of(normal) for normal in _NORMAL)
