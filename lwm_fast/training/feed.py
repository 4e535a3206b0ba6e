"""What feeds a run: the store, the sampler and loader of the training share, and the fixed validation batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lwm_fast.data import BucketSampler, Channels, ChannelStore, MCMCollator, MCMLoader, RayPlan
from lwm_fast.data.augment import Augmentation
from lwm_fast.packed import PackedBatch
from lwm_fast.scaling import to_unit_power
from lwm_fast.training.config import TrainConfig

Source = str | Path | Channels | ChannelStore


class Feed:
    """Store, training loader and validation batches of one rank."""

    def __init__(
        self,
        config: TrainConfig,
        data: Source | Sequence[Source],
        *,
        rank: int,
        world_size: int,
        on_gpu: bool,
    ) -> None:
        d, m, o = config.data, config.masking, config.optimizer
        self.store = data if isinstance(data, ChannelStore) else _store(config, data)
        batches: dict[str, Any] = {"batch_size": o.batch_size, "token_budget": o.token_budget}
        place: dict[str, Any] = {
            "rank": rank,
            "world_size": world_size,
            "seed": d.seed,
            "validation": d.validation,
        }
        self.sampler = BucketSampler(self.store, split="train", **batches, **place)
        self._validation = (
            BucketSampler(self.store, split="validation", **batches, **place) if d.validation else None
        )
        self._limit = d.max_validation
        # A GPU cuts the tokens itself, but noise lies on tokens, and "mse_var" needs targets before the forward.
        masks: dict[str, Any] = {
            "seed": m.seed, "mask_ratio": m.ratio, "compat": m.compat, "scale": d.scale,
            "rescale": None if config.model.input_scale == "fixed" else to_unit_power,
            "pin": on_gpu, "num_threads": d.num_threads,
        }  # fmt: skip
        version, tokens = config.model.lwm_version, not on_gpu or m.loss == "mse_var"
        masks["truth"] = config.auxiliary.weight > 0
        self._collator = MCMCollator(
            version, tokens=tokens, **masks
        )  # validation has no noise, turns or gains
        augments = d.phase or d.gain_db is not None
        noisy = MCMCollator(
            version, tokens=tokens or d.snr_db is not None, snr_db=d.snr_db,
            augment=Augmentation(d.phase, d.gain_db, d.seed) if augments else None, **masks,
        )  # fmt: skip
        self.loader = MCMLoader(self.store, self.sampler, noisy, prefetch=d.prefetch)

    def validation_batches(self) -> Iterator[tuple[int, PackedBatch]]:
        """(seq_len, this rank's share) of the fixed validation batches: epoch 0, the same masks every time.

        With data.max_validation every bucket gives its first samples, up to an equal part of the limit.
        """
        if (v := self._validation) is None:
            return
        steps = [(v.bucket_of(0, step), step) for step in range(v.steps(0))]
        part = None if self._limit is None else max(1, self._limit // len({seq_len for seq_len, _ in steps}))
        taken: dict[int, int] = {}
        for seq_len, step in steps:
            indices = v.global_batch(0, step)
            if part is not None:
                indices = indices[: max(0, part - taken.get(seq_len, 0))]
            if len(indices):
                taken[seq_len] = taken.get(seq_len, 0) + len(indices)
                own = np.array_split(indices, v.world_size)[v.rank]
                yield seq_len, self._collator(self.store.gather(0, own))

    def close(self) -> None:
        """Stop the loader's thread."""
        self.loader.close()


def _store(config: TrainConfig, data: Source | Sequence[Source]) -> ChannelStore:
    d = config.data
    plan = RayPlan(
        sizes=d.weighted_sizes(), bandwidth=d.bandwidth, rotation=d.rotation, max_paths=d.max_paths, seed=d.seed,
        reference_carrier=d.reference_carrier,
    )  # fmt: skip
    return ChannelStore(
        data, version=config.model.lwm_version, plan=plan, max_len=config.model.lwm_config().max_len,
        scale=d.scale, on_bad=d.on_bad,
    )  # fmt: skip
