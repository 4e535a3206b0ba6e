"""Where channels came from: a small immutable record that travels with them into every output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lwm_fast.errors import InputError

LWM_SCALE = 1e6  # the released models expect csi multiplied by this


@dataclass(frozen=True)
class ChannelsMeta:
    """Provenance of channels.

    Args:
        source: path or description of the origin.
        format: reader that produced them, for example "deepmimo_v3".
        format_version: version written in the source, None if it has none.
        carrier_frequency: Hz, None if unknown.
        base_station: number of the base station, None if the source has no such thing.
        base_station_pos: x, y, z in metres.
        scale: csi is multiplied by this when tokens are made.
        num_users_total: users in the source.
        num_dropped: users of the source left out because they have no path.
        sha256: of the file, or of the sorted names and contents of the files read.
        synthetic: True for generated channels.
    """

    source: str = "array"
    format: str = "array"
    format_version: str | None = None
    carrier_frequency: float | None = None
    base_station: int | None = None
    base_station_pos: tuple[float, float, float] | None = None
    scale: float = LWM_SCALE
    num_users_total: int = 0
    num_dropped: int = 0
    sha256: str | None = None
    synthetic: bool = False


def merge_meta(metas: Sequence[ChannelsMeta]) -> ChannelsMeta:
    """Record of channels put one after another: counts added, fields that differ set to None.

    Raises:
        InputError: scales that differ, since one scale holds for all tokens of a `Channels`.
    """
    scales = sorted({meta.scale for meta in metas})
    if len(scales) > 1:
        raise InputError(
            f"concatenate: the parts have the scales {scales}; load them with one scale= or multiply the "
            "csi first"
        )

    def common(name: str) -> Any:
        values = {getattr(meta, name) for meta in metas}
        return values.pop() if len(values) == 1 else None

    sources = list(dict.fromkeys(meta.source for meta in metas))
    return replace(
        metas[0],
        source=" + ".join(sources),
        format=common("format") or "mixed",
        format_version=common("format_version"),
        carrier_frequency=common("carrier_frequency"),
        base_station=common("base_station"),
        base_station_pos=common("base_station_pos"),
        num_users_total=sum(meta.num_users_total for meta in metas),
        num_dropped=sum(meta.num_dropped for meta in metas),
        sha256=common("sha256"),
        synthetic=any(meta.synthetic for meta in metas),
    )
