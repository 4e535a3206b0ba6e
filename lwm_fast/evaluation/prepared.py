"""A sweep's data and model in a process: what its runs have in common."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lwm_fast.data import Channels, load_channels
from lwm_fast.errors import InputError
from lwm_fast.evaluation.cache import ArrayCache, digest_of, digest_of_model
from lwm_fast.evaluation.inputs import make_inputs
from lwm_fast.evaluation.zero_label import street_examples
from lwm_fast.tasks import Examples, Split, Task, few, make_split
from lwm_fast.tasks.noise import add_noise
from lwm_fast.tasks.reconstruction import derived_channels
from lwm_fast.weights import load_model

if TYPE_CHECKING:
    from lwm_fast.evaluation.inputs import Float32Array
    from lwm_fast.evaluation.sweep import Run, Sweep
    from lwm_fast.tasks.base import Array

NOISE_SEED = 0  # one draw for all seeds, so that they differ by users and heads alone
_CITY = 32  # users of the k-th source are numbered from k * 2^32


class Prepared:
    """Examples, weights and cached inputs of a sweep.

    Args:
        sweep: what to prepare.
        out: folder whose `cache` keeps the inputs.

    Raises:
        InputError: sources or weights that cannot be read, users that do not match between the bands, labels
            that the channels cannot give.
    """

    def __init__(self, sweep: Sweep, out: Path) -> None:
        self.sweep = sweep
        self.model = load_model(sweep.weights)
        channels = joined(sweep.data, dict(sweep.load))
        self.task: Task = sweep.make_task(
            **({"label_channels": joined(sweep.label_data, dict(sweep.load))} if sweep.label_data else {})
        )
        self.examples = self.task.examples(channels)
        self.weights_sha256 = digest_of_model(self.model)
        self.data_sha256 = digest_of(self.examples.channels.csi, self.examples.targets)
        self._cache = ArrayCache(out / "cache")
        self._noisy: tuple[float, Examples] | None = None
        self._streets: Examples | None = None
        self._splits: dict[tuple[Any, ...], Split] = {}

    def whole(self, seed: int) -> Split:
        """The split of a seed with its whole training part."""
        key = (seed,)
        if key not in self._splits:
            s = self.sweep
            self._splits[key] = make_split(self.examples, s.split_fractions, by=s.split, seed=seed)
        return self._splits[key]

    def split(self, run: Run) -> Split:
        """Who a run is trained and tested on.

        Raises:
            InputError: more training users than there are, none, or a single class among them.
        """
        whole = self.whole(run.seed)
        key = (run.seed, run.count, run.fraction)
        if key not in self._splits:
            if run.count == 0:
                self._splits[key] = self._unlabelled(whole)
                return self._splits[key]
            fraction = 1.0 if run.count is None and run.fraction is None else run.fraction
            if fraction == 1.0 and self.sweep.test == "fixed":
                self._splits[key] = whole
            else:
                self._splits[key] = few(
                    self.examples,
                    whole,
                    count=run.count,
                    fraction=fraction,
                    seed=run.seed,
                    test=self.sweep.test,
                )
        return self._splits[key]

    def _unlabelled(self, whole: Split) -> Split:
        """Nobody to train on; tested on the test part or, with test="rest", on everyone."""
        everyone = np.concatenate([whole.train, whole.validation, whole.test])
        nobody = everyone[:0]
        tested = whole.test if self.sweep.test == "fixed" else everyone
        return Split(nobody, nobody, tested, whole.by, whole.seed)

    def examples_at(self, snr_db: float | None) -> Examples:
        """The examples with noise on their channels; targets stay those of the clean ones."""
        if snr_db is None:
            return self.examples
        if self._noisy is None or self._noisy[0] != snr_db:
            clean = self.examples.channels
            csi = add_noise(clean.csi, snr_db, clean.user_index, NOISE_SEED)
            noisy = derived_channels(clean, csi, f"{snr_db:g} dB SNR")
            self._noisy = (snr_db, replace(self.examples, channels=noisy))
        return self._noisy[1]

    def inputs(self, run: Run) -> Float32Array:
        """What the run's head is given of each user, float32 [n, ...]."""
        # Fitted inputs may see every training user's channel, unlabelled or not, but nobody who is tested on.
        seen = np.setdiff1d(self.whole(run.seed).train, self.split(run).test)
        return make_inputs(
            run.input,
            self.examples_at(run.snr_db),
            self.model,
            seed=run.seed,
            train=seen,
            cache=self._cache,
            precision=self.sweep.precision,
        )

    def streets(self, run: Run) -> tuple[Float32Array, Array]:
        """Inputs as the run's, float32 [m, ...], and labels int64 [m] of the users of generated streets."""
        if self._streets is None:
            assert self.sweep.zero_label_data is not None  # as the plan has it
            self._streets = street_examples(self.task, self.sweep.zero_label_data, self.examples.channels)
        inputs = make_inputs(
            run.input,
            self._streets,
            self.model,
            seed=run.seed,
            train=np.zeros(0, np.int64),
            cache=self._cache,
            precision=self.sweep.precision,
        )
        return inputs, self._streets.targets


def joined(sources: tuple[str, ...], options: dict[str, Any]) -> Channels:
    """The sources' channels one after another, users of each numbered in a range of their own."""
    parts = [load_channels(source, **options) for source in sources]
    if len(parts) == 1:
        return parts[0]
    for number, part in enumerate(parts):
        if int(part.user_index.max(initial=0)) >= 1 << _CITY:
            raise InputError(
                f"{part.meta.source}: user numbers beyond 2^32 cannot be joined with other sources"
            )
        part.user_index = part.user_index + (number << _CITY)
    return Channels.concatenate(parts)
