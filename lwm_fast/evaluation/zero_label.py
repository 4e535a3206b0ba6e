"""Predictions without a single label of the place: by a model's link heads, or by what generated streets taught."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from lwm_fast.data import ArrayGeometry, Channels
from lwm_fast.data.ray_store import RayStore
from lwm_fast.errors import InputError
from lwm_fast.tasks.base import Array, Examples, Task
from lwm_fast.tasks.beams import beam_powers

if TYPE_CHECKING:
    from lwm_fast.links import LinkState
    from lwm_fast.model import LWM

Float32Array: TypeAlias = npt.NDArray[np.float32]

LINK_STATE = "link-state"  # the input whose own read-out, LINK, needs no label
LINK_LOS = "link-los"  # the first of its numbers, for a head that is fitted to labels
LINK, STREETS, COPY_BEAM = "link-heads", "streets", "copy-beam"
STREET_USERS = 5_000
"""Generated users that a "streets" head is fitted to, evenly over the streets."""
TASKS = ("los", "beams")
_SURE = 1e-6  # probabilities nearer to 0 or 1 say no more
_SHORTEST_S = 1e-10


def links_of(model: LWM, cls: Float32Array, mean: Float32Array) -> LinkState:
    """Links that a model's heads read out of its embeddings, float32 [n, embed_dim] each.

    Raises:
        InputError: a model without link heads.
    """
    if model.link_heads is None:
        place = model.weights_info.source if model.weights_info else "the model"
        raise InputError(
            f"inputs {LINK_STATE!r} and {LINK_LOS!r}: {place} has no link heads (link_heads.safetensors beside its "
            "weights); train with auxiliary.weight above 0, or use other inputs"
        )
    return model.link_heads.predict(cls, mean)


def link_features(state: LinkState) -> Float32Array:
    """float32 [n, 6]: LoS logit, power, mean delay and delay spread in dB, cos and sin of pi * direction."""
    los = np.clip(state.los.astype(np.float64), _SURE, 1 - _SURE)
    delays = [
        10 * np.log10(np.maximum(delay, _SHORTEST_S)) for delay in (state.mean_delay_s, state.delay_spread_s)
    ]
    turn = np.pi * state.direction
    columns = [np.log(los / (1 - los)), state.power_db, *delays, np.cos(turn), np.sin(turn)]
    return np.column_stack(columns).astype(np.float32)


def own_scores(examples: Examples, features: Float32Array) -> Array:
    """Scores [n, num_classes] that `link_features` are without any training.

    los: the LoS logit. beams: the beams' powers for one wave from the strongest path's direction.
    """
    if examples.task == "los":
        return np.column_stack([-features[:, 0], features[:, 0]])
    geometry, num_antennas = examples.channels.geometry, examples.channels.shape[1]
    if geometry is not None and geometry.spacing != 0.5:
        raise InputError(
            f"{examples.channels.meta.source}: beams without labels are for antennas half a wavelength apart, not "
            f"{geometry.spacing:g}"
        )
    turn = np.arctan2(features[:, 5], features[:, 4]).astype(
        np.float64
    )  # of the phase from antenna to antenna
    waves = np.exp(1j * turn[:, None] * np.arange(num_antennas))[:, :, None]  # [n, num_antennas, 1]
    return _beam_scores(Channels.from_arrays(waves), examples)


def copied_beams(examples: Examples) -> Array:
    """Scores [n, num_beams] of the input band's own beams: its best beam is taken for the other band's."""
    return _beam_scores(examples.channels, examples)


def _beam_scores(channels: Channels, examples: Examples) -> Array:
    powers = beam_powers(channels, len(examples.classes), str(examples.facts["codebook"]), decimals=1)
    return np.maximum(powers, np.finfo(np.float32).min)


def street_examples(task: Task, store: str, like: Channels) -> Examples:
    """Examples of a task from generated streets, as the channels of a real place are.

    The rays are seen in `like`'s array and bandwidth (without rays: its size, in LWM's), and brought to its carrier:
    the gain is multiplied by the street's carrier / its own, which is how free space differs.

    Args:
        task: whose labels the streets have ("los").
        store: folder of a ray store.
        like: channels of the place.

    Raises:
        InputError: no store; streets or a place of which the carrier is not known.
    """
    streets, carrier = RayStore.open(store), like.meta.carrier_frequency
    if carrier is None:
        raise InputError(f"{like.meta.source}: its carrier is not known; streets cannot be brought to it")
    geometry = like.geometry or ArrayGeometry(num_antennas=like.shape[1], num_subcarriers=like.shape[2])
    every = max(1, streets.num_users // STREET_USERS)
    parts = []
    for street in streets:
        if street.meta.carrier_frequency is None:
            raise InputError(f"{store}: {street.meta.source} does not say its carrier; make the store anew")
        own = street[::every]
        assert own.rays is not None  # a ray store's
        seen = Channels.from_rays(own.rays, geometry, los=own.los, pos=own.pos)
        csi = seen.csi * np.float32(street.meta.carrier_frequency / carrier)
        meta = replace(own.meta, carrier_frequency=carrier, scale=like.meta.scale)
        parts.append(Channels.from_arrays(csi, los=own.los, meta=meta))
    return task.examples(Channels.concatenate(parts))
