"""Adam over a module's parameters, in few passes: a head has many small tensors, and each costs its own calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lwm_fast.tasks.fit_config import FitConfig

_SMALL = 1 << 17  # numbers; joining larger tensors would copy more than it saves


class Optimizer:
    """Adam or AdamW as `config` says, with gradient clipping.

    Args:
        head: parameters at `config.lr`. The small ones become views of one vector (their values stay).
        encoder: parameters at `config.encoder_lr`, left as they are.
    """

    def __init__(
        self, head: Sequence[nn.Parameter], encoder: Sequence[nn.Parameter], config: FitConfig
    ) -> None:
        small = [p for p in head if p.numel() <= _SMALL and p.dtype == torch.float32]
        large = [p for p in head if not any(p is other for other in small)]
        self._clip_norm = config.clip_norm
        self._parameters = [*small, *large, *encoder]
        self._joined = [_join(small)] if small else []
        self._num_small = len(small)
        self._rates = []
        groups: list[dict[str, Any]] = []
        for tensors, rate in (
            ([*self._joined, *large], config.lr),
            (encoder, config.encoder_lr or config.lr),
        ):
            if tensors:
                groups.append({"params": list(tensors), "lr": rate})
                self._rates.append(rate)
        self._trained = [tensor for group in groups for tensor in group["params"]]
        kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
        self._inner = kind(groups, weight_decay=config.weight_decay, fused=True) if groups else None

    def step(self, loss: Tensor, factor: float) -> None:
        """Take one step down the gradient of a loss, at `factor` times the learning rates."""
        if self._inner is None:
            return
        grads = list(torch.autograd.grad(loss, self._parameters, allow_unused=True, materialize_grads=True))
        if self._joined:
            small = grads[: self._num_small]
            grads[: self._num_small] = [torch.cat([grad.reshape(-1) for grad in small])]
        if self._clip_norm is not None:
            norm = torch.stack([torch.linalg.vector_norm(grad) for grad in grads]).norm()
            share = (self._clip_norm / (norm + 1e-6)).clamp(max=1.0)
            for grad in grads:
                grad.mul_(share)
        for tensor, grad in zip(self._trained, grads, strict=True):
            tensor.grad = grad
        for group, rate in zip(self._inner.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        self._inner.step()

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes: averages and step numbers."""
        return {} if self._inner is None else dict(self._inner.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._inner is not None:
            self._inner.load_state_dict(state)


def _join(parameters: Sequence[nn.Parameter]) -> nn.Parameter:
    """One vector with the parameters' values, of which they are views from now on."""
    with torch.no_grad():
        vector = torch.cat([p.reshape(-1) for p in parameters])
        start = 0
        for p in parameters:
            p.data = vector[start : start + p.numel()].view(p.shape)
            start += p.numel()
    return nn.Parameter(vector)
