"""Empty figures, colours, and how a figure is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lwm_fast.errors import InputError
from lwm_fast.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours without yellow, which is lost on white: told apart with any kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # a second cue beside colour
GREY = "#9a9a9a"
LOS_STYLE = {1: ("LoS", COLOURS[0]), 0: ("NLoS", COLOURS[1]), -1: ("no path", GREY)}


def make_figure(columns: int) -> tuple[Figure, Any]:
    """An empty figure and its axes in a row; InputError where matplotlib is missing."""
    figure, axes = make_grid(1, columns)
    return figure, axes[0]


def make_grid(
    rows: int, columns: int, *, panel: tuple[float, float] = (6.4, 5.2), **options: Any
) -> tuple[Figure, Any]:
    """An empty figure and its axes [rows, columns].

    Args:
        rows, columns: of panels.
        panel: width and height of one panel in inches.
        options: of ``Figure.subplots``, such as sharex.

    Raises:
        InputError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError('pictures need matplotlib: pip install "lwm_fast[plots]"') from error
    # No pyplot: no global state, no window.
    figure = Figure(figsize=(panel[0] * columns, panel[1] * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def ordered_colours(count: int) -> list[tuple[float, float, float, float]]:
    """Colours of classes that have an order (beams by their angle): steps of viridis, its pale end left out."""
    from matplotlib import colormaps

    return [tuple(colour) for colour in colormaps["viridis"](np.linspace(0, 0.92, count))]


def class_colours(count: int) -> list[Any]:
    """Colours of ``count`` classes: distinct ones while they last, then steps of one scale."""
    return list(COLOURS[:count]) if count <= len(COLOURS) else list(ordered_colours(count))


def check_users(what: str, **columns: npt.NDArray[Any]) -> int:
    """The common number of rows; InputError that names every column's where they differ."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        counts = ", ".join(f"{count} {name}" for name, count in lengths.items())
        raise InputError(f"{what}: {counts} do not match; give one row per user, in the same order")
    return next(iter(lengths.values()))


def save(
    figure: Figure, path: str | os.PathLike[str], *, dpi: float = 150, palette: int | None = None
) -> None:
    """Write a figure as a picture, whole or not at all; the format follows the name's ending.

    Args:
        figure: to write.
        path: of the file.
        dpi: dots an inch.
        palette: colours that a PNG is reduced to, 2 to 256, which takes about a third of the bytes; None keeps all.

    Raises:
        InputError: a palette for another format, or of another size; a folder that cannot be written to.
    """
    form = Path(path).suffix.lstrip(".") or "png"
    if palette is not None and (form != "png" or not 2 <= palette <= 256):
        raise InputError(f"{path}: palette={palette}: a .png can be reduced to 2 to 256 colours")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=form, dpi=dpi)
        if palette is not None:
            from PIL import Image  # matplotlib needs it, so it is there

            with Image.open(temporary) as picture:
                reduced = picture.convert("RGB").quantize(palette, dither=Image.Dither.NONE)
            reduced.save(temporary, format="png", optimize=True)
