"""Fig. 5: t-SNE of raw channels, CLS, and CLS fine-tuned for the task, coloured by line of sight and by beam."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lwm_fast.data import Channels, load_channels
from lwm_fast.figures.job import Job, Row
from lwm_fast.finetuning import finetune
from lwm_fast.model import LWM
from lwm_fast.plots import Colouring, project_2d, scatter_views
from lwm_fast.tasks import BeamTask, LosTask, Task, make_split
from lwm_fast.tasks.fit_config import FitConfig
from lwm_fast.tokens import tokenize

NUM_BEAMS = 8
SPLIT = (0.2, 0.1, 0.7)  # the last part is drawn: nobody in the picture was trained on
FREEZE = "last-3"
NEIGHBOURS = 10


def make(job: Job) -> list[Path]:
    """Fine-tune for each task, project the held-out users: `fig5-los`, `fig5-beams` (.csv, .png) and `fig5.csv`."""
    model = job.model()
    channels = load_channels(job.city.low)
    tasks: Mapping[str, tuple[Task, str]] = {
        "los": (LosTask(), "LoS"),
        "beams": (BeamTask(num_beams=NUM_BEAMS), "beam"),
    }
    written, agreement = [], list[Row]()
    for name, (task, what) in tasks.items():
        examples = task.examples(channels)
        split = make_split(examples, SPLIT, seed=job.settings.seeds[0])
        config = FitConfig.finetuning()
        if job.settings.epochs is not None:
            config = FitConfig.from_dict({**config.to_dict(), "epochs": job.settings.epochs})
        tuned = finetune(
            model, task, examples, freeze=FREEZE, input="cls", split=split, config=config, seed=split.seed
        )
        shown = examples[split.test]
        views = {"raw": _raw(shown.channels, model), "CLS": _cls(model, shown.channels)}
        views[f"CLS fine-tuned ({FREEZE})"] = _cls(tuned.model, shown.channels)
        points = {view: project_2d(values, "tsne", seed=split.seed) for view, values in views.items()}
        colouring = Colouring.los(shown.targets) if name == "los" else _by_beam(shown.targets, shown.classes)
        figure = scatter_views(
            points, {what: colouring}, axis_name="t-SNE",
            title=f"{job.city.name}: {len(shown)} users that fine-tuning ({len(split.train)} others) did not see",
        )  # fmt: skip
        written.append(job.table(_rows(shown.channels.user_index, shown.targets, points), f"fig5-{name}"))
        written.append(job.picture(figure, f"fig5-{name}"))
        agreement += [
            {"label": what, "view": view, "neighbours": NEIGHBOURS, "agreement": agreeing(xy, shown.targets)}
            for view, xy in points.items()
        ]
    return [*written, job.table(agreement, "fig5")]


def agreeing(xy: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> float:
    """Share of the ten nearest neighbours of all points xy [n, 2] that have the point's label."""
    distance = np.square(xy[:, None] - xy[None]).sum(-1)
    np.fill_diagonal(distance, np.inf)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :NEIGHBOURS]
    return float((labels[nearest] == labels[:, None]).mean())


def _raw(channels: Channels, model: LWM) -> npt.NDArray[np.float32]:
    return tokenize(channels.csi, model.config.lwm_version, channels.meta.scale)[:, 1:]


def _cls(model: LWM, channels: Channels) -> npt.NDArray[np.float32]:
    return np.asarray(model.encode(channels, "cls", show_progress_bar=False))


def _by_beam(targets: npt.NDArray[np.int64], angles: Sequence[str]) -> Colouring:
    return Colouring(targets, tuple(f"{float(angle):.0f}°" for angle in angles), ordered=True)


def _rows(
    users: npt.NDArray[np.int64],
    targets: npt.NDArray[np.int64],
    points: Mapping[str, npt.NDArray[np.float64]],
) -> list[Row]:
    return [
        {"view": view, "user": int(user), "label": int(label), "x": float(x), "y": float(y)}
        for view, xy in points.items()
        for user, label, (x, y) in zip(users, targets, xy, strict=True)
    ]
