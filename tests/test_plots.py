"""Pictures: figures come back, nothing is shown, wrong inputs are named."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from lwm_fast import InputError, plots


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


def test_positions_and_embeddings(tmp_path):
    pyplot_before = "matplotlib.pyplot" in sys.modules
    rng = np.random.default_rng(1)
    figure = plots.positions_and_embeddings(
        rng.standard_normal((30, 3)), rng.standard_normal((30, 8)).astype(np.float32), rng.integers(-1, 2, 30),
        base_station=(0, 0, 6), buildings=[[0, 0, 0, 1, 1, 9]], title="synthetic",
    )  # fmt: skip
    left, right = figure.axes
    assert {t.get_text().split(" (")[0] for t in left.get_legend().get_texts()} == {
        "LoS", "NLoS", "no path", "base station",
    }  # fmt: skip
    assert len(left.patches) == 1
    assert sum(len(c.get_offsets()) for c in right.collections) == 30
    plots.save(figure, tmp_path / "f.png")
    assert [p.name for p in tmp_path.iterdir()] == ["f.png"]
    assert ("matplotlib.pyplot" in sys.modules) == pyplot_before, "no window, no global figures"
    with pytest.raises(InputError, match="do not match"):
        plots.positions_and_embeddings(np.zeros((2, 3)), np.zeros((3, 8), np.float32), [1, 0])
