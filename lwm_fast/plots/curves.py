"""Scores over the number of labels, the fraction of data or the SNR, with their spread over runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lwm_fast.errors import InputError
from lwm_fast.plots.canvas import COLOURS, MARKERS, make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curves: TypeAlias = Mapping[str, Mapping[float, npt.ArrayLike]]

_DASHES = ("-", "--", "-.", ":")  # a curve past the last colour differs by its dashes
_INSIDE = 4  # names that a legend inside the axes may hold
_MOST_CURVES = len(COLOURS) * len(_DASHES)


def draw_curves(axes: Axes, curves: Curves, *, log_x: bool, spread: bool = True) -> None:
    """Draw the mean of every point's runs on given axes, and a band of one population sd around it.

    Args:
        axes: to draw on.
        curves: name -> x -> scores of the runs at that x, one or more; runs that are NaN are left out.
        log_x: a logarithmic x axis, marked at the x values themselves.
        spread: draw the band; a point with one run has none.

    Raises:
        InputError: no curve, too many to be told apart, a curve without a point, x values that a logarithmic axis
            cannot show.
    """
    if not 0 < len(curves) <= _MOST_CURVES:
        raise InputError(f"{len(curves)} curves: 1 to {_MOST_CURVES} can be told apart; draw fewer at once")
    marks: set[float] = set()
    for i, (name, points) in enumerate(curves.items()):
        at, mean, sd = _summary(name, points)
        if log_x and at[0] <= 0:
            raise InputError(f"curve {name!r} has a point at {at[0]:g}, which a logarithmic axis cannot show")
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        dashes = _DASHES[i // len(COLOURS)]
        axes.plot(at, mean, color=colour, marker=marker, markersize=5, linestyle=dashes, label=name)
        if spread and sd.any():
            axes.fill_between(at, mean - sd, mean + sd, color=colour, alpha=0.15, linewidth=0)
        marks.update(at.tolist())
    if log_x:
        from matplotlib.ticker import FixedLocator, NullLocator

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(_readable(sorted(marks))))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(color="#e2e2e2", linewidth=0.6)
    axes.set_axisbelow(True)


def score_curves(
    curves: Curves,
    *,
    xlabel: str = "training users",
    ylabel: str = "weighted F1",
    title: str = "",
    log_x: bool = True,
) -> Figure:
    """Scores with their spread over seeds: a line is the mean, its band one population standard deviation.

    Args:
        curves: name -> x (training users, or the fraction of them) -> scores of the runs.
        xlabel, ylabel, title: texts.
        log_x: a logarithmic x axis.

    Raises:
        InputError: as :func:`draw_curves`.
    """
    figure, (axes,) = make_figure(1)
    draw_curves(axes, curves, log_x=log_x)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    heading = f"mean and 1 sd of {runs_of(curves)}"
    beside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if len(curves) > _INSIDE else {}
    axes.legend(fontsize=8, title=heading, title_fontsize=8, handlelength=3.2, **beside)
    return figure


def nmse_vs_snr(curves: Curves, *, title: str = "") -> Figure:
    """NMSE [dB] of reconstruction over the SNR [dB] of what is seen; curves as in :func:`score_curves`."""
    return score_curves(curves, xlabel="SNR [dB]", ylabel="NMSE [dB]", title=title, log_x=False)


def _summary(name: str, points: Mapping[float, npt.ArrayLike]) -> tuple[npt.NDArray[Any], ...]:
    rows = []
    for at in sorted(points):
        runs = np.atleast_1d(np.asarray(points[at], np.float64))
        if len(runs := runs[~np.isnan(runs)]):
            rows.append((float(at), runs.mean(), runs.std()))
    if not rows:
        raise InputError(f"curve {name!r} has no finished run; run its sweep first")
    return tuple(np.array(column) for column in zip(*rows, strict=True))


def runs_of(curves: Curves) -> str:
    """How many runs the points of curves are means of, such as "3 runs" or "1 to 3 runs"."""
    counts = {np.size(runs) for points in curves.values() for runs in points.values()}
    low, high = min(counts), max(counts)
    return f"{low} runs" if low == high else f"{low} to {high} runs"


def _readable(marks: list[float]) -> list[float]:
    """Marks without those too close on a logarithmic axis for their numbers to be read."""
    span = np.log(marks[-1] / marks[0]) or 1.0
    kept = marks[:1]
    for mark in marks[1:]:
        if np.log(mark / kept[-1]) > 0.06 * span:
            kept.append(mark)
    return kept
