"""The fit behind `finetune`: inputs made once, the loop, scores of the best and the last epoch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from lwm_fast.draws import Draws
from lwm_fast.finetuning.folder import RunFolder
from lwm_fast.finetuning.freeze import trained_part
from lwm_fast.finetuning.lora import LoRA, add_adapters
from lwm_fast.finetuning.outputs import Outputs
from lwm_fast.finetuning.result import FinetuneResult, Weights, weights_of
from lwm_fast.finetuning.top import Below, Top
from lwm_fast.model import LWM
from lwm_fast.pooling import Pool
from lwm_fast.tasks.base import Array, Examples, Rows, Task
from lwm_fast.tasks.estimators import fit_estimator, predict_with_estimator
from lwm_fast.tasks.fit import FitConfig, Scaling
from lwm_fast.tasks.heads import Head, count_parameters, seeded
from lwm_fast.tasks.loop import DEFAULT_LOSS, Loop, RunState, predict_in_batches
from lwm_fast.tasks.splits import Split

Embed: TypeAlias = Callable[[Tensor, "Draws | None"], Tensor]  # (rows, dropout) -> inputs of the head

_EVAL_TOKENS = 16384  # of one batch without gradients


@dataclass(frozen=True)
class Setting:
    """What a fit is about. `model` is the given one: read, copied, never changed."""

    model: LWM
    task: Task
    examples: Examples
    split: Split
    pool: Pool
    config: FitConfig
    seed: int
    scale: float | None
    progress: bool | None
    about: dict[str, Any]

    def embeddings(self) -> Array:
        """Of all users with the model as it was given, float32 [n, ...]."""
        model = copy.deepcopy(self.model)
        values = model.encode(
            self.examples.channels, self.pool.name, scale=self.scale, show_progress_bar=self.progress
        )
        return np.asarray(values, np.float32)

    def scores(self, rows: Rows, predictions: Array) -> dict[str, float]:
        """Of the task; empty for nobody."""
        return self.task.score(self.examples[rows], predictions) if rows.size else {}

    def result(self, **values: Any) -> FinetuneResult:
        """A result that knows how to predict for other channels."""
        nobody = self.examples[np.empty(0, np.int64)]
        return FinetuneResult(split=self.split, about=self.about, seconds=0.0, _examples=nobody, **values)


def fit_estimator_head(setting: Setting, head: Head) -> FinetuneResult:
    """Fit a clone of an estimator to frozen embeddings."""
    examples, split = setting.examples, setting.split
    outputs = Outputs.of(examples, split.train, standardize=False)
    inputs = setting.embeddings()
    scaling = Scaling.of(inputs[split.train]) if setting.config.standardize else None
    inputs = inputs if scaling is None else scaling(inputs)
    fitted, size = fit_estimator(head, inputs[split.train], outputs.targets[split.train], examples.kind)

    def predict(rows: Rows) -> Array:
        values = predict_with_estimator(
            fitted, inputs[rows], examples.kind, len(examples.classes), outputs.shape
        )
        return outputs.predictions(examples[rows], values)

    weights = Weights(copy.deepcopy(setting.model).eval(), fitted)
    predictions = predict(split.test) if split.test.size else np.empty(0, np.float32)
    scores = setting.scores(split.test, predictions)
    validation = setting.scores(split.validation, predict(split.validation)) if split.validation.size else {}
    return setting.result(
        history=[], best_epoch=0, trainable_parameters=size, head_parameters=size, best=scores, last=dict(scores),
        validation=validation, predictions=predictions, _weights={"best": weights, "last": weights},
        _outputs=outputs, _input_scaling=scaling,
    )  # fmt: skip


def fit_network(
    setting: Setting, head: nn.Module, freeze: str | Sequence[str] | LoRA, folder: RunFolder | None
) -> FinetuneResult:
    """Train `head`, in place, and what `freeze` leaves of a copy of the model."""
    config, split, seed = setting.config, setting.split, setting.seed
    outputs = Outputs.of(setting.examples, split.train)
    with seeded(seed):
        model = copy.deepcopy(setting.model).eval()
    embed, trained, scaling = _inputs(setting, model, freeze, folder)
    module = nn.ModuleDict({"head": head, "encoder": model} if trained else {"head": head})
    device = model.device
    train = torch.from_numpy(split.train).to(device)

    def forward(rows: Tensor, epoch: int) -> Tensor:
        users = train[rows]
        scores: Tensor = head(embed(users, Draws(seed, epoch, users)))
        return scores

    targets = torch.from_numpy(np.ascontiguousarray(outputs.targets[split.train])).to(device)
    loss = DEFAULT_LOSS[setting.examples.kind] if config.loss == "auto" else config.loss
    loop = Loop(module, forward, targets, loss, config, seed, encoder=trained)
    seq_len = _seq_len(setting)

    def predict(rows: Rows) -> Array:
        module.eval()
        users = torch.from_numpy(rows).to(device)
        step = max(1, _EVAL_TOKENS // seq_len)
        values = predict_in_batches(lambda r: head(embed(users[r], None)), len(rows), device, step=step)
        return outputs.predictions(setting.examples[rows], values.numpy())

    def validate() -> float:
        return setting.scores(split.validation, predict(split.validation))[setting.task.metric]

    def after_epoch(state: RunState) -> None:
        if folder is not None:
            folder.save(loop, state, final=state.done == config.epochs)

    state = RunState() if folder is None else folder.restore(loop)
    loop.run(
        state, validate if split.validation.size else None, higher_is_better=setting.task.higher_is_better,
        after_epoch=after_epoch, progress=setting.progress,
    )  # fmt: skip
    states = {"last": loop.state()}
    states["best"] = state.best or states["last"]
    scores, predictions, validation = {}, {}, {}
    for which in ("last", "best"):
        loop.load(states[which])
        predictions[which] = predict(split.test) if split.test.size else np.empty(0, np.float32)
        scores[which] = setting.scores(split.test, predictions[which])
        if split.validation.size:
            validation[which] = setting.scores(split.validation, predict(split.validation))
    weights = weights_of(model, head, states, loop.load, setting.model, setting.examples.task)
    return setting.result(
        history=state.history, best_epoch=state.best_epoch, trainable_parameters=count_parameters(module),
        head_parameters=count_parameters(head), best=scores["best"], last=scores["last"],
        validation=validation.get("best", {}), predictions=predictions["best"], _weights=weights, _outputs=outputs,
        _input_scaling=scaling,
    )  # fmt: skip


def _inputs(
    setting: Setting, model: LWM, freeze: str | Sequence[str] | LoRA, folder: RunFolder | None
) -> tuple[Embed, list[nn.Parameter], Scaling | None]:
    """What the head sees of users, by row; the model's trained parameters (the others are frozen here)."""
    if isinstance(freeze, LoRA):
        first: int | None = freeze.first(model.config.num_layers)
        below = _below(setting, model, first, folder)
        trained = add_adapters(model, freeze, setting.seed)
    else:
        part = trained_part(model, freeze)
        first, names = part.first, set(part.names)
        trained = [p for name, p in model.named_parameters() if name in names]
        below = _below(setting, model, first, folder)
    wanted = {id(p) for p in trained}
    for p in model.parameters():
        p.requires_grad_(id(p) in wanted)
    if first is None or below is None:
        inputs = setting.embeddings()
        scaling = Scaling.of(inputs[setting.split.train]) if setting.config.standardize else None
        kept = torch.from_numpy(inputs if scaling is None else scaling(inputs)).to(model.device)
        return lambda rows, _: kept[rows], [], scaling
    top, entering = Top(model, first, setting.pool, setting.examples.channels.shape[1:]), below
    return lambda rows, draws: top(entering[rows], draws), trained, None


def _below(setting: Setting, model: LWM, first: int | None, folder: RunFolder | None) -> Below | None:
    if first is None:
        return None
    return Below(
        model, setting.examples.channels, setting.scale, first,
        folder=None if folder is None else folder.path, progress=setting.progress,
    )  # fmt: skip


def _seq_len(setting: Setting) -> int:
    from lwm_fast.tokens import num_tokens

    return num_tokens(*setting.examples.channels.shape[1:], setting.model.config.lwm_version)
