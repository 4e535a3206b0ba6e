"""`finetune`: from a model, a task and channels to scores, predictions and tuned weights."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lwm_fast.data import Channels
from lwm_fast.encode_work import check_size
from lwm_fast.errors import InputError
from lwm_fast.finetuning.fitting import Setting, fit_estimator_head, fit_network
from lwm_fast.finetuning.folder import RunFolder, digest_of_arrays, digest_of_channels, digest_of_module
from lwm_fast.finetuning.lora import LoRA
from lwm_fast.finetuning.outputs import Outputs
from lwm_fast.finetuning.result import FinetuneResult
from lwm_fast.model import LWM
from lwm_fast.pooling import Pool, get_pool
from lwm_fast.tasks import get_task, make_split
from lwm_fast.tasks.base import Examples, Task
from lwm_fast.tasks.fit import FitConfig, check_outputs
from lwm_fast.tasks.heads import Head, check_head, default_head, head_for, is_network, seeded
from lwm_fast.tasks.splits import Split
from lwm_fast.tokens import num_tokens


def finetune(
    model: LWM,
    task: Task | str,
    source: Channels | Examples,
    *,
    freeze: str | Sequence[str] | LoRA = "all",
    head: Head | str = "default",
    input: str = "cls",
    split: Split | None = None,
    config: FitConfig | None = None,
    seed: int = 0,
    scale: float | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> FinetuneResult:
    """Train a head on a model's embeddings, and the chosen part of a copy of the model under it.

    Every run starts from the model as it is given, which is never changed.

    Args:
        model: pre-trained.
        task: a task, or the name of one with its default settings.
        source: channels, of which the task makes its examples, or examples.
        freeze: "all": embeddings are computed once, the head is trained on them. "last-3": the last three
            layers are trained; names such as ["layers.11", "embedding"]: these whole components are; "none":
            everything is. What enters the first trained layer is computed once, without dropout. "lora" or
            `LoRA(...)`: low-rank updates of the frozen layers (peft), merged in the result.
        head: "default" (the release's for the task), a name of `heads.HEADS`, a torch module, or with freeze="all"
            any object with fit and predict. A copy is trained.
        input: "cls", "mean", "mean_with_cls", "patches" or "tokens": what the head sees.
        split: default ``make_split(examples, seed=seed)``: 70/10/20.
        config: default `FitConfig()` (120 epochs) for frozen encoders and estimators, `FitConfig.finetuning()`
            (the v1.1 release's 15 epochs) otherwise.
        seed: of the head's first weights, the order of users and dropout.
        scale: multiplies the csi; None: that of the channels.
        out: folder in which the run is kept: it can be taken up again after any epoch, and its result is
            saved there.
        resume: go on with the run in `out`, or start where there is none. The result equals an uninterrupted
            run's bit for bit on a CPU with equally many threads.
        progress: as for `Progress`.

    Raises:
        InputError: unknown names, a head that does not fit, a folder with another run, a loss that diverges,
            an optional package that is missing.
    """
    started = time.perf_counter()
    task = get_task(task) if isinstance(task, str) else task
    examples = source if isinstance(source, Examples) else task.examples(source)
    split = make_split(examples, seed=seed) if split is None else split
    if not split.train.size:
        raise InputError(f"{examples.task}: the split trains on nobody; give it training users")
    freeze = LoRA() if isinstance(freeze, str) and freeze == "lora" else freeze
    frozen = isinstance(freeze, str) and freeze == "all"
    config = config or (FitConfig() if frozen else FitConfig.finetuning())
    if config.standardize and not frozen:
        raise InputError(
            'FitConfig.standardize=True is for frozen embeddings (freeze="all"); set it to False'
        )
    shape = _input_shape(model, examples, get_pool(input))
    chosen, name = _choose_head(head, task, examples, shape, input, model, seed)
    about = {
        "task": examples.task,
        "kind": examples.kind,
        "facts": dict(examples.facts),
        "input": input,
        "freeze": dataclasses.asdict(freeze) if isinstance(freeze, LoRA) else freeze,
        "head": name,
        "config": config.to_dict(),
        "seed": seed,
        "scale": scale,
        "weights": None if model.weights_info is None else model.weights_info.source,
    }
    setting = Setting(model, task, examples, split, get_pool(input), config, seed, scale, progress, about)
    folder = None
    if out is not None:
        folder = RunFolder(Path(out), {**about, **_digests(setting, chosen)}, resume=resume)
    if isinstance(chosen, nn.Module):
        result = fit_network(setting, chosen, freeze, folder)
    elif frozen:
        result = fit_estimator_head(setting, chosen)
    else:
        raise InputError(
            f'head {type(chosen).__name__}: an estimator gives no gradients, so it needs freeze="all"; give a torch '
            f"module to train parts of the encoder (freeze={about['freeze']!r})"
        )
    result.seconds = time.perf_counter() - started
    if folder is not None:
        result.save(folder.path)
    return result


def _input_shape(model: LWM, examples: Examples, pool: Pool) -> tuple[int, ...]:
    """Of one user's embeddings."""
    size = examples.channels.shape[1:]
    check_size(size, model.config)
    rows = pool.rows(num_tokens(*size, model.config.lwm_version))
    return (rows, model.config.embed_dim) if rows else (model.config.embed_dim,)


def _choose_head(
    head: Head | str,
    task: Task,
    examples: Examples,
    shape: tuple[int, ...],
    input: str,
    model: LWM,
    seed: int,
) -> tuple[Head, str]:
    """The head to train (a copy of one that was given), tried once, and what to call it."""
    name = head if isinstance(head, str) else type(head).__name__
    if isinstance(head, str):
        name = default_head(task, input) if head == "default" else head
        head = head_for(examples, name, shape, version=model.config.lwm_version, seed=seed)
    if not is_network(head):
        return head, name
    with seeded(seed):  # modules that make their weights at the first call make them here
        network: nn.Module = copy.deepcopy(head).to(model.device)
        given = check_head(network, torch.zeros(2, *shape, device=model.device))
    one = np.zeros(1, np.int64)
    outputs = Outputs.of(examples[one], one, standardize=False)
    check_outputs(network, given, outputs.targets, examples.kind, len(examples.classes) or None)
    return network, name


def _digests(setting: Setting, head: Head) -> dict[str, Any]:
    """Fingerprints of what a run depends on besides its settings."""
    split = setting.split
    return {
        "data": digest_of_channels(setting.examples.channels),
        "targets": digest_of_arrays(setting.examples.targets),
        "split": digest_of_arrays(split.train, split.validation, split.test),
        "weights_digest": digest_of_module(setting.model),
        "head_digest": digest_of_module(head) if isinstance(head, nn.Module) else repr(head),
    }
