"""Matrices with their numbers written in: gains over a baseline, confusion of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lwm_fast.errors import InputError
from lwm_fast.plots.canvas import make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_CHARACTERS = 40  # that fit beside one another under a panel
_MOST_NUMBERS = 400  # cells that still hold a readable number


def draw_heat_map(
    axes: Axes,
    values: npt.NDArray[Any],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    form: str = "{:.2f}",
    diverging: bool = False,
    limit: float | None = None,
) -> AxesImage:
    """Draw a matrix on given axes with every number in its cell.

    Args:
        axes: to draw on.
        values: float or int [len(rows), len(columns)]; NaN cells stay white and say "-".
        rows, columns: names.
        form: how a number is written.
        diverging: colours that part at zero, the same distance on either side, rather than from low to high.
        limit: the value of the strongest colour; None takes the largest magnitude.

    Returns:
        The image, for a colour bar.

    Raises:
        InputError: names that do not fit the matrix.
    """
    matrix = np.asarray(values, np.float64)
    if matrix.shape != (len(rows), len(columns)):
        raise InputError(
            f"the matrix is {matrix.shape}, its names {len(rows)} rows and {len(columns)} columns"
        )
    known = np.abs(matrix[np.isfinite(matrix)])
    top = limit if limit is not None else max(known.max(initial=0.0), np.finfo(np.float32).tiny)
    image = axes.imshow(
        matrix,
        cmap="PuOr_r" if diverging else "Blues",
        vmin=-top if diverging else 0,
        vmax=top,
        aspect="auto",
    )
    numbers = matrix.size <= _MOST_NUMBERS
    if numbers:
        for (i, j), value in np.ndenumerate(matrix):
            text = form.format(value) if np.isfinite(value) else "-"
            dark = np.isfinite(value) and abs(value) > 0.6 * top
            axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    step = 1 if numbers else -(-max(matrix.shape) // 16)
    turned = 90 if sum(map(len, columns[::step])) > _CHARACTERS else 0
    axes.set_xticks(range(0, len(columns), step), columns[::step], rotation=turned)
    axes.set_yticks(range(0, len(rows), step), rows[::step])
    return image


def gain_heat_maps(
    raw: npt.ArrayLike,
    embedding: npt.ArrayLike,
    *,
    fractions: Sequence[float],
    codebooks: Sequence[int],
    score: str = "weighted F1",
    title: str = "",
) -> Figure:
    """What embeddings add to raw channels: the difference of their scores and the gain in per cent.

    Args:
        raw, embedding: scores [len(codebooks), len(fractions)] of the two inputs.
        fractions: of the training users, 0 to 1.
        codebooks: numbers of beams.
        score, title: texts.

    Raises:
        InputError: scores of another shape.
    """
    low, high = np.asarray(raw, np.float64), np.asarray(embedding, np.float64)
    if low.shape != high.shape:
        raise InputError(f"scores of raw {low.shape} and of the embedding {high.shape} do not match")
    rows, columns = [str(beams) for beams in codebooks], [f"{fraction:.0%}" for fraction in fractions]
    figure, (left, right) = make_figure(2)
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.where(low > 0, 100 * (high / low - 1), np.nan)
    for axes, values, form, name in (
        (left, high - low, "{:+.3f}", f"difference of {score}"),
        (right, gain, "{:+.0f}%", f"gain in {score} [%]"),
    ):
        image = draw_heat_map(axes, values, rows, columns, form=form, diverging=True)
        figure.colorbar(image, ax=axes)
        axes.set(xlabel="share of the training users", ylabel="beams in the codebook", title=name)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def confusion_matrix(
    counts: npt.ArrayLike, classes: Sequence[str] | None = None, *, normalize: bool = True, title: str = ""
) -> Figure:
    """Which class was taken for which.

    Args:
        counts: int [num_classes, num_classes], row the true class, column the predicted one.
        classes: names; None numbers them.
        normalize: show shares of each true class (a class without users stays empty) rather than counts.
        title: text.

    Raises:
        InputError: counts that are not square, names of another number.
    """
    matrix = np.asarray(counts)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"counts are {matrix.shape}; [num_classes, num_classes] was expected")
    names = [str(i) for i in range(len(matrix))] if classes is None else [str(name) for name in classes]
    total = matrix.sum(1, keepdims=True)
    shares = np.divide(matrix, total, out=np.full(matrix.shape, np.nan), where=total > 0)
    figure, (axes,) = make_figure(1)
    image = draw_heat_map(
        axes, shares if normalize else matrix, names, names, form="{:.2f}" if normalize else "{:.0f}",
        limit=1.0 if normalize else None,
    )  # fmt: skip
    figure.colorbar(image, ax=axes, label="share of the true class" if normalize else "users")
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    return figure
