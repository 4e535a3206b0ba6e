"""The base station that LWM uses in well-known DeepMIMO scenarios."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lwm_fast.errors import InputError

# First match wins. Names as DeepMIMO publishes them; suffixes such as _3p5 or _28 are allowed.
_LWM_BASE_STATION: tuple[tuple[str, int], ...] = (
    (r"(city_\d+_)?denver", 3),
    (r"(city_\d+_)?indianapolis", 3),
    (r"o1([b_]|$)", 4),
    (r"city_\d+_", 1),
    (r"asu_campus", 1),
    (r"boston5g", 1),
)


def lwm_base_station(scenario: str) -> int | None:
    """LWM's base station in a scenario, None if the scenario is not known.

    Args:
        scenario: folder name, any case.
    """
    for pattern, number in _LWM_BASE_STATION:
        if re.match(pattern, scenario.lower()):
            return number
    return None


def choose_base_station(available: Mapping[int, str], wanted: int | None, scenario: str, place: str) -> int:
    """The base station to read: the one asked for, the only one, or LWM's choice for a known scenario.

    Args:
        available: number -> short description for the error text.
        wanted: number asked for, or None.
        scenario: folder name.
        place: for the error text.

    Raises:
        InputError: an unknown number; several to choose from in an unknown scenario. Both list them.
    """
    listing = ", ".join(f"{number} ({text})" for number, text in available.items())
    if wanted is not None:
        if wanted not in available:
            raise InputError(f"{place}: base_station={wanted} does not exist; choose one of: {listing}")
        return wanted
    if len(available) == 1:
        return next(iter(available))
    known = lwm_base_station(scenario)
    if known in available:
        assert known is not None
        return known
    raise InputError(
        f"{place}: {len(available)} base stations and no usual choice for the scenario {scenario!r}; give "
        f"base_station= (command line: --base-station), one of: {listing}"
    )
