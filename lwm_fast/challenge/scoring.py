"""The five scores of the 2025 challenge, each in 0..1, and their mean."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from lwm_fast.errors import InputError
from lwm_fast.tasks.base import Array
from lwm_fast.tasks.metrics import classification_scores, nmse_scores, position_scores

TASK_NAMES = ("los", "beams", "interpolation", "estimation", "localization")  # task_1 .. task_5

_NMSE_FULL_DB = 20.0  # an NMSE of -20 dB or better counts 1
_FAR_M = 100.0  # an error of 100 m or more counts 0


def score(task: str, predictions: npt.ArrayLike, targets: npt.ArrayLike) -> dict[str, float]:
    """The challenge's score of one task as "score", and what it is made of.

    Args:
        task: "los" and "beams": F1 weighted by support. "interpolation" and "estimation":
            clip(-NMSE_dB / 20, 0, 1), NMSE one ratio sum |e|^2 / sum |y|^2 over the whole test set.
            "localization": (100 - clip(err, 0, 100)) / 100, err the absolute error in metres averaged over
            coordinates and users.
        predictions: of the test set: classes int [n] or scores float [n, num_classes]; csi complex
            [n, num_antennas, num_subcarriers]; metres float [n, 2] or [n, 3].
        targets: int [n], or as the predictions.

    Returns:
        "score" in 0..1, and `lwm_fast.tasks.metrics`' scores of the kind: top-k accuracy where predictions are
        scores, NMSE in dB, Euclidean error in metres.

    Raises:
        InputError: an unknown task, shapes that do not fit, NaN.
    """
    check_task(task)
    given, truth = np.asarray(predictions), np.asarray(targets)
    if task in ("los", "beams"):
        details = _classes(given, truth)
        points = details["f1_weighted"]
    elif task == "localization":
        details = position_scores(given, truth)
        points = (_FAR_M - min(max(details["mae_m"], 0.0), _FAR_M)) / _FAR_M
    else:
        details = nmse_scores(given, truth)
        points = min(max(-details["nmse_db"] / _NMSE_FULL_DB, 0.0), 1.0)
    return {"score": float(points)} | details


def composite(scores: Mapping[str, float]) -> float:
    """Mean of the five tasks' scores, each counting the same.

    Raises:
        InputError: a task that is missing or unknown, a score outside 0..1.
    """
    for task, value in scores.items():
        check_task(task)
        if not 0 <= value <= 1:
            raise InputError(f"composite: the score of {task} is {value}; scores lie in 0..1")
    missing = [task for task in TASK_NAMES if task not in scores]
    if missing:
        raise InputError(
            f"composite: no score of {', '.join(missing)}; the composite is the mean of all five tasks"
        )
    return float(np.mean([scores[task] for task in TASK_NAMES]))


def check_task(task: str) -> None:
    """InputError with the nearest name for a task that the challenge does not have."""
    if task not in TASK_NAMES:
        near = difflib.get_close_matches(task, TASK_NAMES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"challenge: no task {task!r}; {hint}there are: {', '.join(TASK_NAMES)}")


def _classes(given: Array, truth: Array) -> dict[str, float]:
    """Scores of classes [n], as if each were certain, or of scores [n, num_classes]."""
    if given.ndim == 2:
        return classification_scores(truth, given, given.shape[1])
    if given.ndim != 1 or given.dtype.kind not in "iu" or truth.shape != given.shape:
        raise InputError(
            f"challenge: predictions are {given.dtype} {given.shape} for {len(truth)} users; give classes [n] as "
            "whole numbers, or scores [n, num_classes]"
        )
    if given.size and int(given.min()) < 0:
        raise InputError(f"challenge: class {given.min()} among the predictions; classes count from 0")
    num_classes = max(int(given.max(initial=0)), int(truth.max(initial=0))) + 1
    certain = np.zeros((given.size, num_classes), dtype=np.float32)
    certain[np.arange(given.size), given] = 1
    details = classification_scores(truth, certain, num_classes)
    return {name: details[name] for name in ("f1_weighted", "accuracy")}  # top-k needs a ranking
