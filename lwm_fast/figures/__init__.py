"""The LWM paper's Figs. 3 to 6 from scenario folders and weights: sweeps, their tables, and the pictures.

from lwm_fast.figures import FigureSettings, find_cities, make_figures
make_figures(find_cities(["scenarios"]), "lwm_v1.0.pth", "figures", only=["4"])
"""

from __future__ import annotations

from lwm_fast.figures.cities import City, find_cities
from lwm_fast.figures.job import FigureSettings, Job
from lwm_fast.figures.make import FIGURES, make_figures

__all__ = ["FIGURES", "City", "FigureSettings", "Job", "find_cities", "make_figures"]
