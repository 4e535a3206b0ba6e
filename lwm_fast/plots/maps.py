"""Users on the map: their embeddings beside them, or any score or label of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lwm_fast.errors import InputError
from lwm_fast.plots.canvas import GREY, LOS_STYLE, check_users, class_colours, make_figure
from lwm_fast.plots.projection import project

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def positions_and_embeddings(
    pos: npt.ArrayLike,
    embeddings: npt.NDArray[np.floating[Any]],
    los: npt.ArrayLike,
    *,
    base_station: npt.ArrayLike | None = None,
    buildings: npt.ArrayLike | None = None,
    title: str = "",
) -> Figure:
    """Users on the map beside the first two principal components of their embeddings, coloured by LoS.

    pos [n, 2 or 3] metres; embeddings [n, embed_dim]; los [n] (1, 0, -1); base_station [2 or 3];
    buildings [num_buildings, 6]: low corner x, y, z, high corner x, y, z.
    """
    xy, label = np.asarray(pos), np.asarray(los)
    if len(xy) != len(label) or len(xy) != len(embeddings):
        raise InputError(
            f"{len(xy)} positions, {len(embeddings)} embeddings and {len(label)} LoS labels do not match"
        )
    scores, shares = project(embeddings)
    figure, (left, right) = make_figure(2)
    _draw_buildings(left, buildings)
    for code, (name, colour) in LOS_STYLE.items():
        mine = label == code
        if mine.any():
            style = {
                "s": 5,
                "color": colour,
                "alpha": 0.7,
                "linewidths": 0,
                "label": f"{name} ({mine.sum():,})",
            }
            left.scatter(xy[mine, 0], xy[mine, 1], **style)
            right.scatter(scores[mine, 0], scores[mine, 1], **style)
    _draw_station(left, base_station)
    left.set(xlabel="x [m]", ylabel="y [m]", title="users", aspect="equal")
    right.set(
        xlabel=f"component 1 ({shares[0]:.0%} of the variance)",
        ylabel=f"component 2 ({shares[1]:.0%})",
        title="embeddings, two principal components",
    )
    _legend(left)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def coverage_map(
    pos: npt.ArrayLike,
    values: npt.ArrayLike,
    *,
    name: str,
    unit: str = "",
    classes: Sequence[str] | None = None,
    base_station: npt.ArrayLike | None = None,
    buildings: npt.ArrayLike | None = None,
    title: str = "",
) -> Figure:
    """Any score or label of the users on the map.

    Args:
        pos: [n, 2 or 3] metres.
        values: [n]; a number each, or an integer class where `classes` is given. Users without a value (NaN,
            or class -1) are drawn grey beneath the others.
        name: what the values are, for the colour bar or legend.
        unit: such as "dB".
        classes: names of classes 0, 1, ...
        base_station: [2 or 3] metres.
        buildings: [num_buildings, 6]: low corner x, y, z, high corner x, y, z.
        title: text.

    Raises:
        InputError: another number of values than positions, a class without a name.
    """
    xy, value = np.asarray(pos), np.asarray(values, np.float64)
    check_users("coverage_map", positions=xy, values=value)
    known = np.isfinite(value) if classes is None else value >= 0
    if classes is not None and known.any() and value[known].max() >= len(classes):
        raise InputError(
            f"coverage_map: class {int(value[known].max())} has no name; {len(classes)} are given"
        )
    figure, (axes,) = make_figure(1)
    _draw_buildings(axes, buildings)
    style = {"s": 8, "linewidths": 0}
    if not known.all():
        label = f"no value ({(~known).sum():,})"
        axes.scatter(xy[~known, 0], xy[~known, 1], color=GREY, alpha=0.5, label=label, **style)
    if classes is None:
        points = axes.scatter(xy[known, 0], xy[known, 1], c=value[known], cmap="viridis", **style)
        figure.colorbar(points, ax=axes, label=f"{name} [{unit}]" if unit else name)
    else:
        colours = class_colours(len(classes))
        for code in np.unique(value[known]).astype(int):
            mine = known & (value == code)
            label = f"{classes[code]} ({mine.sum():,})"
            axes.scatter(xy[mine, 0], xy[mine, 1], color=[colours[code]], label=label, **style)
    _draw_station(axes, base_station)
    axes.set(xlabel="x [m]", ylabel="y [m]", title=title or name, aspect="equal")
    _legend(axes, name if classes is not None else None)
    return figure


def los_maps(
    pos: npt.ArrayLike,
    los: npt.ArrayLike,
    predicted: npt.ArrayLike,
    *,
    base_station: npt.ArrayLike | None = None,
    buildings: npt.ArrayLike | None = None,
    names: tuple[str, str] = ("truth", "predicted"),
    title: str = "",
) -> Figure:
    """Line of sight on the map beside its prediction, whose errors are ringed.

    Args:
        pos: [n, 2 or 3] metres.
        los: [n], 1 LoS, 0 NLoS.
        predicted: [n], likewise.
        base_station, buildings: as for `coverage_map`.
        names: of the two panels.
        title: of the figure.

    Raises:
        InputError: numbers of positions, labels and predictions that differ.
    """
    xy, truth, guess = np.asarray(pos), np.asarray(los), np.asarray(predicted)
    check_users("los_maps", positions=xy, los=truth, predicted=guess)
    figure, panels = make_figure(2)
    for axes, label, name in zip(panels, (truth, guess), names, strict=True):
        _draw_buildings(axes, buildings)
        for code in (1, 0):
            mine = label == code
            kind, colour = LOS_STYLE[code]
            axes.scatter(
                xy[mine, 0], xy[mine, 1], s=7, color=colour, linewidths=0, label=f"{kind} ({mine.sum():,})"
            )
        _draw_station(axes, base_station)
        axes.set(xlabel="x [m]", ylabel="y [m]", title=name, aspect="equal")
    wrong = truth != guess
    ring = {"s": 34, "facecolors": "none", "edgecolors": "black", "linewidths": 0.8}
    panels[1].scatter(xy[wrong, 0], xy[wrong, 1], label=f"wrong ({wrong.sum():,})", **ring)
    for axes in panels:
        _legend(axes)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _draw_buildings(axes: Axes, buildings: npt.ArrayLike | None) -> None:
    if buildings is None:
        return
    from matplotlib.patches import Rectangle

    for x0, y0, _, x1, y1, _ in np.asarray(buildings):
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, facecolor="#dcdcdc", edgecolor="#b5b5b5"))


def _draw_station(axes: Axes, base_station: npt.ArrayLike | None) -> None:
    if base_station is not None:
        x, y = np.asarray(base_station)[:2]
        axes.scatter([x], [y], marker="^", s=110, color="black", label="base station", zorder=3)


def _legend(axes: Axes, title: str | None = None) -> None:
    if axes.get_legend_handles_labels()[0]:
        legend = axes.legend(loc="upper right", fontsize=8, title=title)
        for handle in legend.legend_handles:
            handle.set_sizes([36])  # type: ignore[union-attr]
