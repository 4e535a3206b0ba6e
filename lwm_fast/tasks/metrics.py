"""Scores of predictions: classification, positions, plain regression, and csi."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lwm_fast.errors import InputError
from lwm_fast.tasks.base import Array

_TOP = (3, 5)
_CHUNK_NUMBERS = 1 << 22  # csi entries looked at together


def classification_scores(targets: Array, scores: Array, num_classes: int) -> dict[str, float]:
    """F1 weighted by support, accuracy, and top-k accuracy where there are more than k classes.

    Args:
        targets: int [n], 0 .. num_classes - 1.
        scores: float [n, num_classes]; the argmax is the predicted class (the first of equals).
        num_classes: of the task, seen in `targets` or not.

    Returns:
        "f1_weighted", "accuracy", "top3" (more than 3 classes), "top5" (more than 5). F1 of a class that is
        never predicted is 0.

    Raises:
        InputError: no user, sizes that do not fit, NaN among the scores; scikit-learn is missing.
    """
    metrics = _sklearn_metrics()
    targets, scores = _check_classes(targets, scores, num_classes)
    predicted = scores.argmax(axis=1)
    result = {
        "f1_weighted": float(metrics.f1_score(targets, predicted, average="weighted", zero_division=0)),
        "accuracy": float(metrics.accuracy_score(targets, predicted)),
    }
    order = np.argsort(-scores, axis=1, kind="stable")  # equal scores in the order of classes, as argmax
    for k in _TOP:
        if num_classes > k:
            result[f"top{k}"] = float((order[:, :k] == targets[:, None]).any(axis=1).mean())
    return result


def confusion(targets: Array, scores: Array, num_classes: int) -> npt.NDArray[np.int64]:
    """Users of class i (row) that were taken for class j (column), int64 [num_classes, num_classes]."""
    metrics = _sklearn_metrics()
    targets, scores = _check_classes(targets, scores, num_classes)
    counts = metrics.confusion_matrix(targets, scores.argmax(axis=1), labels=np.arange(num_classes))
    return np.asarray(counts, dtype=np.int64)


def nmse_scores(predictions: Array, targets: Array) -> dict[str, float]:
    """Normalised squared errors of csi.

    Args:
        predictions, targets: complex or real [n, ...], of one shape; the error is summed in float64.

    Returns:
        "nmse": one ratio of energies, sum |e|^2 / sum |y|^2 over all users, and "nmse_db";
        "nmse_db_per_sample": 10 log10 of the mean over users of the ratio of each; "nmse_db_median": of the
        median over users. Users whose target is zero count in the first only. -inf for exact predictions.

    Raises:
        InputError: no user, shapes that differ, NaN among the predictions, targets that are zero everywhere.
    """
    _check_alike(predictions, targets)
    per_user = max(1, int(np.prod(targets.shape[1:])))
    step = max(1, _CHUNK_NUMBERS // per_user)
    error, energy = np.empty(len(targets)), np.empty(len(targets))
    for start in range(0, len(targets), step):
        rows = slice(start, start + step)
        truth = targets[rows].reshape(-1, per_user)
        energy[rows] = _energy(truth)
        error[rows] = _energy(predictions[rows].reshape(-1, per_user) - truth)
    known = energy > 0
    if not known.any():
        raise InputError("nmse: the targets are zero everywhere; NMSE is a ratio to their energy")
    ratios = error[known] / energy[known]
    nmse = float(error.sum() / energy.sum())
    return {
        "nmse": nmse,
        "nmse_db": _decibel(nmse),
        "nmse_db_per_sample": _decibel(float(ratios.mean())),
        "nmse_db_median": _decibel(float(np.median(ratios))),
    }


def position_scores(predictions: Array, targets: Array) -> dict[str, float]:
    """Errors of positions float [n, 2] (x, y) or [n, 3] (x, y, z) in metres.

    Returns:
        "error_m": mean Euclidean distance, "error_median_m", "error_p90_m" (90% of users are nearer);
        "mae_m": mean over coordinates and users of the absolute error, "mae_x_m", "mae_y_m" (, "mae_z_m").

    Raises:
        InputError: no user, shapes that differ or of other coordinates, NaN among the predictions.
    """
    _check_alike(predictions, targets)
    if targets.ndim != 2 or targets.shape[1] not in (2, 3):
        raise InputError(f"positions are {targets.shape}; give [n, 2] or [n, 3] in metres")
    off = predictions.astype(np.float64) - targets
    distance = np.linalg.norm(off, axis=1)
    result = {
        "error_m": float(distance.mean()),
        "error_median_m": float(np.median(distance)),
        "error_p90_m": float(np.quantile(distance, 0.9)),
        "mae_m": float(np.abs(off).mean()),
    }
    return result | {
        f"mae_{axis}_m": float(np.abs(off[:, i]).mean()) for i, axis in enumerate("xyz"[: off.shape[1]])
    }


def regression_scores(predictions: Array, targets: Array, names: Sequence[str]) -> dict[str, float]:
    """Errors of numbers float [n, k]: "mae", "rmse" and "r2" over all of them, "mae_<name>" where k > 1.

    "r2" is the mean over the k outputs and left out for a single user.

    Raises:
        InputError: no user, shapes that differ, NaN among the predictions; scikit-learn is missing.
    """
    metrics = _sklearn_metrics()
    _check_alike(predictions, targets)
    result = {
        "mae": float(metrics.mean_absolute_error(targets, predictions)),
        "rmse": float(np.sqrt(metrics.mean_squared_error(targets, predictions))),
    }
    if len(targets) > 1:
        result["r2"] = float(metrics.r2_score(targets, predictions))
    if len(names) > 1:
        off = np.abs(predictions.astype(np.float64) - targets).mean(axis=0)
        result |= {f"mae_{name}": float(value) for name, value in zip(names, off, strict=True)}
    return result


def _check_classes(targets: Array, scores: Array, num_classes: int) -> tuple[Array, Array]:
    targets, scores = np.asarray(targets), np.asarray(scores)
    if len(targets) == 0:
        raise InputError("no user to score: the test set is empty")
    if scores.shape != (len(targets), num_classes):
        raise InputError(
            f"scores are {scores.shape}; {len(targets)} users and {num_classes} classes need "
            f"({len(targets)}, {num_classes}): one column a class"
        )
    if np.isnan(scores).any():
        raise InputError(
            f"scores: NaN for {int(np.isnan(scores).any(axis=1).sum())} users; training diverged"
        )
    if targets.min() < 0 or targets.max() >= num_classes:
        raise InputError(
            f"targets lie in {targets.min()}..{targets.max()}; {num_classes} classes are 0..{num_classes - 1}"
        )
    return targets, scores


def _check_alike(predictions: Array, targets: Array) -> None:
    if len(targets) == 0:
        raise InputError("no user to score: the test set is empty")
    if predictions.shape != targets.shape:
        raise InputError(f"predictions are {predictions.shape}, targets {targets.shape}; give one shape")
    bad = np.isnan(predictions.reshape(len(targets), -1)).any(axis=1)
    if bad.any():
        raise InputError(
            f"predictions: NaN for {int(bad.sum())} users, first row {int(bad.argmax())}; training diverged"
        )


def _energy(rows: Array) -> npt.NDArray[np.float64]:
    """Sum of |x|^2 of each row of [n, k], in float64."""
    wide = rows.astype(np.complex128 if rows.dtype.kind == "c" else np.float64)
    return np.asarray((wide.real**2 + wide.imag**2).sum(axis=1))


def _decibel(ratio: float) -> float:
    return float(10 * np.log10(ratio)) if ratio > 0 else float("-inf")


def _sklearn_metrics() -> Any:
    try:
        return importlib.import_module("sklearn.metrics")
    except ImportError as error:
        raise InputError('scores need scikit-learn; run: pip install "lwm_fast[tasks]"') from error
