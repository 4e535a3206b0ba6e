"""Heads: the small models that say something about a user from embeddings or raw channels, by name.

Networks are the release's, the paper's and the 2025 challenge's (source: LWM v1.1 release; paper, Sec. V; the
challenge's baseline); estimators are scikit-learn's.
"""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lwm_fast.errors import InputError
from lwm_fast.tasks.base import Examples, Kind, Task
from lwm_fast.tasks.cnn import ResidualCNN

Head: TypeAlias = "nn.Module | Any"  # a network, or any object with fit and predict


@dataclass(frozen=True)
class Stack:
    """Hidden widths of a fully connected network, what follows each, and the dropout after some of them."""

    widths: tuple[int, ...]
    batch_norm: bool = True
    dropout: tuple[float, ...] = ()


_STACKS = {
    "linear": Stack(()),
    "mlp": Stack((512, 256, 128), dropout=(0.1, 0.1)),
    "mlp-regression": Stack((512, 256), dropout=(0.1, 0.1)),
    "challenge-los": Stack((8,), dropout=(0.1,)),
    "challenge-beam": Stack((256, 128, 64)),
    "challenge-localization": Stack((64, 32), batch_norm=False),
}
_ESTIMATORS = ("logistic", "nearest-mean", "ridge", "knn")
HEADS: tuple[str, ...] = (*_STACKS, "cnn", *_ESTIMATORS)
CSI_HEADS = ("patches", "cnn", "row-mlp", "vector", "codec")  # of reconstruction_head


def build_head(
    name: str, input_shape: tuple[int, ...], num_outputs: int, *, seed: int, kind: Kind = "classification"
) -> Head:
    """A new head for inputs float32 [n, *input_shape].

    Args:
        name: of `HEADS`. "linear", "mlp" (512-256-128 with BatchNorm and ReLU, dropout 0.1 after the first two),
            "mlp-regression" (512-256 likewise), "challenge-los" (8), "challenge-beam" (256-128-64) and
            "challenge-localization" (64-32 without BatchNorm) flatten their inputs; "cnn" takes
            [positions, features]. "logistic" (C=100: one feature is as good as many), "ridge" and "knn" are
            scikit-learn estimators behind a standardisation fitted on their training users; "nearest-mean" is
            the nearest class mean.
        input_shape: of one user's inputs.
        num_outputs: classes, or coordinates.
        seed: of the initial weights; the global random state is not touched.
        kind: classification or regression, which decides what an estimator is.

    Raises:
        InputError: an unknown name, a head that the inputs or the kind do not fit, scikit-learn missing.
    """
    if name not in HEADS:
        near = difflib.get_close_matches(name, HEADS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else ""
        raise InputError(f"head={name!r} is unknown; {hint} use one of {', '.join(HEADS)}")
    if name in _ESTIMATORS:
        return _estimator(name, kind)
    with seeded(seed):
        if name == "cnn":
            if len(input_shape) != 2:
                raise InputError(
                    f'head="cnn" takes inputs [positions, features], these are {list(input_shape)}; use '
                    'input="patches" or "raw", or head="mlp"'
                )
            return ResidualCNN(input_shape[1], num_outputs)
        return _network(_STACKS[name], math.prod(input_shape), num_outputs)


def default_head(task: Task, input_name: str, style: str = "release") -> str:
    """Name of the head that belongs to a task.

    style: "release" (v1.1: 512-256-128 for classification, 512-256 for regression) or "challenge" (the 2025
    challenge's baseline of the same task). Reconstruction takes what its inputs' shape asks for ("default").

    Raises:
        InputError: an unknown style.
    """
    if style not in ("release", "challenge"):
        raise InputError(f'style={style!r} is unknown; use "release" or "challenge"')
    if task.kind == "reconstruction":
        return "patches" if input_name == "patches" and task.name != "compression" else "default"
    challenge = {"los": "challenge-los", "beams": "challenge-beam", "localization": "challenge-localization"}
    if style == "challenge" and task.name in challenge:
        return challenge[task.name]
    return "mlp" if task.kind == "classification" else "mlp-regression"


def head_for(
    examples: Examples, name: str, input_shape: tuple[int, ...], *, version: str = "1.0", seed: int = 0
) -> Head:
    """A new head by name with the outputs that the examples ask for.

    For reconstruction the names are "default", those of `CSI_HEADS` (see `patch_heads.reconstruction_head`), and
    the estimators "ridge" and "knn", which predict csi as they do coordinates.

    version: of the tokens ("1.0", "1.1"), for reconstruction by patches.
    """
    if examples.kind != "reconstruction":
        return build_head(name, input_shape, len(examples.classes), seed=seed, kind=examples.kind)
    if name in ("ridge", "knn"):
        return _estimator(name, "regression")
    from lwm_fast.tasks.patch_heads import reconstruction_head

    return reconstruction_head(examples, input_shape, version=version, name=name, seed=seed)


def check_head(head: nn.Module, inputs: Tensor) -> tuple[int, ...]:
    """Run a head once, in eval mode, on a few users' inputs [b, ...]; returns the shape of its outputs for one.

    Raises:
        InputError: the inputs do not fit the head, or it gives no [b, ...]; the message has both shapes.
    """
    name, came = type(head).__name__, list(inputs.shape[1:])
    modes = [(module, module.training) for module in head.modules()]
    try:
        with torch.no_grad():
            outputs = head.eval()(inputs)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise InputError(
            f"head {name} does not take these inputs, {came} a user (flattened: {math.prod(came)} features): "
            f"{str(error).splitlines()[0]}; change its first layer, or choose another input="
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
    if not isinstance(outputs, Tensor) or outputs.ndim < 2 or len(outputs) != len(inputs):
        gave = list(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        raise InputError(
            f"head {name}: from inputs {list(inputs.shape)} it gives {gave}; one row a user, [{len(inputs)}, ...], "
            "was expected"
        )
    return tuple(outputs.shape[1:])


def is_network(head: Head) -> bool:
    """True for a torch module, False for an estimator.

    Raises:
        InputError: neither a module nor an object with fit and predict.
    """
    if isinstance(head, nn.Module):
        return True
    if isinstance(head, type) or not (hasattr(head, "fit") and hasattr(head, "predict")):
        raise InputError(
            f"head={head!r}: give a name ({', '.join(HEADS)}), a torch.nn.Module, or an object with fit and "
            "predict (an instance, not its class)"
        )
    return False


def count_parameters(module: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Within the block torch's generators of the CPU and of `device` start from a seed; then all is as before."""
    on_gpu = device is not None and device.type == "cuda"
    with torch.random.fork_rng([device] if on_gpu else []):
        torch.default_generator.manual_seed(seed % 2**63)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed % 2**63)
        yield


def _network(stack: Stack, num_features: int, num_outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for i, width in enumerate(stack.widths):
        layers.append(nn.Linear(num_features, width))
        if stack.batch_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.ReLU())
        if i < len(stack.dropout):
            layers.append(nn.Dropout(stack.dropout[i]))
        num_features = width
    return nn.Sequential(*layers, nn.Linear(num_features, num_outputs))


def _estimator(name: str, kind: Kind) -> Any:
    try:
        from sklearn import linear_model, neighbors
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise InputError(f'head={name!r} needs scikit-learn: pip install "lwm_fast[tasks]"') from error
    if kind == "classification":
        makers: dict[str, Any] = {
            "logistic": lambda: linear_model.LogisticRegression(C=100, max_iter=2000),
            "ridge": linear_model.RidgeClassifier,
            "knn": neighbors.KNeighborsClassifier,
        }
        if name == "nearest-mean":
            return neighbors.NearestCentroid()
    else:
        makers = {"ridge": linear_model.Ridge, "knn": neighbors.KNeighborsRegressor}
    if name not in makers:
        raise InputError(
            f"head={name!r} is for classification; use one of {', '.join(makers)} for regression"
        )
    return make_pipeline(StandardScaler(), makers[name]())
