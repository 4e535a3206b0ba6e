"""`lwm-fast figures`: the LWM paper's figures from scenario folders and weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from lwm_fast.cli.options import weights_option


@click.command("figures")
@click.option(
    "--data", "sources", type=click.Path(path_type=Path), multiple=True, required=True,
    help="Folder that holds city folders named *_3p5 and *_28, or such folders; may be repeated.",
)  # fmt: skip
@weights_option
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--only", multiple=True, help="A figure's number: 3, 4, 5 or 6; may be repeated. Default: all.")
@click.option("--quick", is_flag=True, help="A smoke test: two epochs, one seed. Its numbers mean nothing.")
@click.option("--seeds", type=click.IntRange(min=1), help="How many. Default: 3.")
@click.option("--counts", help="Training users of figure 4, such as 6,25,100. Default: 6 to 1083.")
@click.option("--codebooks", help="Beams of figure 3. Default: 16,64; the paper has 16,32,64,128,256.")
@click.option("--fractions", help="Of the training users, figure 3. Default: 0.1,0.5,1.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes of a sweep. Default: one a core.")
def command(
    sources: tuple[Path, ...], weights: str, out: Path, only: tuple[str, ...], quick: bool, seeds: int | None,
    counts: str | None, codebooks: str | None, fractions: str | None, workers: int | None,
) -> None:  # fmt: skip
    """Make Figs. 3 to 6 of the LWM paper; what was finished before is not run again."""
    from lwm_fast.figures import FigureSettings, find_cities, make_figures

    changes: dict[str, Any] = {}
    if seeds is not None:
        changes["seeds"] = tuple(range(seeds))
    for name, text, kind in (
        ("counts", counts, int),
        ("codebooks", codebooks, int),
        ("fractions", fractions, float),
    ):
        if text is not None:
            changes[name] = _numbers(name, text, kind)
    settings = replace(FigureSettings.quick() if quick else FigureSettings(), **changes)
    if quick:
        click.echo("QUICK: two epochs of few users; the figures only show that everything runs", err=True)
    for path in make_figures(
        find_cities(sources), weights, out, only=only, settings=settings, workers=workers
    ):
        click.echo(str(path))


def _numbers(name: str, text: str, kind: type) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"--{name} {text!r}: give numbers with commas between them") from error
