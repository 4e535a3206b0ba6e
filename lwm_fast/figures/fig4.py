"""Fig. 4: LoS or NLoS from few labels, raw, embedded, noisy and fine-tuned, and what it should stand beside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lwm_fast.evaluation import Sweep
from lwm_fast.figures.job import Job, Row, scores, smaller
from lwm_fast.plots import draw_curves, make_grid
from lwm_fast.plots.curves import runs_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SNR_DB = 5.0
TUNED = "last-3"
CONTROLS = ("mean", "random-cls", "random-mean", "raw-power", "cls-power", "physics", "physics-excess", "pca")
FEW = ("raw", "cls", "patches", *CONTROLS, "physics-power")
HEADS = ("default", "logistic", "nearest-mean")

_PAPER: dict[str, dict[str, Any]] = {
    "raw channels": {"input": "raw", "snr_db": None},
    "CLS": {"input": "cls", "freeze": "all", "snr_db": None},
    "channel embedding (patches)": {"input": "patches", "snr_db": None},
    f"CLS at {SNR_DB:g} dB SNR": {"input": "cls", "freeze": "all", "snr_db": SNR_DB},
    "CLS, last 3 layers fine-tuned": {"input": "cls", "freeze": TUNED},
    f"raw channels at {SNR_DB:g} dB SNR": {"input": "raw", "snr_db": SNR_DB},
}
_BESIDE: dict[str, dict[str, Any]] = {
    "CLS": _PAPER["CLS"],
    "raw channels, residual CNN": {"input": "raw", "head": "cnn", "snr_db": None},
    "mean of patches": {"input": "mean"},
    "random weights, CLS": {"input": "random-cls"},
    "random weights, mean": {"input": "random-mean"},
    "free-space excess (1 number)": {"input": "physics-excess"},
    "physics (36 numbers)": {"input": "physics"},
    "PCA of raw": {"input": "pca"},
    "raw, power-normalised": {"input": "raw-power"},
    "CLS, power-normalised": {"input": "cls-power"},
}


def sweeps(job: Job) -> list[Sweep]:
    """The paper's curves, its noisy and fine-tuned ones, controls, and all of them on many splits of few labels."""
    s = job.settings
    paper = job.sweep(
        "los", [job.city], inputs=("raw", "cls", "patches"), counts=s.counts, test="rest", seeds=s.seeds
    )
    return [
        paper,
        smaller(paper, inputs=("raw", "cls"), snr_db=(SNR_DB,)),
        smaller(paper, inputs=CONTROLS),
        smaller(paper, inputs=("raw",), heads=("cnn",)),
        smaller(paper, inputs=FEW, heads=HEADS, counts=s.few_counts, seeds=s.few_seeds),
        smaller(paper, inputs=("raw",), heads=("cnn",), counts=s.few_counts, seeds=s.few_seeds),
        smaller(paper, inputs=("cls",), freeze=(TUNED,)),
    ]


def make(job: Job) -> list[Path]:
    """Run the sweeps; `fig4.csv` and `fig4.png`."""
    rows = job.run("fig4", sweeps(job))
    return [job.table(rows, "fig4"), job.picture(draw(rows, job.settings.seeds), "fig4")]


def draw(rows: Sequence[Row], seeds: Sequence[int]) -> Figure:
    """(a) The paper's curves; (b) the same CLS beside controls. MLP heads unless said, the same seeds."""
    mine = [row for row in rows if row["seed"] in seeds]
    figure, (panels,) = make_grid(1, 2, panel=(6.4, 4.6), sharey=True)
    for axes, which, title in (
        (panels[0], _PAPER, "(a) the paper's inputs"),
        (panels[1], _BESIDE, "(b) CLS beside controls"),
    ):
        found = {name: scores(mine, "count", **{"head": "mlp", **labels}) for name, labels in which.items()}
        curves = {name: points for name, points in found.items() if points}
        draw_curves(axes, curves, log_x=True)
        title = f"{title}, mean and 1 sd of {runs_of(curves)}"
        axes.set(xlabel="training users", ylabel="weighted F1", title=title)
        axes.legend(fontsize=7, loc="lower right", handlelength=3.2)  # long enough to show dashes
    figure.suptitle(f"LoS/NLoS, {rows[0]['source']}, tested on all other users", fontsize=11)
    return figure
