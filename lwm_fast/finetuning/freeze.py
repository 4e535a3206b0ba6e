"""Which of the encoder's parameters are trained, from what a user says: "all" frozen, "last-3", whole names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lwm_fast.errors import InputError
from lwm_fast.model import LWM


@dataclass(frozen=True)
class Trained:
    """Names of the trained parameters, and the first layer that has any: 0 and up, -1 for the embedding.

    Everything before `first` is frozen, so what enters it is computed once. None: nothing is trained.
    """

    names: tuple[str, ...]
    first: int | None


def trained_part(model: LWM, freeze: str | Sequence[str]) -> Trained:
    """What `freeze` leaves to be trained.

    freeze: "all" (nothing), "none" (embedding and all layers), "last-K" (the last K layers), or the whole names of
    what is trained, such as ["layers.11", "layers.10.pos_ffn", "embedding"]. The masked-patch head takes no part in
    embeddings and is never trained.

    Raises:
        InputError: a name that no component has (the close ones are listed), or that embeddings do not use.
    """
    layers = model.config.num_layers
    parameters = [name for name, _ in model.named_parameters() if _used(name)]
    if isinstance(freeze, str):
        freeze = freeze.strip()
        if freeze == "all":
            return Trained((), None)
        if freeze == "none":
            return _of(parameters)
        last = re.fullmatch(r"last-(\d+)", freeze)
        if last is None:
            raise InputError(
                f'freeze={freeze!r}: use "all", "none", "last-K", "lora", or a list of component names such as '
                '["layers.11"]'
            )
        if not 1 <= int(last[1]) <= layers:
            raise InputError(
                f"freeze={freeze!r}: this model has {layers} layers; use last-1 to last-{layers}"
            )
        freeze = [f"layers.{i}" for i in range(layers - int(last[1]), layers)]
    names: list[str] = []
    for component in freeze:
        found = [name for name in parameters if _within(name, component)]
        if not found:
            _refuse(model, component, parameters)
        names += found
    if not names:
        raise InputError('freeze=[]: no component is named; use "all" to train nothing of the encoder')
    return _of([name for name in parameters if name in set(names)])


def _within(name: str, component: str) -> bool:
    """Whole components: layers.1 holds layers.1.norm.bias, and not layers.10.norm.bias."""
    return name == component or name.startswith(component + ".")


def _used(name: str) -> bool:
    """Whether embeddings depend on a parameter: not on the masked-patch head, nor on v1.0's unused Norms."""
    if not name.startswith(("embedding.", "layers.")):
        return False
    return ".enc_self_attn.norm." not in name and ".pos_ffn.norm." not in name


def _of(names: Sequence[str]) -> Trained:
    first = min(int(name.split(".")[1]) if name.startswith("layers.") else -1 for name in names)
    return Trained(tuple(names), first)


def _refuse(model: LWM, component: str, parameters: Sequence[str]) -> None:
    if any(_within(name, component) for name, _ in model.named_parameters()):
        raise InputError(
            f"freeze: {component!r} takes no part in the embeddings, so it cannot be fine-tuned; name parts of "
            f"embedding and layers.0 to layers.{model.config.num_layers - 1}"
        )
    parts = [name.split(".") for name in parameters]
    known = list(dict.fromkeys(".".join(p[:n]) for n in range(1, 6) for p in parts if len(p) >= n))
    near = difflib.get_close_matches(component, known, n=4, cutoff=0.5)
    hint = f"close ones: {', '.join(near)}" if near else f"there are: {', '.join(known[:14])}, ..."
    raise InputError(f"freeze: this model has no component {component!r}; {hint}")
