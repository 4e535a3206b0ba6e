"""Pictures of channels and embeddings. Every function returns a matplotlib Figure and shows nothing.

Needs the extra ``pip install "lwm_fast[plots]"``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lwm_fast.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOS_STYLE = {1: ("LoS", "#1b7837"), 0: ("NLoS", "#c2571a"), -1: ("no path", "#9a9a9a")}


def make_figure(columns: int) -> tuple[Figure, Any]:
    """An empty figure and its axes in a row; InputError where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError('pictures need matplotlib: pip install "lwm_fast[plots]"') from error
    figure = Figure(
        figsize=(6.4 * columns, 5.2), layout="constrained"
    )  # no pyplot: no global state, no window
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def project(
    embeddings: npt.NDArray[np.floating[Any]],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """First two principal components: embeddings [n, d] -> (scores [n, 2], shares of the variance [2])."""
    x = np.asarray(embeddings, dtype=np.float64)
    if x.ndim != 2 or len(x) < 2 or x.shape[1] < 2:
        raise InputError(f"embeddings are {x.shape}; [n, embed_dim] with n of at least 2 was expected")
    x = x - x.mean(0)
    variances, axes = np.linalg.eigh(x.T @ x)
    top = axes[:, ::-1][:, :2]
    top = top * np.sign(top[np.abs(top).argmax(0), [0, 1]])  # eigenvectors have no sign of their own
    total = max(float(variances.sum()), np.finfo(np.float64).tiny)
    return x @ top, np.maximum(variances[::-1][:2], 0) / total


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
    if buildings is not None:
        from matplotlib.patches import Rectangle

        for x0, y0, _, x1, y1, _ in np.asarray(buildings):
            left.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, facecolor="#dcdcdc", edgecolor="#b5b5b5"))
    for code, (name, colour) in _LOS_STYLE.items():
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
    if base_station is not None:
        x, y = np.asarray(base_station)[:2]
        left.scatter([x], [y], marker="^", s=110, color="black", label="base station", zorder=3)
    left.set(xlabel="x [m]", ylabel="y [m]", title="users", aspect="equal")
    right.set(
        xlabel=f"component 1 ({shares[0]:.0%} of the variance)",
        ylabel=f"component 2 ({shares[1]:.0%})",
        title="embeddings, two principal components",
    )
    for handle in left.legend(loc="upper right", fontsize=8).legend_handles:
        handle.set_sizes([36])
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def save(figure: Figure, path: Any) -> None:
    """Write a figure as a picture, whole or not at all; the format follows the name's ending."""
    from pathlib import Path

    from lwm_fast.files import atomic_path

    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix.lstrip(".") or "png", dpi=150)
