"""Pre-training by masked channel modelling: recipes, the loop, and runs that resume bit for bit."""

from __future__ import annotations

from lwm_fast.training.config import TrainConfig, recipes
from lwm_fast.training.objective import Objective, known_totals, micro_batches, share_of_loss
from lwm_fast.training.plots import curves
from lwm_fast.training.pretrain import NonFiniteLossError, RunSummary, pretrain
from lwm_fast.training.schedule import Schedule
from lwm_fast.training.trainer import BucketScore, Trainer

__all__ = [
    "BucketScore",
    "NonFiniteLossError",
    "Objective",
    "RunSummary",
    "Schedule",
    "TrainConfig",
    "Trainer",
    "curves",
    "known_totals",
    "micro_batches",
    "pretrain",
    "recipes",
    "share_of_loss",
]
