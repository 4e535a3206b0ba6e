"""`lwm-fast synth`: a ray store of synthetic streets to pre-train on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

_RANGES = {  # option -> (unit, whole numbers)
    "rotation": ("of the array about z, degrees", False),
    "blocks": ("blocks along each axis", True),
    "block-size": ("m", False),
    "street-width": ("m", False),
    "building-height": ("m", False),
    "station-height": ("m", False),
    "user-height": ("m", False),
    "open-share": ("share of blocks without buildings", False),
    "setback": ("m", False),
    "scatterers": ("point scatterers in the streets", True),
    "cell-radius": ("m", False),
    "los-share": ("share of users in line of sight", False),
}


def _range_options(command: Any) -> Any:
    from lwm_fast.data.synthetic.plan import StreetsPlan

    for name, (text, _) in reversed(_RANGES.items()):
        low, high = getattr(StreetsPlan, name.replace("-", "_"))
        command = click.option(
            f"--{name}", metavar="LOW:HIGH", help=f"{text[0].upper()}{text[1:]}. Default: {low:g}:{high:g}."
        )(command)
    return command


@click.command("synth")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder of the store; goes on there."
)
@click.option("--streets", type=int, required=True, help="Number of streets.")
@click.option("--users-per-street", type=int, default=1000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything drawn.")
@click.option(
    "--carrier", default="2e9:60e9", show_default=True, help="Hz: LOW:HIGH, or a list such as 3.5e9,28e9."
)
@click.option(
    "--sizes",
    metavar="NxSC,...",
    help="Antennas x subcarriers to draw from. Default: the 20 of LWM v1.1. Training may choose others.",
)
@click.option(
    "--subcarrier-spacing", metavar="HZ,...", help="Hz, to draw from. Default: 15e3,30e3,60e3. Likewise."
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes. Default: one for each core.")
@_range_options
def command(
    out: Path, streets: int, users_per_street: int, seed: int, carrier: str, sizes: str | None,
    subcarrier_spacing: str | None, workers: int | None, **ranges: str | None,
) -> None:  # fmt: skip
    """Trace synthetic streets into a ray store.

    Each street draws its width, buildings, materials, carrier, base station and array from its own number
    and the seed. Stopped, even by a power cut, the same command goes on and gives the same store.
    """
    from lwm_fast.data.synthetic.plan import StreetsPlan
    from lwm_fast.data.synthetic.write import write_streets

    options: dict[str, Any] = {}
    if ":" in carrier:
        options["carrier"] = _range("carrier", carrier, float)
    else:
        options["carriers"] = _list("carrier", carrier, float)
    if sizes is not None:
        options["sizes"] = _list("sizes", sizes, _size)
    if subcarrier_spacing is not None:
        options["subcarrier_spacing"] = _list("subcarrier-spacing", subcarrier_spacing, float)
    for option, (_, whole) in _RANGES.items():
        if (text := ranges[option.replace("-", "_")]) is not None:
            options[option.replace("-", "_")] = _range(option, text, int if whole else float)
    plan = StreetsPlan(streets=streets, users_per_street=users_per_street, seed=seed, **options)

    present = sum(1 for _ in out.glob("street-*.h5"))
    started = time.perf_counter()
    store = write_streets(plan, out, workers=workers)
    seconds = time.perf_counter() - started
    made = (len(store) - present) * users_per_street
    size = sum(store.path(number).stat().st_size for number in range(len(store)))
    speed = f", {made:,} of them now in {seconds:.1f} s ({made / seconds:,.0f} users/s)" if made else ""
    click.echo(f"{out}: {len(store):,} streets, {store.num_users:,} users{speed}")
    click.echo(f"{size / 1e6:,.1f} MB, {size / store.num_users:.0f} bytes a user")


def _range(option: str, text: str, kind: Any) -> tuple[Any, Any]:
    parts = text.split(":")
    values = _numbers(option, parts, kind, text, "LOW:HIGH")
    if len(values) not in (1, 2):
        raise _refused(option, text, "LOW:HIGH")
    return values[0], values[-1]


def _list(option: str, text: str, kind: Any) -> tuple[Any, ...]:
    wanted = "NxSC,..." if kind is _size else "numbers with commas between them"
    return _numbers(option, text.split(","), kind, text, wanted)


def _numbers(option: str, parts: list[str], kind: Any, text: str, wanted: str) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in parts)
    except ValueError as error:
        raise _refused(option, text, wanted) from error


def _size(text: str) -> tuple[int, int]:
    num_antennas, num_subcarriers = text.lower().split("x")
    return int(num_antennas), int(num_subcarriers)


def _refused(option: str, text: str, wanted: str) -> click.BadParameter:
    return click.BadParameter(f"{text!r}: expected {wanted}", param_hint=f"--{option}")
