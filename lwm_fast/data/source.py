"""What readers are asked for and what they hand back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lwm_fast.data.channels import Channels
from lwm_fast.data.rays import ArrayGeometry
from lwm_fast.errors import InputError


@dataclass(frozen=True)
class ReadOptions:
    """Wishes of the caller; None means the reader's default (`load_channels` documents each)."""

    num_antennas: int | tuple[int, int] | None = None
    num_subcarriers: int | None = None
    bandwidth: float | None = None
    rotation: float | tuple[float, float, float] | None = None
    max_paths: int | None = None
    base_station: int | None = None
    scale: float | None = None
    key: str | None = None
    layout: str | None = None
    in_memory: bool = True
    num_threads: int = 0

    @property
    def geometry_changes(self) -> dict[str, Any]:
        """The geometry that was asked for by name."""
        names = ("num_antennas", "num_subcarriers", "bandwidth", "rotation", "max_paths")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def geometry(self, base: ArrayGeometry | None = None) -> ArrayGeometry:
        """`base` (default: the LWM settings) with what was asked for."""
        return replace(base or ArrayGeometry(), **self.geometry_changes)

    def check_for_arrays(self, size: tuple[int, int], place: str) -> None:
        """Raises InputError when something was asked for that csi of a fixed size cannot give."""
        for name in ("bandwidth", "rotation", "max_paths", "base_station"):
            if getattr(self, name) is not None:
                raise InputError(
                    f"{place}: {name}={getattr(self, name)!r} needs rays, but this source holds finished "
                    f"csi; leave {name} out"
                )
        asked = ArrayGeometry(
            num_antennas=size[0] if self.num_antennas is None else self.num_antennas,
            num_subcarriers=size[1] if self.num_subcarriers is None else self.num_subcarriers,
        )
        wanted = asked.size, asked.num_subcarriers
        if wanted == size:
            return
        if wanted == size[::-1]:
            raise InputError(
                f"{place}: csi is {size[0]} x {size[1]} but num_antennas={wanted[0]}, "
                f'num_subcarriers={wanted[1]} were asked for: the axes look swapped; say layout="nsa" if '
                "subcarriers come first in the source"
            )
        raise InputError(
            f"{place}: csi has {size[0]} antennas and {size[1]} subcarriers but num_antennas={wanted[0]}, "
            f"num_subcarriers={wanted[1]} were asked for; leave both out to take the source's size"
        )

    def check_for_rays(self, place: str, *, takes_key: bool = False) -> None:
        """Raises InputError when array options were given for a source of rays."""
        for name in ("layout",) if takes_key else ("layout", "key"):
            if (value := getattr(self, name)) is not None:
                raise InputError(
                    f"{place}: {name}={value!r} is for array files, this source holds rays; leave it out"
                )


@dataclass(frozen=True)
class Opened:
    """A reader's result, before users are checked.

    Args:
        channels: meta without sha256 and with the default scale.
        files: what was read, for the fingerprint.
        empty: what to do with users without a path unless the caller says otherwise.
    """

    channels: Channels
    files: tuple[Path, ...] = ()
    empty: str = "error"
