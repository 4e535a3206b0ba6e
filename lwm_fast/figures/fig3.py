"""Fig. 3: beams at 28 GHz from 3.5 GHz channels, raw or embedded, by training fraction and codebook size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lwm_fast.errors import InputError
from lwm_fast.evaluation import Sweep
from lwm_fast.figures.job import Job, Row, scores, smaller
from lwm_fast.plots import draw_curves, draw_heat_map, make_grid
from lwm_fast.plots.curves import runs_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPLIT = (0.7, 0.1, 0.2)  # of training, validation and test
CONTROLS = ("random-patches",)  # with the CNN
LEARNED_ELSEWHERE = ("physics", "raw-power", "pca")  # with the task's usual head


def sweeps(job: Job, num_beams: int) -> list[Sweep]:
    """Raw channels and patches into the paper's residual CNN, and controls; labels from the 28 GHz channels."""
    cities = [city for city in job.cities if city.high is not None]
    if not cities:
        names = ", ".join(city.name for city in job.cities)
        raise InputError(
            f"figure 3: no city has both bands ({names}); put its *_28 folder beside the *_3p5 one"
        )
    s = job.settings
    paper = job.sweep(
        "beams",
        cities,
        label_data=tuple(str(city.high) for city in cities),
        settings={"num_beams": num_beams},
        inputs=("raw", "patches"),
        heads=("cnn",),
        fractions=s.fractions,
        seeds=s.seeds,
        split_fractions=SPLIT,
    )
    return [
        paper,
        smaller(paper, inputs=LEARNED_ELSEWHERE, heads=("default",)),
        smaller(paper, inputs=CONTROLS),
    ]


def make(job: Job) -> list[Path]:
    """Run the sweeps of every codebook; `fig3.csv` and `fig3.png`."""
    rows: list[Row] = []
    for num_beams in job.settings.codebooks:
        rows += job.run(f"fig3-{num_beams}-beams", sweeps(job, num_beams))
    return [job.table(rows, "fig3"), job.picture(draw(rows), "fig3")]


def draw(rows: Sequence[Row]) -> Figure:
    """(a) F1 of raw channels, (b) of the channel embedding, (c) their difference, (d) the gain in per cent."""
    codebooks = sorted({row["num_beams"] for row in rows})
    fractions = sorted({row["fraction"] for row in rows})
    figure, ((raw_axes, patch_axes), (difference_axes, gain_axes)) = make_grid(2, 2, panel=(5.4, 4.2))
    for axes, name, letter, what in (
        (raw_axes, "raw", "a", "raw channels"),
        (patch_axes, "patches", "b", "channel embedding (patches)"),
    ):
        curves = {
            f"{beams} beams": scores(rows, "fraction", input=name, head="cnn", num_beams=beams)
            for beams in codebooks
        }
        draw_curves(axes, curves, log_x=False)
        axes.set(
            xlabel="share of the training users",
            ylabel="weighted F1",
            title=f"({letter}) {what}, {runs_of(curves)}",
        )
        axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        axes.legend(fontsize=8)
    low = min(raw_axes.get_ylim()[0], patch_axes.get_ylim()[0])
    high = max(raw_axes.get_ylim()[1], patch_axes.get_ylim()[1])
    for axes in (raw_axes, patch_axes):
        axes.set_ylim(low, high)
    raw, patches = (_means(rows, name, codebooks, fractions) for name in ("raw", "patches"))
    for axes, values, form, name in (
        (difference_axes, patches - raw, "{:+.3f}", "(c) difference of F1, (b) - (a)"),
        (gain_axes, 100 * (patches / raw - 1), "{:+.0f}%", "(d) gain in F1 over raw [%]"),
    ):
        names = [str(beams) for beams in codebooks], [f"{share:.0%}" for share in fractions]
        image = draw_heat_map(axes, values, *names, form=form, diverging=True)
        figure.colorbar(image, ax=axes)
        axes.set(xlabel="share of the training users", ylabel="beams in the codebook", title=name)
    figure.suptitle(f"Beam prediction, {rows[0]['source']}: mean and 1 sd of runs", fontsize=11)
    return figure


def _means(
    rows: Sequence[Row], name: str, codebooks: Sequence[int], fractions: Sequence[float]
) -> npt.NDArray[np.float64]:
    """Mean F1 [codebooks, fractions] of an input with the CNN."""
    of = [scores(rows, "fraction", input=name, head="cnn", num_beams=beams) for beams in codebooks]
    return np.array([[np.mean(points.get(share, [np.nan])) for share in fractions] for points in of])
