"""The curves of a run as a picture. Needs the extra ``pip install "lwm_fast[plots]"``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lwm_fast.plots import make_figure
from lwm_fast.training.records import read_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curves(run: Path) -> Figure:
    """Training loss beside the validation NMSE [dB] of every bucket, over steps, from a run's CSV files."""
    metrics, validation = read_table(run / "metrics.csv"), read_table(run / "validation.csv")
    figure, (left, right) = make_figure(2)
    steps = np.array([int(row["step"]) for row in metrics])
    loss = np.array([float(row["loss"]) for row in metrics])
    left.plot(steps, loss, color="#9ecae1", linewidth=0.6)
    width = max(1, len(loss) // 50)
    if len(loss) > 2 * width:  # a running mean: batches of different buckets differ much
        left.plot(steps[width - 1 :], np.convolve(loss, np.full(width, 1 / width), "valid"), color="#08519c")
    left.set(xlabel="step", ylabel="loss", title="training", yscale="log")
    for seq_len in sorted({int(row["seq_len"]) for row in validation}):
        rows = [row for row in validation if int(row["seq_len"]) == seq_len]
        at, nmse = [int(row["step"]) for row in rows], [float(row["nmse_db"]) for row in rows]
        right.plot(at, nmse, marker=".", label=f"{seq_len} tokens")
    right.axhline(0, color="#9a9a9a", linewidth=0.8)
    right.set(xlabel="step", ylabel="NMSE [dB]", title="validation")
    if validation:
        right.legend(fontsize=8)
    return figure
