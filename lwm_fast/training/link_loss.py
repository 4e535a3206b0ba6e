"""What link heads lose on a batch, as sums that micro-batches and ranks may add up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lwm_fast.links import (
    FIRST_DIRECTION,
    LOG_DELAY,
    LOG_SPREAD,
    LOS,
    NUM_DIRECTIONS,
    POWER,
    POWER_DB,
    SHORTEST_SPREAD_S,
    LinkState,
    link_state_of,
)
from lwm_fast.training.los_balance import LosBalance

NUM_LINK_TOTALS = 9
(
    NUM_LOS,
    NUM_LINKS,
    LOS_LOSS,
    OTHER_LOSS,
    LOS_RIGHT,
    DIRECTION_RIGHT,
    POWER_ERROR,
    DELAY_ERROR,
    SPREAD_ERROR,
) = range(NUM_LINK_TOTALS)


@dataclass(frozen=True)
class LinkScore:
    """How well the links of some samples were read; NaN where no truth was known.

    los_accuracy; direction_accuracy: share within one of the 64 directions; power_rmse_db; delay_rmse,
    spread_rmse: of log10 of the mean delay and of the delay spread.
    """

    los_accuracy: float
    direction_accuracy: float
    power_rmse_db: float
    delay_rmse: float
    spread_rmse: float

    @classmethod
    def of(cls, totals: Tensor) -> LinkScore:
        """From pooled totals [NUM_LINK_TOTALS]."""
        t = totals.tolist()
        num_los, links = t[NUM_LOS] or float("nan"), t[NUM_LINKS] or float("nan")
        return cls(
            t[LOS_RIGHT] / num_los,
            t[DIRECTION_RIGHT] / links,
            (t[POWER_ERROR] / links) ** 0.5,
            (t[DELAY_ERROR] / links) ** 0.5,
            (t[SPREAD_ERROR] / links) ** 0.5,
        )


def known_links(truth: LinkState) -> Tensor:
    """Totals that are known before the forward: float64, the numbers of samples with a truth, else zero."""
    known = torch.zeros(NUM_LINK_TOTALS, dtype=torch.float64)
    known[NUM_LOS] = int(np.isfinite(truth.los).sum())
    known[NUM_LINKS] = int(np.isfinite(truth.power_db).sum())
    return known


def link_totals(scores: Tensor, truth: LinkState, balance: LosBalance | None = None) -> Tensor:
    """Totals of a batch, float64 [NUM_LINK_TOTALS]; the two losses carry gradients.

    scores: [2, B, NUM_SCORES] of `LinkHeads`. Both read-outs are trained, each counts half; what is right or wrong is
    that of their mean. Losses: binary cross-entropy of LoS; Huber's of power, mean delay and spread in their units;
    cross-entropy of the direction, whose target is shared between its two neighbouring directions. balance: weighs
    the samples of the first, not what counts as right.
    """
    has_los, known = (torch.from_numpy(np.isfinite(x)) for x in (truth.los, truth.power_db))
    has_los, known = has_los.to(scores.device), known.to(scores.device)
    wanted = _targets(truth).to(scores.device)  # [B, 3]
    los, place = (_on(scores, x) for x in (truth.los, (truth.direction + 1) * (NUM_DIRECTIONS / 2)))
    own = scores.float()
    weight = None if balance is None else _on(scores, balance.weights(truth))[has_los]
    los_loss = F.binary_cross_entropy_with_logits(
        own[:, has_los, LOS], los[has_los].expand(2, -1), weight, reduction="sum"
    )
    numbers = F.smooth_l1_loss(
        own[:, known, POWER:FIRST_DIRECTION], wanted[known].expand(2, -1, -1), reduction="sum"
    )
    logs = own[:, known, FIRST_DIRECTION:].log_softmax(-1)
    first = place[known].floor()
    share = (place[known] - first).expand(2, -1)
    lower = (first.long() % NUM_DIRECTIONS).expand(2, -1)[..., None]
    upper = ((first.long() + 1) % NUM_DIRECTIONS).expand(2, -1)[..., None]
    direction = -((1 - share) * logs.gather(-1, lower)[..., 0] + share * logs.gather(-1, upper)[..., 0]).sum()
    right = _right(own.detach().mean(0), truth).to(scores.device)
    counts = known_links(truth)[[NUM_LOS, NUM_LINKS]].to(scores.device)
    losses = torch.stack([los_loss, numbers + direction]).double() / len(scores)
    return torch.cat([counts, losses, right])


def link_loss(local: Tensor, known: Tensor) -> Tensor:
    """A micro-batch's share of the step's link loss, scalar float64: mean over the samples with a truth, summed over
    the targets. known: counts pooled over micro-batches and ranks, or `local` itself for the whole of a batch.
    """
    counts = known.to(local.device)[[NUM_LOS, NUM_LINKS]].clamp_min(1)
    return (local[[LOS_LOSS, OTHER_LOSS]] / counts).sum()


def _targets(truth: LinkState) -> Tensor:
    spread = np.maximum(truth.delay_spread_s, np.float32(SHORTEST_SPREAD_S))
    columns = (
        (truth.power_db - POWER_DB[0]) / POWER_DB[1],
        (np.log10(truth.mean_delay_s) - LOG_DELAY[0]) / LOG_DELAY[1],
        (np.log10(spread) - LOG_SPREAD[0]) / LOG_SPREAD[1],
    )
    return torch.from_numpy(np.stack(columns, 1).astype(np.float32))


def _on(scores: Tensor, values: np.ndarray) -> Tensor:  # type: ignore[type-arg]
    return torch.from_numpy(np.ascontiguousarray(values)).to(scores.device)


def _right(scores: Tensor, truth: LinkState) -> Tensor:
    """What `LinkScore` needs of a batch: float64 [5], sums over the samples with a truth."""
    seen, wanted = link_state_of(scores), _targets(truth).double().numpy()
    errors = scores[:, POWER:FIRST_DIRECTION].double().cpu().numpy() - wanted
    errors = np.square(errors * np.array([POWER_DB[1], LOG_DELAY[1], LOG_SPREAD[1]]))
    turn = np.abs((seen.direction - truth.direction + 1) % 2 - 1)
    sums = [
        np.nansum(np.where(np.isfinite(truth.los), (seen.los > 0.5) == (truth.los > 0.5), 0)),
        (turn <= 2 / NUM_DIRECTIONS).sum(),
        *np.nansum(errors, 0),
    ]
    return torch.tensor(sums, dtype=torch.float64)
