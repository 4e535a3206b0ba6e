"""The challenge's data: `task_k/{train,val,test}_data.pt`, each a dict of channels and labels."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lwm_fast.challenge.scoring import TASK_NAMES, score
from lwm_fast.data import Channels, load_channels
from lwm_fast.data.layout import find_layout
from lwm_fast.data.torch_files import read_torch
from lwm_fast.errors import InputError
from lwm_fast.files import sha256_of
from lwm_fast.tasks.base import Array, Examples, Fact, Kind
from lwm_fast.tasks.facts import channel_facts
from lwm_fast.tasks.labels import encode_labels
from lwm_fast.tasks.splits import Split

CONFIG_NAME = "config.json"
PARTS = ("train", "val", "test")
KINDS: dict[str, Kind] = {
    "los": "classification",
    "beams": "classification",
    "interpolation": "reconstruction",
    "estimation": "reconstruction",
    "localization": "regression",
}


@dataclass(frozen=True)
class ChallengeTask:
    """One of the five tasks, scored by the challenge's rule (`score`)."""

    name: str
    metric: str = "score"
    higher_is_better: bool = True

    @property
    def kind(self) -> Kind:
        """What the targets are."""
        return KINDS[self.name]

    def examples(self, channels: Channels) -> Examples:
        """The challenge's labels are in its files.

        Raises:
            InputError: always.
        """
        raise InputError(f"challenge, {self.name}: labels come from the files; use read_task")

    def score(self, examples: Examples, predictions: Array) -> dict[str, float]:
        """`lwm_fast.challenge.score` of predictions for these users."""
        return score(self.name, predictions, examples.targets)


@dataclass(frozen=True)
class TaskData:
    """A task's users.

    Args:
        number: k of task_k.
        task: what is asked.
        examples: training, validation and, where their labels are known, test users, in this order.
        split: rows of these examples; no test rows where labels are hidden.
        test: the test users' channels, in the file's order.
        sha256: of the three files, by part.
    """

    number: int
    task: ChallengeTask
    examples: Examples
    split: Split
    test: Channels
    sha256: dict[str, str]

    @property
    def test_labels(self) -> Array | None:
        """Targets of the test users; None where they are hidden."""
        rows = self.split.test
        return self.examples.targets[rows] if rows.size else None


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json; empty where there is none.

    Raises:
        InputError: no such folder, or a file that is not JSON.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder; give the folder that holds task_1 .. task_5, or make one with "
            "`lwm-fast challenge make`"
        )
    path = folder / CONFIG_NAME
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); fetch it again") from error
    return content if isinstance(content, dict) else {}


def task_numbers(folder: Path, config: dict[str, Any]) -> dict[str, int]:
    """name -> k of the folders task_k that there are.

    `config["tasks"]`, a mapping such as {"task_1": "los"}, decides; without it the order of the published
    scores does: LoS, beams, interpolation, estimation, localization.

    Raises:
        InputError: no task folder, numbers beyond 5 without a mapping, a mapping of unknown names.
    """
    numbers = sorted(
        int(match[1])
        for entry in folder.iterdir()
        if entry.is_dir() and (match := re.fullmatch(r"task_(\d+)", entry.name))
    )
    if not numbers:
        raise InputError(
            f"{folder}: holds no folder task_1 .. task_5; give the folder of the challenge's data"
        )
    mapping = config.get("tasks")
    if not isinstance(mapping, dict):
        mapping = {f"task_{number}": name for number, name in enumerate(TASK_NAMES, 1)}
    found: dict[str, int] = {}
    for number in numbers:
        name = mapping.get(f"task_{number}")
        if name not in TASK_NAMES or name in found:
            raise InputError(
                f"{folder}: task_{number} is {name!r}; write which task it is into {folder / CONFIG_NAME}, "
                f'{{"tasks": {{"task_{number}": "los", ...}}}}, each of {", ".join(TASK_NAMES)} once'
            )
        found[name] = number
    return found


def read_task(folder: str | Path, name: str, *, scale: float | None = None) -> TaskData:
    """Read one task of the challenge's data.

    Args:
        folder: that holds task_1 .. task_5 and, where there is one, config.json.
        name: "los", "beams", "interpolation", "estimation" or "localization".
        scale: csi is multiplied by this when tokens are made; None takes config.json's "scale", else LWM's 1e6.

    Raises:
        InputError: files that are missing, cannot be read safely or do not fit the task.
    """
    folder = Path(folder)
    config = read_config(folder)
    numbers = task_numbers(folder, config)
    if name not in numbers:
        raise InputError(f"{folder}: has no data for {name!r}; it has {', '.join(numbers)}")
    number = numbers[name]
    task = ChallengeTask(name)
    paths = {part: folder / f"task_{number}" / f"{part}_data.pt" for part in PARTS}
    scale = config.get("scale") if scale is None else scale
    parts = {part: _read_part(path, task, scale, part == "test") for part, path in paths.items()}
    channels = {part: content[0] for part, content in parts.items()}
    sizes = {part: one.shape[1:] for part, one in channels.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(
            f"{folder / f'task_{number}'}: channels differ in size: {sizes}; fetch the data again"
        )
    known = [part for part in PARTS if parts[part][1] is not None]
    targets = [parts[part][1] for part in known]
    together = Channels.concatenate([channels[part] for part in known])
    together.user_index = np.arange(len(together))  # the files number their users each from 0
    examples = _examples(task, together, targets, config, folder / f"task_{number}")
    ends = np.cumsum([len(channels[part]) for part in PARTS])
    rows = np.arange(len(examples))
    split = Split(rows[: ends[0]], rows[ends[0] : ends[1]], rows[ends[1] :], by="challenge", seed=0)
    digests = {part: sha256_of(path) for part, path in paths.items()}
    return TaskData(number, task, examples, split, channels["test"], digests)


def read_test_labels(folder: Path, number: int, name: str) -> npt.NDArray[Any]:
    """Labels of task_k's test file, whose channels may be missing.

    Raises:
        InputError: a file without labels, or with labels that do not fit the task.
    """
    path = folder / f"task_{number}" / "test_data.pt"
    labels = _load(path).get("labels")
    if labels is None:
        raise InputError(f"{path}: holds no labels; scores need the labels of the test users")
    return _targets(ChallengeTask(name), _array(labels), path)


def _read_part(
    path: Path, task: ChallengeTask, scale: float | None, may_hide: bool
) -> tuple[Channels, npt.NDArray[Any] | None]:
    """Channels, and labels in the form of the task's kind; None for hidden labels."""
    content = _load(path)
    if "channels" not in content:
        raise InputError(f"{path}: no 'channels'; it holds {', '.join(content) or 'nothing'}")
    channels = load_channels(path, key="channels", empty="keep", scale=scale)
    labels = content.get("labels")
    if labels is None:
        if may_hide:
            return channels, None
        raise InputError(f"{path}: no 'labels'; only the test set may come without")
    targets = _targets(task, _array(labels), path)
    if len(targets) != len(channels):
        raise InputError(f"{path}: {len(targets)} labels for {len(channels)} channels; fetch it again")
    if task.kind == "reconstruction" and targets.shape != channels.shape:
        raise InputError(
            f"{path}: labels {targets.shape} for channels {channels.shape}; {task.name} asks for csi of the same "
            f"size (if this is another task, name it in {CONFIG_NAME})"
        )
    return channels, targets


def _load(path: Path) -> dict[str, Any]:
    content = read_torch(path)
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: holds {type(content).__name__}; a dict of channels and labels was expected"
        )
    return content


def _array(values: Any) -> npt.NDArray[Any]:
    import torch

    if isinstance(values, torch.Tensor):
        return np.asarray(values.detach().resolve_conj().resolve_neg().numpy())
    return np.asarray(values)


def _targets(task: ChallengeTask, labels: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    place = f"{path}, labels"
    if task.kind == "reconstruction":
        return find_layout(labels.shape, labels.dtype, place).to_csi(labels)
    wrong = f"{place}: {labels.dtype} {list(labels.shape)} do not fit {task.name}; "
    remedy = f"if this is another task, name it in {CONFIG_NAME}"
    if task.kind == "regression":
        if labels.dtype.kind != "f" or labels.ndim != 2 or labels.shape[1] not in (2, 3):
            raise InputError(f"{wrong}metres [n, 2] or [n, 3] were expected; {remedy}")
        if not np.isfinite(labels).all():
            raise InputError(f"{place}: NaN or Inf among the positions; leave these users out")
        return np.ascontiguousarray(labels, dtype=np.float32)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "biuf" or (labels != np.round(labels)).any():
        raise InputError(f"{wrong}classes [n] as whole numbers were expected; {remedy}")
    return labels.astype(np.int64)


def _examples(
    task: ChallengeTask, channels: Channels, parts: list[Any], config: dict[str, Any], place: Path
) -> Examples:
    targets = np.concatenate(parts)
    classes: tuple[str, ...] = ()
    observed = None
    facts: dict[str, Fact] = channel_facts(channels)
    facts |= {name: value for name, value in _settings(config).items() if value is not None}
    if task.name == "los":
        targets, classes = encode_labels(targets, ["NLoS", "LoS"], f"{place}, los")
    elif task.name == "beams":
        count = config.get("num_beams")
        if not isinstance(count, int):
            count = max(2, int(targets.max(initial=0)) + 1)
        targets, classes = encode_labels(targets, [str(beam) for beam in range(count)], f"{place}, beams")
    elif task.kind == "regression":
        classes = tuple("xyz"[: targets.shape[1]])
    elif task.name == "interpolation":
        seen = np.zeros(channels.shape[1:], dtype=np.bool_)
        for csi in channels.iter_csi():
            seen |= (csi != 0).any(axis=0)
        observed = None if seen.all() else seen
        facts["pilots"] = int(seen.sum())
        if not np.array_equal(channels.csi[:, seen], targets[:, seen]):
            facts["snr_db"] = "unknown"  # the pilots are noisy: they must not be copied into predictions
    return Examples(task.name, task.kind, channels, targets, classes, observed, facts)


def _settings(config: dict[str, Any]) -> dict[str, Fact]:
    """What `lwm-fast challenge make` wrote that belongs beside results."""
    names = ("codebook", "num_beams", "snr_db_low", "snr_db_high", "split")
    values = {name: config.get(name) for name in names}
    return {name: value for name, value in values.items() if isinstance(value, str | int | float)}
