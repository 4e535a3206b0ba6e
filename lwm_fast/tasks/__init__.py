"""Downstream tasks: labels from channels, splits, and scores.

    from lwm_fast.tasks import get_task, make_split
    examples = get_task("beams", num_beams=64).examples(channels)
    split = make_split(examples, (0.7, 0.1, 0.2), seed=0)

`TASKS` maps a task's name to its class; the tasks are frozen dataclasses of their settings.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from lwm_fast.errors import InputError
from lwm_fast.tasks.base import Examples, Kind, Task

if TYPE_CHECKING:
    from lwm_fast.tasks.bands import match_users
    from lwm_fast.tasks.beams import BeamTask
    from lwm_fast.tasks.compression import CompressionTask
    from lwm_fast.tasks.estimation import EstimationTask
    from lwm_fast.tasks.interpolation import InterpolationTask
    from lwm_fast.tasks.labels import ClassificationTask, RegressionTask
    from lwm_fast.tasks.localization import LocalizationTask
    from lwm_fast.tasks.los import LosTask
    from lwm_fast.tasks.splits import Split, few, make_split

__all__ = [
    "TASKS",
    "BeamTask",
    "ClassificationTask",
    "CompressionTask",
    "EstimationTask",
    "Examples",
    "InterpolationTask",
    "Kind",
    "LocalizationTask",
    "LosTask",
    "RegressionTask",
    "Split",
    "Task",
    "few",
    "get_task",
    "make_split",
    "match_users",
]

_TASK_CLASSES = {
    "los": "LosTask",
    "beams": "BeamTask",
    "localization": "LocalizationTask",
    "interpolation": "InterpolationTask",
    "estimation": "EstimationTask",
    "compression": "CompressionTask",
    "classification": "ClassificationTask",
    "regression": "RegressionTask",
}
_MODULES = {
    "BeamTask": "beams",
    "ClassificationTask": "labels",
    "CompressionTask": "compression",
    "EstimationTask": "estimation",
    "InterpolationTask": "interpolation",
    "LocalizationTask": "localization",
    "LosTask": "los",
    "RegressionTask": "labels",
    "Split": "splits",
    "few": "splits",
    "make_split": "splits",
    "match_users": "bands",
}


class _Tasks(Mapping[str, type[Task]]):
    """Task classes by name; a task's module is imported when it is asked for."""

    def __getitem__(self, name: str) -> type[Task]:
        task: type[Task] = __getattr__(_TASK_CLASSES[name])
        return task

    def __contains__(self, name: object) -> bool:
        return name in _TASK_CLASSES

    def __iter__(self) -> Iterator[str]:
        return iter(_TASK_CLASSES)

    def __len__(self) -> int:
        return len(_TASK_CLASSES)


TASKS: Mapping[str, type[Task]] = _Tasks()


def get_task(name: str, **settings: Any) -> Task:
    """The task of a name, with settings as its class takes them.

    Raises:
        InputError: an unknown name or setting (the nearest is named); settings that the task refuses.
    """
    if name not in TASKS:
        raise InputError(f"task {name!r} is not known; {_nearest(name, list(TASKS))}")
    task = TASKS[name]
    known = [field.name for field in fields(task)]  # type: ignore[arg-type]  # every task is a dataclass
    for setting in settings:
        if setting not in known:
            raise InputError(f"task {name!r} has no setting {setting!r}; {_nearest(setting, known)}")
    return task(**settings)


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}there are: {', '.join(known) or 'none'}"


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
