"""The submission: predictions of all tasks in one file of plain arrays, and a manifest beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lwm_fast._version import __version__
from lwm_fast.challenge.data import KINDS, read_config, read_test_labels, task_numbers
from lwm_fast.challenge.scoring import TASK_NAMES, check_task, composite, score
from lwm_fast.errors import InputError
from lwm_fast.files import atomic_path, check_file, sha256_of
from lwm_fast.tasks.base import Array

FILE_NAME = "submission.npz"
MANIFEST_NAME = "submission.json"
_DTYPES = {"classification": "f", "regression": "f", "reconstruction": "c"}


def write_submission(
    folder: str | Path, predictions: Mapping[str, Array], about: Mapping[str, Any] | None = None
) -> Path:
    """Write `submission.npz` (an array a task) and `submission.json`; each complete or not at all.

    The manifest, written last, has the archive's SHA-256, so a pair that does not belong together is noticed.

    Args:
        folder: to write to.
        predictions: task -> of the test users in their file's order: scores float32 [n, num_classes], csi complex64
            [n, num_antennas, num_subcarriers], metres float32 [n, 2 or 3].
        about: task -> plain values for the manifest (parameters, head, what was frozen).

    Returns:
        Path of the archive.

    Raises:
        InputError: no task, an unknown task, predictions that are not finite or of another kind.
    """
    folder = Path(folder)
    if not predictions:
        raise InputError("submission: there are no predictions; give those of at least one task")
    tasks: dict[str, Any] = {}
    for name, values in predictions.items():
        _check(name, values)
        tasks[name] = {"shape": list(values.shape), "dtype": str(values.dtype), **(about or {}).get(name, {})}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        arrays: dict[str, Any] = dict(predictions)
        np.savez(file, **arrays)
    manifest = {
        "format": "lwm_fast.challenge.submission",
        "format_version": 1,
        "lwm_fast": __version__,
        "file": FILE_NAME,
        "sha256": sha256_of(path),
        "missing": [name for name in TASK_NAMES if name not in predictions],
        "tasks": tasks,
    }
    with atomic_path(folder / MANIFEST_NAME) as temporary:
        temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return path


def read_submission(folder: str | Path) -> dict[str, Array]:
    """The predictions that :func:`write_submission` wrote.

    Raises:
        InputError: files that are missing or do not belong together.
    """
    folder = Path(folder)
    path, manifest_path = check_file(folder / FILE_NAME), check_file(folder / MANIFEST_NAME)
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        expected = manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{manifest_path}: is no manifest of a submission ({error}); write it again"
        ) from error
    if sha256_of(path) != expected:
        raise InputError(
            f"{path}: is not the file that {MANIFEST_NAME} describes; write the submission again"
        )
    with np.load(path, allow_pickle=False) as archive:
        predictions = {name: archive[name] for name in archive.files}
    for name, values in predictions.items():
        _check(name, values)
    return predictions


def score_submission(folder: str | Path, answers: str | Path) -> dict[str, Any]:
    """Scores of a submission against a data set whose test labels are known.

    Args:
        folder: of the submission.
        answers: data in the challenge's layout; only the labels of the test files are read.

    Returns:
        "tasks": task -> `score`'s values; "composite", where all five tasks are there; "missing": the others.

    Raises:
        InputError: answers without labels, or of other users.
    """
    folder, answers = Path(folder), Path(answers)
    predictions = read_submission(folder)
    numbers = task_numbers(answers, read_config(answers))
    scores: dict[str, dict[str, float]] = {}
    for name, values in predictions.items():
        if name not in numbers:
            raise InputError(f"{answers}: has no {name!r}, which {folder / FILE_NAME} predicts")
        targets = read_test_labels(answers, numbers[name], name)
        if len(targets) != len(values):
            raise InputError(
                f"{folder / FILE_NAME}: {len(values)} predictions of {name!r}; the test set of {answers} has "
                f"{len(targets)} users"
            )
        scores[name] = score(name, values, targets)
    return summary(scores)


def summary(scores: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The tasks' scores with what they come to."""
    missing = [name for name in TASK_NAMES if name not in scores]
    result: dict[str, Any] = {
        "tasks": {name: dict(values) for name, values in scores.items()},
        "missing": missing,
    }
    if not missing:
        result["composite"] = composite({name: values["score"] for name, values in scores.items()})
    return result


def _check(name: str, values: Array) -> None:
    check_task(name)
    wanted = _DTYPES[KINDS[name]]
    if values.dtype.kind != wanted or values.ndim < 2:
        raise InputError(
            f"submission: predictions of {name!r} are {values.dtype} {list(values.shape)}; arrays of kind {wanted!r} "
            "with one row a user were expected"
        )
    if not np.isfinite(values).all():
        raise InputError(f"submission: predictions of {name!r} hold NaN or Inf; training diverged")
