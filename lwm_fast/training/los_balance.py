"""`LosBalance`: weights under which a link's delay, which tells how far a user is, tells nothing of line of sight.

Near users are in sight more often, how much more depends on the place. A read-out that was trained on streets as they
come learns their share by heart and carries it to places where it is another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lwm_fast.data import BucketSampler, ChannelStore
from lwm_fast.data.link_truth import link_truth
from lwm_fast.errors import InputError
from lwm_fast.links import LinkState

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

BINS = 12  # of equally many samples
SAMPLES = 20_000
_RAREST = 0.02  # share of a class from which on its weight (25) grows no more
_AT_ONCE = 1_000


@dataclass(frozen=True)
class LosBalance:
    """Shares of line of sight by mean delay.

    edges: log10 of the mean delay in seconds at which bins meet, rising, float64 [bins - 1]
    share: of links in line of sight in each bin, float64 [bins]
    """

    edges: Float64Array
    share: Float64Array

    @classmethod
    def of(cls, truth: LinkState) -> LosBalance:
        """From links; those without a truth are left out.

        Raises:
            InputError: none has a known line of sight and delay.
        """
        known = np.isfinite(truth.los) & np.isfinite(truth.mean_delay_s)
        if not known.any():
            raise InputError(
                "auxiliary.balance_los=true: no sample of the data knows its line of sight and delay; train on "
                "stores of rays (`lwm-fast synth`), or set it to false"
            )
        delay, los = _log_delay(truth)[known], truth.los[known].astype(np.float64)
        edges = np.unique(np.quantile(delay, np.linspace(0, 1, BINS + 1)[1:-1]))
        place = np.digitize(delay, edges)
        count = np.bincount(place, minlength=len(edges) + 1)
        seen = np.bincount(place, weights=los, minlength=len(edges) + 1)
        share = np.where(count > 0, seen / np.maximum(count, 1), 0.5)  # equal delays may leave a bin empty
        return cls(edges, share)

    @classmethod
    def of_store(cls, store: ChannelStore, sampler: BucketSampler) -> LosBalance:
        """From at most SAMPLES samples of the sampler's split, as its first epoch sees them."""
        members = sampler.members
        picked, parts = members[:: max(1, len(members) // SAMPLES)][:SAMPLES], []
        for first in range(0, len(picked), _AT_ONCE):
            parts.append(link_truth(store.gather(0, picked[first : first + _AT_ONCE])))
        los, delay = (np.concatenate([getattr(p, name) for p in parts]) for name in ("los", "mean_delay_s"))
        nothing = np.full(len(los), np.nan, np.float32)
        return cls.of(LinkState(los, nothing, delay, nothing, nothing))

    def weights(self, truth: LinkState) -> Float32Array:
        """float32 [B]: half over the share of a link's own class in its bin, which is 1 on the mean over the
        links of a bin; 1 where the truth is unknown.
        """
        known = np.isfinite(truth.los) & np.isfinite(truth.mean_delay_s)
        share = self.share[np.digitize(np.where(known, _log_delay(truth), 0.0), self.edges)]
        own = np.where(truth.los > 0.5, share, 1 - share)
        return np.where(known, 0.5 / np.maximum(own, _RAREST), 1.0).astype(np.float32)


def _log_delay(truth: LinkState) -> Float64Array:
    delay = truth.mean_delay_s.astype(np.float64)
    logs: Float64Array = np.log10(np.where(np.isfinite(delay) & (delay > 0), delay, 1e-10))
    return logs
