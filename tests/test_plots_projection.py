"""Features in the plane: the same points again, the right users in the right colours."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex

from lwm_fast import InputError, plots
from lwm_fast.plots.canvas import LOS_STYLE


def two_clusters(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    return (rng.standard_normal((n, 4, 20)) + 8 * labels[:, None, None]).astype(np.float32), labels


def test_projection_is_the_principal_plane():
    rng = np.random.default_rng(0)
    plane = rng.standard_normal((200, 2)) * [5, 2]
    axes = np.linalg.qr(rng.standard_normal((10, 2)))[0]
    scores, shares = plots.project((plane @ axes.T + 7).astype(np.float32))
    assert shares.sum() == pytest.approx(1, abs=1e-6)
    assert shares[0] > shares[1] > 0
    distances = np.linalg.norm(scores[:, None] - scores[None], axis=-1)
    np.testing.assert_allclose(distances, np.linalg.norm(plane[:, None] - plane[None], axis=-1), atol=1e-4)
    with pytest.raises(InputError, match=r"embeddings are \(3,\)"):
        plots.project(np.zeros(3))


def test_a_constant_embedding_projects_to_nothing():
    scores, shares = plots.project(np.ones((5, 4), np.float32))
    assert np.allclose(scores, 0)
    assert np.isfinite(shares).all()


@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_every_method_keeps_clusters_apart_and_repeats_itself(method):
    features, labels = two_clusters()
    state = np.random.get_state()[1].tolist()  # noqa: NPY002 - that it is untouched is what is tested
    points = plots.project_2d(features, method, seed=3)
    assert points.shape == (60, 2)
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002
    np.testing.assert_array_equal(points, plots.project_2d(features, method, seed=3))
    near = np.linalg.norm(points[:, None] - points[None], axis=-1)
    same = labels[:, None] == labels[None]
    assert near[same].max() < near[~same].max()
    assert near[~same].min() > 2 * np.median(np.sort(near, 1)[:, 1]), "no stranger among the neighbours"


def test_umap_is_seeded_and_sees_flat_features(monkeypatch):
    """umap-learn compiles for half a minute at first use, so what it is asked for is tested, not its points."""
    asked: dict[str, Any] = {}

    class FakeUMAP:
        def __init__(self, **options: Any) -> None:
            asked.update(options)

        def fit_transform(self, x: np.ndarray) -> np.ndarray:
            return x[:, :2].astype(np.float32)

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=FakeUMAP))
    features, _ = two_clusters(10)
    points = plots.project_2d(features, "umap", seed=4)
    assert asked == {"n_neighbors": 3, "random_state": 4, "n_jobs": 1}
    np.testing.assert_array_equal(points, features.reshape(10, -1)[:, :2])
    assert points.dtype == np.float64


def test_few_and_constant_users_have_a_place():
    assert plots.project_2d(np.eye(5), "tsne").shape == (5, 2)
    assert np.isfinite(plots.project_2d(np.ones((6, 3)), "tsne")).all()


def test_features_that_have_no_place():
    with pytest.raises(InputError, match="method='mds' is unknown; use one of tsne, umap, pca"):
        plots.project_2d(np.eye(5), "mds")
    with pytest.raises(InputError, match=r"\(4, 3\); real \[n, ...\] of at least 5"):
        plots.project_2d(np.zeros((4, 3)))
    with pytest.raises(InputError, match="complex128"):
        plots.project_2d(np.zeros((9, 3), complex))
    broken = np.eye(6)
    broken[4, 2] = np.nan
    with pytest.raises(InputError, match="user 4 are not finite"):
        plots.project_2d(broken)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(InputError, match=r"lwm_fast\[umap\]"):
        plots.project_2d(np.eye(6), "umap")
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    with pytest.raises(InputError, match=r"lwm_fast\[tasks\]"):
        plots.project_2d(np.eye(6), "tsne")


def test_views_by_los_and_by_beam():
    rng = np.random.default_rng(2)
    views = {"raw": rng.standard_normal((40, 2)), "CLS": rng.standard_normal((40, 2))}
    los, beams = rng.integers(0, 2, 40), rng.integers(0, 8, 40)
    los[0] = -1
    figure = plots.scatter_views(
        views, {"LoS": los, "beam": plots.Colouring(beams, ordered=True)}, axis_name="t-SNE"
    )
    assert [axes.get_title() for axes in figure.axes] == [
        "raw, by LoS", "CLS, by LoS", "raw, by beam", "CLS, by beam",
    ]  # fmt: skip
    first = figure.axes[0]
    assert (first.get_xlabel(), first.get_ylabel()) == ("t-SNE 1", "t-SNE 2")
    by_name = {c.get_label(): c for c in first.collections}
    assert set(by_name) == {"LoS", "NLoS", "no label"}
    np.testing.assert_allclose(by_name["LoS"].get_offsets(), views["raw"][los == 1])
    assert to_hex(by_name["LoS"].get_facecolor()[0]) == LOS_STYLE[1][1].lower()
    assert to_hex(by_name["NLoS"].get_facecolor()[0]) == LOS_STYLE[0][1].lower()
    by_beam = figure.axes[3].collections
    assert [c.get_label() for c in by_beam] == [str(i) for i in range(8)]
    assert len({to_hex(c.get_facecolor()[0]) for c in by_beam}) == 8
    np.testing.assert_allclose(by_beam[5].get_offsets(), views["CLS"][beams == 5])


def test_projections_draw_the_projected_points():
    features, labels = two_clusters()
    figure = plots.projections({"raw": features}, {"class": labels}, method="pca", title="two clusters")
    (axes,) = figure.axes
    assert axes.get_xlabel() == "principal component 1"
    np.testing.assert_allclose(
        axes.collections[1].get_offsets(), plots.project_2d(features, "pca")[labels == 1]
    )


def test_views_and_labels_must_be_of_the_same_users():
    with pytest.raises(InputError, match="3 users of raw, 2 labels of LoS"):
        plots.scatter_views({"raw": np.zeros((3, 2))}, {"LoS": [0, 1]})
    with pytest.raises(InputError, match="0 views and 1 colourings"):
        plots.scatter_views({}, {"LoS": [0, 1]})
    named = plots.Colouring(np.array([0, 2, 1]), ("a", "b"))
    with pytest.raises(InputError, match="label 2 has no name: 2 classes"):
        plots.scatter_views({"raw": np.zeros((3, 2))}, {"class": named})
