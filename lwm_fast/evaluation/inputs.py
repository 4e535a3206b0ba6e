"""What a head may be given of each user: embeddings of a model, and the baselines they stand beside."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from lwm_fast.data import Channels
from lwm_fast.errors import InputError
from lwm_fast.evaluation import physics
from lwm_fast.evaluation.cache import ArrayCache, digest_of, digest_of_model
from lwm_fast.evaluation.zero_label import LINK_LOS, LINK_STATE, link_features, links_of
from lwm_fast.pooling import POOLS
from lwm_fast.tasks.reconstruction import levelled

if TYPE_CHECKING:
    from lwm_fast.model import LWM
    from lwm_fast.tasks.base import Examples, Rows

Float32Array: TypeAlias = npt.NDArray[np.float32]

LEVEL = 10.0  # rms of power-normalised csi at token scale: what LWM's tokens are at 3.5 GHz in a city
_CHUNK = 512  # users whose tokens are held at once while embedding
_POOLED = ("cls", "mean", "mean_with_cls")


@dataclass(frozen=True)
class Input:
    """How an input is made.

    Args:
        name: as in tables.
        pool: of the encoder's output; None for inputs that no encoder makes.
        random: the encoder has random weights of the same sizes.
        normalized: each user's csi is first brought to one power.
        learned: made by something that is fitted to training users.
        vector: one vector a user; else a row for each patch, which convolutions run along.
    """

    name: str
    pool: str | None = None
    random: bool = False
    normalized: bool = False
    learned: bool = False
    vector: bool = True

    @property
    def of_model(self) -> bool:
        """True where the given weights make it, so that they can be fine-tuned."""
        return self.pool is not None and not self.random

    @property
    def seeded(self) -> bool:
        """True where another seed gives other numbers for the same users."""
        return self.random or self.learned


def _pools(name: str) -> list[tuple[str, str, bool]]:
    return [(name.format(pool), pool, pool != "patches") for pool in (*_POOLED, "patches")]


INPUTS: dict[str, Input] = {
    item.name: item
    for item in (
        Input("raw", vector=False),
        Input("raw-power", normalized=True, vector=False),
        *(Input(name, pool, vector=vector) for name, pool, vector in _pools("{}")),
        *(Input(name, pool, normalized=True, vector=vector) for name, pool, vector in _pools("{}-power")),
        *(Input(name, pool, random=True, vector=vector) for name, pool, vector in _pools("random-{}")),
        *(Input(name) for name in physics.FEATURES),
        Input(LINK_STATE),
        Input(LINK_LOS),
        Input("pca", learned=True),
        Input("autoencoder", learned=True),
    )
}


def get_input(name: str) -> Input:
    """The input of that name; InputError with the nearest names otherwise."""
    if name not in INPUTS:
        near = difflib.get_close_matches(name, INPUTS, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(INPUTS)}"
        raise InputError(f"input {name!r} is unknown; {hint}")
    return INPUTS[name]


def make_inputs(
    name: str,
    examples: Examples,
    model: LWM,
    *,
    seed: int = 0,
    train: Rows,
    cache: ArrayCache | None = None,
    precision: str = "float32",
) -> Float32Array:
    """What heads are given of each user, float32 [n, ...].

    Args:
        name: a key of `INPUTS`. "raw": tokens without CLS [n, num_patches, patch_len], as the release gives
            them to heads. "cls", "mean", "mean_with_cls" [n, embed_dim] and "patches" [n, num_patches,
            embed_dim]: the model's embeddings; "random-...": those of a model with random weights of the
            same sizes. "...-power": csi is first multiplied by 10 / (scale * sqrt(mean |H|^2)) for each user
            (the mean over what is observed), so that tokens say nothing about power. "physics...": see
            `physics.features`. "pca": the principal components of raw, embed_dim of them or as many as there
            are training users; "autoencoder": embed_dim numbers, see `autoencoder`. "link-state": the 6 numbers
            of `zero_label.link_features` that the model's link heads read out of cls and mean; "link-los": the
            first of them, the LoS logit.
        seed: of random weights and of the autoencoder.
        train: rows that "pca" and "autoencoder" may be fitted to (without labels).
        cache: where arrays are kept; None keeps none.
        precision: of the embeddings, as in `encode`.

    Raises:
        InputError: an unknown name; no training users; channels of a size that the model does not take;
            "link-state" or "link-los" of a model without link heads.
    """
    item = get_input(name)
    kept = cache if cache is not None else ArrayCache()
    channels = levelled(examples, LEVEL).channels if item.normalized else examples.channels
    content = digest_of(channels.csi, channels.meta.scale)
    if item.pool is not None:
        encoder = _random_like(model, seed) if item.random else model
        return _embeddings(encoder, channels, item.pool, precision, kept, content)
    if name in (LINK_STATE, LINK_LOS):
        cls, mean = (_embeddings(model, channels, pool, precision, kept, content) for pool in ("cls", "mean"))
        numbers = link_features(links_of(model, cls, mean))
        return numbers if name == LINK_STATE else np.ascontiguousarray(numbers[:, :1])
    if name.startswith("physics"):
        return kept.get(name, content, lambda: physics.features(channels, name))
    if not item.learned:
        return kept.get(name, digest_of(content, model.config.lwm_version), lambda: _raw(channels, model))
    if not len(train):
        raise InputError(f"input {name!r}: no training users to fit it to; give a larger count or fraction")
    key = digest_of(content, model.config.lwm_version, model.config.embed_dim, np.sort(train), seed)
    make = _principal_components if name == "pca" else _latents
    return kept.get(name, key, lambda: make(_raw(channels, model), np.sort(train), model, seed))


def _raw(channels: Channels, model: LWM) -> Float32Array:
    from lwm_fast.tokens import tokenize

    tokens = tokenize(channels.csi, model.config.lwm_version, channels.meta.scale)
    return np.ascontiguousarray(tokens[:, 1:])


def _random_like(model: LWM, seed: int) -> LWM:
    from lwm_fast.model import LWM

    return LWM.random(model.config, seed=seed).to(model.device)


def _embeddings(
    model: LWM, channels: Channels, pool: str, precision: str, cache: ArrayCache, content: str
) -> Float32Array:
    key = digest_of(digest_of_model(model), content, precision)

    def make() -> Float32Array:
        made = _embed(model, channels, precision, patches=pool == "patches")
        for other, array in made.items():
            cache.put(other, key, array)
        return made[pool]

    return cache.get(pool, key, make)


def _embed(model: LWM, channels: Channels, precision: str, *, patches: bool) -> dict[str, Float32Array]:
    """All pooled embeddings from one pass, so that their bits do not depend on which was asked for first."""
    parts: dict[str, list[Float32Array]] = {
        pool: [] for pool in (*_POOLED, *(("patches",) if patches else ()))
    }
    for start in range(0, len(channels), _CHUNK):
        tokens = np.asarray(
            model.encode(channels[start : start + _CHUNK], "tokens", precision=precision)
        )  # [n, seq_len, embed_dim]
        for pool, list_of in parts.items():
            kept = tokens[:, POOLS[pool].first : POOLS[pool].last]
            list_of.append(kept.mean(1, dtype=np.float32) if POOLS[pool].reduce else kept)
    return {pool: np.concatenate(list_of) for pool, list_of in parts.items()}


def _principal_components(raw: Float32Array, train: Rows, model: LWM, seed: int) -> Float32Array:
    try:
        from sklearn.decomposition import PCA
    except ImportError as error:
        raise InputError('input "pca" needs scikit-learn: pip install "lwm_fast[tasks]"') from error
    flat = raw.reshape(len(raw), -1)
    components = min(model.config.embed_dim, len(train), flat.shape[1])
    fitted = PCA(components, svd_solver="full").fit(flat[train])
    return np.asarray(fitted.transform(flat), np.float32)


def _latents(raw: Float32Array, train: Rows, model: LWM, seed: int) -> Float32Array:
    from lwm_fast.evaluation.autoencoder import encode_with_autoencoder

    return encode_with_autoencoder(raw, train, model.config.embed_dim, seed=seed)
