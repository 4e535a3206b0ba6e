"""What a sweep is, and the runs it consists of."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from lwm_fast.errors import InputError
from lwm_fast.evaluation import zero_label
from lwm_fast.evaluation.inputs import INPUTS, get_input
from lwm_fast.tasks import TASKS, Task, classical, get_task
from lwm_fast.tasks.heads import default_head

NEAREST_MEAN = "nearest-mean"
CSI = "csi"  # the input of classical estimators, which take the channel itself
ALWAYS = ("raw", "raw-power", "physics", "pca", "autoencoder")
"""Baselines beside every embedding; a random-initialised model of the same pool comes to each."""


@dataclass(frozen=True)
class Run:
    """One row: a head on an input, trained on some users of one split.

    Args:
        input: a key of `INPUTS`, or "csi" for a classical estimator.
        head: of `lwm_fast.tasks.heads`, or the name of the estimator.
        freeze: which weights stay: "all", or as in `lwm_fast.finetune`.
        snr_db: of noise added to the channels of all users, None for none.
        count, fraction: of training users; both None for the whole training part. Count 0: no label is used.
        seed: of the split, the head, and random weights.
    """

    input: str
    head: str
    freeze: str = "all"
    snr_db: float | None = None
    count: int | None = None
    fraction: float | None = None
    seed: int = 0

    @property
    def amount(self) -> str:
        """How many are trained on, as it stands in tables."""
        if self.count is not None:
            return f"{self.count}"
        return "all" if self.fraction is None else f"{100 * self.fraction:g}%"

    @property
    def name(self) -> str:
        """Names the run within its sweep."""
        snr = "clean" if self.snr_db is None else f"{self.snr_db:g}dB"
        return f"{self.input}/{self.head}/{self.freeze}/{snr}/{self.amount}/seed{self.seed}"


@dataclass(frozen=True)
class Sweep:
    """A task, data and weights, and the product of what is tried on them.

    The product may grow in a folder that holds some of its runs; everything else must stay as it was.

    Args:
        task: a key of `lwm_fast.tasks.TASKS`.
        data: sources as `load_channels` takes them; several are joined.
        weights: a file, folder or hub id; "random-1.0" or "random-1.1" to try things out.
        inputs: keys of `INPUTS`.
        settings: of the task, such as {"num_beams": 16}.
        label_data: sources of the labels' band for "beams", one for each of `data`, in their order.
        zero_label_data: a ray store of generated streets, for "los" at count 0.
        load: options of `load_channels`.
        counts, fractions: of training users, at most one of the two; none takes the whole training part. Count 0
            ("los", "beams") predicts without labels: input "link-state" by the weights' link heads, other inputs by
            a logistic regression fitted on `zero_label_data`; `heads` say nothing about it.
        snr_db: noise on the channels [dB], None for none; before everything else, for training and test alike.
        freeze: of the given weights, for inputs they make: "all", "last-3", "none", "lora", or whole component
            names joined by "+" ("embedding+layers.11"), which are trained; see `lwm_fast.finetune`.
        heads: "default" is the task's for the input, else names of `lwm_fast.tasks.heads`. "cnn" is left out for
            inputs that are one vector; baselines of that kind then have the default head.
        seeds: one split, head and random initialisation each.
        baselines: also run what embeddings must stand beside.
        split: "auto", "random", "stratified", "position" or "released".
        split_fractions: of training, validation and test.
        test: "fixed", or "rest": everyone who is not trained on, without validation (LWM paper, Fig. 4).
        epochs: instead of the head's own number.
        learning_rates: by input, instead of 1e-3 (the release: 1e-4 for raw tokens in an MLP).
        style: of default heads, "release" or "challenge".
        precision: of embeddings.

    Raises:
        InputError: a value that is not known or makes no sense, with the nearest one.
    """

    task: str
    data: tuple[str, ...]
    weights: str
    inputs: tuple[str, ...] = ("cls",)
    settings: Mapping[str, Any] = field(default_factory=dict)
    label_data: tuple[str, ...] = ()
    zero_label_data: str | None = None
    load: Mapping[str, Any] = field(default_factory=dict)
    counts: tuple[int, ...] = ()
    fractions: tuple[float, ...] = ()
    snr_db: tuple[float | None, ...] = (None,)
    freeze: tuple[str, ...] = ("all",)
    heads: tuple[str, ...] = ("default",)
    seeds: tuple[int, ...] = (0, 1, 2)
    baselines: bool = True
    split: str = "auto"
    split_fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    test: str = "fixed"
    epochs: int | None = None
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    style: str = "release"
    precision: str = "float32"

    PRODUCT = ("inputs", "counts", "fractions", "snr_db", "freeze", "heads", "seeds", "baselines")

    def __post_init__(self) -> None:
        for part in fields(self):
            if isinstance(getattr(self, part.name), list):
                object.__setattr__(self, part.name, tuple(getattr(self, part.name)))
        _known("task", self.task, tuple(TASKS))
        _known("test", self.test, ("fixed", "rest"))
        _known("style", self.style, ("release", "challenge"))
        for name in ("data", "inputs", "snr_db", "freeze", "heads", "seeds"):
            values = getattr(self, name)
            if isinstance(values, str) or not values:
                raise InputError(f"sweep: {name}={values!r}; give a list of at least one")
        for name in (*self.inputs, *self.learning_rates):
            get_input(name)
        for name in ("data", *(name for name in self.PRODUCT if name != "baselines")):
            values = getattr(self, name)
            if twice := sorted({repr(value) for value in values if values.count(value) > 1}):
                raise InputError(f"sweep: {name} holds {', '.join(twice)} more than once")
        if self.counts and self.fractions:
            raise InputError("sweep: counts and fractions are both given; choose one of them")
        if self.label_data and len(self.label_data) != len(self.data):
            raise InputError(
                f"sweep: {len(self.label_data)} sources of labels for {len(self.data)} of channels; give one "
                "for each, in the same order"
            )
        if self.label_data and self.task != "beams":
            raise InputError(
                f"sweep: label_data is for beams, whose labels may be of another band, not {self.task}"
            )
        self._check_zero()
        if any(seed < 0 for seed in self.seeds):
            raise InputError(f"sweep: seeds={self.seeds}; give 0 or more")
        if self.epochs is not None and self.epochs < 1:
            raise InputError(f"sweep: epochs={self.epochs}; give at least 1")
        task = self.make_task()
        for name in self.inputs:
            if not any(_fits(task, name, head) for head in self.heads):
                raise InputError(
                    f'sweep: head "cnn" runs along patches and input {name!r} is one vector; add another head, such as '
                    '"default"'
                )
        if task.kind == "reconstruction" and self.snr_db != (None,):
            raise InputError(
                f"sweep: snr_db is for labels of channels; {self.task} adds its own noise and keeps the target "
                "clean: give the task's setting snr_db"
            )

    def make_task(self, **more: Any) -> Task:
        """The task with its settings."""
        return get_task(self.task, **{**self.settings, **more})

    def plan(self) -> list[Run]:
        """All runs, without repetitions; seeds vary fastest."""
        runs: dict[Run, None] = {}
        for amount in self._amounts():
            for snr_db in self.snr_db:
                unlabelled = amount.get("count") == 0
                for place in self._unlabelled() if unlabelled else self._places():
                    # Everyone is tested: another seed would be another random model at most.
                    alike = unlabelled and self.test == "rest" and not place[0].startswith("random-")
                    for seed in self.seeds[:1] if alike else self.seeds:
                        runs[Run(*place, snr_db=snr_db, seed=seed, **amount)] = None
        return list(runs)

    def _check_zero(self) -> None:
        if any(count < 0 for count in self.counts):
            raise InputError(f"sweep: counts={self.counts}; give 0 (no label) or more")
        if self.zero_label_data is not None and self.task != "los":
            raise InputError(f"sweep: zero_label_data is for los, streets have no labels for {self.task}")
        if 0 not in self.counts:
            return
        if self.task not in zero_label.TASKS:
            raise InputError(
                f"sweep: counts={self.counts}: without labels only {' and '.join(zero_label.TASKS)} can be "
                f"predicted, not {self.task}; leave 0 out"
            )
        if not list(self._unlabelled()):
            raise InputError(
                f"sweep: counts={self.counts}: nothing here predicts {self.task} without labels; add the input "
                f"{zero_label.LINK_STATE!r}" + (", or give zero_label_data" if self.task == "los" else "")
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {part.name: _plain(getattr(self, part.name)) for part in fields(self)}

    def _amounts(self) -> list[dict[str, Any]]:
        if self.counts:
            return [{"count": count} for count in self.counts]
        return [{"fraction": fraction} for fraction in self.fractions] or [{}]

    def _places(self) -> Iterator[tuple[str, str, str]]:
        """(input, head, freeze) of the runs asked for and of their baselines."""
        task = self.make_task()
        for name in self.inputs:
            for head in (head for head in self.heads if _fits(task, name, head)):
                for freeze in self.freeze if INPUTS[name].of_model else ("all",):
                    yield name, _head(task, name, head, self.style), freeze
        if not self.baselines:
            return
        beside = self._beside(ALWAYS if task.kind != "reconstruction" else ("raw",))
        for name in beside:
            for head in self.heads:
                fitting = head if _fits(task, name, head) else "default"
                yield name, _head(task, name, fitting, self.style), "all"
        if task.kind == "reconstruction":
            for estimator in classical.BASELINES.get(self.task, ()):
                yield CSI, estimator, "all"
            return
        yield "raw", "cnn", "all"
        if task.kind == "classification":
            for name in (*self.inputs, *beside):
                yield name, NEAREST_MEAN, "all"

    def _unlabelled(self) -> Iterator[tuple[str, str, str]]:
        """(input, head, freeze) of what predicts without labels; inputs for which nothing does are left out."""
        inputs = [*self.inputs]
        if self.baselines:
            inputs += self._beside(("physics-power", "physics-excess"))
        for name in inputs:
            if name == zero_label.LINK_STATE:
                yield name, zero_label.LINK, "all"
            elif self.zero_label_data is not None and not INPUTS[name].learned:
                yield name, zero_label.STREETS, "all"
        if self.baselines and self.task == "beams":
            yield CSI, zero_label.COPY_BEAM, "all"

    def _beside(self, always: tuple[str, ...]) -> list[str]:
        """Inputs that stand beside those asked for."""
        random = [f"random-{name.removesuffix('-power')}" for name in self.inputs if INPUTS[name].of_model]
        return list(dict.fromkeys(name for name in (*always, *random) if name not in self.inputs))


def _fits(task: Task, name: str, head: str) -> bool:
    return head != "cnn" or not INPUTS[name].vector or task.kind == "reconstruction"


def _head(task: Task, name: str, head: str, style: str) -> str:
    if head != "default":
        return head
    if task.kind != "reconstruction":
        return default_head(task, name, style)
    if task.name == "compression":
        return "codec"
    if name == "raw":
        return "cnn"
    return "patches" if INPUTS[name].pool == "patches" else "vector"


def _known(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"sweep: {what}={value!r} is unknown; {hint}there are: {', '.join(known)}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
