"""`lwm-fast finetune`: a task, channels and weights to a tuned model with its scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lwm_fast.cli.options import channel_options, load, load_model, task_options

if TYPE_CHECKING:
    from lwm_fast.data import Channels
    from lwm_fast.tasks.fit_config import FitConfig


@click.command("finetune")
@task_options
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
@click.option(
    "--freeze", default="all", show_default=True, metavar="HOW",
    help="all, none, last-K, lora, or the components to train, such as layers.11,embedding.",
)  # fmt: skip
@click.option(
    "--input", default="cls", show_default=True, help="cls, mean, mean_with_cls, patches or tokens."
)
@click.option("--head", default="default", show_default=True, help="default, linear, mlp, cnn, logistic, ...")
@click.option("--count", type=click.IntRange(min=1), help="Only so many training users.")
@click.option(
    "--split", "by", default="auto", show_default=True, help="random, stratified, position or released."
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Of the task, such as num_beams=16."
)
@click.option("--fit", multiple=True, metavar="KEY=VALUE", help="Of the fit, such as epochs=30 or lr=1e-4.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of everything random."
)
@click.option(
    "--resume", is_flag=True, help="Go on with a run that was stopped, or start where there is none."
)
@click.option("--device", help="Such as cuda or cpu. Default: cuda where torch has it, else cpu.")
@click.option(
    "--threads", type=click.IntRange(min=1), help="CPU threads. Default: all that this process may use."
)
@channel_options
def command(
    task_name: str, data: tuple[Path, ...], label_data: tuple[Path, ...], weights: str, out: Path, freeze: str,
    input: str, head: str, count: int | None, by: str, settings: tuple[str, ...], fit: tuple[str, ...], seed: int,
    resume: bool, device: str | None, threads: int | None, **channel: Any,
) -> None:  # fmt: skip
    """Train a head on LWM embeddings and, if asked, a part of the encoder; OUT/model is the tuned model.

    A run that was stopped or killed goes on with --resume and gives the same weights.
    """
    import torch

    from lwm_fast.finetuning import finetune
    from lwm_fast.tasks import few, get_task, make_split

    if threads:
        torch.set_num_threads(threads)
    model = load_model(weights, seed).to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    channels = _load_all(data, channel)
    options = _pairs("--set", settings)
    if label_data:
        options["label_channels"] = _labels(data, label_data, channel)
    task = get_task(task_name, **options)
    examples = task.examples(channels)
    split = make_split(examples, by=by, seed=seed)
    if count is not None:
        split = few(examples, split, count=count, seed=seed)
    click.echo(f"{len(examples):,} users; train, validation, test: {split.sizes} ({split.by})", err=True)
    simple = freeze in ("all", "none", "lora") or freeze.startswith("last-")
    result = finetune(
        model, task, examples, freeze=freeze if simple else [name.strip() for name in freeze.split(",")],
        head=head, input=input, split=split, config=_config(freeze, _pairs("--fit", fit)), seed=seed, out=out,
        resume=resume,
    )  # fmt: skip
    click.echo(f"{out}: {result.trainable_parameters:,} trained parameters, {result.seconds:.1f} s")
    for which, scores in (("best", result.best), ("last", result.last)):
        epoch = f"epoch {result.best_epoch}" if which == "best" else "last epoch"
        text = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
        click.echo(f"  {which:>4} ({epoch}): {text}")


def _config(freeze: str, changes: dict[str, Any]) -> FitConfig | None:
    from lwm_fast.tasks.fit_config import FitConfig

    if not changes:
        return None
    start = FitConfig() if freeze == "all" else FitConfig.finetuning()
    if "milestones" in changes:
        changes.setdefault("step_epochs", None)
    return FitConfig.from_dict({**start.to_dict(), **changes}, place="--fit")


def _pairs(option: str, texts: tuple[str, ...]) -> dict[str, Any]:
    """KEY=VALUE with values as YAML reads them."""
    import yaml

    from lwm_fast import InputError

    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InputError(f"{option} {text}: KEY=VALUE was expected")
        try:
            pairs[key.strip()] = _number(yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise InputError(f"{option} {text}: the value cannot be read ({error})") from error
    return pairs


def _number(value: Any) -> Any:
    """YAML takes 1e-4 for text."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _load_all(paths: tuple[Path, ...], options: dict[str, Any]) -> Channels:
    from lwm_fast.data import Channels

    parts = [load(path, options, in_memory=True) for path in paths]
    return parts[0] if len(parts) == 1 else Channels.concatenate(parts)


def _labels(data: tuple[Path, ...], label_data: tuple[Path, ...], options: dict[str, Any]) -> Channels:
    """The other band's channels of the same users, city by city."""
    from lwm_fast import InputError
    from lwm_fast.data import Channels
    from lwm_fast.tasks import match_users

    if len(data) != len(label_data):
        raise InputError(
            f"{len(data)} --data and {len(label_data)} --label-data: give one for each, in order"
        )
    parts = [
        match_users(load(path, options, in_memory=True), load(other, options, in_memory=True))
        for path, other in zip(data, label_data, strict=True)
    ]
    return parts[0] if len(parts) == 1 else Channels.concatenate(parts)
