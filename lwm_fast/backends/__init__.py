"""Which code runs the encoder: one table of backends, and the order in which devices try them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from lwm_fast.backends.native_backend import NativeBackend
from lwm_fast.backends.torch_backend import TorchBackend
from lwm_fast.backends.triton_backend import TritonBackend
from lwm_fast.errors import BackendUnavailableError, InputError
from lwm_fast.positions import Shapes

if TYPE_CHECKING:
    from lwm_fast.config import LWMConfig
    from lwm_fast.draws import Draws
    from lwm_fast.model import LWM
    from lwm_fast.packed import PackedBatch
    from lwm_fast.pooling import Pool
    from lwm_fast.streaming import Piece


class Backend(Protocol):
    """What runs an encoder. ``available`` gives the reason when it cannot run on a device."""

    name: str
    trains: bool  # gradients and dropout
    mixes_lengths: bool  # one batch may hold sequences of any lengths; else they must be equal

    def available(self, device: torch.device) -> str | None: ...

    def supports(self, config: LWMConfig) -> str | None:
        """None, or the reason why models of these sizes cannot run on it."""

    def precisions(self, device: torch.device) -> tuple[str, ...]: ...

    def batch_tokens(self, device: torch.device) -> int:
        """Tokens a batch should hold for the best rate."""

    def workers(self, device: torch.device) -> int:
        """Threads that should each run whole batches; 0 runs them one by one in the caller's thread."""

    def code_path(self, model: LWM, precision: str) -> str:
        """Which of several codes runs a precision here, where results differ between them; else ""."""

    def encode(
        self, model: LWM, batch: PackedBatch, pool: Pool, precision: str, out: Tensor | None = None
    ) -> Tensor:
        """Pooled float32 embeddings: [B, D], [B, rows, D] or, sequence after sequence, [all rows, D].

        out: contiguous float32 memory of that size that may be filled and returned in place of a new tensor.
        """

    def stream(
        self,
        model: LWM,
        pieces: Iterable[Piece],
        pool: Pool,
        precision: str,
        *,
        normalize: bool,
        to_host: bool,
    ) -> Iterator[tuple[Piece, Tensor]] | None:
        """Batches in a row with their copies beside the computing: each piece, perhaps in parts, with its rows.

        None where batches are to be given to ``encode`` one by one.
        """

    def forward(self, model: LWM, tokens: Tensor, shape: Shapes | None = None) -> Tensor:
        """tokens [B, S, patch_len] -> output [B, S, D], differentiable where gradients are on.

        shape: int32 [B, 2] (num_antennas, num_subcarriers), which models with a grid of positions need.
        """

    def forward_with_maps(
        self, model: LWM, tokens: Tensor, layers: Sequence[int], shape: Shapes | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """As ``forward``, with the attention weights [B, H, S, S] of some layers."""

    def mcm(
        self, model: LWM, batch: PackedBatch, draws: Draws | None, *, pooled: bool = False
    ) -> tuple[Tensor, ...]:
        """Masked channel modelling: (predicted, target) [M, patch_len], rows in the mask's order.

        pooled: also CLS and the mean of the patches of the masked sequences, both [B, D], with gradients.

        draws: of the dropout, None for no dropout. Gradients reach the parameters. InputError without a mask.
        """


BACKENDS: dict[str, Backend] = {
    backend.name: backend for backend in (TritonBackend(), NativeBackend(), TorchBackend())
}
ORDER = {"cuda": ("triton", "torch"), "cpu": ("native", "torch")}
_OTHER = ("torch",)  # mps, xpu, ...
_ENVIRONMENT = "LWM_FAST_BACKEND"
_forced: str | None = None


class use_backend:  # noqa: N801 - reads as a statement, with or without `with`
    """Run everything on one backend: ``use_backend("torch")``, undone by ``use_backend(None)``.

    As ``with use_backend("torch"): ...`` it holds for the block. The environment variable
    LWM_FAST_BACKEND does the same for a whole process. A forced backend that cannot run raises
    BackendUnavailableError with the reason; nothing falls back silently.
    """

    def __init__(self, name: str | None) -> None:
        global _forced
        if name is not None:
            backend = BACKENDS[_known(name, "use_backend")]
            reasons = [backend.available(torch.device(device)) for device in ORDER]
            if None not in reasons:
                raise BackendUnavailableError(f"{name}: {reasons[0]}")
        self._before, _forced = _forced, name

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        global _forced
        _forced = self._before


def _known(name: str, place: str) -> str:
    if name not in BACKENDS:
        raise InputError(f"{place}: no backend is called {name!r}; there are {', '.join(BACKENDS)}")
    return name


def forced() -> str | None:
    """The backend asked for by name, if any."""
    if _forced:
        return _forced
    if name := os.environ.get(_ENVIRONMENT):
        return _known(name, _ENVIRONMENT)
    return None


def select(
    device: torch.device,
    *,
    training: bool = False,
    precision: str | None = None,
    config: LWMConfig | None = None,
) -> Backend:
    """The backend for a device: the forced one, else the first of its order that can do the work.

    config: the sizes of the model; without it they are not looked at.
    """
    name = forced()
    refused = []
    for candidate in (name,) if name else ORDER.get(device.type, _OTHER):
        backend = BACKENDS[candidate]
        reason = backend.available(device)
        if reason is None and config is not None:
            reason = backend.supports(config)
        if reason is None and training and not backend.trains:
            reason = "it does not train"
        if reason is None and precision is not None and precision not in backend.precisions(device):
            offered = ", ".join(backend.precisions(device))
            reason = f"it does not offer precision={precision!r} on {device.type} (it offers {offered})"
        if reason is None:
            return backend
        refused.append(f"{candidate}: {reason}")
    raise BackendUnavailableError(f"no backend can run on {device}: " + "; ".join(refused))
