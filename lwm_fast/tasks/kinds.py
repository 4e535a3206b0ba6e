"""What tasks of one kind have in common: how they are scored and which score counts."""

from __future__ import annotations

from typing import ClassVar

from lwm_fast.tasks.base import Array, Examples, Kind
from lwm_fast.tasks.metrics import classification_scores


class Classification:
    """Classes of users, compared by F1 weighted by support."""

    kind: ClassVar[Kind] = "classification"
    metric: ClassVar[str] = "f1_weighted"
    higher_is_better: ClassVar[bool] = True

    def score(self, examples: Examples, predictions: Array) -> dict[str, float]:
        """`metrics.classification_scores` of scores [n, num_classes]."""
        return classification_scores(examples.targets, predictions, len(examples.classes))


class Regression:
    """Numbers of users; the metric is the task's, an error."""

    kind: ClassVar[Kind] = "regression"
    higher_is_better: ClassVar[bool] = False


class Reconstruction:
    """Channels of users, compared by NMSE in decibels."""

    kind: ClassVar[Kind] = "reconstruction"
    metric: ClassVar[str] = "nmse_db"
    higher_is_better: ClassVar[bool] = False
