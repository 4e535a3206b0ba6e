"""`FinetuneResult`: what a run came to, and the tuned model and head to go on with."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lwm_fast.checkpoint import WeightsInfo
from lwm_fast.data import Channels
from lwm_fast.errors import InputError
from lwm_fast.files import atomic_path
from lwm_fast.finetuning.lora import merge_adapters
from lwm_fast.finetuning.outputs import Outputs, unlabelled
from lwm_fast.model import LWM
from lwm_fast.tasks.base import Array, Examples
from lwm_fast.tasks.estimators import predict_with_estimator
from lwm_fast.tasks.fit import Scaling
from lwm_fast.tasks.heads import Head
from lwm_fast.tasks.loop import State, predict_in_batches
from lwm_fast.tasks.splits import Split

WHICH = ("best", "last")


@dataclass
class Weights:
    """The trained parts with the weights of one epoch."""

    model: LWM
    head: Head


@dataclass(repr=False)
class FinetuneResult:
    """Scores, predictions and weights of a run.

    Attributes:
        best, last: all scores of the task on the test users, with the weights of the best epoch by validation
            and of the last; empty where the split tests nobody.
        validation: scores of the best epoch on the validation users; empty without any.
        predictions: of the test users with the best weights, in the form in which the task scores them; row i
            belongs to ``split.test[i]``.
        best_epoch: counted from 1; 0 for estimators.
        history: one record an epoch: "epoch", "loss", "lr", "validation". Empty for estimators.
        split: who was trained, validated and tested on.
        trainable_parameters: of encoder and head together; head_parameters: of the head.
        seconds: spent in training (frozen embeddings and activations included).
        about: the settings, as plain values.
    """

    split: Split
    history: list[dict[str, float]]
    best_epoch: int
    trainable_parameters: int
    head_parameters: int
    seconds: float
    about: dict[str, Any]
    best: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    predictions: Array = field(default_factory=lambda: np.empty(0, np.float32))
    _weights: dict[str, Weights] = field(default_factory=dict)
    _examples: Examples | None = None  # without users: what the task's examples are like
    _outputs: Outputs | None = None
    _input_scaling: Scaling | None = None

    @property
    def model(self) -> LWM:
        """The encoder with the best epoch's weights (LoRA merged), in eval mode; never the one that was given."""
        return self._weights["best"].model

    @property
    def head(self) -> Head:
        """The head with the best epoch's weights: a network in eval mode, or the fitted estimator."""
        return self._weights["best"].head

    def predict(self, source: Channels | Examples, which: str = "best") -> Array:
        """Predictions for channels, or for examples of the same task, in the form in which the task scores them.

        Classification: scores float32 [n, num_classes]; regression: float32 [n, k]; reconstruction: complex64
        [n, num_antennas, num_subcarriers], the channels being observed as the training users' were.

        which: weights of the "best" or the "last" epoch.
        """
        if which not in WHICH:
            raise InputError(f'which={which!r}: use "best" or "last"')
        assert self._examples is not None
        assert self._outputs is not None
        examples = source if isinstance(source, Examples) else unlabelled(self._examples, source)
        weights = self._weights[which]
        embeddings = weights.model.encode(
            examples.channels, self.about["input"], scale=self.about["scale"], show_progress_bar=False
        )
        inputs = np.asarray(embeddings, np.float32)
        inputs = inputs if self._input_scaling is None else self._input_scaling(inputs)
        if isinstance(weights.head, nn.Module):
            outputs = _run(weights.head, inputs, weights.model.device)
        else:
            kind, classes = examples.kind, len(examples.classes)
            outputs = predict_with_estimator(weights.head, inputs, kind, classes, self._outputs.shape)
        return self._outputs.predictions(examples, outputs)

    def save(self, folder: str | Path) -> Path:
        """Write the best weights and all scores into a folder (made if absent); returns it.

        ``model/`` is what `LWM.from_pretrained` reads; ``head.safetensors`` holds a network's tensors (estimators
        are not written: pickle them yourself); ``predictions.npz`` the test users' rows and predictions;
        ``result.json`` scores, history and settings.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: cannot be made a folder ({error.strerror})") from error
        self.model.save_pretrained(folder / "model")
        if isinstance(self.head, nn.Module):
            from safetensors.torch import save_file

            state = {name: value.detach().cpu().clone() for name, value in self.head.state_dict().items()}
            with atomic_path(folder / "head.safetensors") as temporary:
                save_file(state, temporary)
        with atomic_path(folder / "predictions.npz") as temporary, temporary.open("wb") as file:
            np.savez(file, rows=self.split.test, predictions=self.predictions)
        with atomic_path(folder / "result.json") as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
        return folder

    def to_dict(self) -> dict[str, Any]:
        """Scores, sizes, history and settings as plain values."""
        names = (
            "best", "last", "validation", "best_epoch", "trainable_parameters", "head_parameters", "seconds", "history",
        )  # fmt: skip
        sizes = dict(zip(("train", "validation", "test"), self.split.sizes, strict=True))
        return {
            **{name: getattr(self, name) for name in names},
            "split": {**sizes, "by": self.split.by, "seed": self.split.seed},
            "settings": self.about,
        }

    def __repr__(self) -> str:
        scores = ", ".join(f"{name}={value:.4g}" for name, value in self.best.items())
        return (
            f"FinetuneResult(task={self.about['task']!r}, freeze={self.about['freeze']!r}, "
            f"best_epoch={self.best_epoch}, trainable_parameters={self.trainable_parameters:,}, best: {scores})"
        )


def _run(head: nn.Module, inputs: Array, device: torch.device) -> Array:
    x = torch.from_numpy(np.ascontiguousarray(inputs))

    def forward(rows: Tensor) -> Tensor:
        outputs: Tensor = head(x[rows].to(device))
        return outputs

    return predict_in_batches(forward, len(inputs), torch.device("cpu")).numpy()


def weights_of(
    encoder: LWM,
    head: nn.Module,
    states: dict[str, State],
    load: Callable[[State], None],
    source: LWM,
    task: str,
) -> dict[str, Weights]:
    """Copies of encoder and head with the weights of the best and of the last epoch, adapters merged.

    load: puts a state into `encoder` and `head`.
    """
    made: dict[str, Weights] = {}
    for which in WHICH:
        if which == "last" and states["last"] is states["best"]:
            made[which] = made["best"]
            continue
        load(states[which])
        model = copy.deepcopy(encoder)
        merge_adapters(model)
        for parameter in model.parameters():
            parameter.requires_grad_(True)
            parameter.grad = None
        if any(name.startswith("encoder.") for name in states[which]):
            model.weights_info = _tuned(source.weights_info, task)
            model.link_heads = None  # they read the encoder as it was before
        made[which] = Weights(model.eval(), copy.deepcopy(head).eval())
    return made


def _tuned(info: WeightsInfo | None, task: str) -> WeightsInfo:
    """No fingerprint: nothing kept for the given weights may be taken for these."""
    if info is None:
        return WeightsInfo(f"fine-tuned on {task}", "", "none")
    return dataclasses.replace(info, source=f"{info.source}, fine-tuned on {task}", sha256="")
