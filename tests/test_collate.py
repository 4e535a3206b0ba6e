"""`MCMCollator`: one C++ pass equals its parts, whatever the threads, the packing and the way samples come."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.released import random_csi

from lwm_fast import _C, InputError
from lwm_fast.data import ArrayGeometry, Channels, ChannelStore, MCMCollator, RayPlan, Rays, Sample, draw_mask
from lwm_fast.data.buffers import BufferPool
from lwm_fast.packed import PackedBatch
from lwm_fast.tokens import tokenize

SIZES = [(8, 32), (16, 16), (9, 33), (1, 1)]


def arrays() -> list[np.ndarray[Any, Any]]:
    return [random_csi(6, *size, seed=i) for i, size in enumerate(SIZES)]


def store(**options: Any) -> ChannelStore:
    return ChannelStore(arrays(), **options)


def some_rays(users: int = 9, seed: int = 0) -> Rays:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 7, users)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    total = int(offsets[-1])

    def column(low: float, high: float) -> np.ndarray[Any, Any]:
        return rng.uniform(low, high, total).astype(np.float32)

    angles = [column(-180, 180), column(20, 160), column(-180, 180), column(20, 160)]
    return Rays(offsets, column(-120, -80), column(-180, 180), column(1e-7, 3e-6), *angles)


def ray_store(plan: RayPlan | None = None, **options: Any) -> ChannelStore:
    return ChannelStore(Channels.from_rays(some_rays()), plan=plan, **options)


def equal(a: PackedBatch, b: PackedBatch) -> bool:
    fields = ("csi", "offsets", "shape", "cu_seqlens", "sample_id", "scale", "cls")
    same = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in fields)
    plans = all(
        np.array_equal(getattr(a.mask, name), getattr(b.mask, name))
        for name in ("action", "masked_index", "mask_cu")
    )
    tokens = all(torch.equal(x, y) for x, y in zip(a.masked_tokens(), b.masked_tokens(), strict=True))
    return same and plans and tokens


INDEX = np.array([3, 23, 7, 0, 12, 18, 5, 9])


@pytest.mark.parametrize("source", ["arrays", "rays", "both"])
def test_one_pass_equals_its_parts(source):
    plan = RayPlan(sizes=((8, 32), (9, 33), (4, 8)), rotation=(-60, 60), seed=5)
    sources = {"arrays": arrays(), "rays": [Channels.from_rays(some_rays(30))]}
    chosen = sources["arrays"] + sources["rays"] if source == "both" else sources[source]
    data = ChannelStore(chosen, plan=plan)
    index = np.concatenate([INDEX, len(data) - 1 - INDEX])
    batch = MCMCollator(seed=9)(data.gather(4, index))
    assert batch.prepared is not None
    samples = [data[(4, int(i))].csi for i in index]
    parts = PackedBatch.from_samples(samples, "1.1", sample_id=index)
    parts = replace(parts, mask=draw_mask(parts, seed=9, epoch=4))
    assert equal(batch, parts)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_bits_do_not_depend_on_threads_or_on_the_way(version):
    sizes = [(32, 32), (4, 4)] if version == "1.0" else SIZES
    data = ChannelStore([random_csi(12, *size, seed=3) for size in sizes], version=version)
    options: dict[str, Any] = {"seed": 2**64 - 1, "snr_db": (0.0, 20.0)}
    one = MCMCollator(version, num_threads=1, **options)(data.gather(7, INDEX))
    many = MCMCollator(version, num_threads=3, **options)(data.gather(7, INDEX))
    items = [data[(7, int(i))] for i in INDEX]
    plain = MCMCollator(version, **options)(items)
    copied = pickle.loads(pickle.dumps(MCMCollator(version, **options)))(items)
    for other in (many, plain, copied):
        assert torch.equal(one.prepared.tokens, other.prepared.tokens)
        assert torch.equal(one.prepared.targets, other.prepared.targets)
        assert np.array_equal(one.csi, other.csi)


def test_a_sample_is_the_same_in_any_batch():
    data, collate = store(), MCMCollator(seed=1, snr_db=10.0)
    batch = collate(data.gather(2, INDEX))
    for i, index in enumerate(INDEX):
        alone = collate(data.gather(2, [index]))
        rows = slice(batch.cu_seqlens[i], batch.cu_seqlens[i + 1])
        assert torch.equal(batch.prepared.tokens[rows], alone.prepared.tokens)
        entries = slice(batch.mask.mask_cu[i], batch.mask.mask_cu[i + 1])
        assert torch.equal(batch.prepared.targets[entries], alone.prepared.targets)


def test_noise_is_that_of_tokenize():
    csi = random_csi(5, 8, 32)
    index = np.array([3, 1, 4])
    batch = MCMCollator(seed=6, snr_db=5.0, mask_ratio=0)(ChannelStore(csi).gather(2, index))
    expected = tokenize(csi[index], "1.1", snr_db=5.0, seed=6, epoch=2, sample_id=index)
    assert batch.mask is None
    assert np.array_equal(batch.prepared.tokens.numpy().reshape(expected.shape), expected)


def test_targets_are_the_noisy_patches():
    data = store()
    clean = MCMCollator(seed=6, mask_ratio=0, snr_db=5.0)(data.gather(2, INDEX)).prepared.tokens
    batch = MCMCollator(seed=6, snr_db=5.0)(data.gather(2, INDEX))
    assert torch.equal(batch.prepared.targets, clean[batch.mask.masked_index.astype(np.int64)])


def test_device_path_leaves_the_tokens_to_the_device():
    batch = MCMCollator(seed=1, tokens=False)(store().gather(0, INDEX))
    assert batch.prepared is None
    assert equal(batch, MCMCollator(seed=1)(store().gather(0, INDEX)))


def test_compat_masks_are_shared_by_a_length():
    batch = MCMCollator(seed=1, compat=True)(store().gather(0, [0, 1, 6]))
    rows = [
        batch.mask.masked_index[a:b] - first
        for a, b, first in zip(batch.mask.mask_cu, batch.mask.mask_cu[1:], batch.cu_seqlens, strict=False)
    ]
    assert np.array_equal(rows[0], rows[1])
    assert np.array_equal(rows[0], rows[2])  # another size of the same length
    again = replace(batch, prepared=None).masked_tokens()
    assert torch.equal(batch.prepared.tokens, again[0])


def double(batch: PackedBatch) -> PackedBatch:
    cls = np.tile(batch.cls, (len(batch), 1)) + batch.shape[:, :1].astype(np.float32)
    return replace(batch, scale=batch.scale * np.float32(2), cls=cls)


def test_rescale_comes_before_the_tokens():
    data = store()
    batch = pickle.loads(pickle.dumps(MCMCollator(seed=1, rescale=double)))(data.gather(0, INDEX))
    plain = MCMCollator(seed=1)(data.gather(0, INDEX))
    assert torch.equal(batch.prepared.targets, 2 * plain.prepared.targets)
    assert torch.equal(batch.prepared.tokens, replace(batch, prepared=None).masked_tokens()[0])
    first = batch.prepared.tokens[batch.cu_seqlens[:-1].astype(np.int64), 0]
    assert np.allclose(first.numpy(), 0.2 + batch.shape[:, 0])


def test_empty_batch():
    batch = MCMCollator()(store().gather(0, []))
    assert len(batch) == 0
    assert batch.prepared.tokens.shape == (0, 32)
    assert len(MCMCollator()([])) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite_is_named_or_skipped(bad):
    csi = random_csi(6, 8, 32)
    csi[4, 3, 2] = bad
    sources = [random_csi(3, 4, 4), csi]
    with pytest.raises(InputError, match=r"array, sample 4: NaN or Inf in the csi of sample 7; .*on_bad"):
        MCMCollator()(ChannelStore(sources).gather(0, [2, 7, 5]))
    batch = MCMCollator()(ChannelStore(sources, on_bad="skip").gather(0, [2, 7, 5]))
    assert batch.sample_id.tolist() == [2, 5]
    whole = MCMCollator()(ChannelStore(sources).gather(0, [2, 5]))
    assert equal(batch, whole)
    assert len(MCMCollator()(ChannelStore(csi, on_bad="skip").gather(0, [4]))) == 0


def test_not_finite_rays_are_named():
    rays = some_rays()
    rays.power_db[rays.offsets[2]] = np.nan
    data = ChannelStore(Channels.from_rays(rays, ArrayGeometry()))
    with pytest.raises(InputError, match="user 2: NaN or Inf in the csi of sample 2"):
        MCMCollator()(data.gather(0, [1, 2]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_ratio": -0.1}, r"mask_ratio: got -0\.1"),
        ({"seed": 2**64}, "seed: got 18446744073709551616"),
        ({"snr_db": float("inf")}, "snr_db=inf"),
        ({"snr_db": 3.0, "tokens": False}, "snr_db needs tokens=True"),
        ({"version": "2"}, "version: got '2'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        MCMCollator(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a device is there")
def test_pinned_buffers_need_a_device():
    with pytest.raises(InputError, match="pin=True needs a CUDA device"):
        MCMCollator(pin=True)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([np.zeros((8, 32), np.complex64)], r"must give \(epoch, index, csi\)"),
        ([Sample(0, 3, np.zeros((8, 32), np.float32))], "csi of sample 3 is float32"),
        ([Sample(0, 3, np.zeros((1, 8, 32), np.complex64))], r"sample 3 is complex64 \[1, 8, 32\]"),
        ([(0, 1, np.ones((4, 4), complex)), (1, 2, np.ones((4, 4), complex))], r"epochs \[0, 1\]"),
    ],
)
def test_bad_items(items, message):
    with pytest.raises(InputError, match=message):
        MCMCollator()(items)


def native(**changes: Any) -> dict[str, Any]:
    """One 4 x 8 sample from an array of two and one from the rays of two users."""
    rng = np.random.default_rng(0)
    columns = [rng.uniform(0, 1e-6, 3).astype(np.float32) for _ in range(5)]
    return {
        "csi": np.full(64, np.nan, np.complex64), "offsets": np.array([0, 32, 64]),
        "shape": np.array([[4, 8], [4, 8]], np.int32), "cu_seqlens": np.array([0, 3, 6], np.int32), "version": 11,
        "arrays": [np.ones((2, 4, 8), np.complex64)], "rays": [(np.array([0, 1, 3]), *columns)],
        "source": np.array([0, 1], np.int32), "row": np.array([1, 1]),
        "geometry": np.tile([0.0, 1, 0, 0, 0, 1, 1e6, 0.5], (2, 1)), "panel": np.array([[1, 20], [2, 20]]),
        "flags": np.full(2, 9, np.uint8), "action": np.zeros(6, np.uint8), "masked_index": np.zeros(2, np.int32),
        "mask_cu": np.array([0, 1, 2], np.int32), "draw": True, "sample_id": np.arange(2), "seed": 0, "epoch": 0,
        **changes,
    }  # fmt: skip


def test_native_gathers_from_both_kinds():
    arguments = native()
    _C.collate(**arguments)
    assert np.isfinite(arguments["csi"]).all()
    assert (arguments["csi"][:32] == 1).all()
    assert (arguments["flags"] == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row": np.array([2, 1])}, r"row\[0\] is 2 but its array holds 2 samples"),
        ({"row": np.array([-1, 1])}, r"row\[0\] is -1"),
        ({"row": np.array([1, 2])}, r"row\[1\] is 2 but its rays are of 2 users"),
        ({"source": np.array([0, 2], np.int32)}, r"source\[1\] is 2 but there are 2 sources"),
        ({"source": np.array([-1, 1], np.int32)}, r"source\[0\] is -1"),
        ({"arrays": [np.ones((2, 8, 4), np.complex64)]}, r"shape\[0\] is 4 x 8 .* channels of 8 x 4"),
        ({"panel": np.array([[1, 20], [3, 20]])}, r"panel\[1\] is \(3, 20\)"),
        ({"panel": np.array([[1, 20], [2, 0]])}, r"panel\[1\] is \(2, 0\)"),
        ({"geometry": np.full((2, 8), np.nan)}, r"geometry\[1\]: expected finite"),
        ({"geometry": None}, "geometry: expected"),
        ({"rays": [(np.array([0, 1, 4]), *[np.zeros(3, np.float32)] * 5)]}, "user 1 owns rays 1..4 of 3"),
        ({"rays": [(np.array([0, 3, 1]), *[np.zeros(3, np.float32)] * 5)]}, "user 1 owns rays 3..1"),
        ({"rays": [(np.array([0, 1, 3]),)]}, "tuples of 6"),
        ({"csi": np.zeros(63, np.complex64)}, "offsets ends at 64 but csi holds 63"),
        (
            {"mask_cu": np.array([0, 3, 3], np.int32), "masked_index": np.zeros(3, np.int32)},
            "3 masked tokens",
        ),
    ],
)
def test_native_refuses_before_it_writes(change, message):
    arguments = native(**change)
    before = arguments["csi"].copy()
    with pytest.raises((ValueError, TypeError), match=message):
        _C.collate(**arguments)
    assert np.array_equal(arguments["csi"], before, equal_nan=True)
    assert (arguments["flags"] == 9).all()


def test_memory_is_used_again_when_nobody_sees_it():
    pool = BufferPool()
    first = pool.take((100, 3), np.float32)
    place = first.ctypes.data
    view = torch.from_numpy(first)[5:]
    del first
    other = pool.take((100, 3), np.float32)
    assert other.ctypes.data != place  # the view still shows it
    del view
    assert pool.take((90, 3), np.float32).ctypes.data == place


def test_ray_batches_follow_the_geometry():
    geometry = ArrayGeometry(num_antennas=(4, 2), num_subcarriers=16, bandwidth=2e6, rotation=30.0)
    channels = Channels.from_rays(some_rays(), geometry)
    kept = ChannelStore(channels, plan=RayPlan(sizes=()))
    batch = MCMCollator()(kept.gather(0, [4, 2]))
    assert np.array_equal(batch.csi.reshape(2, 8, 16), channels.csi[[4, 2]])
    turned = ChannelStore(
        channels, plan=RayPlan(sizes=((8, 32),), rotation=-20.0, bandwidth=3e6, max_paths=2)
    )
    expected = channels.with_geometry(
        num_antennas=8, num_subcarriers=32, rotation=-20.0, bandwidth=3e6, max_paths=2
    )
    batch = MCMCollator()(turned.gather(0, [4, 2]))
    assert (
        np.abs(batch.csi.reshape(2, 8, 32) - expected.csi[[4, 2]]).max() < 1e-6 * np.abs(expected.csi).max()
    )
