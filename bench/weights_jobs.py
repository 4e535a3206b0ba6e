"""What `bench.weights` runs: jobs of `lwm-fast evaluate`, and for each the inputs, heads and counts of every model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lwm_fast.evaluation import Sweep

SEEDS = tuple(range(10))
CITIES = ("city_18_denver", "city_12_fortworth", "city_11_santaclara")
NUM_LABELS = (6, 25, 100)

OURS, ABLATION, REPEAT, RELEASED, RANDOM = "base", "mcm-only", "repeat", "v1.0", "random-base"
"""Models: ours, the same trained by MCM alone, ours from another seed (`repeat-1`, ...), the release, no training."""


@dataclass(frozen=True)
class Part:
    """The product that one model is run through in a job; fields as in `Sweep`."""

    inputs: tuple[str, ...]
    heads: tuple[str, ...] = ("default",)
    counts: tuple[int, ...] = ()
    seeds: tuple[int, ...] = SEEDS
    baselines: bool = False


@dataclass(frozen=True)
class Job:
    """A table: a task on some cities, and the parts of every kind of model.

    Args:
        name: of its folder and of its result file.
        task, settings, options: of the sweep.
        cities: joined in this order.
        parts: by kind of model; a model without an entry is left out.
        other_band: labels are those of 28 GHz.
        streets: needs a ray store, which heads without labels are fitted to.
    """

    name: str
    task: str
    parts: Mapping[str, tuple[Part, ...]]
    cities: tuple[str, ...] = CITIES[:1]
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    other_band: bool = False
    streets: bool = False

    def sweep(self, part: Part, weights: str, data: Path, streets: str | None) -> Sweep:
        """The sweep of a part."""
        return Sweep(
            task=self.task,
            data=tuple(str(data / f"{city}_3p5") for city in self.cities),
            label_data=tuple(str(data / f"{city}_28") for city in self.cities) if self.other_band else (),
            zero_label_data=streets if self.streets else None,
            weights=weights,
            inputs=part.inputs,
            heads=part.heads,
            counts=part.counts,
            seeds=part.seeds,
            baselines=part.baselines,
            settings=self.settings,
            **self.options,
        )


def _unlabelled(name: str, cities: tuple[str, ...]) -> Job:
    taught = ("mean", "cls")  # by generated streets
    return Job(
        name, "los", cities=cities, options={"test": "rest"}, streets=True,
        parts={
            OURS: (Part(("link-state", *taught), counts=(0,)),),
            REPEAT: (Part(("link-state",), counts=(0,)),),
            ABLATION: (Part(("link-state", *taught), counts=(0,)),),
            RELEASED: (Part((*taught, "physics-excess", "physics-power", "physics"), counts=(0,)),),
            RANDOM: (Part(("random-mean",), counts=(0,)),),
        },
    )  # fmt: skip


def _los(name: str, cities: tuple[str, ...]) -> Job:
    networks, most = ("mlp",), NUM_LABELS[-1:]
    ours = Part(("link-los", "link-state", "mean", "cls", "patches"), ("logistic",), NUM_LABELS)
    rest: tuple[Part, ...] = (
        Part(("random-mean", "random-cls", "pca"), ("logistic",), NUM_LABELS),
        Part(("raw", "raw-power"), networks, NUM_LABELS),
        Part(("autoencoder",), ("logistic",), NUM_LABELS),
        Part(("raw",), ("cnn",), NUM_LABELS, seeds=SEEDS[:3]),
    )
    if len(cities) == 1:  # Denver's are in docs/results.md
        rest = ()
    return Job(
        name, "los", cities=cities, options={"test": "rest"},
        parts={
            OURS: (ours, Part(("mean", "cls", "link-state"), networks, most)),
            REPEAT: (ours,),
            ABLATION: (
                Part(("link-los", "mean", "cls", "patches"), ("logistic",), NUM_LABELS),
                Part(("mean", "cls"), networks, most),
            ),
            RELEASED: (
                Part(("mean", "cls", "physics-excess"), ("logistic", "mlp"), NUM_LABELS),
                Part(("patches", "physics-power", "physics", "physics-beams"), ("logistic",), NUM_LABELS),
                *rest,
            ),
            RANDOM: (Part(("random-mean", "random-cls"), ("logistic",), NUM_LABELS),),
        },
    )  # fmt: skip


def _beams(num_beams: int) -> Job:
    counts = (135, 677)
    ours = (
        Part(("link-state", "mean", "cls"), ("mlp",), (0, *counts)),
        Part(("patches",), ("mlp",), counts),
    )
    return Job(
        f"beams{num_beams}", "beams", settings={"num_beams": num_beams}, options={"test": "rest"}, other_band=True,
        parts={
            OURS: ours,
            REPEAT: (Part(("link-state", "mean", "cls"), ("mlp",), counts, seeds=SEEDS[:3]),),
            ABLATION: (Part(("mean", "cls"), ("mlp",), counts), Part(("patches",), ("mlp",), counts, seeds=SEEDS[:3])),
            RELEASED: (
                Part(("cls",), ("mlp",), (0,), baselines=True),
                Part(("physics-beams", "mean", "raw-power"), ("mlp",), counts),
                Part(("cls", "physics", "patches"), ("mlp",), counts),
                Part(("random-mean", "pca", "autoencoder", "raw"), ("mlp",), counts, seeds=SEEDS[:3]),
            ),
            RANDOM: (Part(("random-mean", "random-cls"), ("mlp",), counts, seeds=SEEDS[:3]), ),
        },
    )  # fmt: skip


def _localization() -> Job:
    counts = (135, 677)
    ours = (Part(("mean", "cls", "link-state"), ("default",), counts),)
    return Job(
        "localization", "localization", options={"split": "position"},
        parts={
            OURS: ours,
            ABLATION: (Part(("mean", "cls"), ("default",), counts),),
            RELEASED: (
                Part(("mean", "cls", "physics", "physics-beams"), ("default",), counts),
                Part(("raw-power", "raw", "pca", "autoencoder", "random-mean"), ("default",), counts, seeds=SEEDS[:3]),
            ),
            RANDOM: (Part(("random-mean", "random-cls"), ("default",), counts, seeds=SEEDS[:3]),),
        },
    )  # fmt: skip


def _rebuilt(task: str, settings: Mapping[str, Any]) -> Job:
    ours = (Part(("patches",)),)
    return Job(
        task, task, settings=settings,
        parts={
            OURS: ours,
            ABLATION: (Part(("patches",), seeds=SEEDS[:3]),),
            RELEASED: (
                Part(("patches", "patches-power", "random-patches")),
                Part(("patches",), baselines=True, seeds=SEEDS[:3]),
            ),
            RANDOM: (Part(("random-patches",), seeds=SEEDS[:3]),),
        },
    )  # fmt: skip


JOBS: dict[str, Job] = {
    job.name: job
    for job in (
        _unlabelled("zero", CITIES),
        *(_unlabelled(f"zero-{city.split('_')[2]}", (city,)) for city in CITIES),
        _los("los", CITIES),
        _los("los-denver", CITIES[:1]),
        _beams(16),
        _beams(64),
        _localization(),
        _rebuilt("interpolation", {}),
        _rebuilt("estimation", {}),
    )
}
MASKED = "masked"
NAMES = (*JOBS, MASKED)
