"""What every task writes beside its results about the channels it was given."""

from __future__ import annotations

from lwm_fast.data import Channels
from lwm_fast.tasks.base import Fact


def channel_facts(channels: Channels, prefix: str = "") -> dict[str, Fact]:
    """Source, carrier [Hz], base station, sizes and provenance of channels, as plain values."""
    meta = channels.meta
    _, num_antennas, num_subcarriers = channels.shape
    facts: dict[str, Fact] = {
        "source": meta.source,
        "sha256": meta.sha256,
        "carrier_hz": meta.carrier_frequency,
        "base_station": meta.base_station,
        "num_antennas": num_antennas,
        "num_subcarriers": num_subcarriers,
        "synthetic": meta.synthetic,
    }
    return {prefix + name: value for name, value in facts.items()}
