"""The masks of masked channel modelling: which patches are hidden, and how.

v1.0 masks int(ratio * num_patches / 2) patches of the real half and their imaginary counterparts, v1.1
int(ratio * num_patches) patches. A masked patch becomes random numbers (10%), MASK (80%) or stays (10%).

What a sample draws depends on seed, epoch and its own number alone (see `lwm_fast.philox`), so masks change
every epoch and do not depend on batch, packing, worker or number of threads. `plain_mask` is the definition;
C++ draws the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lwm_fast import _C
from lwm_fast.errors import InputError
from lwm_fast.philox import Stream, uniform, words
from lwm_fast.tokens import PATCH_LEN

if TYPE_CHECKING:
    from lwm_fast.packed import MaskPlan, PackedBatch

MASK_RATIO = {"1.0": 0.15, "1.1": 0.40}
"""Share of the patches that the releases mask."""
ACTION_NONE, ACTION_MASK, ACTION_RANDOM, ACTION_KEPT = 0, 1, 2, 3
RELEASE_SEED = 42  # of LWM v1.1's masks
_RANDOM_BELOW, _MASK_BELOW = 0.1, 0.9

UInt8Array = npt.NDArray[np.uint8]
Int32Array = npt.NDArray[np.int32]
Float32Array = npt.NDArray[np.float32]


def num_masked(num_patches: int, version: str, mask_ratio: float | None = None) -> int:
    """Masked patches of a channel of `num_patches` patches (CLS not counted).

    Raises:
        InputError: an unknown version, or a ratio outside 0..1.
    """
    ratio = check_ratio(version, mask_ratio)
    if version == "1.0":
        return 2 * int(ratio * num_patches / 2)
    return int(ratio * num_patches)


def check_ratio(version: str, mask_ratio: float | None) -> float:
    """The ratio asked for, or the version's own. Raises InputError as `num_masked` does."""
    if version not in MASK_RATIO:
        raise InputError(f'version: got {version!r}, expected "1.0" or "1.1"')
    ratio = MASK_RATIO[version] if mask_ratio is None else float(mask_ratio)
    if not 0.0 <= ratio <= 1.0:
        raise InputError(f"mask_ratio: got {mask_ratio}, expected 0 (no mask) to 1 (every patch)")
    return ratio


def mask_counts(
    cu_seqlens: Int32Array, version: str, mask_ratio: float | None = None, *, compat: bool = False
) -> Int32Array:
    """mask_cu, int32 [B + 1]: where each sample's masked patches begin.

    compat: v1.1's release chooses among all patches but the last.
    """
    ratio = check_ratio(version, mask_ratio)
    patches = np.maximum(cu_seqlens[1:] - cu_seqlens[:-1] - 1, 0)
    if version == "1.0":
        counts = 2 * (ratio * patches / 2).astype(np.int64)  # as num_masked: the same roundings
    else:
        counts = (ratio * patches).astype(np.int64)
        if compat:
            counts = np.minimum(counts, np.maximum(patches - 1, 0))
    mask_cu = np.zeros(len(cu_seqlens), np.int32)
    counts.cumsum(out=mask_cu[1:], dtype=np.int32)
    return mask_cu


def draw_mask(
    batch: PackedBatch,
    *,
    seed: int,
    epoch: int,
    mask_ratio: float | None = None,
    compat: bool = False,
    num_threads: int = 0,
) -> MaskPlan:
    """A mask for every sample of a batch, drawn in C++; `dataclasses.replace(batch, mask=...)` puts it in.

    Args:
        batch: channels to mask; `sample_id` names them in the draws.
        seed, epoch: 0..2^64 - 1 and 0..2^32 - 1.
        mask_ratio: share of the patches; default: the release's (`MASK_RATIO`).
        compat: the release's own masks, see `release_plan`.
        num_threads: 0 means as many as the process may use; the result does not depend on it.

    Raises:
        InputError: a ratio, a seed or an epoch outside its range.
    """
    from lwm_fast.packed import MaskPlan

    if compat:
        return release_plan(batch, seed=seed, epoch=epoch, mask_ratio=mask_ratio)
    check_seed(seed, epoch)
    mask_cu = mask_counts(batch.cu_seqlens, batch.version, mask_ratio)
    action = np.empty(int(batch.cu_seqlens[-1]), np.uint8)
    index = np.empty(int(mask_cu[-1]), np.int32)
    _C.draw_mask(
        batch.cu_seqlens, mask_cu, batch.sample_id, action, index,
        int(batch.version.replace(".", "")), seed, epoch, num_threads,
    )  # fmt: skip
    return MaskPlan(action, index, mask_cu, seed, epoch)


def check_seed(seed: int, epoch: int) -> None:
    """Raises InputError when a seed or an epoch does not fit its counter."""
    for name, value, bits in (("seed", seed, 64), ("epoch", epoch, 32)):
        if not 0 <= value < 1 << bits:
            raise InputError(f"{name}: got {value}, expected 0..2^{bits} - 1")


def plain_mask(
    num_patches: int, version: str, *, seed: int, epoch: int, sample_id: int, mask_ratio: float | None = None
) -> tuple[Int32Array, UInt8Array]:
    """One sample's mask in plain Python: the definition of what C++ draws.

    Positions are a partial Fisher-Yates shuffle. A number below n is the high half of word * n; words whose
    low half is below 2^32 mod n are passed over, so that no position is likelier than another. Entry i of the
    list takes word i of its own stream for its action: u < 0.1 a random patch, u < 0.9 MASK, else kept.

    Returns:
        (positions int32 [M] among the sample's tokens, so from 1, in the release's order;
        actions uint8 [M] of these positions)
    """
    count = num_masked(num_patches, version, mask_ratio)
    pairs = version == "1.0"
    pool, drawn = (num_patches // 2, count // 2) if pairs else (num_patches, count)
    stream = iter(words(seed, sample_id, epoch, Stream.MASK_POSITIONS, 4 * drawn + 64).tolist())
    order = list(range(1, pool + 1))
    for i in range(drawn):
        bound = pool - i
        product = next(stream) * bound
        while product % 2**32 < 2**32 % bound:
            product = next(stream) * bound
        j = i + product // 2**32
        order[i], order[j] = order[j], order[i]
    positions = np.array(order[:drawn], np.int32)
    if pairs:
        positions = np.concatenate([positions, positions + np.int32(pool)])
    u = uniform(seed, sample_id, epoch, Stream.ACTIONS, count).astype(np.float64)
    actions = np.where(u < _RANDOM_BELOW, ACTION_RANDOM, np.where(u < _MASK_BELOW, ACTION_MASK, ACTION_KEPT))
    return positions, actions.astype(np.uint8)


def release_mask(
    num_patches: int, version: str, generator: np.random.RandomState, mask_ratio: float | None = None
) -> tuple[Int32Array, UInt8Array, Float32Array]:
    """One sample's mask as the released code draws it from numpy's global generator.

    In order: `choice` without replacement (v1.0: of the real half; v1.1: of patches 1..num_patches - 1), then
    for each position `rand()`, and `rand(patch_len)` where that was below 0.1.

    Returns:
        (positions int32 [M], actions uint8 [M], random float32 [M, patch_len], zeros where nothing was drawn)
    """
    patch_len = PATCH_LEN[version]
    count = num_masked(num_patches, version, mask_ratio)
    if version == "1.0":
        half = num_patches // 2
        real = generator.choice(half, size=count // 2, replace=False) + 1
        positions = np.concatenate([real, real + half])
    else:
        pool = np.arange(1, num_patches)
        positions = generator.choice(pool, size=min(count, pool.size), replace=False)
    actions = np.empty(positions.size, np.uint8)
    random = np.zeros((positions.size, patch_len), np.float32)
    for i in range(positions.size):
        u = generator.rand()
        actions[i] = ACTION_RANDOM if u < _RANDOM_BELOW else ACTION_MASK if u < _MASK_BELOW else ACTION_KEPT
        if u < _RANDOM_BELOW:
            random[i] = generator.rand(patch_len)
    return positions.astype(np.int32), actions, random


def release_plan(
    batch: PackedBatch,
    *,
    seed: int = 0,
    epoch: int = 0,
    mask_ratio: float | None = None,
    generator: np.random.RandomState | None = None,
) -> MaskPlan:
    """The released masks of a batch, drawn by numpy's RandomState; C++ only applies them.

    v1.1: the release seeds its generator with 42 before every sample, so samples of one length share
    positions, actions and random patches, in every epoch; the last patch is never masked.
    v1.0: the release never seeds and masks every sample once, so there is no one sequence to repeat. Sample
    s has a generator of its own, seeded by word 0 of its stream (seed, s, epoch 0): fixed for all epochs.
    `generator` draws the samples of the batch one after another instead, as the released script does.

    Args: as for `draw_mask`.
    """
    from lwm_fast.packed import MaskPlan

    check_seed(seed, epoch)
    mask_cu = mask_counts(batch.cu_seqlens, batch.version, mask_ratio, compat=True)
    action = np.zeros(int(batch.cu_seqlens[-1]), np.uint8)
    index = np.empty(int(mask_cu[-1]), np.int32)
    random = np.zeros((len(index), PATCH_LEN[batch.version]), np.float32)
    shared: dict[int, tuple[Int32Array, UInt8Array, Float32Array]] = {}
    for i, first in enumerate(batch.cu_seqlens[:-1]):
        patches = int(batch.cu_seqlens[i + 1] - first) - 1
        if generator is not None:
            drawn = release_mask(patches, batch.version, generator, mask_ratio)
        elif batch.version == "1.1":
            if patches not in shared:
                own = np.random.RandomState(RELEASE_SEED)
                shared[patches] = release_mask(patches, batch.version, own, mask_ratio)
            drawn = shared[patches]
        else:
            word = words(seed, int(batch.sample_id[i]), 0, Stream.MASK_POSITIONS, 1)[0]
            own = np.random.RandomState(int(word))
            drawn = release_mask(patches, batch.version, own, mask_ratio)
        entries = slice(mask_cu[i], mask_cu[i + 1])
        index[entries] = first + drawn[0]
        action[index[entries]] = drawn[1]
        random[entries] = drawn[2]
    return MaskPlan(action, index, mask_cu, seed, epoch, random)
