"""`lwm-fast demo`: the whole way on generated channels, with nothing to download."""

from __future__ import annotations

import time
from pathlib import Path

import click


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
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the street and of the random weights.",
)
def command(output: Path, users: int, seed: int) -> None:
    """Make a SYNTHETIC street, embed it with RANDOM weights, and write the embeddings and a picture."""
    from lwm_fast import LWM, InputError, LWMConfig, plots
    from lwm_fast.data.synthetic import street_map, synthetic_streets
    from lwm_fast.embed_file import embed_to_file, read_embeddings

    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output}: cannot be made a folder ({error.strerror})") from error
    started = time.perf_counter()
    channels = synthetic_streets(users, seed=seed)
    made = time.perf_counter() - started
    click.echo(str(channels))

    model = LWM.random(LWMConfig.v1_1(), seed=seed)
    result, picture = output / "embeddings.h5", output / "embeddings.png"
    result.unlink(missing_ok=True)  # a demo starts afresh
    started = time.perf_counter()
    embed_to_file(model, channels, result, resume=True)
    seconds = time.perf_counter() - started

    assert channels.pos is not None
    assert channels.los is not None
    figure = plots.positions_and_embeddings(
        channels.pos, read_embeddings(result), channels.los, base_station=channels.meta.base_station_pos,
        buildings=street_map(seed), title=f"SYNTHETIC street (seed {seed}), LWM v1.1 with RANDOM weights",
    )  # fmt: skip
    plots.save(figure, picture)

    rows = (
        ("channels", f"{len(channels):,} synthetic, 32x32, made in {made:.1f} s"),
        ("weights", f"RANDOM (seed {seed}), LWM v1.1: the picture shows what an untrained encoder keeps"),
        ("embedding", f"{seconds:.1f} s, {len(channels) / seconds:,.0f} channels/s on the CPU"),
        ("embeddings", str(result)),
        ("picture", str(picture)),
    )
    for name, value in rows:
        click.echo(f"{name:<12}{value}")
