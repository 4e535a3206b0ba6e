"""Where an encoder looks: attention maps by layer and head, and CLS's attention over the channel's grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from lwm_fast import backends
from lwm_fast.errors import InputError
from lwm_fast.packed import PackedBatch
from lwm_fast.plots.canvas import make_grid
from lwm_fast.scaling import scaled
from lwm_fast.tokens import num_tokens

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lwm_fast.model import LWM

Weights = npt.NDArray[np.float32]  # [num_layers, num_heads, seq_len, seq_len], rows sum to 1

_UNIFORM = 1e-3
_USERS_AT_ONCE = 8  # bounds the maps held: 8 users of 513 tokens and 8 heads take 67 MB a layer


def attention_weights(
    model: LWM, csi: npt.NDArray[np.complex64], layers: Sequence[int] | None = None, *, scale: float = 1e6
) -> Weights:
    """Attention weights of some layers, averaged over users: float32 [len(layers), num_heads, seq_len, seq_len].

    Row i of a map says how much token i takes from every token; CLS is token 0.

    Args:
        model: either version; it is not changed.
        csi: complex [n, num_antennas, num_subcarriers]; one user's own map with n = 1.
        layers: numbers, 0 first; None means all.
        scale: multiplies the csi.

    Raises:
        InputError: no user, or a layer that the model does not have.
    """
    if not len(csi):
        raise InputError("attention_weights: csi has no user; give at least one")
    chosen = _chosen("layers", layers, model.config.num_layers)
    backend = backends.select(model.device, config=model.config)
    training = model.training
    model.eval()
    sums: list[torch.Tensor] = []  # of each part's users, [layers, heads, seq_len, seq_len]
    try:
        for start in range(0, len(csi), _USERS_AT_ONCE):
            part = np.ascontiguousarray(csi[start : start + _USERS_AT_ONCE], np.complex64)
            packed = PackedBatch.from_samples(part, model.config.lwm_version, scale=scale)
            tokens = scaled(packed, model.config.input_scale).tokens(model.device)
            with torch.inference_mode():
                _, maps = backend.forward_with_maps(model, tokens, chosen, packed.shape)
                sums.append(torch.stack([each.sum(0, dtype=torch.float64) for each in maps]))
    finally:
        model.train(training)
    mean: Weights = (torch.stack(sums).sum(0) / len(csi)).float().cpu().numpy()
    return mean


def attention_maps(
    weights: Weights,
    layers: Sequence[int],
    *,
    heads: Sequence[int] | None = None,
    strongest: float = 10.0,
    title: str = "",
) -> Figure:
    """Attention maps, a row for each layer and a column for each head, as multiples of uniform attention.

    A head that attends uniformly (to one part in a thousand) says so in its panel.

    Args:
        weights: [len(layers), num_heads, seq_len, seq_len] as :func:`attention_weights` gives.
        layers: their numbers.
        heads: which to draw; None means all.
        strongest: the multiple of uniform attention that has the strongest colour; its inverse has the other.
        title: text.

    Raises:
        InputError: weights of another shape, a head that is not there.
    """
    _check_weights(weights, layers)
    shown = _chosen("heads", heads, weights.shape[1])
    from matplotlib.colors import LogNorm

    # One image of all maps: a hundred axes would take a minute to lay out.
    seq_len = weights.shape[-1]
    step = seq_len + max(2, seq_len // 12)
    mosaic = np.full((step * len(layers), step * len(shown)), np.nan)
    middles = seq_len / 2 + step * np.arange(max(mosaic.shape) // step)
    size = 3.2 if len(shown) <= 3 else 1.1
    figure, ((axes,),) = make_grid(1, 1, panel=(size * len(shown) + 1.6, size * len(layers) + 0.8))
    for i, of_layer in enumerate(weights):
        for j, head in enumerate(shown):
            relative = np.maximum(of_layer[head] * seq_len, 1e-6)
            mosaic[i * step : i * step + seq_len, j * step : j * step + seq_len] = relative
            if uniform_heads(of_layer[head]):
                axes.text(middles[j], middles[i], "uniform", ha="center", va="center", fontsize=7)
    norm = LogNorm(1 / strongest, strongest)
    image = axes.imshow(mosaic, cmap="PuOr_r", norm=norm, interpolation="nearest")
    axes.set_facecolor("#c8c8c8")  # between the maps
    axes.set_xticks(middles[: len(shown)], [f"head {head}" for head in shown], fontsize=8)
    axes.set_yticks(middles[: len(layers)], [f"layer {layer}" for layer in layers], fontsize=8)
    axes.set(xlabel="in each map: to token, CLS first", ylabel="in each map: from token, CLS on top")
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="attention / uniform attention", extend="both", shrink=0.6)
    if title:
        axes.set_title(title, fontsize=11)
    return figure


def uniform_heads(weights: Weights) -> npt.NDArray[np.bool_]:
    """Which heads give every token the same weight, to one part in a thousand: [..., S, S] -> bool [...]."""
    far = np.abs(weights * weights.shape[-1] - 1).max((-2, -1))
    return np.asarray(far < _UNIFORM)


def patch_grid(
    values: npt.NDArray[np.floating], num_antennas: int, num_subcarriers: int, version: str
) -> npt.NDArray[np.float64]:
    """A value per patch spread over the entries of the channel that the patch holds.

    Args:
        values: [num_patches], without CLS.
        num_antennas, num_subcarriers: of the channel.
        version: "1.0" or "1.1".

    Returns:
        float64 [parts, num_antennas, num_subcarriers]: v1.0 has two parts, the real and the imaginary one, whose
        patches are 16 entries of the row by row flattened channel; v1.1 one, in patches of 4 x 4.

    Raises:
        InputError: another number of patches than the channel has.
    """
    patches = num_tokens(num_antennas, num_subcarriers, version) - 1
    if np.shape(values) != (patches,):
        raise InputError(
            f"values are {np.shape(values)}; LWM v{version} cuts a {num_antennas} x {num_subcarriers} channel "
            f"into {patches} patches"
        )
    each = np.asarray(values, np.float64)
    if version == "1.0":
        return np.repeat(each, 16).reshape(-1, num_antennas, num_subcarriers)[:2]
    blocks = each.reshape(-(-num_antennas // 4), -(-num_subcarriers // 4))
    return blocks.repeat(4, axis=0).repeat(4, axis=1)[None, :num_antennas, :num_subcarriers]


def cls_attention(
    weights: Weights,
    layers: Sequence[int],
    *,
    num_antennas: int,
    num_subcarriers: int,
    version: str,
    head: int | None = None,
    title: str = "",
) -> Figure:
    """What CLS takes from each place of the channel, over antennas and subcarriers.

    Args:
        weights: [len(layers), num_heads, seq_len, seq_len] as :func:`attention_weights` gives.
        layers: their numbers; a row of panels each.
        num_antennas, num_subcarriers, version: of the channel and model. v1.0 has a panel for the real and one for
            the imaginary half.
        head: one head; None averages over heads.
        title: text.

    Raises:
        InputError: weights that do not fit the layers or the channel, a head that is not there.
    """
    _check_weights(weights, layers)
    shown = _chosen("head", None if head is None else [head], weights.shape[1])
    from_cls = weights[:, :, 0, 1:].astype(np.float64)  # [layers, heads, num_patches]
    chosen = from_cls[:, shown].mean(1)
    of_layers = [patch_grid(values, num_antennas, num_subcarriers, version) for values in chosen]
    names = ("real parts", "imaginary parts") if version == "1.0" else ("4 x 4 patches",)
    figure, grid = make_grid(len(layers), len(names), panel=(4.2, 3.4))
    for row, parts, layer in zip(grid, of_layers, layers, strict=True):
        parts = parts * weights.shape[-1]
        for axes, part, name in zip(row, parts, names, strict=True):
            image = axes.imshow(
                part, cmap="viridis", vmin=0, vmax=parts.max(), aspect="auto", interpolation="nearest",
                origin="lower",
            )  # fmt: skip
            axes.set(xlabel="subcarrier", ylabel="antenna", title=f"layer {layer}, {name}")
        figure.colorbar(image, ax=list(row), label="CLS attention / uniform")
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _chosen(what: str, numbers: Sequence[int] | None, count: int) -> list[int]:
    chosen = list(range(count)) if numbers is None else list(numbers)
    if not chosen or not all(0 <= i < count for i in chosen):
        raise InputError(f"{what}={chosen}: give one or more numbers from 0 to {count - 1}")
    return chosen


def _check_weights(weights: Weights, layers: Sequence[int]) -> None:
    square = weights.ndim == 4 and weights.shape[2] == weights.shape[3]
    if not square or len(weights) != len(layers) or not len(layers):
        raise InputError(
            f"weights are {weights.shape} for {len(layers)} layers; [len(layers), num_heads, seq_len, seq_len] "
            "was expected, as attention_weights gives"
        )
