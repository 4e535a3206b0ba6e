"""The run folder: what the run is, whether it may go on, and the files beside its checkpoints."""

from __future__ import annotations

import json
import logging
import shutil
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lwm_fast._version import __version__
from lwm_fast.checkpoint import CONFIG_NAME, WEIGHTS_NAME
from lwm_fast.errors import InputError
from lwm_fast.files import atomic_path
from lwm_fast.links import LinkHeads
from lwm_fast.packed import PackedBatch
from lwm_fast.training.checkpoints import writing
from lwm_fast.training.config import TrainConfig, differences
from lwm_fast.training.cost import energy

logger = logging.getLogger("lwm_fast")

FORMAT = "lwm_fast.run"
_FREE = {  # settings that change no weight
    "run": ("checkpoint_every", "validate_every", "log_every", "tensorboard"),
    "data": ("prefetch", "num_threads", "max_validation"),
}


class RunFolder:
    """``config.yaml``, ``run.json`` (what the run is), ``summary.json``, ``model/``, ``curves.png``, bad batches."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._about = path / "run.json"
        self._drawn = time.monotonic()

    def check(self, resume: bool) -> None:
        """InputError where the folder holds a run and `resume` is false, or holds something else."""
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path}: is a file; choose a folder for the run")
        if self._about.exists() and not resume:
            raise InputError(
                f"{self.path}: holds a run already; go on with --resume (resume=True) or choose another folder"
            )
        if not self._about.exists() and self.path.exists() and any(self.path.iterdir()):
            raise InputError(f"{self.path}: is not empty and holds no run; choose another folder")

    def begin(self, config: TrainConfig, fingerprint: str, world_size: int, num_threads: int) -> None:
        """Write down what the run is; on resume compare it with what was written.

        Raises InputError with every difference in the configuration, the data or the number of processes.
        Other software or another number of threads is warned of: results may differ in the last bits.
        """
        about = {
            "format": FORMAT,
            "format_version": 1,
            "config": config.to_dict(),
            "data": fingerprint,
            "processes": world_size,
            "num_threads": num_threads,
            "torch": str(torch.__version__),
            "lwm_fast": __version__,
        }
        if self._about.exists():
            self._compare(about)
            return
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with atomic_path(self.path / "config.yaml") as temporary:
                temporary.write_text(config.to_yaml(), encoding="utf-8")
            with atomic_path(self._about) as temporary:
                temporary.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    def _compare(self, now: dict[str, Any]) -> None:
        try:
            before = json.loads(self._about.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{self._about}: cannot be read ({error}); choose another folder") from error
        found = differences(_bound(before["config"]), _bound(now["config"]))
        if before["data"] != now["data"]:
            found.append(f"the data had the fingerprint {before['data']} and now have {now['data']}")
        if before["processes"] != now["processes"]:
            found.append(f"the run had {before['processes']} processes and now has {now['processes']}")
        if found:
            raise InputError(
                f"{self.path}: cannot go on with a different run: {'; '.join(found)}. Resume with what it had "
                f"(its configuration is {self.path / 'config.yaml'}), or start another run in another folder, "
                "from its weights with --set model.weights=" + str(self.path / "model")
            )
        for name in ("num_threads", "torch", "lwm_fast"):
            if before[name] != now[name]:
                warnings.warn(
                    f"{self.path}: {name} was {before[name]} and is now {now[name]}: the rest of the run may "
                    "differ from an uninterrupted one in the last bits",
                    stacklevel=2,
                )

    def export(self, checkpoint: Path) -> None:
        """Make ``model/`` the weights of a checkpoint."""
        target = self.path / "model"
        with writing(target):
            target.mkdir(exist_ok=True)
            names = [CONFIG_NAME, WEIGHTS_NAME]
            if (checkpoint / LinkHeads.NAME).is_file():
                names.append(LinkHeads.NAME)
            for name in names:
                with atomic_path(target / name) as temporary:
                    shutil.copyfile(checkpoint / name, temporary)

    def summarise(self, step: int, total: int, seconds: float, cost: Mapping[str, float | None]) -> None:
        """Write ``summary.json``: how far the run is, and what it has cost on this process."""
        found = {"step": step, "total_steps": total, "wall_seconds": seconds, **cost, **energy(cost)}
        with writing(self.path), atomic_path(self.path / "summary.json") as temporary:
            temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

    def save_batch(self, batch: PackedBatch, step: int, rank: int) -> Path:
        """Keep a batch for study: csi, its sizes and places, the samples' ids, and the mask."""
        path = self.path / f"nonfinite-step{step:09d}-rank{rank}.npz"
        mask = batch.mask
        assert mask is not None
        with writing(path), atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file, csi=batch.csi, offsets=batch.offsets, shape=batch.shape, cu_seqlens=batch.cu_seqlens,
                sample_id=batch.sample_id, scale=batch.scale, cls=batch.cls, action=mask.action,
                masked_index=mask.masked_index, mask_cu=mask.mask_cu, mask_seed=mask.seed, epoch=mask.epoch,
            )  # fmt: skip
        return path

    def draw_curves(self, *, at_most_every: float = 0.0) -> None:
        """Write ``curves.png``, unless it was drawn less than so many seconds ago; without matplotlib say so."""
        from lwm_fast.plots import save
        from lwm_fast.training.plots import curves

        if time.monotonic() - self._drawn < at_most_every:
            return
        self._drawn = time.monotonic()
        try:
            figure = curves(self.path)
        except InputError as error:
            logger.info("no curves.png: %s", error)
            return
        with writing(self.path):
            save(figure, self.path / "curves.png")


def _bound(config: dict[str, Any]) -> dict[str, Any]:
    """What of a configuration its weights depend on."""
    return {
        name: {key: value for key, value in section.items() if key not in _FREE.get(name, ())}
        for name, section in config.items()
    }
