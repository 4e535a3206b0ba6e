"""`fit_head`: train a head on inputs that were computed once (embeddings, raw channels, features)."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from lwm_fast.errors import InputError
from lwm_fast.tasks.base import Array, Kind, Rows
from lwm_fast.tasks.estimators import fit_estimator, predict_with_estimator
from lwm_fast.tasks.fit_config import FitConfig
from lwm_fast.tasks.heads import Head, check_head, count_parameters, is_network, seeded
from lwm_fast.tasks.loop import (
    DEFAULT_LOSS,
    LOSS_FUNCTIONS,
    Loop,
    RunState,
    State,
    predict_in_batches,
)

__all__ = ["FitConfig", "Fitted", "Scaling", "check_outputs", "fit_head"]

Metric = Callable[[Array, Array], float]  # (targets, predictions) of the validation users


@dataclass(frozen=True)
class Scaling:
    """x -> (x - mean) / deviation, feature by feature; a constant feature is only shifted."""

    mean: Array
    deviation: Array

    @classmethod
    def of(cls, values: Array) -> Scaling:
        """Of float values [n, ...] over users, in float64."""
        mean, deviation = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
        return cls(mean.astype(np.float32), np.where(deviation > 0, deviation, 1.0).astype(np.float32))

    def __call__(self, values: Array) -> Array:
        return np.asarray((values - self.mean) / self.deviation, np.float32)

    def undo(self, values: Array) -> Array:
        return np.asarray(values * self.deviation + self.mean, np.float32)


@dataclass
class Fitted(ABC):
    """A trained head.

    Attributes:
        history: one record an epoch: "epoch" (from 1), mean "loss", "lr", and "validation" where users were given
            for it. Empty for estimators.
        best_epoch: the first with the best validation score; the last without validation; 0 for estimators.
        num_parameters: trainable numbers of a network; of an estimator, those of its fitted coefficients.
        seconds: spent in training.
    """

    kind: Kind
    num_parameters: int
    seconds: float
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    @abstractmethod
    def predict(self, inputs: Array, which: str = "best") -> Array:
        """float32 scores [n, num_classes] (logits of networks), values [n, k] or csi [n, N, SC, 2].

        which: "best" or "last" epoch.
        """


@dataclass
class FittedNetwork(Fitted):
    """A network; `network(which)` gives it with the weights of an epoch."""

    head: nn.Module = field(default_factory=nn.Identity)
    states: dict[str, State] = field(default_factory=dict)
    input_scaling: Scaling | None = None
    target_scaling: Scaling | None = None
    loaded: str = "last"

    def network(self, which: str = "best") -> nn.Module:
        """The head in eval mode with the weights of the "best" or "last" epoch."""
        if which not in self.states:
            raise InputError(f'which={which!r}: use "best" or "last"')
        if which != self.loaded:
            self.head.load_state_dict(self.states[which])
            self.loaded = which
        return self.head.eval()

    def predict(self, inputs: Array, which: str = "best") -> Array:
        head = self.network(which)
        device = next((p.device for p in head.parameters()), torch.device("cpu"))

        def forward(rows: Tensor) -> Tensor:
            part = np.asarray(
                inputs[int(rows[0]) : int(rows[-1]) + 1] if len(rows) else inputs[:0], np.float32
            )
            scaled = part if self.input_scaling is None else self.input_scaling(part)
            own = np.require(scaled, np.float32, ["C", "W"])  # torch wants arrays it may write to
            outputs: Tensor = head(torch.from_numpy(own).to(device))
            return outputs

        outputs = predict_in_batches(forward, len(inputs), device).numpy()
        return outputs if self.target_scaling is None else self.target_scaling.undo(outputs)


@dataclass
class FittedEstimator(Fitted):
    """A fitted clone of a scikit-learn estimator."""

    head: Head = None
    input_scaling: Scaling | None = None
    num_classes: int = 0
    output_shape: tuple[int, ...] = ()

    def predict(self, inputs: Array, which: str = "best") -> Array:
        values = np.asarray(inputs, np.float32)
        scaled = values if self.input_scaling is None else self.input_scaling(values)
        return predict_with_estimator(self.head, scaled, self.kind, self.num_classes, self.output_shape)


def fit_head(
    head: Head,
    inputs: Array,
    targets: Array,
    *,
    kind: Kind,
    train: Rows,
    validation: Rows | None = None,
    config: FitConfig | None = None,
    seed: int = 0,
    num_classes: int | None = None,
    device: str | torch.device | None = None,
    metric: Metric | None = None,
    higher_is_better: bool = True,
    progress: bool | None = False,
) -> Fitted:
    """Train a copy of a head on inputs of users `train`; the given head is never changed.

    Args:
        head: a network, or an object with fit and predict (it sees flattened inputs; `config` says only whether they
            are standardised).
        inputs: float32 [n, ...] of all users; read by rows, so a memory map will do.
        targets: classification int64 [n]; regression float32 [n, k]; reconstruction float32 [n, N, SC, 2], real and
            imaginary parts at the scale at which the head is to predict.
        kind: of the task. Regression targets are standardised over the training users for the loss, and
            predictions mapped back.
        train, validation: rows; validation chooses the best epoch and may be empty.
        config: `FitConfig()`, the paper's Fig. 4, by default.
        seed: of the order of users and of dropout, 0 or more. The same seed gives the same weights bit for bit
            on a CPU with equally many threads; the global random state is not touched.
        num_classes: for estimators, where the largest class may be missing; default: the largest of `targets` + 1.
        device: where to train; None: where the head's parameters are.
        metric: (targets, predictions) of the validation users -> score; default: the loss, lower is better.
        higher_is_better: of the metric.
        progress: as for `Progress`; False shows nothing.

    Raises:
        InputError: a head that does not fit inputs or targets, no training user, a single one where
            BatchNorm needs two, inputs that are not finite, a loss that diverges.
    """
    config = config or FitConfig()
    train = np.asarray(train, np.int64)
    validation = np.asarray([] if validation is None else validation, np.int64)
    if len(inputs) != len(targets):
        raise InputError(f"fit_head: {len(inputs)} inputs and {len(targets)} targets; give one target a user")
    if seed < 0:
        raise InputError(f"fit_head: seed={seed}; give 0 or more")
    if len(train) == 0:
        raise InputError("fit_head: there is no training user")
    seen = np.ascontiguousarray(inputs[train], np.float32)
    _check_finite(seen, train)
    scaling = Scaling.of(seen) if config.standardize else None
    seen = seen if scaling is None else scaling(seen)
    classes = num_classes or (int(targets.max()) + 1 if kind == "classification" else 0)
    if not is_network(head):
        started = time.perf_counter()
        fitted, size = fit_estimator(head, seen, targets[train], kind)
        return FittedEstimator(
            kind, size, time.perf_counter() - started, head=fitted, input_scaling=scaling, num_classes=classes,
            output_shape=targets.shape[1:],
        )  # fmt: skip
    with seeded(seed):  # modules that make their weights at the first call make them here
        network = copy.deepcopy(head).to(device)
        where = next((p.device for p in network.parameters()), torch.device(device or "cpu"))
        given = check_head(network, torch.from_numpy(seen[:2]).to(where))
    check_outputs(network, given, targets, kind, num_classes)
    wanted, back = targets[train], None
    if kind == "regression":
        back = Scaling.of(wanted)
        wanted = back(wanted)
    x, y = torch.from_numpy(seen).to(where), torch.from_numpy(np.ascontiguousarray(wanted)).to(where)
    loss = DEFAULT_LOSS[kind] if config.loss == "auto" else config.loss
    loop = Loop(network, lambda rows, _: network(x[rows]), y, loss, config, seed)
    fitted = FittedNetwork(
        kind, count_parameters(network), 0.0, head=network, input_scaling=scaling, target_scaling=back
    )
    validate = None
    if len(validation):
        seen_later, truth = np.ascontiguousarray(inputs[validation], np.float32), targets[validation]
        judge = metric or validation_loss(loss, back)
        fitted.states["last"] = {}

        def validate() -> float:
            return judge(truth, fitted.predict(seen_later, "last"))

    state = RunState()
    started = time.perf_counter()
    higher = higher_is_better and metric is not None
    loop.run(state, validate, higher_is_better=higher, progress=progress)
    fitted.seconds = time.perf_counter() - started
    fitted.best_epoch, fitted.history = state.best_epoch, state.history
    fitted.states = {"last": loop.state()}
    fitted.states["best"] = state.best or fitted.states["last"]
    return fitted


def validation_loss(loss: str, scaling: Scaling | None) -> Metric:
    """The training loss as a metric of (targets, predictions); regression at the scale it is trained at."""

    def metric(targets: Array, predictions: Array) -> float:
        values = [targets, predictions] if scaling is None else [scaling(targets), scaling(predictions)]
        truth, outputs = (torch.from_numpy(np.ascontiguousarray(v)) for v in values)
        return float(LOSS_FUNCTIONS[loss](outputs, truth))

    return metric


def _check_finite(values: Array, rows: Rows) -> None:
    bad = ~np.isfinite(values.reshape(len(values), -1)).all(1)
    if bad.any():
        raise InputError(
            f"fit_head: the inputs of {int(bad.sum())} training users hold NaN or Inf, first of user row "
            f"{rows[int(bad.argmax())]}; leave them out"
        )


def check_outputs(
    head: nn.Module, given: tuple[int, ...], targets: Array, kind: Kind, num_classes: int | None
) -> None:
    """Raises InputError where outputs of shape `given` for a user do not fit the targets."""
    fits = given == targets.shape[1:]
    wanted = str(list(targets.shape[1:]))
    if kind == "classification":
        least = int(targets.max()) + 1 if num_classes is None else num_classes
        fits = len(given) == 1 and (given[0] == least or (num_classes is None and given[0] > least))
        wanted = f"[{least}], a score for each class"
    if not fits:
        raise InputError(
            f"head {type(head).__name__} gives {list(given)} a user, and the {kind} targets need {wanted}; change "
            "its last layer"
        )
