"""Fig. 6: attention maps by layer and head, and where CLS looks, for one user with a line of sight."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lwm_fast.data import Channels, load_channels
from lwm_fast.errors import InputError
from lwm_fast.figures.job import Job, Row
from lwm_fast.plots import attention_maps, attention_weights, cls_attention, uniform_heads
from lwm_fast.plots.attention import Weights

_SHOWN = 3  # layers of the CLS picture: those that attend least uniformly


def make(job: Job) -> list[Path]:
    """`fig6-maps.png`, `fig6-cls.png`, and `fig6.csv`, a row for each head."""
    model = job.model()
    channels = load_channels(job.city.low)
    user = typical_user(channels)
    one = channels[user : user + 1]
    weights = attention_weights(model, one.csi, scale=channels.meta.scale)
    layers = list(range(len(weights)))
    rows = _rows(weights)
    uniform = sum(row["uniform"] for row in rows)
    title = (
        f"LWM v{model.config.lwm_version}, user {int(one.user_index[0])} of {job.city.name}: {uniform} of "
        f"{len(rows)} heads attend uniformly"
    )
    strongest = sorted(layers, key=lambda layer: -float(weights[layer].max()))[:_SHOWN]
    chosen = sorted(strongest)
    cls = cls_attention(
        weights[chosen], chosen, num_antennas=one.shape[1], num_subcarriers=one.shape[2],
        version=model.config.lwm_version, title=title,
    )  # fmt: skip
    return [
        job.table(rows, "fig6"),
        job.picture(attention_maps(weights, layers, title=title), "fig6-maps"),
        job.picture(cls, "fig6-cls"),
    ]


def typical_user(channels: Channels) -> int:
    """Row of the line-of-sight user of median power (of all users, where LoS is not known).

    Raises:
        InputError: no user.
    """
    if len(channels) == 0:
        raise InputError(f"figure 6: {channels.meta.source} has no user; choose another base station")
    power = np.square(np.abs(channels.csi), dtype=np.float64).mean((1, 2))
    rows = np.arange(len(channels)) if channels.los is None else np.flatnonzero(channels.los == 1)
    if not len(rows):
        rows = np.arange(len(channels))
    return int(rows[np.argsort(power[rows], kind="stable")[len(rows) // 2]])


def _rows(weights: Weights) -> list[Row]:
    """Of each head: its strongest weight as a multiple of uniform attention, and the entropy of its rows."""
    seq_len = weights.shape[-1]
    exact = weights.astype(np.float64)
    bits = -(exact * np.log2(np.maximum(exact, 1e-300))).sum(-1).mean(-1)  # [layers, heads]
    uniform = uniform_heads(weights)
    return [
        {
            "layer": layer,
            "head": head,
            "strongest_over_uniform": float(exact[layer, head].max() * seq_len),
            "entropy_bits": float(bits[layer, head]),
            "entropy_of_uniform_bits": float(np.log2(seq_len)),
            "uniform": int(uniform[layer, head]),
        }
        for layer, head in np.ndindex(uniform.shape)
    ]
