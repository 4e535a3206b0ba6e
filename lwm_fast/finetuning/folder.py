"""The folder of a fine-tuning run: what the run is, and where it stands, so that it can be taken up again."""

from __future__ import annotations

import hashlib
import json
import pickle
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lwm_fast._version import __version__
from lwm_fast.data import Channels
from lwm_fast.errors import InputError
from lwm_fast.files import atomic_path
from lwm_fast.tasks.base import Array
from lwm_fast.tasks.loop import Loop, RunState
from lwm_fast.training.config import differences

FORMAT = "lwm_fast.finetuning"
_CHECKPOINT = "last.torch"  # tensors and numbers only: read with weights_only=True
_SHARE = 0.05  # of a run's time that may go into saving it


class RunFolder:
    """``run.json`` (what the run is) and ``last.torch`` (weights, best weights, optimizer, epochs done).

    Args:
        path: made if absent.
        about: everything the weights depend on, plain values; a run goes on only under an equal record.
        resume: go on with what is there, or start where nothing is.

    Raises:
        InputError: a folder that holds a run already (without `resume`), another run (with it; every difference
            is named), or other files.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], *, resume: bool) -> None:
        self.path = path
        self._about = path / "run.json"
        self._ready = time.monotonic()
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: is a file; choose a folder for the run")
        if self._about.exists():
            if not resume:
                raise InputError(
                    f"{path}: holds a run already; go on with resume=True (--resume) or choose another folder"
                )
            self._compare(dict(about))
            return
        if path.exists() and any(path.iterdir()):
            raise InputError(f"{path}: is not empty and holds no run; choose another folder")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path}: cannot be made a folder ({error.strerror})") from error
        self.write_json("run.json", {**about, **_software()})

    def _compare(self, now: dict[str, Any]) -> None:
        try:
            before = json.loads(self._about.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{self._about}: cannot be read ({error}); choose another folder") from error
        software = {key: before.pop(key, None) for key in _software()}
        if found := differences(before, json.loads(json.dumps(now))):
            raise InputError(
                f"{self.path}: cannot go on with a different run: {'; '.join(found)}. Give what it had, or "
                "choose another folder"
            )
        for key, value in _software().items():
            if software[key] != value:
                warnings.warn(
                    f"{self.path}: {key} was {software[key]} and is now {value}: the rest of the run may differ "
                    "from an uninterrupted one in the last bits",
                    stacklevel=2,
                )

    def restore(self, loop: Loop) -> RunState:
        """Where the run stands, its last weights and optimizer put into the loop; a new state if it has not begun."""
        path = self.path / _CHECKPOINT
        if not path.exists():
            return RunState()
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
            loop.load(saved["last"])
            loop.optimizer.load_state_dict(saved["optimizer"])
            return RunState(**saved["state"])
        except (
            OSError,
            RuntimeError,
            ValueError,
            KeyError,
            EOFError,
            TypeError,
            pickle.UnpicklingError,
        ) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"{path}: a damaged checkpoint ({reason}); remove it to start this run again"
            ) from error

    def save(self, loop: Loop, state: RunState, *, final: bool) -> None:
        """Write the checkpoint, unless that was done so lately that saving would take over 5% of the time."""
        started = time.monotonic()
        if not final and started < self._ready:
            return
        content = {"last": loop.state(), "optimizer": loop.optimizer.state_dict(), "state": vars(state)}
        with atomic_path(self.path / _CHECKPOINT) as temporary:
            torch.save(content, temporary)
        ended = time.monotonic()
        self._ready = ended + (ended - started) / _SHARE

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """A JSON file of the run, whole or not at all."""
        with atomic_path(self.path / name) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _software() -> dict[str, Any]:
    return {
        "torch": str(torch.__version__),
        "lwm_fast": __version__,
        "num_threads": torch.get_num_threads(),
    }


def digest_of_channels(channels: Channels) -> str:
    """SHA-256 of the csi, whatever it is kept in."""
    digest = hashlib.sha256(repr(channels.shape).encode())
    for csi in channels.iter_csi():
        digest.update(csi.tobytes())
    return digest.hexdigest()


def digest_of_arrays(*arrays: Array) -> str:
    """SHA-256 of arrays with their shapes and types."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def digest_of_module(module: nn.Module) -> str:
    """SHA-256 of a module's weights and buffers by name."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
