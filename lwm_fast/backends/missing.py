"""A backend that the table names but this version does not hold: it says so and never runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn

import torch
from torch import Tensor

from lwm_fast.errors import BackendUnavailableError

if TYPE_CHECKING:
    from lwm_fast.config import LWMConfig
    from lwm_fast.draws import Draws
    from lwm_fast.model import LWM
    from lwm_fast.packed import PackedBatch
    from lwm_fast.pooling import Pool
    from lwm_fast.streaming import Piece


class NotInThisVersion:
    """Keeps a backend's name known, so that asking for it gives the reason and not "unknown"."""

    trains = False
    mixes_lengths = False

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self._reason = reason

    def available(self, device: torch.device) -> str | None:
        return self._reason

    def supports(self, config: LWMConfig) -> str | None:
        return self._reason

    def precisions(self, device: torch.device) -> tuple[str, ...]:
        return ()

    def batch_tokens(self, device: torch.device) -> int:
        self._refuse()

    def workers(self, device: torch.device) -> int:
        self._refuse()

    def encode(self, model: LWM, batch: PackedBatch, pool: Pool, precision: str) -> Tensor:
        self._refuse()

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
        self._refuse()

    def forward(self, model: LWM, tokens: Tensor) -> Tensor:
        self._refuse()

    def forward_with_maps(
        self, model: LWM, tokens: Tensor, layers: Sequence[int]
    ) -> tuple[Tensor, list[Tensor]]:
        self._refuse()

    def mcm(self, model: LWM, batch: PackedBatch, draws: Draws | None) -> tuple[Tensor, Tensor]:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise BackendUnavailableError(f"{self.name}: {self._reason}")
