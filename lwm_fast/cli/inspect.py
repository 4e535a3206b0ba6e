"""`lwm-fast inspect`: what a path holds, and what would be embedded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lwm_fast.cli.options import channel_options

_WEIGHTS = (".pth", ".safetensors", ".bin", ".ckpt")


@click.command("inspect")
@click.argument("path", type=click.Path(path_type=Path))
@channel_options
def command(path: Path, **channel: Any) -> int:
    """Say what PATH is (channels, embeddings or weights) and what `lwm-fast embed` would do with it.

    Exit code 2 when it cannot be used as it is; the reason and the remedy are printed.
    """
    from lwm_fast import InputError
    from lwm_fast.weights import folder_of

    if not path.exists() and folder_of(path) is not None:
        return _weights(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.suffix in _WEIGHTS or (path.is_dir() and (path / "model.safetensors").is_file()):
        return _weights(path)
    if _is_embeddings(path):
        return _embeddings(path)
    try:
        return _channels(path, channel)
    except InputError as error:
        if path.suffix != ".pt":  # a .pt file holds either
            raise
        try:
            return _weights(path)
        except InputError:
            raise error from None


def _weights(path: Path) -> int:
    from lwm_fast import LWM

    model = LWM.from_pretrained(path)
    info, config = model.weights_info, model.config
    assert info is not None
    click.echo(f"{path}: weights of LWM v{config.lwm_version} ({info.file_format})")
    click.echo(
        f"  parameters  {sum(p.numel() for p in model.parameters()):,} in {len(model.state_dict())} tensors"
    )
    click.echo(
        f"  sizes       {config.num_layers} layers, {config.num_heads} heads x {config.head_dim}, embed_dim "
        f"{config.embed_dim}, ffn_dim {config.ffn_dim}, patch_len {config.patch_len}, up to {config.max_len} tokens"
    )
    click.echo(f"  denormals   {info.denormals_flushed:,} flushed to zero at load")
    num_heads = config.num_layers * config.num_heads
    click.echo(f"  uniform     {model.prepared().num_collapsed} of {num_heads} heads attend uniformly")
    click.echo(f"  sha256      {info.sha256}")
    return 0


def _is_embeddings(path: Path) -> bool:
    import h5py

    from lwm_fast.embed_file import FORMAT

    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        return bool(file.attrs.get("format") == FORMAT)


def _embeddings(path: Path) -> int:
    import h5py

    with h5py.File(path, "r") as file:
        click.echo(f"{path}: embeddings written by lwm-fast embed")
        for name, data in file.items():
            click.echo(f"  {name}: {data.dtype} {data.shape}")
        for name, value in sorted(file.attrs.items()):
            click.echo(f"  @{name} = {value}")
    return 0


def _channels(path: Path, channel: dict[str, Any]) -> int:
    from lwm_fast import InputError
    from lwm_fast.data import describe
    from lwm_fast.tokens import num_tokens

    found = describe(path, **{name: value for name, value in channel.items() if name != "empty"})
    if found.problem is not None and found.format is None:
        raise InputError(found.problem)
    click.echo(str(found))
    if found.problem is not None:
        return 2
    assert found.shape is not None
    _, num_antennas, num_subcarriers = found.shape
    if (num_antennas, num_subcarriers) == (32, 32):
        click.echo("LWM v1.0       129 tokens a channel")
    else:
        click.echo("LWM v1.0       not possible: it takes 32x32 channels only")
    tokens = num_tokens(num_antennas, num_subcarriers, "1.1")
    more = "" if tokens <= 513 else ", more than its 513 positions"
    click.echo(f"LWM v1.1       {tokens} tokens a channel{more}")
    return 0
