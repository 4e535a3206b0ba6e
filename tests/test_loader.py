"""`MCMLoader` and torch's DataLoader: the same batches, resumed, stopped and failing cleanly."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.released import random_csi
from test_collate import double, equal, some_rays
from torch.utils.data import DataLoader

from lwm_fast import InputError
from lwm_fast.data import BucketSampler, Channels, ChannelStore, MCMCollator, MCMLoader, RayPlan
from lwm_fast.packed import PackedBatch

PLAN = RayPlan(sizes=((8, 32), (4, 4), (16, 32)), rotation=(-180, 180))


def make_store(**options: Any) -> ChannelStore:
    sources = [random_csi(40, 8, 32), random_csi(30, 9, 33, seed=1), Channels.from_rays(some_rays(60))]
    return ChannelStore(sources, plan=PLAN, **options)


def make_loader(store: ChannelStore | None = None, **options: Any) -> MCMLoader:
    store = make_store() if store is None else store
    return MCMLoader(store, BucketSampler(store, batch_size=8, seed=2), MCMCollator(seed=2), **options)


def loader_threads() -> int:
    return sum(thread.name == "lwm_fast loader" for thread in threading.enumerate())


def same(a: list[PackedBatch], b: list[PackedBatch]) -> bool:
    return len(a) == len(b) and all(map(equal, a, b))


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    gc.collect()
    assert loader_threads() == 0


@pytest.mark.parametrize("prefetch", [1, 4])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_batches_are_those_of_the_sampler(prefetch, num_threads):
    store = make_store()
    sampler = BucketSampler(store, batch_size=8, seed=2)
    collator = MCMCollator(seed=2)
    loader = MCMLoader(store, sampler, MCMCollator(seed=2, num_threads=num_threads), prefetch=prefetch)
    for epoch in range(2):
        batches = list(loader)
        plan = BucketSampler(store, batch_size=8, seed=2)
        expected = [
            collator(store.gather(epoch, plan.rank_batch(epoch, s))) for s in range(plan.steps(epoch))
        ]
        assert same(batches, expected)
    assert (sampler.epoch, sampler.step) == (2, 0)
    assert loader.wait_s > 0
    assert loader.skipped == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_dataloader_workers_give_the_same_bits(method):
    store = make_store()
    expected = list(make_loader(store))
    options: dict[str, Any] = {"num_workers": 2, "multiprocessing_context": method}
    collator = MCMCollator(seed=2, num_threads=1)
    loader = DataLoader(
        store, batch_sampler=BucketSampler(store, batch_size=8, seed=2), collate_fn=collator, **options
    )
    batches = list(loader)
    assert same(batches, expected)
    assert all(batch.masked_tokens()[0] is batch.prepared.tokens for batch in batches)


def test_dataloader_without_workers_and_with_rescale():
    store = make_store()
    sampler = BucketSampler(store, batch_size=8, seed=2)
    collator = MCMCollator(seed=2, rescale=double)
    batches = list(DataLoader(store, batch_sampler=sampler, collate_fn=collator))
    sampler.load_state_dict(sampler.state_at(0, 0))
    assert same(batches, list(MCMLoader(store, sampler, collator)))


def test_ranks_give_the_whole():
    store = make_store()
    whole = list(make_loader(store))
    shares = [
        list(
            MCMLoader(
                store, BucketSampler(store, batch_size=8, seed=2, rank=r, world_size=2), MCMCollator(seed=2)
            )
        )
        for r in range(2)
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        for name in ("tokens", "targets"):
            joined = torch.cat([getattr(part.prepared, name) for part in parts])
            assert torch.equal(joined, getattr(batch.prepared, name))


@pytest.mark.parametrize("stop", [1, 5])
def test_resume_counts_what_was_received_not_what_was_made(stop):
    store = make_store()
    loader = make_loader(store)
    whole = list(loader) + list(loader)
    first = make_loader(store, prefetch=4)
    seen = []
    for batch in first:
        seen.append(batch)
        if len(seen) == stop:
            state = first.state_dict()
            break
    assert state["step"] == stop
    second = make_loader(store)
    second.load_state_dict(state)
    assert same(seen + list(second) + list(second), whole)
    assert same(list(first), whole[stop : len(first)])  # the one that was left goes on likewise


def test_batches_stay_good_while_others_are_made():
    batches = list(make_loader())
    copies = [batch.prepared.tokens.clone() for batch in batches]
    other = make_loader()
    for _ in range(2):
        for batch in other:
            tokens = batch.masked_tokens()[0]
            del batch
            before = tokens.clone()
            time.sleep(0.001)
            assert torch.equal(tokens, before)
    assert all(torch.equal(batch.prepared.tokens, copy) for batch, copy in zip(batches, copies, strict=True))


def fail_at_the_first(loader: MCMLoader) -> None:
    for _ in loader:
        raise RuntimeError("consumer")


def test_break_exception_close_and_garbage_stop_the_thread():
    loader = make_loader()
    for _ in loader:
        break
    gc.collect()
    assert loader_threads() == 0
    with pytest.raises(RuntimeError, match="consumer"):
        fail_at_the_first(loader)
    gc.collect()
    assert loader_threads() == 0
    iterator = iter(loader)
    next(iterator)
    assert loader_threads() == 1
    loader.close()
    assert loader_threads() == 0
    assert list(iterator) == []
    with make_loader() as other:
        kept = iter(other)
        next(kept)
    assert loader_threads() == 0
    iterator = iter(loader)
    next(iterator)
    del iterator, loader
    gc.collect()
    assert loader_threads() == 0


def test_a_new_pass_ends_the_old_one():
    loader = make_loader()
    first = iter(loader)
    next(first)
    second = iter(loader)
    next(second)
    assert loader_threads() == 1
    assert list(first) == []
    assert len(list(second)) == len(loader.sampler.plan(0).bounds) - 2


def broken_store() -> ChannelStore:
    csi = random_csi(30, 8, 32)
    csi[17, 0, 0] = np.nan
    return ChannelStore(csi)


def test_an_error_of_the_thread_surfaces_with_its_traceback():
    store = broken_store()
    sampler = BucketSampler(store, batch_size=4, split="all")
    with pytest.raises(InputError, match="sample 17") as caught:
        list(MCMLoader(store, sampler))
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert "_work" in names
    assert "__call__" in names
    state = sampler.state_dict()
    assert 17 in sampler.global_batch(state["epoch"], state["step"])  # stands at the batch that failed


def test_skipped_samples_are_counted():
    csi = random_csi(30, 8, 32)
    csi[[3, 17], 0, 0] = np.nan
    store = ChannelStore(csi, on_bad="skip")
    loader = MCMLoader(store, BucketSampler(store, batch_size=4, split="all"))
    seen = np.concatenate([batch.sample_id for batch in loader])
    assert sorted(seen) == sorted(set(range(30)) - {3, 17})
    assert loader.skipped == 2


class Deadly:
    """A collator that kills its worker."""

    def __call__(self, items: Any) -> PackedBatch:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@pytest.mark.slow
def test_a_killed_worker_is_reported():
    store = make_store()
    sampler = BucketSampler(store, batch_size=8)
    with pytest.raises(RuntimeError, match=r"DataLoader worker .* exited unexpectedly|killed"):
        list(DataLoader(store, batch_sampler=sampler, collate_fn=Deadly(), num_workers=1))


_INTERRUPTED = """
import signal, sys, threading, os
import numpy as np
from lwm_fast.data import BucketSampler, ChannelStore, MCMLoader
signal.signal(signal.SIGINT, signal.default_int_handler)
rng = np.random.default_rng(0)
csi = rng.standard_normal((400, 8, 32, 2), np.float32).view(np.complex64)[..., 0]
store = ChannelStore(csi)
loader = MCMLoader(store, BucketSampler(store, batch_size=2))
try:
    while True:
        for step, batch in enumerate(loader):
            if step == 20:
                print("ready", flush=True)
except KeyboardInterrupt:
    import gc
    gc.collect()
    alive = sum(t.name == "lwm_fast loader" for t in threading.enumerate())
    print("stopped", alive, flush=True)
    sys.exit(130)
"""


def test_ctrl_c_stops_cleanly():
    with subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "stopped 0" in output
    assert errors == ""


def test_an_abandoned_pass_does_not_hold_up_the_interpreter():
    code = (
        "import numpy as np\n"
        "from lwm_fast.data import BucketSampler, ChannelStore, MCMLoader\n"
        "store = ChannelStore(np.ones((400, 8, 32), np.complex64))\n"
        "passing = iter(MCMLoader(store, BucketSampler(store, batch_size=2)))\n"
        "print(len(next(passing)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, "2\n", "")


def test_bad_arguments(tmp_path: Path):
    store = make_store()
    sampler = BucketSampler(store, batch_size=8)
    with pytest.raises(InputError, match="prefetch=0"):
        MCMLoader(store, sampler, prefetch=0)
    with pytest.raises(InputError, match=r"for LWM v1\.1, the collator for v1\.0"):
        MCMLoader(store, sampler, MCMCollator("1.0"))
