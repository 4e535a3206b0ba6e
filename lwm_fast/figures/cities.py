"""Scenario folders of cities, found by name: the band of the inputs and the band of the beam labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lwm_fast.errors import InputError

LOW, HIGH = "3p5", "28"  # how DeepMIMO names the bands, in GHz


@dataclass(frozen=True)
class City:
    """One city.

    Attributes:
        name: of the folders, without the band.
        low: source of the 3.5 GHz channels, which are the inputs.
        high: source of the 28 GHz channels of the same users, whose best beams are the labels; None without it.
    """

    name: str
    low: Path
    high: Path | None = None


def find_cities(sources: Sequence[str | os.PathLike[str]]) -> list[City]:
    """Cities in folders, by their names `*_3p5` and `*_28`, sorted by name.

    Args:
        sources: folders that hold such scenario folders (or files that `load_channels` reads, such as
            `*_3p5.h5`), or the scenario folders themselves.

    Raises:
        InputError: a source that is missing, no `*_3p5` among them, or one city from two places.
    """
    found: dict[tuple[str, str], Path] = {}
    for source in sources:
        place = Path(source).expanduser()
        if not place.exists():
            raise InputError(f"{place}: no such folder; check the path")
        own = _name_and_band(place)
        here = [place] if own or not place.is_dir() else sorted(place.iterdir())
        for path in here:
            key = _name_and_band(path)
            if key is None:
                continue
            if key in found and found[key] != path:
                raise InputError(f"{key[0]}: {found[key]} and {path} are both its {key[1]} band; give one")
            found[key] = path
    cities = [
        City(name, path, found.get((name, HIGH)))
        for (name, band), path in sorted(found.items())
        if band == LOW
    ]
    if not cities:
        where = ", ".join(str(source) for source in sources) or "no source"
        raise InputError(
            f"{where}: no scenario named *_{LOW}; give the folder that holds the city folders, such as "
            f"city_18_denver_{LOW} and city_18_denver_{HIGH}"
        )
    return cities


def _name_and_band(path: Path) -> tuple[str, str] | None:
    name, _, band = path.stem.rpartition("_")
    return (name, band) if name and band in (LOW, HIGH) else None
