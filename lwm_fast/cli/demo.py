"""`lwm-fast demo`: line of sight on a street that was never in training, without a label and without a network."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lwm_fast.cli.options import load_model, weights_option
from lwm_fast.weights import training_of

if TYPE_CHECKING:
    import numpy.typing as npt


@click.command("demo")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder to write.",
)
@click.option(
    "--users",
    type=click.IntRange(min=10),
    default=2000,
    show_default=True,
    help="Users of the synthetic street.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the street.")
@weights_option
def command(output: Path, users: int, seed: int, weights: str) -> None:
    """Tell LoS from NLoS on a SYNTHETIC street without any label of it, and say how well that went.

    The weights were trained on other streets of the same generator; OUTPUT gets the map and the embeddings.
    """
    import numpy as np

    from lwm_fast import InputError, link_state, plots
    from lwm_fast.data.synthetic import street_map, synthetic_streets
    from lwm_fast.embed_file import embed_to_file

    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output}: cannot be made a folder ({error.strerror})") from error
    model, training = load_model(weights, seed=0), training_of(weights)
    if training is not None and seed in training["streets"]["town_seeds"]:
        raise InputError(f"--seed {seed}: {weights} were trained on this street; choose another")
    started = time.perf_counter()
    channels = synthetic_streets(users, seed=seed)
    made = time.perf_counter() - started
    click.echo(str(channels))
    assert channels.pos is not None
    assert channels.los is not None

    result, picture = output / "embeddings.h5", output / "los.png"
    result.unlink(missing_ok=True)  # a demo starts afresh
    started = time.perf_counter()
    embed_to_file(model, channels, result, resume=True)
    seconds = time.perf_counter() - started
    guess = link_state(model, channels).los > 0.5
    reached = _f1(channels.los, guess)
    trivial = _f1(channels.los, np.full_like(guess, channels.los.mean() > 0.5))
    figure = plots.los_maps(
        channels.pos, channels.los, guess, base_station=channels.meta.base_station_pos, buildings=street_map(seed),
        names=("truth of the generator", f"read from channels, no label used: F1 {reached:.3f}"),
        title=f"{Path(weights).name} on a SYNTHETIC street (seed {seed})"
        + (" that training never saw" if training else ""),
    )  # fmt: skip
    plots.save(figure, picture, dpi=90, palette=64)

    rows = (
        ("channels", f"{len(channels):,} synthetic, 32x32, made in {made:.1f} s"),
        ("embedding", f"{seconds:.1f} s, {len(channels) / seconds:,.0f} channels/s"),
        ("LoS", f"weighted F1 {reached:.3f} without a label (the larger class for everyone: {trivial:.3f})"),
        ("embeddings", str(result)),
        ("picture", str(picture)),
    )
    for name, value in rows:
        click.echo(f"{name:<12}{value}")


def _f1(los: npt.NDArray[Any], guess: npt.NDArray[Any]) -> float:
    """Weighted F1 of LoS (1) and NLoS (0)."""
    import numpy as np

    from lwm_fast.tasks.metrics import classification_scores

    return classification_scores(los.astype(np.int64), np.eye(2)[guess.astype(np.int64)], 2)["f1_weighted"]
