"""`lwm-fast embed`: channels on disk to embeddings on disk."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from lwm_fast.cli.options import channel_options, load, load_model, weights_option


@click.command("embed")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="HDF5 file to write.")
@weights_option
@click.option("--pool", default="cls", show_default=True, help="cls, mean, mean_with_cls, patches or tokens.")
@click.option("--batch-size", default="auto", show_default=True, help="Channels a batch, or auto.")
@click.option("--device", help="Such as cuda or cpu. Default: cuda where torch has it, else cpu.")
@click.option(
    "--precision", default="float32", show_default=True, help="float32, bf16x3, bfloat16 or float16."
)
@click.option("--normalize", is_flag=True, help="Scale each embedding to length 1.")
@click.option("--resume", is_flag=True, help="Go on with an unfinished run.")
@click.option(
    "--threads", type=click.IntRange(min=1), help="CPU threads. Default: all that this process may use."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of random weights.")
@channel_options
def command(
    source: Path, output: Path, weights: str, pool: str, batch_size: str, device: str | None, precision: str,
    normalize: bool, resume: bool, threads: int | None, seed: int, **channel: Any,
) -> None:  # fmt: skip
    """Embed the channels of SOURCE (a DeepMIMO folder or an array file) into an HDF5 file.

    Runs in constant memory. A run that was stopped, even by a power cut, goes on with --resume and gives
    the same file as an uninterrupted one.
    """
    import torch

    from lwm_fast import InputError
    from lwm_fast.embed_file import embed_to_file

    if batch_size != "auto" and not batch_size.isdigit():
        raise InputError(f'--batch-size {batch_size}: a positive number or "auto" was expected')
    if threads:
        torch.set_num_threads(threads)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(weights, seed)
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"--device {device}: torch cannot use it here ({str(error).splitlines()[0]})"
        ) from error
    channels = load(source, channel, in_memory=False)
    click.echo(str(channels), err=True)
    started = time.perf_counter()
    path = embed_to_file(
        model, channels, output, pool=pool, precision=precision, normalize=normalize, resume=resume,
        batch_size="auto" if batch_size == "auto" else int(batch_size),
    )  # fmt: skip
    seconds = time.perf_counter() - started
    click.echo(
        f"{path}: {len(channels):,} channels, pool={pool}, {seconds:.1f} s ({len(channels) / seconds:,.0f} channels/s)"
    )
