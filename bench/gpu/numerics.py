"""Errors against float64 for whatever an arm returns: a tensor or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Outputs = Tensor | Sequence[Tensor]


def error_to(exact: Outputs) -> Callable[[Any], float]:
    """The largest relative error (Frobenius) of the outputs; of their first rows where ``exact`` holds fewer."""
    wanted = [exact] if isinstance(exact, Tensor) else list(exact)

    def error(outputs: Any) -> float:
        found = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        return max(
            relative_error(a[: len(b)] if b.ndim else a, b) for a, b in zip(found, wanted, strict=True)
        )

    return error


def relative_error(value: Tensor, exact: Tensor) -> float:
    if value.shape != exact.shape:
        return float("inf")
    wide = exact.double()
    difference = torch.linalg.vector_norm(value.detach().to(wide) - wide)
    return float(difference / torch.linalg.vector_norm(wide))
