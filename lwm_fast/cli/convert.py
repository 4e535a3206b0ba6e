"""`lwm-fast convert`: released weights to safetensors."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("convert")
@click.argument("weights")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for model.safetensors and config.json.",
)
@click.option("--revision", help="Revision, for a hub id.")
def command(weights: str, output: Path, revision: str | None) -> None:
    """Convert WEIGHTS (a .pth file, folder or hub id) into a safetensors folder that from_pretrained reads."""
    from lwm_fast import LWM, InputError
    from lwm_fast.checkpoint import WEIGHTS_NAME

    if (output / WEIGHTS_NAME).exists():
        raise InputError(f"{output / WEIGHTS_NAME}: exists already; choose another folder or remove it")
    model = LWM.from_pretrained(weights, revision=revision)
    path = model.save_pretrained(output)
    click.echo(
        f"{path}: LWM v{model.config.lwm_version}, {sum(p.numel() for p in model.parameters()):,} parameters"
    )
