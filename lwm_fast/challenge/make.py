"""A data set in the challenge's layout from scenario folders, to try things without the official files."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lwm_fast.challenge.data import CONFIG_NAME, PARTS
from lwm_fast.challenge.scoring import TASK_NAMES
from lwm_fast.data import Channels, load_channels
from lwm_fast.errors import InputError
from lwm_fast.tasks import (
    BeamTask,
    EstimationTask,
    InterpolationTask,
    LocalizationTask,
    LosTask,
    Split,
    make_split,
    match_users,
)
from lwm_fast.tasks.base import Examples, Task

_CITY = 2**32  # users of the k-th source are numbered from k * 2^32: noise is drawn by user


@dataclass(frozen=True)
class MakeConfig:
    """What to build.

    Args:
        num_antennas, num_subcarriers: of the channels.
        num_beams, codebook: of the beam labels (`BeamTask`).
        antenna_step, subcarrier_step: the comb of pilots for interpolation (`InterpolationTask`).
        snr_db: (low, high) of the noise for estimation (`EstimationTask`).
        fractions: of (training, validation, test) users, one split for all tasks.
        split: how it is made, as `make_split` has it: "random" or "position".
        seed: of split and noise.
        hide_test: leave the labels out of the test files and write them to `hidden/`, in the same layout.
    """

    num_antennas: int = 32
    num_subcarriers: int = 32
    num_beams: int = 64
    codebook: str = "lwm"
    antenna_step: int = 2
    subcarrier_step: int = 4
    snr_db: tuple[float, float] = (-5.0, 25.0)
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    split: str = "random"
    seed: int = 0
    hide_test: bool = False


def make_challenge(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    label_sources: Sequence[str | Path] = (),
    config: MakeConfig | None = None,
) -> Path:
    """Write `task_k/{train,val,test}_data.pt` and `config.json`; complete or not at all.

    Users without a path or a LoS flag are left out; the users of all sources are pooled. Channels are complex64
    [n, num_antennas, num_subcarriers] before the scale; labels int64 [n] (LoS, beams), complex64 of the channels'
    shape (interpolation, estimation), float32 [n, 2] in metres (localization; the frame is each scenario's
    own). The official data's combs, noise and scenarios are not known, so scores on this data do not compare with
    published ones.

    Args:
        sources: DeepMIMO scenario folders, for inputs and all labels but the beams.
        out: folder to write; must not exist, or be empty.
        label_sources: of the beams, one for each source and in the same order (28 GHz); none labels the inputs'
            own band.
        config: what to build.

    Returns:
        The folder.

    Raises:
        InputError: a folder that is not empty, sources that lack LoS or positions, bands that do not match.
    """
    config = config or MakeConfig()
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is there already and not empty; choose another --out")
    if label_sources and len(label_sources) != len(sources):
        raise InputError(
            f"challenge make: {len(label_sources)} label sources for {len(sources)} sources; give one for each, "
            "in the same order"
        )
    channels, labels = _pool(sources, label_sources, config)
    tasks: list[Task] = [
        LosTask(),
        BeamTask(config.num_beams, config.codebook, labels),
        InterpolationTask(config.antenna_step, config.subcarrier_step),
        EstimationTask(config.snr_db, config.seed),
        LocalizationTask(),
    ]
    examples = {task.name: task.examples(channels) for task in tasks}
    short = {name: len(one) for name, one in examples.items() if len(one) != len(channels)}
    if short:
        raise InputError(
            f"challenge make: of {len(channels)} users only {short} have labels; leave users without a path out"
        )
    split = make_split(examples["localization"], config.fractions, by=config.split, seed=config.seed)
    about = _about(channels, labels, split, config)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    try:
        for number, name in enumerate(TASK_NAMES, 1):
            _write_task(temporary, number, examples[name], split, config.hide_test)
        for folder in [temporary, temporary / "hidden"] if config.hide_test else [temporary]:
            (folder / CONFIG_NAME).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        temporary.replace(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return out


def _pool(
    sources: Sequence[str | Path], label_sources: Sequence[str | Path], config: MakeConfig
) -> tuple[Channels, Channels | None]:
    """Users with a LoS flag of all sources, and the same users at the label band."""
    if not sources:
        raise InputError("challenge make: no source; give at least one scenario folder")
    size: dict[str, Any] = {"num_antennas": config.num_antennas, "num_subcarriers": config.num_subcarriers}
    inputs, labels = [], []
    for place, source in enumerate(sources):
        channels = LosTask().examples(load_channels(source, **size)).channels
        inputs.append(channels)
        if label_sources:
            labels.append(match_users(channels, load_channels(label_sources[place], **size)))
            labels[-1].user_index = labels[-1].user_index + place * _CITY
        channels.user_index = channels.user_index + place * _CITY
    return Channels.concatenate(inputs), Channels.concatenate(labels) if labels else None


def _about(channels: Channels, labels: Channels | None, split: Split, config: MakeConfig) -> dict[str, Any]:
    settings = asdict(config)
    low, high = settings.pop("snr_db")
    return {
        "made_by": "lwm-fast challenge make",
        "tasks": {f"task_{number}": name for number, name in enumerate(TASK_NAMES, 1)},
        **settings,
        "split": split.by,
        "snr_db_low": low,
        "snr_db_high": high,
        "scale": channels.meta.scale,
        "source": [Path(source).name for source in channels.meta.source.split(" + ")],
        "label_source": None
        if labels is None
        else [Path(source).name for source in labels.meta.source.split(" + ")],
        "users": dict(zip(PARTS, split.sizes, strict=True)),
    }


def _write_task(folder: Path, number: int, examples: Examples, split: Split, hide_test: bool) -> None:
    import torch

    targets = examples.targets
    csi = examples.channels.csi
    place = folder / f"task_{number}"
    place.mkdir()
    for part, rows in zip(PARTS, (split.train, split.validation, split.test), strict=True):
        content = {"channels": torch.from_numpy(csi[rows]), "labels": torch.from_numpy(targets[rows])}
        if part == "test" and hide_test:
            answers = folder / "hidden" / place.name
            answers.mkdir(parents=True)
            torch.save({"labels": content.pop("labels")}, answers / f"{part}_data.pt")
        torch.save(content, place / f"{part}_data.pt")
