"""Pictures of channels, embeddings and results. Every function returns a matplotlib Figure and shows nothing.

Needs the extra ``pip install "lwm_fast[plots]"``; t-SNE also needs ``[tasks]`` and UMAP ``[umap]``.
"""

from __future__ import annotations

from lwm_fast.plots.attention import (
    attention_maps,
    attention_weights,
    cls_attention,
    patch_grid,
    uniform_heads,
)
from lwm_fast.plots.canvas import make_figure, make_grid, save
from lwm_fast.plots.curves import draw_curves, nmse_vs_snr, score_curves
from lwm_fast.plots.heatmaps import confusion_matrix, draw_heat_map, gain_heat_maps
from lwm_fast.plots.maps import coverage_map, los_maps, positions_and_embeddings
from lwm_fast.plots.projection import Colouring, project, project_2d, projections, scatter_views

__all__ = [
    "Colouring",
    "attention_maps",
    "attention_weights",
    "cls_attention",
    "confusion_matrix",
    "coverage_map",
    "draw_curves",
    "draw_heat_map",
    "gain_heat_maps",
    "los_maps",
    "make_figure",
    "make_grid",
    "nmse_vs_snr",
    "patch_grid",
    "positions_and_embeddings",
    "project",
    "project_2d",
    "projections",
    "save",
    "scatter_views",
    "score_curves",
    "uniform_heads",
]
