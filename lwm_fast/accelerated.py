"""What `lwm_fast.accelerate` returns: a fast LWM over the parameters of somebody else's module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor, nn

from lwm_fast import backends
from lwm_fast.config import LWMConfig
from lwm_fast.errors import InputError
from lwm_fast.model import LWM

LAZY, ALWAYS = "lazy", "always"


@dataclass(frozen=True)
class Form:
    """What a forward returns: the roles "logits", "output", "maps" or "none" in their order.

    container: tuple or list around them; None where the one value stands alone.
    """

    roles: tuple[str, ...]
    container: type | None

    def arrange(self, values: dict[str, Any]) -> Any:
        picked = [values.get(role) for role in self.roles]
        return picked[0] if self.container is None else self.container(picked)


class AttentionMaps(Sequence[Tensor]):
    """The attention weights of all layers, [B, H, S, S] each, computed when first looked at.

    They are those of the parameters at the forward, without dropout and without gradient. Not a list, so that
    nothing that walks through outputs (DistributedDataParallel does) computes them by accident.
    """

    def __init__(self, model: LWM, tokens: Tensor) -> None:
        self._model, self._tokens = model, tokens.detach()
        self._versions = _versions(model)
        self._maps: list[Tensor] | None = None

    def __len__(self) -> int:
        return self._model.sizes.num_layers

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        return self._computed()[index]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._computed())

    def _computed(self) -> list[Tensor]:
        if self._maps is None:
            if _versions(self._model) != self._versions:
                raise InputError(
                    "attention maps: the parameters have changed since this forward; read the maps before "
                    'optimizer.step(), or use accelerate(model, attention_maps="always")'
                )
            dropouts = [m for m in self._model.modules() if isinstance(m, nn.Dropout) and m.training]
            for dropout in dropouts:
                dropout.training = False
            try:
                with torch.no_grad():
                    self._maps = _eager(self._model, self._tokens)[1]
            finally:
                for dropout in dropouts:
                    dropout.training = True
        return self._maps


def _versions(model: LWM) -> tuple[int, ...]:
    return tuple(0 if p.is_inference() else p._version for p in model.parameters())


def _eager(model: LWM, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
    """(output, maps of all layers) by plain operations."""
    x, maps = model.embedding(tokens), []
    for layer in model.layers:
        x, weights = layer(x)
        maps.append(weights)
    return x, maps


class AcceleratedLWM(LWM):
    """The fast forward on the parameters of `original`, in its order, under its keys, with its return values.

    Both modules hold the same Parameter objects, so an optimizer of either trains both, and ``.to()`` moves both.
    Training and evaluation mode are the original's: ``train()`` and ``eval()`` of either act on both.
    """

    def __init__(
        self, original: nn.Module, config: LWMConfig, forms: dict[bool, Form], attention_maps: str | None
    ) -> None:
        with torch.device("meta"):
            super().__init__(config)
        # Not a submodule: its parameters would come twice.
        self.__dict__["_original"] = original
        self._forms, self._attention_maps = forms, attention_maps
        order = {name: i for i, name in enumerate(original.state_dict())}
        for prefix, module in self.named_modules():
            for name in [name for name, parameter in module._parameters.items() if parameter is not None]:
                module._parameters[name] = original.get_parameter(f"{prefix}.{name}" if prefix else name)
            _sort(module, prefix, order)
        super().train(original.training)

    # The mode is kept in one place, the original; nn.Module sets it first before there is one.
    @property
    def training(self) -> bool:
        original = self.__dict__.get("_original")
        return True if original is None else bool(original.training)

    @training.setter
    def training(self, mode: bool) -> None:
        if "_original" in self.__dict__:
            self.__dict__["_original"].training = mode

    def train(self, mode: bool = True) -> AcceleratedLWM:
        """Set the mode of this module and of the original."""
        self.__dict__["_original"].train(mode)
        super().train(mode)
        return self

    def forward(  # type: ignore[override]
        self, input_ids: Tensor, masked_pos: Tensor | None = None
    ) -> Any:
        """The original's return values, logits and output computed by the fast paths."""
        self._check_tokens(input_ids, masked_pos)
        form = self._forms[masked_pos is not None]
        maps: Sequence[Tensor] | None = None
        if self._attention_maps == ALWAYS and "maps" in form.roles:
            for module in self.layers.modules():
                module.training = self.training  # original.train() does not reach the submodules here
            output, maps = _eager(self, input_ids)
        else:
            backend = backends.select(self.device, training=self.training, config=self.config)
            output = backend.forward(self, input_ids)
            if self._attention_maps == LAZY and "maps" in form.roles:
                maps = AttentionMaps(self, input_ids)
        logits = None if masked_pos is None else self.head(output, masked_pos)
        return form.arrange({"logits": logits, "output": output, "maps": maps})


def _sort(module: nn.Module, prefix: str, order: dict[str, int]) -> None:
    """Put a module's parameters and submodules into the order of a state_dict."""
    dot = f"{prefix}." if prefix else ""

    def place(name: str) -> int:
        exact, inside = f"{dot}{name}", f"{dot}{name}."
        return min((i for key, i in order.items() if key == exact or key.startswith(inside)), default=-1)

    module._parameters = dict(sorted(module._parameters.items(), key=lambda item: place(item[0])))
    module._modules = dict(sorted(module._modules.items(), key=lambda item: place(item[0])))
