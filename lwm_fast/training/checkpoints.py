"""Checkpoints of a run: folders that appear whole or not at all; the last one and the best one are kept."""

from __future__ import annotations

import errno
import os
import pickle
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lwm_fast.checkpoint import WEIGHTS_NAME
from lwm_fast.errors import InputError
from lwm_fast.links import LinkHeads
from lwm_fast.model import LWM

_STATE = "state.torch"  # no suffix of weights, so that the folder names one weights file
_NAMES = {"last": re.compile(r"step-(\d{9})"), "best": re.compile(r"best-(\d{9})")}


class Checkpoints:
    """``RUN/checkpoints``: ``step-NNNNNNNNN`` (the last) and ``best-NNNNNNNNN``.

    Each holds model.safetensors, config.json and, where links are learnt, link_heads.safetensors, which
    `LWM.from_pretrained` reads, and state.torch: optimizer, scaler, generators, position in the data, and what the
    run is. A folder is written under another name, flushed to the disk and renamed, and only then is its
    predecessor removed.
    """

    def __init__(self, folder: Path, *, writes: bool) -> None:
        self.folder = folder
        self._writes = writes  # the main process does

    def save(self, model: LWM, state: dict[str, Any], *, best: bool) -> Path:
        """Write the checkpoint of ``state["step"]``; InputError, with the previous one left, where it does not fit."""
        target = self.folder / f"step-{state['step']:09d}"
        with writing(target):
            if not target.exists():  # the same step gives the same state
                with _new_folder(target) as temporary:
                    model.save_pretrained(temporary)
                    torch.save(state, temporary / _STATE)
            if best:
                self._keep_as_best(target)
        self._tidy("last")
        self._tidy("best")
        return target

    def load(self, model: LWM) -> dict[str, Any] | None:
        """Put the last checkpoint's weights into `model` and return its state; None where there is none."""
        from safetensors.torch import load_file

        path = self.path("last")
        if path is None:
            return None
        try:
            weights = load_file(path / WEIGHTS_NAME)
            state: dict[str, Any] = torch.load(path / _STATE, map_location="cpu", weights_only=True)
            model.load_state_dict(weights)
            if model.link_heads is not None:
                model.link_heads.load_state_dict(load_file(path / LinkHeads.NAME))
        except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"{path}: a damaged checkpoint ({reason}); remove this folder to resume from "
                f"{self.path('best') or 'the start'}"
            ) from error
        if self._writes and state["best"] is not None and state["best"]["step"] == state["step"]:
            with writing(path):
                self._keep_as_best(path)  # where the run was killed between the two
        return state

    def path(self, which: str) -> Path | None:
        """The folder of the "last" or the "best" checkpoint."""
        found = self._all(which)
        return found[-1] if found else None

    def _all(self, which: str) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(p for p in self.folder.iterdir() if _NAMES[which].fullmatch(p.name))

    def _keep_as_best(self, path: Path) -> None:
        target = self.folder / path.name.replace("step-", "best-")
        if not target.exists():
            with _new_folder(target) as temporary:
                shutil.copytree(path, temporary, dirs_exist_ok=True)

    def _tidy(self, which: str) -> None:
        for old in self._all(which)[:-1]:
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn a failure to write into one clear error; what was finished before stays."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch and safetensors report a full disk as other errors
        number, text = getattr(error, "errno", None), str(error)
        if not isinstance(error, OSError) and "No space" not in text and "write" not in text:
            raise
        full = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space" in text
        reason = "no space left" if full else (getattr(error, "strerror", None) or text.splitlines()[0])
        raise InputError(
            f"{place}: cannot be written ({reason}); the previous checkpoint is whole: make room, then go on "
            "with --resume"
        ) from error


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes `target`, flushed to the disk; removed on failure."""
    temporary = target.parent / f".{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed run
    temporary.mkdir(parents=True)
    try:
        yield temporary
        _flush(temporary)
        os.rename(temporary, target)
        _flush(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _flush(folder: Path) -> None:
    """To the disk: the files of a folder, then the folder itself, before a rename can make them count."""
    for path in [*(p for p in folder.iterdir() if p.is_file()), folder]:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
