"""`lwm-fast evaluate`: a sweep of heads on embeddings and baselines to a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from lwm_fast.cli.options import channel_options, load_model, task_options

T = TypeVar("T")


@click.command("evaluate")
@task_options
@click.option(
    "--inputs", default="cls", show_default=True, metavar="NAME,...", help="Such as raw,cls,patches,mean."
)
@click.option("--counts", metavar="N,...", help="Numbers of training users; 0 uses no label (los, beams).")
@click.option("--fractions", metavar="F,...", help="Or shares of the training part, such as 0.1,0.5,1.")
@click.option(
    "--zero-label-data", type=click.Path(path_type=Path), metavar="STORE",
    help="Generated streets, which heads of --counts 0 are fitted to (los).",
)  # fmt: skip
@click.option("--test", default="fixed", show_default=True, help="fixed, or rest: everyone not trained on.")
@click.option("--snr", metavar="DB,...", help="Noise on the channels; clean for none. Default: clean.")
@click.option(
    "--freeze", default="all", show_default=True, metavar="HOW,...", help="all, last-3, none, lora, ..."
)
@click.option(
    "--heads", default="default", show_default=True, metavar="NAME,...", help="Such as mlp,logistic,cnn."
)
@click.option("--seeds", default="0,1,2", show_default=True, metavar="N,...", help="Or a range such as 0:10.")
@click.option(
    "--baselines/--no-baselines", default=True, show_default=True, help="What embeddings stand beside."
)
@click.option("--split", default="auto", show_default=True, help="random, stratified, position or released.")
@click.option("--split-fractions", default="0.7,0.1,0.2", show_default=True, metavar="F,F,F",
              help="Training, validation and test part.")  # fmt: skip
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of each head's own number.")
@click.option(
    "--lr", metavar="INPUT=RATE,...", help="Instead of the release's: 1e-3, raw tokens in an MLP 1e-4."
)
@click.option("--style", default="release", show_default=True, help="Of default heads: release or challenge.")
@click.option("--precision", default="float32", show_default=True, help="Of embeddings.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Of the task, such as num_beams=16."
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of the runs; goes on there."
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes. Default: one for each core.")
@channel_options
@click.pass_context
def command(
    context: click.Context, /, task_name: str, data: tuple[Path, ...], label_data: tuple[Path, ...], weights: str,
    inputs: str, counts: str | None, fractions: str | None, zero_label_data: Path | None, test: str,
    snr: str | None, freeze: str, heads: str, seeds: str, baselines: bool, split: str, split_fractions: str,
    epochs: int | None, lr: str | None, style: str, precision: str, settings: tuple[str, ...], out: Path,
    workers: int | None, **channel: Any,
) -> None:  # fmt: skip
    """Train and score heads on embeddings and on the baselines they must stand beside.

    Every run is a row of OUT/runs.csv as soon as it ends; OUT/table.md has means and spreads over seeds. The
    same command goes on after Ctrl-C or a crash, and takes further inputs, counts, heads and seeds.

    --task masked is another thing: hidden patches of the channels, filled in by the weights themselves and by what
    needs no learning, for --seeds of masks; --set mask_ratio=0.4. Its rows are OUT/masked.csv.
    """
    if task_name == "masked":
        _masked(context, data, weights, _seeds(seeds), _settings(settings), baselines, out, channel)
        return
    from lwm_fast.evaluation import Sweep, run_sweep

    sweep = Sweep(
        task=task_name,
        data=tuple(str(path) for path in data),
        label_data=tuple(str(path) for path in label_data),
        weights=weights,
        inputs=_list("--inputs", inputs, str),
        settings=_settings(settings),
        zero_label_data=None if zero_label_data is None else str(zero_label_data),
        load=_given(channel),
        counts=_list("--counts", counts, int),
        fractions=_list("--fractions", fractions, float),
        snr_db=_list("--snr", snr, _ratio) or (None,),
        freeze=_list("--freeze", freeze, str),
        heads=_list("--heads", heads, str),
        seeds=_seeds(seeds),
        baselines=baselines,
        split=split,
        split_fractions=_three(split_fractions),
        test=test,
        epochs=epochs,
        learning_rates=_rates(lr),
        style=style,
        precision=precision,
    )
    rows = run_sweep(sweep, out, workers)
    click.echo((out / "table.md").read_text(encoding="utf-8"))
    click.echo(f"{out / 'runs.csv'}: {len(rows)} runs", err=True)


_OF_MASKED = ("task_name", "data", "weights", "seeds", "baselines", "settings", "out")


def _masked(
    context: click.Context, data: tuple[Path, ...], weights: str, seeds: tuple[int, ...],
    settings: dict[str, Any], baselines: bool, out: Path, channel: dict[str, Any],
) -> None:  # fmt: skip
    from lwm_fast.evaluation.masked import METHODS, masked_scores, masked_table, write_scores
    from lwm_fast.evaluation.prepared import joined

    for name in context.params:
        given = context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
        if given and name not in (*_OF_MASKED, *channel):
            raise click.UsageError(f"--{name.replace('_', '-')} is not for --task masked; leave it out")
    if unknown := sorted(settings.keys() - {"mask_ratio"}):
        raise click.BadParameter(f"{unknown[0]!r}: the task masked has mask_ratio only", param_hint="--set")
    channels = joined(tuple(str(path) for path in data), _given(channel))
    methods = tuple(METHODS) if baselines else ("model",)
    scores = masked_scores(load_model(weights, 0), channels, seeds=seeds, methods=methods, **settings)
    out.mkdir(parents=True, exist_ok=True)
    write_scores(scores, out / "masked.csv")
    click.echo(masked_table(scores))


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _list(option: str, text: str | None, kind: Callable[[str], T]) -> tuple[T, ...]:
    try:
        return tuple(kind(part.strip()) for part in (text or "").split(",") if part.strip())
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}", param_hint=option) from error


def _ratio(text: str) -> float | None:
    return None if text == "clean" else float(text)


def _seeds(text: str) -> tuple[int, ...]:
    first, colon, last = text.partition(":")
    if not colon:
        return _list("--seeds", text, int)
    ends = _list("--seeds", f"{first},{last}", int)
    if len(ends) != 2:
        raise click.BadParameter(
            f"{text!r}: a list such as 0,1,2 or a range such as 0:10", param_hint="--seeds"
        )
    return tuple(range(*ends))


def _three(text: str) -> tuple[float, float, float]:
    parts = _list("--split-fractions", text, float)
    if len(parts) != 3:
        raise click.BadParameter(
            f"{text!r}: three shares were expected, such as 0.7,0.1,0.2", param_hint="--split-fractions"
        )
    return parts[0], parts[1], parts[2]


def _rates(text: str | None) -> dict[str, float]:
    pairs = [part.partition("=") for part in _list("--lr", text, str)]
    try:
        return {name.strip(): float(value) for name, _, value in pairs}
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: INPUT=RATE was expected ({error})", param_hint="--lr") from error


def _settings(pairs: tuple[str, ...]) -> dict[str, Any]:
    import yaml

    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise click.BadParameter(f"{pair!r}: KEY=VALUE was expected", param_hint="--set")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise click.BadParameter(f"{pair!r}: the value is not valid YAML", param_hint="--set") from error
        found[name.strip()] = tuple(value) if isinstance(value, list) else value
    return found
