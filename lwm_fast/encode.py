"""`encode`: channels in, embeddings out, in the habits of sentence-transformers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from lwm_fast import backends
from lwm_fast.encode_work import Array, Source, Work, check_size
from lwm_fast.errors import InputError
from lwm_fast.pooling import Pool, Ragged, get_pool
from lwm_fast.progress import Progress
from lwm_fast.streaming import Piece

if TYPE_CHECKING:
    from lwm_fast.model import LWM

__all__ = ["Embeddings", "Source", "check_size", "encode", "pick_batch_size"]

Embeddings: TypeAlias = "Array | Tensor | Ragged"

Item = TypeVar("Item")

PRECISIONS = ("float32", "bf16x3", "bfloat16", "float16")


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
    backend = backends.select(model.device, precision=precision, config=model.config)
    work = Work.of(source, model.config, scale)
    result = _Result(how, work, model, out, convert_to_tensor)
    batch = pick_batch_size(batch_size, backend.batch_tokens(model.device), work.seq_lens)
    pieces = work.pieces(batch, mixes_lengths=backend.mixes_lengths)
    if training := model.training:
        model.eval()

    def run(piece: Piece) -> int:
        try:
            room = result.room(piece.index)
            values = backend.encode(model, piece.batch, how, precision, room)
        except torch.OutOfMemoryError:
            if len(piece.batch) <= 1:
                raise
        else:
            if normalize or values is not room:
                result.put(piece.index, F.normalize(values, dim=-1) if normalize else values)
            return len(piece.batch)
        torch.cuda.empty_cache()  # the failed attempt's tensors are free by now
        return sum(run(half) for half in piece.halves())

    def in_inference_mode(piece: Piece) -> int:
        with torch.inference_mode():  # a worker thread has its own mode
            return run(piece)

    try:
        with Progress(len(work), "embedding", show=show_progress_bar) as progress:
            with torch.inference_mode():
                stream = backend.stream(
                    model, _ahead(pieces), how, precision, normalize=normalize, to_host=result.on_host
                )
                for piece, rows in stream or ():
                    result.put(piece.index, rows)
                    progress.update(len(piece.batch))
            if stream is None:
                for done in _side_by_side(in_inference_mode, pieces, backend.workers(model.device)):
                    progress.update(done)
    finally:
        if training:
            model.train()
    return result.finish()


def _ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, each made by a thread of its own while the one before is used."""
    with ThreadPoolExecutor(1, "lwm_fast") as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


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


class _Result:
    """Where the embeddings go: one dense array, or rows of a ``Ragged``."""

    def __init__(
        self, pool: Pool, work: Work, model: LWM, out: Array | Tensor | None, as_tensor: bool
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

    def room(self, index: Array) -> Tensor | None:
        """The memory of sequences ``index``, where rows can be written without another copy."""
        place, values = self._place(index), self.values
        if not isinstance(place, slice):
            return None
        if not isinstance(values, Tensor):
            straight = values.dtype == np.float32 and values.flags.c_contiguous and values.flags.writeable
            return torch.from_numpy(values)[place] if straight else None
        straight = values.dtype == torch.float32 and values.is_contiguous() and values.device.type == "cpu"
        return values.detach()[place] if straight else None

    def put(self, index: Array, rows: Tensor) -> None:
        """Rows of sequences ``index``, one sequence after another, into their places."""
        place = self._place(index)
        values = rows.reshape(-1, *self.values.shape[1:])
        if isinstance(self.values, Tensor):
            place = place if isinstance(place, slice) else torch.from_numpy(place).to(self.values.device)
            self.values[place] = values.to(self.values.device, self.values.dtype)
        else:
            self.values[place] = values.cpu().numpy()

    def _place(self, index: Array) -> Any:
        """Where sequences lie in ``values``: a slice where they follow one another, else numbers of rows."""
        consecutive = bool((np.diff(index) == 1).all())
        first, last = int(index[0]), int(index[-1]) + 1
        if self._ragged is None:
            return slice(first, last) if consecutive else index
        if consecutive:
            return slice(int(self._ragged[first]), int(self._ragged[last]))
        return np.concatenate([np.arange(self._ragged[i], self._ragged[i + 1]) for i in index])

    @property
    def on_host(self) -> bool:
        return not isinstance(self.values, Tensor) or self.values.device.type == "cpu"

    def finish(self) -> Embeddings:
        return self.values if self._ragged is None else Ragged(self.values, self._ragged)


def pick_batch_size(asked: int | str, token_budget: int, seq_lens: Array) -> int:
    """The batch size asked for, or what the token budget allows; InputError for anything else."""
    if asked == "auto":
        return max(1, token_budget // int(seq_lens.max(initial=1)))
    if not isinstance(asked, int) or asked < 1:
        raise InputError(f'batch_size={asked!r} must be a positive integer or "auto"')
    return asked
