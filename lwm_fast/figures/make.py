"""The figures by their number, made one after another into one folder."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from lwm_fast.errors import InputError, nearest
from lwm_fast.figures.cities import City
from lwm_fast.figures.job import FigureSettings, Job

logger = logging.getLogger("lwm_fast")

FIGURES = {
    "3": "beams from sub-6 channels: F1 by training fraction and codebook, difference and gain",
    "4": "LoS/NLoS from few labels: F1 of raw, embedded, noisy and fine-tuned inputs, and controls",
    "5": "t-SNE of raw, CLS and fine-tuned CLS by LoS and by beam",
    "6": "attention maps by layer and head, and CLS's attention over the channel",
}


def make_figures(
    cities: Sequence[City],
    weights: str,
    out: str | os.PathLike[str],
    *,
    only: Sequence[str] = (),
    settings: FigureSettings | None = None,
    workers: int | None = None,
    show_progress: bool | None = None,
) -> list[Path]:
    """Make figures of the LWM paper; every picture has its numbers as a CSV file beside it.

    Sweeps are kept in ``out/runs`` and go on where they stopped. Their caches of embeddings are deleted once a
    figure is finished.

    Args:
        cities: of `find_cities`. Fig. 3 takes all that have both bands, the others Denver, or the first city.
        weights: as for `lwm_fast.weights.load_model`.
        out: folder, made if it is missing.
        only: keys of `FIGURES`; empty means all.
        settings: how large the sweeps are.
        workers: processes of a sweep; None is one a core.
        show_progress: as in `lwm_fast.progress.Progress`.

    Returns:
        The files written, in order.

    Raises:
        InputError: an unknown figure, or what a figure finds wrong with its data.
    """
    chosen = list(only) or list(FIGURES)
    for name in chosen:
        if name not in FIGURES:
            raise InputError(f"figure {name!r} is not known; {nearest(name, FIGURES)}")
    if not cities:
        raise InputError("figures: there is no city; find_cities([folder]) finds them")
    place = Path(out).expanduser()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{place}: cannot be made ({error.strerror}); choose another folder") from error
    job = Job(tuple(cities), weights, place, settings or FigureSettings(), workers, show_progress)
    written: list[Path] = []
    for name in chosen:
        made: list[Path] = importlib.import_module(f"lwm_fast.figures.fig{name}").make(job)
        logger.info("figure %s: %s", name, ", ".join(path.name for path in made))
        written += made
    return written
