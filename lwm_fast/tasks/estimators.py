"""Estimators as heads: any object with fit and predict, in the manner of scikit-learn, on flattened inputs."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from lwm_fast.errors import InputError
from lwm_fast.tasks.base import Array, Kind


def fit_estimator(estimator: Any, inputs: Array, targets: Array, kind: Kind) -> tuple[Any, int]:
    """A fitted clone, and how many coefficients it has (0 where it keeps none); the given one is not changed.

    inputs float32 [n, ...]; targets as `fit_head` takes them, flattened for regression and reconstruction.

    Raises:
        InputError: what the estimator refuses (too few users, a single class), in its own words.
    """
    clone = _clone(estimator)
    y = targets if kind == "classification" else targets.reshape(len(targets), -1)
    try:
        clone.fit(inputs.reshape(len(inputs), -1), y)
    except ValueError as error:
        raise InputError(
            f"head {_name(estimator)}: cannot be fitted to {len(inputs)} training users: {_first_line(error)}"
        ) from error
    return clone, _count(clone)


def predict_with_estimator(
    estimator: Any, inputs: Array, kind: Kind, num_classes: int, output_shape: tuple[int, ...]
) -> Array:
    """float32 [n, num_classes] (classes never seen score below all others) or [n, *output_shape].

    Scores are probabilities, else decision values, else 1 for the predicted class.

    Raises:
        InputError: what the estimator refuses, in its own words.
    """
    flat = inputs.reshape(len(inputs), -1)
    try:
        if kind == "classification":
            return _scores(estimator, flat, num_classes)
        values = np.asarray(estimator.predict(flat), np.float32)
    except ValueError as error:
        raise InputError(f"head {_name(estimator)}: cannot predict: {_first_line(error)}") from error
    return values.reshape(len(inputs), *output_shape)


def _scores(estimator: Any, inputs: Array, num_classes: int) -> Array:
    classes = getattr(estimator, "classes_", None)
    values = None
    if classes is not None:
        for method in ("predict_proba", "decision_function"):
            if hasattr(estimator, method):
                values = np.asarray(getattr(estimator, method)(inputs), np.float32)
                break
    if values is None or classes is None:
        values, classes = np.ones((len(inputs), 1), np.float32), None
    if values.ndim == 1:  # the decision for the second of two classes
        values = np.stack([-values, values], axis=1)
    lowest = float(values.min(initial=0.0)) - 1.0
    scores = np.full((len(inputs), num_classes), lowest, np.float32)
    if classes is None:
        predicted = np.asarray(estimator.predict(inputs)).astype(np.int64)
        scores[np.arange(len(inputs)), predicted] = 1.0
    else:
        scores[:, np.asarray(classes, np.int64)] = values
    return scores


def _clone(estimator: Any) -> Any:
    if hasattr(estimator, "get_params"):
        try:
            from sklearn.base import clone
        except ImportError as error:
            raise InputError(
                'an estimator as a head needs scikit-learn: pip install "lwm_fast[tasks]"'
            ) from error
        return clone(estimator)
    return copy.deepcopy(estimator)


def _count(estimator: Any) -> int:
    """Coefficients of the last step of a pipeline, as linear models and centroids keep them."""
    final = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    names = ("coef_", "intercept_", "centroids_")
    return sum(int(np.size(getattr(final, name))) for name in names if hasattr(final, name))


def _name(estimator: Any) -> str:
    final = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    return type(final).__name__


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
