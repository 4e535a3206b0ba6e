"""Options that several commands share: which channels, which weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from lwm_fast.data import Channels
    from lwm_fast.model import LWM

F = TypeVar("F", bound=Callable[..., Any])

_CHANNEL_OPTIONS = (
    click.option("--base-station", type=int, help="Base station, where the source holds several."),
    click.option(
        "--num-antennas", type=int, help="Antennas: built from rays; a file must have as many. Default: 32."
    ),
    click.option("--num-subcarriers", type=int, help="Subcarriers, likewise. Default: 32."),
    click.option("--bandwidth", type=float, help="Hz, for ray sources. Default: 30 kHz a subcarrier."),
    click.option(
        "--rotation", type=float, help="Of the array about z [degrees], for ray sources. Default: -135."
    ),
    click.option("--max-paths", type=int, help="Paths used for a user, for ray sources. Default: 20."),
    click.option(
        "--scale", type=float, help="Multiplies the channels to make tokens. Default: as saved, else 1e6."
    ),
    click.option("--key", help="Dataset or variable, where a file holds several."),
    click.option(
        "--layout", help="A letter an axis (n users, a antennas, s subcarriers, c re/im, 1), such as ncas."
    ),
    click.option(
        "--empty",
        type=click.Choice(["drop", "keep", "error"]),
        help="What to do with all-zero channels. Default: drop (rays), error (arrays).",
    ),
)


def channel_options(command: F) -> F:
    """Add the options of ``load_channels``."""
    for option in reversed(_CHANNEL_OPTIONS):
        command = option(command)
    return command


def load(source: Path, options: dict[str, Any], *, in_memory: bool) -> Channels:
    """Channels of ``source`` under the options of :func:`channel_options`."""
    from lwm_fast.data import load_channels

    return load_channels(source, in_memory=in_memory, **options)


def load_model(weights: str, seed: int) -> LWM:
    """A model from ``--weights``: a file, folder or hub id, or ``random-1.0`` / ``random-1.1``."""
    from lwm_fast import LWM, LWMConfig

    if weights in ("random-1.0", "random-1.1"):
        config = LWMConfig.v1_0() if weights == "random-1.0" else LWMConfig.v1_1()
        click.echo(
            f"weights: RANDOM (seed {seed}), LWM v{config.lwm_version}: for trying things out only", err=True
        )
        return LWM.random(config, seed=seed)
    model = LWM.from_pretrained(weights)
    click.echo(f"weights: LWM v{model.config.lwm_version} from {weights}", err=True)
    return model
