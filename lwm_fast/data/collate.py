"""`MCMCollator`: a training batch in one C++ call, from where the csi lies to masked tokens and targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lwm_fast import _C
from lwm_fast.data.augment import Augmentation
from lwm_fast.data.buffers import BufferPool
from lwm_fast.data.channel_store import Gathered, Sample, lengths_of
from lwm_fast.data.counters import SNR_WORD, first_block, unit
from lwm_fast.data.link_truth import link_truth
from lwm_fast.data.mask import check_ratio, check_seed, mask_counts, release_plan
from lwm_fast.data.rays import Complex64Array, Int64Array
from lwm_fast.errors import InputError
from lwm_fast.packed import MaskPlan, PackedBatch, Prepared
from lwm_fast.philox import Stream
from lwm_fast.tokens import CLS_VALUE, PATCH_LEN

_NOT_FINITE = 1


class MCMCollator:
    """Makes batches for masked channel modelling; the `collate_fn` of torch's DataLoader over a `ChannelStore`.

    One pass of C++ threads, without the GIL: gather csi (or build it from rays), look for NaN and Inf, cut
    tokens, add noise, save the targets and apply the mask. The bits depend on seed, epoch and sample numbers
    alone. Can be pickled.

    Args:
        version: "1.0" or "1.1".
        seed: of masks and noise, 0..2^64 - 1.
        mask_ratio: share of masked patches; None means the release's 0.15 or 0.40, 0 no mask.
        compat: the release's own masks (`lwm_fast.data.mask.release_plan`).
        scale: factor of the csi in tokens; None means what the store says (1e6).
        snr_db: noise on the tokens at this ratio, or at one drawn per sample and epoch from (low, high).
        tokens: make masked tokens and targets here (for the CPU). False leaves it to the device, which cuts
            and masks them from csi and mask.
        rescale: called with the batch before tokens are made; returns it with another `scale` or `cls`, for
            example by each sample's power. A module-level function, where workers are spawned.
        augment: a random phase and gain for every sample and epoch, before `rescale`.
        truth: give batches the truth about their links (`lwm_fast.links.LinkState`).
        pin: buffers in page-locked memory (needs CUDA).
        num_threads: 0 means as many as the process may use.

    Raises:
        InputError: an argument outside its range; noise without tokens; `pin` without CUDA.
    """

    def __init__(
        self,
        version: str = "1.1",
        *,
        seed: int = 0,
        mask_ratio: float | None = None,
        compat: bool = False,
        scale: float | None = None,
        snr_db: float | tuple[float, float] | None = None,
        tokens: bool = True,
        rescale: Callable[[PackedBatch], PackedBatch] | None = None,
        augment: Augmentation | None = None,
        truth: bool = False,
        pin: bool = False,
        num_threads: int = 0,
    ) -> None:
        check_ratio(version, mask_ratio)
        check_seed(seed, 0)
        if snr_db is not None and not tokens:
            raise InputError(
                "MCMCollator: noise is added to tokens, so snr_db needs tokens=True; leave one of them out"
            )
        if snr_db is not None and not (np.isfinite(snr_db).all() and np.size(snr_db) in (1, 2)):
            raise InputError(f"MCMCollator: snr_db={snr_db!r}; give dB, or a pair (low, high)")
        if pin and not torch.cuda.is_available():
            raise InputError("MCMCollator: pin=True needs a CUDA device, and none is there; leave pin out")
        self.version, self.seed, self.mask_ratio, self.compat = version, seed, mask_ratio, compat
        self.scale, self.snr_db, self.tokens, self.rescale = scale, snr_db, tokens, rescale
        self.augment, self.truth, self.num_threads = augment, truth, num_threads
        self._pool = BufferPool(pin=pin)

    def __call__(self, items: Gathered | Sequence[Sample]) -> PackedBatch:
        """The batch of these samples; under on_bad="skip" it may be shorter, even empty.

        Raises:
            InputError: a sample with NaN or Inf (named), unless the store says to skip; items of other kinds.
        """
        gathered = items if isinstance(items, Gathered) else gather_samples(items)
        batch, flags = self._collate(gathered)
        bad = gathered.index[flags & _NOT_FINITE != 0]
        if not bad.size:
            return batch
        if gathered.store is None or gathered.store.on_bad == "error":
            place = "" if gathered.store is None else f"{gathered.store.place(int(bad[0]))}: "
            raise InputError(
                f"{place}NaN or Inf in the csi of sample {bad[0]}"
                f"{f' and {bad.size - 1} more of its batch' if bad.size > 1 else ''}; repair or remove it, or "
                'leave such samples out with on_bad="skip"'
            )
        return self(
            gathered.store.gather(gathered.epoch, np.setdiff1d(gathered.index, bad, assume_unique=True))
        )

    def _collate(self, gathered: Gathered) -> tuple[PackedBatch, npt.NDArray[np.uint8]]:
        flags = np.empty(len(gathered.index), np.uint8)
        source: dict[str, Any] = {
            "arrays": gathered.arrays, "rays": gathered.rays, "source": gathered.source, "row": gathered.row,
            "geometry": gathered.geometry, "panel": gathered.panel, "flags": flags,
        }  # fmt: skip
        batch, plan = self._empty(gathered)
        gain_db = None if self.augment is None else self.augment.gains_db(gathered.index, gathered.epoch)
        if self.truth:
            batch = dataclasses.replace(batch, truth=link_truth(gathered, gain_db))
        if self.tokens and self.rescale is None and self.augment is None:
            return self._with_tokens(batch, plan, draw=not self.compat, **source), flags
        self._run(batch, plan, draw=not self.compat, **source)
        if self.augment is not None:
            batch = self.augment.apply(batch, gathered.epoch)
        if self.rescale is not None:
            batch = self.rescale(batch)
        return self._with_tokens(batch, plan, draw=False) if self.tokens else batch, flags

    def _empty(self, gathered: Gathered) -> tuple[PackedBatch, MaskPlan]:
        """The batch before its csi is there, and its mask: drawn already only under compat."""
        count = len(gathered.index)
        offsets = np.zeros(count + 1, np.int64)
        gathered.shape.prod(1, dtype=np.int64).cumsum(out=offsets[1:])
        lengths = lengths_of(gathered.shape, self.version)
        cu_seqlens = np.zeros(count + 1, np.int32)
        lengths.cumsum(out=cu_seqlens[1:], dtype=np.int32)
        mask_cu = mask_counts(cu_seqlens, self.version, self.mask_ratio, compat=self.compat)
        action, index = np.empty(int(cu_seqlens[-1]), np.uint8), np.empty(int(mask_cu[-1]), np.int32)
        plan = MaskPlan(action, index, mask_cu, self.seed, gathered.epoch)
        batch = PackedBatch(
            version=self.version,
            csi=self._pool.take((int(offsets[-1]),), np.complex64),
            offsets=offsets,
            shape=gathered.shape,
            cu_seqlens=cu_seqlens,
            max_seqlen=int(lengths.max(initial=0)),
            sample_id=gathered.index,
            scale=self._scale_of(gathered),
            cls=np.full(PATCH_LEN[self.version], CLS_VALUE, np.float32),
            mask=None if self.mask_ratio == 0 else plan,
        )
        if self.compat:
            plan = release_plan(batch, seed=self.seed, epoch=gathered.epoch, mask_ratio=self.mask_ratio)
            batch = dataclasses.replace(batch, mask=plan)
        return batch, plan

    def _scale_of(self, gathered: Gathered) -> npt.NDArray[np.float32]:
        if self.scale is None:
            return gathered.scale
        scale = np.full(len(gathered.index), self.scale, np.float32)
        return (
            scale if gathered.reference_db is None else scale * 10 ** (gathered.reference_db / np.float32(20))
        )

    def _with_tokens(self, batch: PackedBatch, plan: MaskPlan, **stages: Any) -> PackedBatch:
        patch_len = PATCH_LEN[self.version]
        tokens = self._pool.take((len(plan.action), patch_len), np.float32)
        targets = self._pool.take((len(plan.masked_index), patch_len), np.float32)
        self._run(
            batch, plan, tokens=tokens, targets=targets, scale=batch.scale, cls=batch.cls,
            snr_db=self._snr(batch.sample_id, plan.epoch), **stages,
        )  # fmt: skip
        made = Prepared(torch.from_numpy(tokens), torch.from_numpy(targets), batch.scale, batch.cls, plan)
        return dataclasses.replace(batch, prepared=made)

    def _run(self, batch: PackedBatch, plan: MaskPlan, **stages: Any) -> None:
        _C.collate(
            batch.csi, batch.offsets, batch.shape, batch.cu_seqlens, int(self.version.replace(".", "")),
            action=plan.action, masked_index=plan.masked_index, mask_cu=plan.mask_cu, random=plan.random,
            sample_id=batch.sample_id, seed=plan.seed, epoch=plan.epoch, num_threads=self.num_threads, **stages,
        )  # fmt: skip

    def _snr(self, samples: Int64Array, epoch: int) -> npt.NDArray[np.float32] | None:
        if self.snr_db is None:
            return None
        ratios = np.atleast_1d(np.asarray(self.snr_db, np.float64))
        low, high = ratios[0], ratios[-1]
        if low == high:
            return np.full(len(samples), low, np.float32)
        u = unit(first_block(self.seed, samples, epoch, Stream.PLAN)[:, SNR_WORD])
        return np.asarray(low + (high - low) * u, np.float32)


def gather_samples(items: Sequence[Sample]) -> Gathered:
    """A batch of samples whose csi is in memory, as a data set of one's own may give them.

    Raises:
        InputError: items that are not (epoch, index, csi); several epochs; csi that is no complex matrix.
    """
    try:
        samples = [item if isinstance(item, Sample) else Sample(*item) for item in items]
        epochs = {int(sample.epoch) for sample in samples}
        arrays = [np.asarray(sample.csi) for sample in samples]
    except TypeError as error:
        raise InputError(
            f"MCMCollator: items are {type(items[0]).__name__}; the data set must give (epoch, index, csi), "
            "lwm_fast.data.Sample: index names the sample in its random numbers"
        ) from error
    if len(epochs) > 1:
        raise InputError(f"MCMCollator: a batch of the epochs {sorted(epochs)}; a batch has one epoch")
    for sample, array in zip(samples, arrays, strict=True):
        if array.ndim != 2 or array.dtype.kind != "c":
            raise InputError(
                f"MCMCollator: csi of sample {sample.index} is {array.dtype} {list(array.shape)}, expected "
                "complex [num_antennas, num_subcarriers]"
            )
    count = len(samples)
    return Gathered(
        epoch=epochs.pop() if epochs else 0,
        index=np.array([sample.index for sample in samples], np.int64),
        shape=np.array([array.shape for array in arrays], np.int32).reshape(count, 2),
        scale=np.full(count, 1e6, np.float32),
        arrays=[np.ascontiguousarray(array, np.complex64)[None] for array in arrays],
        rays=[],
        source=np.arange(count, dtype=np.int32),
        row=np.zeros(count, np.int64),
        geometry=None,
        panel=None,
    )


def gather_csi(gathered: Gathered) -> Complex64Array:
    """csi [num_antennas, num_subcarriers] of the one sample gathered.

    Raises:
        InputError: it was skipped as unreadable, or holds NaN or Inf.
    """
    if not len(gathered.index):
        raise InputError("the sample cannot be read and is skipped; ask for another")
    batch = MCMCollator("1.1", mask_ratio=0, tokens=False, num_threads=1)(gathered)
    num_antennas, num_subcarriers = map(int, batch.shape[0])
    return np.array(batch.csi).reshape(num_antennas, num_subcarriers)
