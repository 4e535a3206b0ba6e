"""Options that several commands share: which channels, which weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lwm_fast.weights import DEFAULT, HELP, RANDOM_NAMES
from lwm_fast.weights import load_model as load_weights

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

weights_option = click.option("--weights", default=DEFAULT, show_default=True, help=HELP)

_TASK_OPTIONS = (
    click.option(
        "--task", "task_name", required=True, help="los, beams, localization, interpolation, estimation, ..."
    ),
    click.option(
        "--data",
        type=click.Path(path_type=Path),
        multiple=True,
        required=True,
        help="A DeepMIMO folder or an array file; given several times they are joined.",
    ),
    click.option(
        "--label-data",
        type=click.Path(path_type=Path),
        multiple=True,
        help="For beams: the other band of each --data, in the same order.",
    ),
    weights_option,
)


def channel_options(command: F) -> F:
    """Add the options of ``load_channels``."""
    return _with(_CHANNEL_OPTIONS, command)


def task_options(command: F) -> F:
    """Add the options that say what is learned from which channels by which weights."""
    return _with(_TASK_OPTIONS, command)


def _with(options: Sequence[Callable[[F], F]], command: F) -> F:
    for option in reversed(options):
        command = option(command)
    return command


def load(source: Path, options: dict[str, Any], *, in_memory: bool) -> Channels:
    """Channels of ``source`` under the options of :func:`channel_options`."""
    from lwm_fast.data import load_channels

    return load_channels(source, in_memory=in_memory, **options)


def load_model(weights: str, seed: int) -> LWM:
    """A model from ``--weights``; what it is goes to standard error."""
    model = load_weights(weights, seed=seed)
    version = model.config.lwm_version
    if weights in RANDOM_NAMES:
        click.echo(f"weights: RANDOM (seed {seed}), LWM v{version}: for trying things out only", err=True)
    else:
        click.echo(f"weights: LWM v{version} from {weights}", err=True)
    return model
