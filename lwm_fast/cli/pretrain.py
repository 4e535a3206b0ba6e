"""`lwm-fast pretrain`: a recipe and channels to a pre-trained model."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("pretrain")
@click.option("--config", required=True, help="A recipe's name (see above) or a YAML file.")
@click.option(
    "--data", type=click.Path(path_type=Path), multiple=True, required=True,
    help="A store of channels or rays; may be given several times.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint, or start where there is none.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Such as optimizer.lr=1e-3.")
@click.option("--max-steps", type=click.IntRange(min=1), help="Stop, saved, after this step.")
@click.option("--cpu", is_flag=True, help="Train on the CPU even where there is a GPU.")
@click.option(
    "--threads", type=click.IntRange(min=1), help="CPU threads. Default: all that this process may use."
)
def command(
    config: str, data: tuple[Path, ...], out: Path, resume: bool, overrides: tuple[str, ...],
    max_steps: int | None, cpu: bool, threads: int | None,
) -> int:  # fmt: skip
    """Pre-train an LWM by masked channel modelling; OUT/model is then what `lwm-fast embed --weights` takes.

    Ctrl-C, SIGTERM and SIGUSR1 save and stop with exit code 130; --resume goes on. A run that was killed goes
    on from its last checkpoint and gives the same weights. Under torchrun all processes train one model.

    \b
    Recipes:
      lwm-v1.0, lwm-v1.1           as published
      lwm-v1.1-laptop              6 layers, hours of one core
      lwm-fast-base                the weights that come with the package
      lwm-fast-base-heads          their second stage: link heads alone
      lwm-fast-base-mcm            their ablation: without link heads
    """
    import torch

    from lwm_fast.training import TrainConfig, pretrain
    from lwm_fast.training.records import decibel

    if threads:
        torch.set_num_threads(threads)
    recipe = TrainConfig.load(config, overrides)
    summary = pretrain(recipe, list(data), out, resume=resume, max_steps=max_steps, cpu=cpu)
    if summary.stopped_by not in (None, "max_steps"):
        click.echo(
            f"{out}: saved at step {summary.step} of {summary.total_steps}; go on with --resume", err=True
        )
        return 130
    click.echo(
        f"{out / 'model'}: step {summary.step} of {summary.total_steps}, {summary.samples_per_s:,.1f} channels/s"
    )
    for score in summary.scores:
        click.echo(
            f"  {score.seq_len:>5} tokens  NMSE {decibel(score.nmse):7.2f} dB  ({score.samples} samples)"
        )
    return 0
