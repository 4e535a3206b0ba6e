"""`encode`: channels in, embeddings out, in the habits of sentence-transformers."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lwm_fast import _C, backends
from lwm_fast.errors import InputError
from lwm_fast.packed import PackedBatch
from lwm_fast.pooling import Pool, Ragged, get_pool
from lwm_fast.progress import Progress
from lwm_fast.tokens import num_tokens

if TYPE_CHECKING:
    from lwm_fast.config import LWMConfig
    from lwm_fast.data import Channels
    from lwm_fast.model import LWM

Array = npt.NDArray[Any]
Source: TypeAlias = "Channels | Array | Tensor | Sequence[Array | Tensor] | str | os.PathLike[str]"
Embeddings: TypeAlias = "Array | Tensor | Ragged"

Item = TypeVar("Item")

PRECISIONS = ("float32", "bf16x3", "bfloat16", "float16")
_BLOCK_BYTES = 32 << 20  # csi read at once
_V1_0_SIZE = (32, 32)


def encode(
    model: LWM,
    source: Source,
    pool: str = "cls",
    batch_size: int | str = "auto",
    device: str | torch.device | None = None,
    precision: str = "float32",
    show_progress_bar: bool | None = None,
    normalize: bool = False,
    out: Array | Tensor | None = None,
    *,
    scale: float | None = None,
    convert_to_tensor: bool = False,
) -> Embeddings:
    """Embed channels with a model; results come in input order whatever the batching.

    source: complex csi [n, num_antennas, num_subcarriers] (numpy or torch; [n, 1, N, SC] too), a ``Channels``,
        a path that ``load_channels`` reads (streamed), or a list of [N, SC] channels of mixed sizes (v1.1).
    pool: "cls", "mean" (of patches), "mean_with_cls" give [n, embed_dim]; "patches" [n, num_patches, embed_dim]
        and "tokens" [n, seq_len, embed_dim] (CLS first). Mixed sizes give a ``Ragged`` for the last two.
    batch_size: channels a batch, or "auto" (a token budget that suits the device).
    device: move the model there first; None leaves it where it is.
    precision: "float32", "bfloat16", "float16" or "bf16x3" where a backend offers it. Embeddings are float32.
    show_progress_bar: True, False, or None: a bar on a terminal when the work is long, else log lines.
    normalize: divide each vector by its Euclidean norm.
    out: caller's float array or tensor of the result's shape (ragged: of its ``values``), filled and returned.
    scale: multiplies the csi; None takes ``Channels.meta.scale``, and 1e6 for plain arrays.
    convert_to_tensor: return torch tensors on the model's device instead of numpy.

    Raises InputError for real, non-finite or all-zero csi, sizes that the model does not take, and a wrong
    ``out``; BackendUnavailableError when no backend offers what was asked for.
    """
    if device is not None:
        model.to(device)
    if precision not in PRECISIONS:
        raise InputError(f"precision={precision!r} is unknown; use one of {', '.join(PRECISIONS)}")
    how = get_pool(pool)
    backend = backends.select(model.device, precision=precision)
    work = _Work.of(source, model.config, scale)
    result = _Result(how, work, model, out, convert_to_tensor)
    batch = pick_batch_size(batch_size, backend.batch_tokens(model.device), work.seq_lens)
    training = model.training
    model.eval()

    def run(item: tuple[Array, PackedBatch]) -> int:
        index, packed = item
        with torch.inference_mode():
            values = backend.encode(model, packed, how, precision)
            if normalize:
                values = torch.nn.functional.normalize(values, dim=-1)
            result.put(index, values)
        return len(packed)

    try:
        with Progress(len(work), "embedding", show=show_progress_bar) as progress:
            batches = work.batches(model.config.lwm_version, batch)
            for done in _side_by_side(run, batches, backend.workers(model.device)):
                progress.update(done)
    finally:
        model.train(training)
    return result.finish()


def _side_by_side(run: Callable[[Item], int], items: Iterable[Item], workers: int) -> Iterator[int]:
    """Results of ``run`` in order, ``workers`` at a time; 0 runs them in the caller's thread."""
    if workers == 0:
        yield from map(run, items)
        return
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "lwm_fast", initializer=_own_torch_thread)
    waiting: deque[Future[int]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(run, item))
            if len(waiting) > 2 * workers:  # keeps the csi in flight small
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)  # the workers changed what new threads start with


def _own_torch_thread() -> None:
    torch.set_num_threads(1)
    # Softmax tails underflow to denormals, which cost v1.0 a fifth of its time; the setting is the thread's own.
    torch.set_flush_denormal(True)


class _Work:
    """What is to be embedded: ``Channels`` of one size, or a list of mixed sizes."""

    def __init__(
        self, channels: Channels | None, samples: list[Array], config: LWMConfig, scale: float
    ) -> None:
        self._channels, self._samples, self._scale = channels, samples, scale
        version = config.lwm_version
        if channels is not None:
            check_size(channels.shape[1:], config)
            length = num_tokens(channels.shape[1], channels.shape[2], version)
            self.seq_lens: npt.NDArray[np.int64] = np.full(len(channels), length, dtype=np.int64)
            self.common_length: int | None = length
        else:
            for i, sample in enumerate(samples):
                check_size(sample.shape, config, f"channel {i}: ")
            self.seq_lens = np.array(
                [num_tokens(s.shape[0], s.shape[1], version) for s in samples], dtype=np.int64
            )
            self.common_length = None

    @classmethod
    def of(cls, source: Any, config: LWMConfig, scale: float | None) -> _Work:
        from lwm_fast.data import Channels, load_channels

        if isinstance(source, (list, tuple)):
            return cls(None, _samples(source), config, 1e6 if scale is None else scale)
        if isinstance(source, Channels):
            channels = source
        elif isinstance(source, (np.ndarray, Tensor)) and source.ndim == 3 and len(source) == 0:
            channels = Channels.from_arrays(np.asarray(source))  # nothing to check, nothing to embed
        else:
            channels = load_channels(source, in_memory=False, scale=scale)
        return cls(channels, [], config, channels.meta.scale if scale is None else scale)

    def __len__(self) -> int:
        return len(self.seq_lens)

    def batches(self, version: str, batch_size: int) -> Iterator[tuple[Array, PackedBatch]]:
        if self._channels is not None:
            yield from self._dense(version, batch_size)
        else:
            yield from self._mixed(version, batch_size)

    def _dense(self, version: str, batch_size: int) -> Iterator[tuple[Array, PackedBatch]]:
        channels = self._channels
        assert channels is not None
        entry_bytes = 8 * channels.shape[1] * channels.shape[2]
        block = batch_size * max(1, _BLOCK_BYTES // (batch_size * entry_bytes))
        for start in range(0, len(channels), block):
            csi = channels.read(start, min(start + block, len(channels)))
            for first in range(0, len(csi), batch_size):
                part = csi[first : first + batch_size]
                index = np.arange(start + first, start + first + len(part))
                packed = PackedBatch.from_samples(part, version, scale=self._scale, sample_id=index)
                _check_values(packed, index, zero_is_an_error=False)
                yield index, packed

    def _mixed(self, version: str, batch_size: int) -> Iterator[tuple[Array, PackedBatch]]:
        longest = int(self.seq_lens.max(initial=1))
        for length in np.unique(self.seq_lens):  # equal lengths together: nothing is padded
            bucket = np.flatnonzero(self.seq_lens == length)
            step = max(1, batch_size * longest // int(length))
            for first in range(0, len(bucket), step):
                index = bucket[first : first + step]
                picked = [self._samples[i] for i in index]
                packed = PackedBatch.from_samples(picked, version, scale=self._scale, sample_id=index)
                _check_values(packed, index, zero_is_an_error=True)
                yield index, packed


class _Result:
    """Where the embeddings go: one dense array, or rows of a ``Ragged``."""

    def __init__(
        self, pool: Pool, work: _Work, model: LWM, out: Array | Tensor | None, as_tensor: bool
    ) -> None:
        dim = model.config.embed_dim
        rows = np.array([pool.rows(int(n)) for n in work.seq_lens], dtype=np.int64)
        self._ragged: npt.NDArray[np.int64] | None = None
        shape: tuple[int, ...]
        if pool.reduce:
            shape = (len(work), dim)
        elif work.common_length is not None:
            shape = (len(work), pool.rows(work.common_length), dim)
        else:
            self._ragged = np.concatenate([[0], rows.cumsum()])
            shape = (int(rows.sum()), dim)
        if out is None:
            self.values: Any = (
                torch.empty(shape, device=model.device) if as_tensor else np.empty(shape, np.float32)
            )
        else:
            floating = out.is_floating_point() if isinstance(out, Tensor) else out.dtype.kind == "f"
            if tuple(out.shape) != shape or not floating:
                raise InputError(
                    f"out is {out.dtype} {tuple(out.shape)}; a floating-point {shape} was expected"
                )
            self.values = out

    def put(self, index: Array, values: Tensor) -> None:
        place: Any = index
        if self._ragged is not None:
            place = np.concatenate([np.arange(self._ragged[i], self._ragged[i + 1]) for i in index])
            values = values.flatten(0, 1)
        elif index[-1] - index[0] == len(index) - 1:
            place = slice(int(index[0]), int(index[-1]) + 1)
        if isinstance(self.values, Tensor):
            place = place if isinstance(place, slice) else torch.from_numpy(place).to(self.values.device)
            self.values[place] = values.to(self.values.device, self.values.dtype)
        else:
            self.values[place] = values.cpu().numpy()

    def finish(self) -> Embeddings:
        return self.values if self._ragged is None else Ragged(self.values, self._ragged)


def _samples(source: Sequence[Any]) -> list[Array]:
    samples = []
    for i, item in enumerate(source):
        array = item.detach().cpu().resolve_conj().numpy() if isinstance(item, Tensor) else np.asarray(item)
        if array.ndim != 2 or array.dtype.kind != "c":
            raise InputError(
                f"channel {i} of the list is {array.dtype} {array.shape}; each must be complex "
                "[num_antennas, num_subcarriers] (one array [n, num_antennas, num_subcarriers] needs no list)"
            )
        samples.append(np.ascontiguousarray(array, dtype=np.complex64))
    return samples


def check_size(size: Sequence[int], config: LWMConfig, place: str = "") -> None:
    """Raises InputError for channels of a size that the model does not take."""
    num_antennas, num_subcarriers = size
    if config.lwm_version == "1.0" and (num_antennas, num_subcarriers) != _V1_0_SIZE:
        raise InputError(
            f"{place}LWM v1.0 takes 32x32 channels (antennas x subcarriers), these are "
            f"{num_antennas}x{num_subcarriers}; load them as 32x32 or use v1.1 weights, which take any size"
        )
    length = num_tokens(num_antennas, num_subcarriers, config.lwm_version)
    if length > config.max_len:
        raise InputError(
            f"{place}a {num_antennas}x{num_subcarriers} channel gives {length} tokens and the model has positions for "
            f"{config.max_len}; use fewer antennas or subcarriers, or model.resize_positions({length})"
        )


def _check_values(packed: PackedBatch, index: Array, *, zero_is_an_error: bool) -> None:
    flags = np.empty(len(packed), dtype=np.uint8)
    _C.check_csi(packed.csi, packed.offsets, flags)
    for bit, what in ((1, "NaN or Inf in"), (2, "all-zero")):
        bad = index[(flags & bit) != 0]
        if len(bad) and (bit == 1 or zero_is_an_error):
            from lwm_fast.data.checks import name_users

            raise InputError(f"{what} channels ({name_users(bad)}); remove them before embedding")


def pick_batch_size(asked: int | str, token_budget: int, seq_lens: Array) -> int:
    """The batch size asked for, or what the token budget allows; InputError for anything else."""
    if asked == "auto":
        return max(1, token_budget // int(seq_lens.max(initial=1)))
    if not isinstance(asked, int) or asked < 1:
        raise InputError(f'batch_size={asked!r} must be a positive integer or "auto"')
    return asked
