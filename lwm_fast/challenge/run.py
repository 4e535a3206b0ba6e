"""The challenge's baseline: a head a task on an LWM, within the limits, resumable task by task."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lwm_fast._version import __version__
from lwm_fast.challenge.data import TaskData, read_config, read_task, task_numbers
from lwm_fast.challenge.limits import check_limits
from lwm_fast.challenge.scoring import TASK_NAMES, check_task, score
from lwm_fast.challenge.submission import summary, write_submission
from lwm_fast.errors import InputError
from lwm_fast.evaluation.cache import digest_of_model
from lwm_fast.files import atomic_path
from lwm_fast.tasks.base import Array
from lwm_fast.tasks.fit_config import FitConfig

if TYPE_CHECKING:
    from lwm_fast.finetuning import LoRA
    from lwm_fast.model import LWM

SCORES_NAME = "scores.json"

logger = logging.getLogger("lwm_fast")


@dataclass(frozen=True)
class Baseline:
    """How a task is solved.

    Args:
        input: pool of the encoder's output.
        freeze: what of the encoder is not trained, as `lwm_fast.finetune` has it.
        head: name of a head.
        config: of the training.
    """

    input: str
    freeze: str | Sequence[str] | LoRA
    head: str
    config: FitConfig = field(default_factory=FitConfig.finetuning)


# Heads, inputs and depths of the published baseline of LWM v1.1 (interpolation and estimation: "the last two or
# three layers", here three). Its schedule is not published: the v1.1 release's fine-tuning is used.
BASELINES: Mapping[str, Baseline] = {
    "los": Baseline("cls", "all", "challenge-los"),
    "beams": Baseline("mean_with_cls", "none", "challenge-beam"),
    "interpolation": Baseline("patches", "last-3", "patches"),
    "estimation": Baseline("patches", "last-3", "patches"),
    "localization": Baseline("mean_with_cls", "last-2", "challenge-localization"),
}


def run_challenge(
    data: str | Path,
    model: LWM,
    out: str | Path,
    *,
    tasks: Sequence[str] | None = None,
    baselines: Mapping[str, Baseline] = BASELINES,
    seed: int = 0,
    scale: float | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Train and score the tasks, and write the submission.

    Each task leaves `out/<task>/` with the fine-tuned weights, `predictions.npz` and `result.json`, written last;
    a task that has its result is not run again, and one that was stopped goes on from its last checkpoint. The
    epoch is chosen on the validation users. `out/scores.json` and `out/submission.npz` are written from all
    results that there are.

    Args:
        data: folder in the challenge's layout.
        model: weights to start from, the same for every task; not changed.
        out: folder of the run.
        tasks: names; None means all that the data have.
        baselines: task -> how it is solved.
        seed: of heads and training.
        scale: as for `read_task`.
        progress: as for `lwm_fast.finetune`.

    Returns:
        The content of scores.json: `score_submission`'s, from test labels; tasks whose test labels are hidden
        have their "validation" scores only.

    Raises:
        InputError: data that cannot be read, a head or training beyond the limits, a folder with results of
            other data, weights or settings.
    """
    data, out = Path(data), Path(out)
    known = list(task_numbers(data, read_config(data)))
    chosen = [name for name in TASK_NAMES if name in known] if tasks is None else list(tasks)
    for name in chosen:
        check_task(name)
        if name not in known:
            raise InputError(f"{data}: has no data for {name!r}; it has {', '.join(known)}")
    weights = digest_of_model(model)
    for name in chosen:
        _run_task(
            read_task(data, name, scale=scale), model, out / name, baselines[name], weights, seed, progress
        )
    return _collect(out)


def _run_task(
    data: TaskData,
    model: LWM,
    folder: Path,
    baseline: Baseline,
    weights: str,
    seed: int,
    progress: bool | None,
) -> None:
    name = data.task.name
    settings = _plain(
        {
            **dataclasses.asdict(baseline),
            "seed": seed,
            "weights_sha256": weights,
            "data_sha256": data.sha256,
            "scale": data.examples.channels.meta.scale,
        }
    )
    if _is_done(folder, settings):
        logger.info("%s: done before", name)
        return
    from lwm_fast.finetuning import finetune

    _check_counts(data, model, baseline)
    folder.mkdir(parents=True, exist_ok=True)
    result = finetune(
        model, data.task, data.examples, freeze=baseline.freeze, head=baseline.head, input=baseline.input,
        split=data.split, config=baseline.config, seed=seed, out=folder / "run", resume=True, progress=progress,
    )  # fmt: skip
    check_limits(name, result.head_parameters, result.trainable_parameters)
    predictions = np.asarray(result.predict(data.test))
    with atomic_path(folder / "predictions.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, predictions=predictions)
    labels = data.test_labels
    record = {
        "settings": settings,
        "task": name,
        "number": data.number,
        "users": dict(zip(("train", "validation"), data.split.sizes, strict=False))
        | {"test": len(data.test)},
        "head_parameters": result.head_parameters,
        "trainable_parameters": result.trainable_parameters,
        "facts": dict(data.examples.facts),
        "validation": result.validation,
        "test": None if labels is None else score(name, predictions, labels),
        "lwm_fast": __version__,
    }
    with atomic_path(folder / "result.json") as temporary:
        temporary.write_text(json.dumps(_plain(record), indent=2) + "\n", encoding="utf-8")


def _is_done(folder: Path, settings: dict[str, Any]) -> bool:
    record = _read_result(folder)
    if record is None:
        return False
    before = record["settings"]
    changed = [
        f"{key} was {before.get(key)} and is now {settings[key]}"
        for key in settings
        if before.get(key) != settings[key]
    ]
    if changed:
        raise InputError(
            f"{folder}: holds the result of another run: {'; '.join(changed)}; choose another --out, or delete "
            "the folder to run the task again"
        )
    return True


def _read_result(folder: Path) -> dict[str, Any] | None:
    path = folder / "result.json"
    if not path.exists():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return record if {"settings", "test", "validation"} <= set(record) else None
    except (OSError, ValueError):
        return None


def _check_counts(data: TaskData, model: LWM, baseline: Baseline) -> None:
    """Count head and trained part of the encoder before time is spent on training them."""
    from lwm_fast.finetuning import LoRA
    from lwm_fast.finetuning.freeze import trained_part
    from lwm_fast.tasks.heads import count_parameters, head_for
    from lwm_fast.tokens import num_tokens

    config = model.config
    _, num_antennas, num_subcarriers = data.examples.channels.shape
    shape: tuple[int, ...] = (config.embed_dim,)
    if baseline.input == "patches":
        shape = (num_tokens(num_antennas, num_subcarriers, config.lwm_version) - 1, config.embed_dim)
    head = count_parameters(head_for(data.examples, baseline.head, shape, version=config.lwm_version))
    encoder = 0  # of LoRA: a few thousand, counted after training
    if not isinstance(baseline.freeze, LoRA) and baseline.freeze != "lora":
        encoder = sum(
            model.get_parameter(name).numel() for name in trained_part(model, baseline.freeze).names
        )
    check_limits(data.task.name, head, encoder + head)


def _collect(out: Path) -> dict[str, Any]:
    """Submission and scores of all tasks with a result."""
    predictions: dict[str, Array] = {}
    about: dict[str, dict[str, Any]] = {}
    tested: dict[str, dict[str, float]] = {}
    validation: dict[str, dict[str, float]] = {}
    for name in TASK_NAMES:
        record = _read_result(out / name)
        if record is None:
            continue
        with np.load(out / name / "predictions.npz", allow_pickle=False) as archive:
            predictions[name] = archive["predictions"]
        about[name] = {
            key: record[key] for key in ("head_parameters", "trainable_parameters", "settings", "facts")
        }
        validation[name] = record["validation"]
        if record["test"] is not None:
            tested[name] = record["test"]
    write_submission(out, predictions, about)
    scores = summary(tested) | {"validation": validation}
    with atomic_path(out / SCORES_NAME) as temporary:
        temporary.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    return scores


def _plain(value: Any) -> Any:
    """The value as JSON gives it back, so that settings can be compared."""
    return json.loads(json.dumps(value))
