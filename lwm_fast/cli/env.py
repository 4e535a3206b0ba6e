"""`lwm-fast env`: what this installation is and what it can run on."""

from __future__ import annotations

import importlib.metadata
import platform

import click

_PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "h5py",
    "safetensors",
    "huggingface_hub",
    "triton",
    "deepmimo",
    "matplotlib",
    "zarr",
)


@click.command("env")
def command() -> None:
    """Print versions, CPU features, GPU and backends (for bug reports)."""
    import torch

    from lwm_fast import _C, __version__, backends
    from lwm_fast.native_weights import PRECISIONS, code_path
    from lwm_fast.weights import NAMES

    rows = [("lwm_fast", __version__), ("python", f"{platform.python_version()} ({platform.platform()})")]
    for name in _PACKAGES:
        try:
            rows.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            rows.append((name, "not installed"))
    cpu = _C.cpu_info()
    rows.append(("cpu features", " ".join(cpu["features"])))
    rows.append(
        (
            "native code path",
            f"{cpu['isa']} (available: {', '.join(cpu['available_isas'])}; LWM_FAST_ISA forces one)",
        )
    )
    for precision in PRECISIONS:
        path = code_path(precision)
        slower = "" if path.precision == precision else " (no faster code for this processor)"
        rows.append((f"native {precision}", f"runs as {path}{slower}"))
    rows.append(("amx", _amx(cpu["features"])))
    rows.append(("threads", f"lwm_fast {cpu['num_threads']}, torch {torch.get_num_threads()}"))
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            p = torch.cuda.get_device_properties(i)
            rows.append((f"gpu {i}", f"{p.name}, {p.total_memory / 2**30:.0f} GiB, sm_{p.major}{p.minor}"))
    else:
        rows.append(("gpu", f"none that torch can use (torch built for CUDA: {torch.version.cuda or 'no'})"))
    rows += [("weights", f"{name}: {_shipped(name)}") for name in NAMES]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")
    for device, order in backends.ORDER.items():
        click.echo(f"backends on {device}, in order:")
        for name in order:
            reason = backends.BACKENDS[name].available(torch.device(device))
            if reason is None and device == "cuda" and not torch.cuda.is_available():
                reason = "torch sees no CUDA device"
            state = "available" if reason is None else f"unavailable: {reason}"
            click.echo(f"  {name:<8}{state}")
    if forced := backends.forced():
        click.echo(f"forced by LWM_FAST_BACKEND: {forced}")


def _shipped(name: str) -> str:
    from lwm_fast import InputError
    from lwm_fast.weights import folder_of, shipped_sums

    try:
        folder_of(name)
    except InputError as error:
        return f"unusable: {error}"
    return f"sha256 as shipped, model.safetensors {shipped_sums(name)['model.safetensors'][:12]}..."


def _amx(features: list[str]) -> str:
    from lwm_fast import _C

    if "amx_bf16" not in features:
        return "not in this processor, or not saved by its operating system"
    if "amx" not in _C.encoder_isas("bfloat16"):
        return "in this processor, but not usable: permission refused, or AVX-512 with bfloat16 is missing"
    return "used by precision bf16x3 and bfloat16"
