"""`MCMLoader`: batches made in the background while the last one is used."""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from lwm_fast.data.channel_store import ChannelStore
from lwm_fast.data.collate import MCMCollator
from lwm_fast.data.sampler import BucketSampler
from lwm_fast.errors import InputError
from lwm_fast.packed import PackedBatch

_POLL_S = 0.1  # how long a full queue keeps a stopped worker waiting

_Item = tuple[int, PackedBatch] | BaseException | None


class MCMLoader:
    """Iterates over a sampler's batches; a thread makes the next ones, in C++ and without the GIL.

    One pass is the rest of the sampler's current epoch. The thread ends with the pass: after the last batch, a
    break, an exception, Ctrl-C, `close`, or when nothing refers to the pass any more. An error of the thread is
    raised where the batch would have come, with its own traceback. The bits of a batch do not depend on
    `prefetch`. A batch keeps its memory for as long as anything refers to it.

    Args:
        store: where samples come from.
        sampler: of the same store.
        collator: None means `MCMCollator(store.version, seed=sampler.seed)`.
        prefetch: most batches made ahead.

    Attributes:
        wait_s: seconds in which the consumer had to wait for a batch so far.
        skipped: samples left out so far because they could not be used (store with on_bad="skip").

    Raises:
        InputError: a collator of another version; prefetch below 1.
    """

    def __init__(
        self,
        store: ChannelStore,
        sampler: BucketSampler,
        collator: MCMCollator | None = None,
        *,
        prefetch: int = 3,
    ) -> None:
        if prefetch < 1:
            raise InputError(f"MCMLoader: prefetch={prefetch}; it must be at least 1")
        collator = MCMCollator(store.version, seed=sampler.seed) if collator is None else collator
        if collator.version != store.version:
            raise InputError(
                f"MCMLoader: the store is for LWM v{store.version}, the collator for v{collator.version}; "
                "make both for one version"
            )
        self.store, self.sampler, self.collator, self.prefetch = store, sampler, collator, prefetch
        self.wait_s, self.skipped = 0.0, 0
        self._running: _Worker | None = None

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[PackedBatch]:
        self.close()
        sampler = self.sampler
        if sampler.split == "validation":
            sampler.step = 0
        worker = _Worker(self.store, self.collator, sampler, self.prefetch)
        self._running = worker
        try:
            while True:
                before = time.perf_counter()
                item = worker.next()
                self.wait_s += time.perf_counter() - before
                if item is None:
                    return
                wanted, batch = item
                self.skipped += wanted - len(batch)
                sampler.advance()
                yield batch
                del item, batch  # so that the memory of the batch is free while the next one is awaited
        finally:
            worker.stop()

    def close(self) -> None:
        """End a pass that is under way; the next one goes on from the batches received."""
        if self._running is not None:
            self._running.stop()
            self._running = None

    def __enter__(self) -> MCMLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state after the batches received so far, whatever has been made ahead."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken; see `BucketSampler.load_state_dict`."""
        self.close()
        self.sampler.load_state_dict(state)


class _Worker:
    """The thread of one pass and the queue of what it has made."""

    def __init__(
        self, store: ChannelStore, collator: MCMCollator, sampler: BucketSampler, prefetch: int
    ) -> None:
        self._ready: queue.Queue[_Item] = queue.Queue(prefetch)
        self._stopped = threading.Event()
        epoch, steps = sampler.data_epoch, range(sampler.step, len(sampler))
        sampler.plan(epoch)  # made here: the plan of an epoch is not made twice, nor by two threads at once
        arguments = (self._ready, self._stopped, store, collator, sampler, epoch, steps)
        # A daemon, so that an interpreter that ends does not wait for a pass that nobody consumes; yet it must be
        # gone before the interpreter is taken down: a thread that comes back from C++ after that ends the process.
        self._thread = threading.Thread(target=_work, args=arguments, name="lwm_fast loader", daemon=True)
        self._thread.start()
        self.stop = weakref.finalize(self, _stop, self._ready, self._stopped, self._thread)

    def next(self) -> tuple[int, PackedBatch] | None:
        """The next batch with the number of samples asked for; None after the last."""
        if self._stopped.is_set():
            return None
        item = self._ready.get()
        if isinstance(item, BaseException):
            raise item
        return item


def _stop(ready: queue.Queue[_Item], stopped: threading.Event, thread: threading.Thread) -> None:
    """End the thread and wait for it."""
    stopped.set()
    while True:
        try:
            ready.get_nowait()
        except queue.Empty:
            break
    if thread is not threading.current_thread():
        thread.join()


def _work(
    ready: queue.Queue[_Item],
    stopped: threading.Event,
    store: ChannelStore,
    collator: MCMCollator,
    sampler: BucketSampler,
    epoch: int,
    steps: range,
) -> None:
    try:
        for step in steps:
            index = sampler.rank_batch(epoch, step)
            if not _put(ready, stopped, (len(index), collator(store.gather(epoch, index)))):
                return
        _put(ready, stopped, None)
    except BaseException as error:
        _put(ready, stopped, error)


def _put(ready: queue.Queue[_Item], stopped: threading.Event, item: _Item) -> bool:
    """False when the pass has ended meanwhile."""
    while not stopped.is_set():
        try:
            ready.put(item, timeout=_POLL_S)
            return True
        except queue.Full:
            continue
    return False
