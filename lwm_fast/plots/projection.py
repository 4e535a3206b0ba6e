"""Features in the plane: principal components, t-SNE, UMAP, coloured by labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lwm_fast.errors import InputError
from lwm_fast.plots.canvas import GREY, LOS_STYLE, check_users, class_colours, make_grid, ordered_colours

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Points = npt.NDArray[np.float64]  # [n, 2]

METHODS = {"tsne": "t-SNE", "umap": "UMAP", "pca": "principal component"}
_FIRST_COMPONENTS = 50  # what t-SNE sees of longer features, as its authors advise
_FEWEST = 5


def project(embeddings: npt.NDArray[np.floating[Any]]) -> tuple[Points, npt.NDArray[np.float64]]:
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


def project_2d(
    features: npt.ArrayLike, method: str = "tsne", *, seed: int = 0, perplexity: float = 30.0
) -> Points:
    """Features in the plane, float64 [n, 2]; the same features and seed give the same points.

    Args:
        features: real [n, ...], flattened per user. Nothing is standardised.
        method: "tsne" (scikit-learn, started from the principal components), "umap" or "pca".
        seed: of t-SNE and UMAP.
        perplexity: of t-SNE, about the number of neighbours that count; UMAP's n_neighbors. Lowered where there
            are few users.

    Raises:
        InputError: an unknown method, fewer than 5 users, complex or non-finite features, or a missing package.
    """
    if method not in METHODS:
        raise InputError(f"method={method!r} is unknown; use one of {', '.join(METHODS)}")
    x = np.asarray(features)
    if x.ndim < 2 or len(x) < _FEWEST or x.dtype.kind not in "fiu":
        raise InputError(
            f"features are {x.dtype} {x.shape}; real [n, ...] of at least {_FEWEST} users was expected"
        )
    x = x.reshape(len(x), -1).astype(np.float64)
    if not np.isfinite(x).all():
        row = int(np.flatnonzero(~np.isfinite(x).all(1))[0])
        raise InputError(f"features of user {row} are not finite; drop the user or repair the data")
    if method == "pca":
        return project(x)[0]
    near = min(perplexity, (len(x) - 1) / 3)
    return _tsne(x, near, seed) if method == "tsne" else _umap(x, near, seed)


def _tsne(x: Points, perplexity: float, seed: int) -> Points:
    try:
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise InputError('t-SNE needs scikit-learn: pip install "lwm_fast[tasks]"') from error
    if min(x.shape) > _FIRST_COMPONENTS:
        x = PCA(_FIRST_COMPONENTS, svd_solver="full").fit_transform(x)
    spread = float(x.std())
    # Started from principal components scaled as scikit-learn does; a constant input has none.
    tsne = TSNE(perplexity=perplexity, init="pca" if spread > 0 else "random", random_state=seed, n_jobs=1)
    return np.asarray(tsne.fit_transform(x), np.float64)


def _umap(x: Points, neighbours: float, seed: int) -> Points:
    try:
        from umap import UMAP
    except ImportError as error:
        raise InputError('UMAP needs umap-learn: pip install "lwm_fast[umap]"') from error
    umap = UMAP(n_neighbors=max(2, round(neighbours)), random_state=seed, n_jobs=1)
    return np.asarray(umap.fit_transform(x), np.float64)


@dataclass(frozen=True)
class Colouring:
    """Labels by which points are coloured.

    Args:
        labels: int [n]; -1 marks users without a label.
        classes: names of 0, 1, ...; None numbers them.
        ordered: the classes have an order (beams by angle), so their colours run along one scale.
        colours: of 0, 1, ...; None chooses them.
    """

    labels: npt.NDArray[Any]
    classes: tuple[str, ...] | None = None
    ordered: bool = False
    colours: tuple[str, ...] | None = None

    def styles(self) -> dict[int, tuple[str, Any]]:
        """Label -> (name, colour) of the labels that occur, those without one last and grey."""
        found = sorted(int(label) for label in np.unique(self.labels) if label >= 0)
        names = self.classes or tuple(str(i) for i in range(max(found, default=0) + 1))
        if found and found[-1] >= len(names):
            raise InputError(f"label {found[-1]} has no name: {len(names)} classes are named")
        colours = self.colours or (ordered_colours if self.ordered else class_colours)(len(names))
        styles = {label: (names[label], colours[label]) for label in found}
        if (np.asarray(self.labels) < 0).any():
            styles[-1] = ("no label", GREY)
        return styles

    @classmethod
    def los(cls, los: npt.ArrayLike) -> Colouring:
        """By line of sight: 1 LoS, 0 NLoS, -1 no path."""
        return cls(np.asarray(los), ("NLoS", "LoS"), colours=(LOS_STYLE[0][1], LOS_STYLE[1][1]))


def scatter_views(
    views: Mapping[str, Points],
    colourings: Mapping[str, Colouring | npt.ArrayLike],
    *,
    axis_name: str = "component",
    title: str = "",
) -> Figure:
    """Points already in the plane: a column for each view of the users, a row for each colouring.

    Args:
        views: name -> [n, 2], the same users in the same order.
        colourings: name -> labels int [n], or a :class:`Colouring`; one named "LoS" takes LoS labels.
        axis_name, title: texts.

    Raises:
        InputError: no view or colouring, or other numbers of users.
    """
    if not views or not colourings:
        raise InputError(f"{len(views)} views and {len(colourings)} colourings; give at least one of each")
    how = {
        name: labels
        if isinstance(labels, Colouring)
        else (Colouring.los(labels) if name == "LoS" else Colouring(np.asarray(labels)))
        for name, labels in colourings.items()
    }
    columns = {f"users of {name}": np.asarray(xy) for name, xy in views.items()}
    count = check_users(
        "scatter_views",
        **columns,
        **{f"labels of {name}": colouring.labels for name, colouring in how.items()},
    )
    figure, grid = make_grid(len(how), len(views), panel=(4.6, 4.2))
    size = float(np.clip(9000 / max(count, 1), 3, 20))
    for row, (label_name, colouring) in zip(grid, how.items(), strict=True):
        styles = colouring.styles()
        for axes, (view_name, xy) in zip(row, views.items(), strict=True):
            for label, (name, colour) in styles.items():
                mine = np.maximum(colouring.labels, -1) == label
                axes.scatter(
                    xy[mine, 0], xy[mine, 1], s=size, color=colour, alpha=0.75, linewidths=0, label=name
                )
            axes.set(
                xlabel=f"{axis_name} 1", ylabel=f"{axis_name} 2", title=f"{view_name}, by {label_name}",
                xticks=[], yticks=[],
            )  # fmt: skip
        legend = row[-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, title=label_name)
        for handle in legend.legend_handles:
            handle.set_sizes([36])
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def projections(
    features: Mapping[str, npt.ArrayLike],
    colourings: Mapping[str, Colouring | npt.ArrayLike],
    *,
    method: str = "tsne",
    seed: int = 0,
    title: str = "",
) -> Figure:
    """t-SNE, UMAP or principal components of several features of the same users, coloured by labels.

    Args:
        features: name -> real [n, ...], such as raw tokens, embeddings, fine-tuned embeddings.
        colourings, title: as in :func:`scatter_views`.
        method, seed: as in :func:`project_2d`.

    Raises:
        InputError: as those two.
    """
    views = {name: project_2d(values, method, seed=seed) for name, values in features.items()}
    return scatter_views(views, colourings, axis_name=METHODS[method], title=title)
