"""The truth about the links of a batch, from the rays that its csi is made of: what link heads learn from."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lwm_fast.data.channel_store import Gathered
from lwm_fast.links import LinkState, wrapped

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]


def link_truth(gathered: Gathered, gain_db: Float64Array | None = None) -> LinkState:
    """The links of a batch of B samples, in the array and band in which it is seen.

    Rays are those of the csi: the plan's strongest `max_paths`, without those later than the band can tell. Finished
    csi, and samples left without a ray, are NaN; so is the line of sight where the source does not say.

    Args:
        gathered: samples of a `ChannelStore`; their reference gain enters the power.
        gain_db: what augmentation added to each sample, dB [B].
    """
    count = len(gathered.index)
    level = np.zeros(count) if gain_db is None else np.asarray(gain_db, np.float64).copy()
    los = np.full(count, np.nan)
    if gathered.reference_db is not None:
        level += gathered.reference_db
    if gathered.los is not None:
        los[gathered.los >= 0] = gathered.los[gathered.los >= 0]
    owner, power_db, delay, frequency = _rays_of(gathered)
    gain = 10.0 ** (power_db / 10)  # [num_rays]

    def total(values: Float64Array) -> Float64Array:
        return np.bincount(owner, weights=values, minlength=count).astype(np.float64)  # of no rays: integers

    power = total(gain)  # [B]
    known = power > 0
    power[~known] = np.nan
    share = gain / power[owner]
    mean = total(share * delay)
    spread = np.sqrt(total(share * np.square(delay - mean[owner])))  # from the mean: squares do not cancel
    strongest = _strongest(owner, power_db, count)
    direction = np.full(count, np.nan)
    direction[known] = frequency[strongest[known]]
    mean[~known] = spread[~known] = los[~known] = np.nan
    return LinkState(
        los=np.asarray(los, np.float32),
        power_db=np.asarray(10 * np.log10(power) + level, np.float32),
        mean_delay_s=np.asarray(mean, np.float32),
        delay_spread_s=np.asarray(spread, np.float32),
        direction=wrapped(direction),
    )


def _rays_of(gathered: Gathered) -> tuple[Int64Array, Float64Array, Float64Array, Float64Array]:
    """Of the rays that enter the csi, sample after sample: owner, power in dB, delay, spatial frequency."""
    owners: list[Int64Array] = [np.zeros(0, np.int64)]
    columns: list[npt.NDArray[np.float32]] = [np.zeros((4, 0), np.float32)]
    for number, rays in enumerate(gathered.rays, start=len(gathered.arrays)):
        assert gathered.panel is not None
        own = np.flatnonzero(gathered.source == number)
        offsets, power_db, _, delay_s, zenith_deg, azimuth_deg = rays
        user = gathered.row[own]
        first = offsets[user]
        length = np.minimum(offsets[user + 1] - first, gathered.panel[own, 1])
        owners.append(np.repeat(own, length))
        place = np.arange(length.sum()) + np.repeat(first - (np.cumsum(length) - length), length)
        columns.append(np.stack([column[place] for column in (power_db, delay_s, zenith_deg, azimuth_deg)]))
    owner = np.concatenate(owners)
    power_db, delay_s, zenith_deg, azimuth_deg = np.concatenate(columns, 1).astype(np.float64)
    if gathered.geometry is None:
        return owner, power_db, delay_s, azimuth_deg
    geometry = gathered.geometry[owner]  # [num_rays, 8]
    zenith, azimuth = np.deg2rad(zenith_deg), np.deg2rad(azimuth_deg)
    toward = np.sin(zenith) * np.cos(azimuth), np.sin(zenith) * np.sin(azimuth), np.cos(zenith)
    cosine = sum(geometry[:, i] * toward[i] for i in range(3))
    frequency = 2 * geometry[:, 7] * cosine
    heard = delay_s * geometry[:, 6] < gathered.shape[owner, 1]
    return owner[heard], power_db[heard], delay_s[heard], frequency[heard]


def _strongest(owner: Int64Array, power_db: Float64Array, count: int) -> Int64Array:
    """The ray of each sample with the most power, the first of equals; 0 where a sample has none."""
    order = np.lexsort((-power_db, owner))  # stable
    strongest = np.zeros(count, np.int64)
    owners, first = np.unique(owner[order], return_index=True)
    strongest[owners] = order[first]
    return strongest
