"""What an embedding says about its radio link: line of sight, power, delays and the strongest path's direction.

`LinkHeads` are two linear read-outs, of CLS and of the mean of the patches, that were trained beside masked channel
modelling with the truth of generated streets; `link_state` reads channels with them. No label of the place is used.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lwm_fast.errors import InputError
from lwm_fast.files import atomic_path, check_file

if TYPE_CHECKING:
    from lwm_fast.encode_work import Source
    from lwm_fast.model import LWM

Float32Array = npt.NDArray[np.float32]

NUM_DIRECTIONS = 64
POWER_DB = (-95.0, 15.0)  # centre and unit in which power is learnt
LOG_DELAY = (-6.5, 0.5)  # likewise of log10 of the mean delay in seconds
LOG_SPREAD = (-8.0, 0.7)  # likewise of the delay spread
SHORTEST_SPREAD_S = 1e-9  # shorter ones, of links of one path too, count as this
LOS, POWER, DELAY, SPREAD, FIRST_DIRECTION = range(5)  # columns of the scores
NUM_SCORES = FIRST_DIRECTION + NUM_DIRECTIONS


@dataclass(frozen=True)
class LinkState:
    """Links of B channels, all float32 [B]; NaN where a truth is unknown.

    los: probability of a line of sight (of a truth: 0 or 1)
    power_db: channel gain summed over the paths, dB
    mean_delay_s, delay_spread_s: mean and root-mean-square spread of the delays weighted by power, seconds
    direction: spatial frequency of the strongest path along the array's first axis in [-1, 1): direction cosine
        times twice the spacing in wavelengths, wrapped
    """

    los: Float32Array
    power_db: Float32Array
    mean_delay_s: Float32Array
    delay_spread_s: Float32Array
    direction: Float32Array

    def __len__(self) -> int:
        return len(self.los)

    def __getitem__(self, rows: slice | npt.NDArray[Any]) -> LinkState:
        """The links of some channels."""
        return LinkState(*(getattr(self, field.name)[rows] for field in fields(self)))


class LinkHeads(nn.Module):
    """Linear read-outs of CLS and of the patch mean to the same scores; `predict` averages the two.

    Scores: LoS logit; power, log10 mean delay and log10 delay spread in the units above; one for each of
    NUM_DIRECTIONS directions -1 + 2 i / NUM_DIRECTIONS, on a circle.
    """

    NAME: ClassVar[str] = "link_heads.safetensors"

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.cls = nn.Linear(embed_dim, NUM_SCORES)
        self.mean = nn.Linear(embed_dim, NUM_SCORES)

    @classmethod
    def random(cls, embed_dim: int, *, seed: int) -> LinkHeads:
        """Heads to start training from; the global random state is not touched."""
        with torch.device("meta"):
            heads = cls(embed_dim)
        heads.to_empty(device="cpu")
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for linear in (heads.cls, heads.mean):
                linear.weight.normal_(std=0.1 * embed_dim**-0.5, generator=generator)
                linear.bias.zero_()
        return heads

    @property
    def embed_dim(self) -> int:
        """Width of the embeddings that are read."""
        return self.cls.in_features

    def forward(self, cls: Tensor, mean: Tensor) -> Tensor:
        """CLS and patch mean [B, embed_dim] -> scores [2, B, NUM_SCORES] of the two read-outs."""
        return torch.stack([self.cls(cls), self.mean(mean)])

    @torch.no_grad()
    def predict(self, cls: Tensor | Float32Array, mean: Tensor | Float32Array) -> LinkState:
        """The links of embeddings CLS and patch mean, both [B, embed_dim].

        Raises:
            InputError: other shapes.
        """
        device = self.cls.weight.device
        rows = [torch.as_tensor(x, dtype=torch.float32, device=device) for x in (cls, mean)]
        for name, x in zip(("cls", "mean"), rows, strict=True):
            if x.ndim != 2 or x.shape != rows[0].shape or x.shape[1] != self.embed_dim:
                raise InputError(
                    f"LinkHeads.predict: {name} has shape {list(x.shape)}; both must be [batch, {self.embed_dim}]: "
                    'embeddings of pool="cls" and pool="mean" of the model that the heads belong to'
                )
        return link_state_of(self(*rows).mean(0))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``link_heads.safetensors`` into a folder, whole or not at all; returns its path."""
        from safetensors.torch import save_file

        path = Path(folder) / self.NAME
        state = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        with atomic_path(path) as temporary:
            save_file(state, temporary, {"format": "pt", "format_version": "1"})
        return path

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> LinkHeads:
        """Read what `save_pretrained` wrote.

        Raises:
            InputError: no such file, not a safetensors file, other tensors than these heads have.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = Path(folder) / cls.NAME
        if not path.is_file():
            raise InputError(
                f"{folder}: holds no {cls.NAME}; take weights that were trained with the links' truth "
                '("lwm-fast-base", or a run with auxiliary.weight above 0)'
            )
        check_file(path)
        try:
            state = load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: not a readable safetensors file ({error}); fetch it again") from error
        width = state["cls.weight"].shape[-1] if "cls.weight" in state else 0
        with torch.device("meta"):
            heads = cls(width)
        expected = {name: tuple(value.shape) for name, value in heads.state_dict().items()}
        found = {name: tuple(value.shape) for name, value in state.items()}
        if found != expected:
            raise InputError(f"{path}: holds {found}, and link heads have {expected}; fetch it again")
        if bad := [name for name, value in state.items() if not torch.isfinite(value).all()]:
            raise InputError(f"{path}: NaN or Inf in {', '.join(bad)}; the file is damaged: fetch it again")
        heads.load_state_dict(state, assign=True)
        return heads


def link_state_of(scores: Tensor) -> LinkState:
    """Scores [B, NUM_SCORES] as a state: the best direction is refined by its neighbours' shares."""
    table = scores.double().cpu().numpy()
    logit = table[:, LOS]
    return LinkState(
        los=np.asarray(0.5 * (1 + np.tanh(logit / 2)), np.float32),
        power_db=_from_units(table[:, POWER], POWER_DB),
        mean_delay_s=np.asarray(10.0 ** _from_units(table[:, DELAY], LOG_DELAY), np.float32),
        delay_spread_s=np.asarray(10.0 ** _from_units(table[:, SPREAD], LOG_SPREAD), np.float32),
        direction=_direction_of(table[:, FIRST_DIRECTION:]),
    )


def _from_units(values: npt.NDArray[np.float64], units: tuple[float, float]) -> Float32Array:
    return np.asarray(units[0] + units[1] * values, np.float32)


def _direction_of(scores: npt.NDArray[np.float64]) -> Float32Array:
    best = scores.argmax(1)[:, None]  # [B, 1]
    near = (best + np.array([-1, 0, 1])) % NUM_DIRECTIONS
    share = np.exp(np.take_along_axis(scores, near, 1) - np.take_along_axis(scores, best, 1))  # [B, 3]
    place = best[:, 0] + (share[:, 2] - share[:, 0]) / share.sum(1)
    return wrapped(place * (2 / NUM_DIRECTIONS) - 1)


def wrapped(frequency: npt.NDArray[np.float64]) -> Float32Array:
    """Spatial frequencies brought into [-1, 1)."""
    turned = np.asarray((frequency + 1) % 2 - 1, np.float32)
    return np.where(turned >= 1, np.float32(-1), turned)  # rounding may reach 1


def link_state(model: LWM | str | os.PathLike[str], source: Source, **encode_options: Any) -> LinkState:
    """The links of channels as a model with link heads sees them, without any label; one pass of the encoder.

    Args:
        model: an `LWM` that has link heads, or what `LWM.from_pretrained` takes ("lwm-fast-base").
        source: what `LWM.encode` takes; csi of several lengths too.
        encode_options: of `LWM.encode`: device, precision, batch_size, scale, show_progress_bar.

    Raises:
        InputError: a model without link heads; what `encode` refuses; options that change what is returned.
    """
    from lwm_fast.model import LWM

    if refused := sorted({"pool", "out", "normalize", "convert_to_tensor"} & encode_options.keys()):
        raise InputError(f"link_state: {refused[0]}= is fixed here; use model.encode for embeddings")
    encoder = model if isinstance(model, LWM) else LWM.from_pretrained(model)
    if encoder.link_heads is None:
        name = encoder.weights_info.source if encoder.weights_info else "the model"
        raise InputError(
            f'link_state: {name} has no link heads ({LinkHeads.NAME}); use "lwm-fast-base", or train with '
            "auxiliary.weight above 0"
        )
    heads = encoder.link_heads
    states = [heads.predict(cls, mean) for cls, mean in _cls_and_mean(encoder, source, encode_options)]
    return LinkState(*(np.concatenate([getattr(s, f.name) for s in states]) for f in fields(LinkState)))


_CHANNELS_AT_ONCE = 1024  # whose tokens are held: 64 MB at 128 tokens


def _cls_and_mean(
    model: LWM, source: Source, options: dict[str, Any]
) -> Iterator[tuple[Float32Array, Float32Array]]:
    """CLS and patch mean, both [n, embed_dim], some channels at a time."""
    from lwm_fast.data import Channels, load_channels

    if isinstance(source, (str, os.PathLike)):
        source = load_channels(source)
    if not isinstance(source, (list, tuple, Channels)):
        source = np.asarray(source)
    for first in range(0, max(1, len(source)), _CHANNELS_AT_ONCE):
        tokens = model.encode(source[first : first + _CHANNELS_AT_ONCE], pool="tokens", **options)
        rows = tokens if isinstance(tokens, np.ndarray) else list(tokens)
        cls = np.stack([own[0] for own in rows])
        mean = np.stack([own[1:].mean(0, dtype=np.float64) for own in rows])
        yield np.asarray(cls, np.float32), np.asarray(mean, np.float32)
