"""One run of a sweep: train a head on what it is given, score it, and say where the numbers come from."""

from __future__ import annotations

import functools
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from lwm_fast._version import __version__
from lwm_fast.evaluation import zero_label
from lwm_fast.evaluation.inputs import INPUTS, LEVEL
from lwm_fast.evaluation.prepared import Prepared
from lwm_fast.evaluation.sweep import CSI, Run
from lwm_fast.tasks import Split, classical
from lwm_fast.tasks.base import Array, Examples, Rows
from lwm_fast.tasks.facts import channel_facts
from lwm_fast.tasks.fit import fit_head
from lwm_fast.tasks.fit_config import FitConfig
from lwm_fast.tasks.heads import head_for
from lwm_fast.tasks.reconstruction import finish, levelled, raw_parts, to_csi, to_parts, user_scale

Row: TypeAlias = "dict[str, Any]"
Scores: TypeAlias = "dict[str, float]"

RAW_RATE = 1e-4  # the release's for raw tokens in an MLP; 1e-3 was worse
LEAST_STEPS = 120  # of fine-tuning: what 120 epochs of up to one batch of users take
IDENTITY = ("run", "task", "input", "head", "freeze", "snr_db", "amount", "count", "fraction", "seed")
MEASURED = (
    "n_train", "n_validation", "n_test", "learning_rate", "epochs", "best_epoch", "parameters",
    "train_seconds", "seconds", "metric",
)  # fmt: skip
PROVENANCE = (
    "split", "test", "source", "data_sha256", "weights", "weights_sha256", "precision", "lwm_fast", "cpu",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """Scores on the test users after the best and after the last epoch, and what they took."""

    best: Scores
    last: Scores
    learning_rate: float | None = None
    epochs: int = 0
    best_epoch: int = 0
    parameters: int = 0
    train_seconds: float = 0.0


def execute(prepared: Prepared, run: Run) -> Row:
    """The row of a run: identity, scores of the best and of the last epoch, effort, provenance."""
    started = time.perf_counter()
    split = prepared.split(run)
    outcome = _outcome(prepared, run, split)
    values = (
        run.name, prepared.task.name, run.input, run.head, run.freeze, run.snr_db, run.amount, run.count,
        run.fraction, run.seed,
    )  # fmt: skip
    measured = (
        *split.sizes, outcome.learning_rate, outcome.epochs, outcome.best_epoch, outcome.parameters,
        round(outcome.train_seconds, 3), round(time.perf_counter() - started, 3), prepared.task.metric,
    )  # fmt: skip
    return {
        **dict(zip(IDENTITY, values, strict=True)),
        **settings_of(prepared.examples),
        **dict(zip(MEASURED, measured, strict=True)),
        **{f"best_{name}": value for name, value in outcome.best.items()},
        **{f"last_{name}": value for name, value in outcome.last.items()},
        **provenance(prepared, split),
    }


def settings_of(examples: Examples) -> Row:
    """What the task says of its labels (codebook, beams, pilots, bits), without the channels' provenance."""
    known = channel_facts(examples.channels)
    about = (*known, *(f"label_{name}" for name in known), "source_sha256")
    return {name: value for name, value in examples.facts.items() if name not in about}


def provenance(prepared: Prepared, split: Split) -> Row:
    """Where the numbers of a row come from."""
    sweep, info = prepared.sweep, prepared.model.weights_info
    names = " + ".join(Path(source).name for source in sweep.data)
    values = (
        split.by, sweep.test, names, prepared.data_sha256, Path(sweep.weights).name,
        (info.sha256 if info else "") or prepared.weights_sha256, sweep.precision, __version__, cpu_name(),
    )  # fmt: skip
    return dict(zip(PROVENANCE, values, strict=True))


def columns(prepared: Prepared) -> list[str]:
    """Names of a table's columns, in order."""
    examples = prepared.examples
    shape = (
        (1, len(examples.classes)) if examples.kind == "classification" else (1, *examples.targets.shape[1:])
    )
    one = examples[np.zeros(1, np.int64)]
    names = prepared.task.score(
        one, np.zeros(shape, np.complex64 if examples.kind == "reconstruction" else np.float32)
    )
    scores = [f"{which}_{name}" for which in ("best", "last") for name in names]
    named = [*IDENTITY, *settings_of(examples), *MEASURED, *scores, *PROVENANCE]
    return list(dict.fromkeys(named))  # estimation has a ratio of its own where others have the run's


def config_of(prepared: Prepared, run: Run, num_train: int) -> FitConfig:
    """How a run is trained: the paper's Fig. 3 for the CNN, its Fig. 4 for other heads, the v1.1 release's
    fine-tuning (but at least 120 steps: its 15 epochs of a few users are too few); with the sweep's wishes."""
    sweep, rebuilt = prepared.sweep, prepared.task.kind == "reconstruction"
    changes: dict[str, Any] = {}
    if run.freeze != "all":
        config = FitConfig.finetuning()
        steps = -(-num_train // config.batch_size)
        changes["epochs"] = max(config.epochs, -(-LEAST_STEPS // max(1, steps)))
    elif run.head == "cnn" and not rebuilt:
        config = FitConfig.fig3()
    else:
        config = FitConfig.fig4(raw=run.input in ("raw", "raw-power") and not rebuilt)
    if sweep.epochs is not None:
        changes["epochs"] = sweep.epochs
    if run.input in sweep.learning_rates:
        changes["lr"] = sweep.learning_rates[run.input]
    return FitConfig.from_dict({**config.to_dict(), **changes})


def _outcome(prepared: Prepared, run: Run, split: Split) -> Outcome:
    if run.count == 0:
        return _unlabelled(prepared, run, split)
    if run.input == CSI:
        return _classical(prepared, run, split)
    if run.freeze != "all":
        return _finetuned(prepared, run, split)
    if prepared.task.kind == "reconstruction":
        return _reconstructed(prepared, run, split)
    return _labelled(prepared, run, split)


def _classical(prepared: Prepared, run: Run, split: Split) -> Outcome:
    started = time.perf_counter()
    csi = classical.predict(run.head, prepared.examples, split.train)
    seconds = time.perf_counter() - started
    scores = prepared.task.score(prepared.examples[split.test], csi[split.test])
    return Outcome(scores, scores, train_seconds=seconds)


def _unlabelled(prepared: Prepared, run: Run, split: Split) -> Outcome:
    examples, parameters, seconds = prepared.examples_at(run.snr_db), 0, 0.0
    if run.head == zero_label.COPY_BEAM:
        scores = zero_label.copied_beams(examples)
    elif run.head == zero_label.LINK:
        scores = zero_label.own_scores(examples, prepared.inputs(run))
    else:
        inputs, labels = prepared.streets(run)
        fitted = fit_head(
            head_for(examples, "logistic", inputs.shape[1:], seed=run.seed), inputs, labels,
            kind="classification", train=np.arange(len(labels)), num_classes=len(examples.classes),
        )  # fmt: skip
        parameters, seconds = fitted.num_parameters, fitted.seconds
        scores = fitted.predict(prepared.inputs(run))
    reached = prepared.task.score(examples[split.test], scores[split.test])
    return Outcome(reached, reached, parameters=parameters, train_seconds=seconds)


def _labelled(prepared: Prepared, run: Run, split: Split) -> Outcome:
    examples = prepared.examples
    inputs = prepared.inputs(run)
    head = head_for(examples, run.head, inputs.shape[1:], seed=run.seed)
    return _fitted(prepared, run, split, head, inputs, examples.targets, lambda _, outputs: outputs)


def _reconstructed(prepared: Prepared, run: Run, split: Split) -> Outcome:
    examples = prepared.examples
    scale = user_scale(examples)  # [n]
    inputs = raw_parts(examples, scale) if run.input == "raw" else prepared.inputs(run)
    version = prepared.model.config.lwm_version
    head = head_for(examples, run.head, inputs.shape[1:], version=version, seed=run.seed)

    def csi(rows: Rows, parts: Array) -> Array:
        return finish(examples[rows], to_csi(parts, scale[rows]))

    return _fitted(prepared, run, split, head, inputs, to_parts(examples.targets, scale), csi)


def _fitted(
    prepared: Prepared, run: Run, split: Split, head: Any, inputs: Array, targets: Array,
    predictions: Callable[[Rows, Array], Array],
) -> Outcome:  # fmt: skip
    """The outcome of a head; `predictions` makes the task's predictions for some rows of the head's outputs."""
    task, examples, config = prepared.task, prepared.examples, config_of(prepared, run, split.train.size)
    later, tested = examples[split.validation], examples[split.test]
    fitted = fit_head(
        head, inputs, targets, kind=task.kind, train=split.train, validation=split.validation, config=config,
        seed=run.seed, num_classes=len(examples.classes) if task.kind == "classification" else None,
        metric=lambda _, outputs: task.score(later, predictions(split.validation, outputs))[task.metric],
        higher_is_better=task.higher_is_better,
    )  # fmt: skip

    def scores(which: str) -> Scores:
        return task.score(tested, predictions(split.test, fitted.predict(inputs[split.test], which)))

    last = scores("last")
    if not fitted.history:  # an estimator
        return Outcome(last, last, parameters=fitted.num_parameters, train_seconds=fitted.seconds)
    best = last if fitted.best_epoch == config.epochs else scores("best")
    return Outcome(
        best, last, config.lr, config.epochs, fitted.best_epoch, fitted.num_parameters, fitted.seconds
    )


def _finetuned(prepared: Prepared, run: Run, split: Split) -> Outcome:
    from lwm_fast.finetuning import finetune

    made = INPUTS[run.input]
    assert made.pool is not None  # as the plan has it
    examples, config = prepared.examples_at(run.snr_db), config_of(prepared, run, split.train.size)
    result = finetune(
        prepared.model, prepared.task, levelled(examples, LEVEL) if made.normalized else examples,
        freeze=trained(run.freeze), head=run.head, input=made.pool, split=split,
        config=config, seed=run.seed, progress=False,
    )  # fmt: skip
    return Outcome(
        result.best, result.last, config.lr, config.epochs, result.best_epoch, result.trainable_parameters,
        result.seconds,
    )  # fmt: skip


def trained(freeze: str) -> str | list[str]:
    """What `finetune` is told of a sweep's "last-3" or "embedding+layers.11"."""
    whole = freeze in ("all", "none", "lora") or freeze.startswith("last-")
    return freeze if whole else freeze.split("+")


@functools.cache
def cpu_name() -> str:
    """The processor's model, as far as the system tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1) if found else platform.machine()
