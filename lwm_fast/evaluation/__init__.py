"""Evaluation: embeddings beside honest baselines, over training sizes, noise, heads and seeds.

from lwm_fast.evaluation import Sweep, run_sweep
sweep = Sweep("los", data=("city_18_denver_3p5",), weights="lwm_v1.0.pth", inputs=("cls", "patches"),
              counts=(6, 25, 100), test="rest")
rows = run_sweep(sweep, "runs/los")
"""

from __future__ import annotations

from lwm_fast.evaluation.cache import ArrayCache
from lwm_fast.evaluation.inputs import INPUTS, Input, get_input, make_inputs
from lwm_fast.evaluation.running import run_sweep
from lwm_fast.evaluation.summary import Summary, markdown, summarize
from lwm_fast.evaluation.sweep import Run, Sweep
from lwm_fast.evaluation.table import read_runs

__all__ = [
    "INPUTS",
    "ArrayCache",
    "Input",
    "Run",
    "Summary",
    "Sweep",
    "get_input",
    "make_inputs",
    "markdown",
    "read_runs",
    "run_sweep",
    "summarize",
]
