"""`lwm-fast challenge`: the 2025 multi-task challenge's data in, its scores and a submission out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lwm_fast.cli.options import load_model, weights_option

_PATH = click.Path(path_type=Path)


@click.group("challenge", invoke_without_command=True)
@click.option("--data", type=_PATH, help="Folder with task_1 .. task_5.  [required]")
@weights_option
@click.option("-o", "--out", type=_PATH, help="Folder of the run; goes on there.  [required]")
@click.option("--tasks", help="With commas between them. Default: all that the data have.")
@click.option("--epochs", type=click.IntRange(min=1), help="Default: the release's 15.")
@click.option("--lr", type=float, help="Learning rate. Default: the release's 1e-3.")
@click.option("--encoder-lr", type=float, help="Of the encoder's trained layers. Default: --lr.")
@click.option(
    "--scale", type=float, help="Multiplies the channels to make tokens. Default: config.json's, else 1e6."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of heads and training.")
@click.pass_context
def command(
    context: click.Context, data: Path | None, weights: str, out: Path | None, tasks: str | None,
    epochs: int | None, lr: float | None, encoder_lr: float | None, scale: float | None, seed: int,
) -> None:  # fmt: skip
    """Run the baseline of the 2025 challenge on its five tasks, score it and write the submission.

    Stopped, the same command goes on: a task that is done is not run again.
    """
    if context.invoked_subcommand is not None:
        return
    for name, value in (("--data", data), ("--out", out)):
        if value is None:
            raise click.UsageError(f"Missing option '{name}'.", context)
    assert data is not None
    assert out is not None
    from dataclasses import replace

    from lwm_fast.challenge import BASELINES, run_challenge

    changes = {"epochs": epochs, "lr": lr, "encoder_lr": encoder_lr}
    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    baselines = {
        name: replace(baseline, config=replace(baseline.config, **given))
        for name, baseline in BASELINES.items()
    }
    names = None if tasks is None else [name.strip() for name in tasks.split(",")]
    scores = run_challenge(
        data, load_model(weights, seed), out, tasks=names, baselines=baselines, seed=seed, scale=scale
    )
    click.echo(_table(scores))
    click.echo(f"{out / 'submission.npz'}, {out / 'scores.json'}")


@command.command("make")
@click.option(
    "--from", "sources", type=_PATH, multiple=True, required=True, help="Scenario folder; may be repeated."
)
@click.option("-o", "--out", type=_PATH, required=True, help="Folder to write.")
@click.option(
    "--label-data", type=_PATH, multiple=True,
    help="Scenario folder at 28 GHz for the beam labels, one for each --from in the same order. Default: the "
    "inputs' own band.",
)  # fmt: skip
@click.option("--num-antennas", type=int, default=32, show_default=True)
@click.option("--num-subcarriers", type=int, default=32, show_default=True)
@click.option("--num-beams", type=int, default=64, show_default=True)
@click.option("--codebook", default="lwm", show_default=True, help="lwm or half-open.")
@click.option(
    "--comb", default="2x4", show_default=True, help="A pilot every so many antennas x subcarriers."
)
@click.option("--snr", default="-5:25", show_default=True, metavar="LOW:HIGH", help="Of the noise, dB.")
@click.option("--split", default="random", show_default=True, help="random or position.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of split and noise.")
@click.option("--hide-test", is_flag=True, help="Write the labels of the test users to OUT/hidden instead.")
def make(
    sources: tuple[Path, ...], out: Path, label_data: tuple[Path, ...], comb: str, snr: str, **settings: Any
) -> None:
    """Build a data set in the challenge's layout from DeepMIMO scenario folders."""
    from lwm_fast.challenge import MakeConfig, make_challenge

    antenna_step, subcarrier_step = _pair("comb", comb, "x", int)
    config = MakeConfig(
        antenna_step=antenna_step, subcarrier_step=subcarrier_step, snr_db=_pair("snr", snr, ":", float), **settings
    )  # fmt: skip
    make_challenge(sources, out, label_sources=label_data, config=config)
    click.echo(
        f"{out}: five tasks; run them with: lwm-fast challenge --data {out} --weights WEIGHTS --out RUN"
    )


@command.command("score")
@click.argument("submission", type=_PATH)
@click.option("--data", type=_PATH, required=True, help="Data whose test labels are known.")
def score(submission: Path, data: Path) -> None:
    """Score the submission in the folder SUBMISSION."""
    from lwm_fast.challenge import score_submission

    click.echo(_table(score_submission(submission, data)))


def _pair(option: str, text: str, sign: str, kind: Any) -> tuple[Any, Any]:
    try:
        first, second = (kind(part) for part in text.split(sign))
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r}: expected two numbers and {sign!r}", param_hint=f"--{option}"
        ) from error
    return first, second


def _table(scores: dict[str, Any]) -> str:
    """A line a task: its score and what it is made of."""
    lines = []
    for name, values in scores["tasks"].items():
        details = "  ".join(f"{key} {value:.4g}" for key, value in values.items() if key != "score")
        lines.append(f"{name:<14} {values['score']:.4f}  {details}")
    for name, values in scores.get("validation", {}).items():
        if name not in scores["tasks"]:
            lines.append(f"{name:<14} hidden  validation {values['score']:.4f}")
    missing = ", ".join(scores["missing"])
    lines.append(
        f"{'composite':<14} {scores['composite']:.4f}" if not missing else f"composite: no score of {missing}"
    )
    return "\n".join(lines)
