"""`ChannelStore`: every kind of source gives the csi it holds; sizes, plans, fingerprints, damaged data."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from support.released import random_csi
from test_collate import some_rays

from lwm_fast import InputError
from lwm_fast.data import (
    PRETRAINING_SIZES,
    ArrayGeometry,
    Channels,
    ChannelsMeta,
    ChannelStore,
    MCMCollator,
    RayPlan,
    Rays,
)
from lwm_fast.data.sources import MappedArray, RaySource, ReadArray


def write_h5(path: Path, csi: np.ndarray[Any, Any], **options: Any) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("csi", data=csi, **options)
    return path


def sources_of(folder: Path, csi: np.ndarray[Any, Any]) -> dict[str, tuple[Any, type]]:
    np.save(folder / "a.npy", csi)
    np.save(folder / "turned.npy", csi.transpose(0, 2, 1)[:, None])
    np.savez(folder / "a.npz", csi=csi)
    chunks = {"chunks": (2, *csi.shape[1:])}
    return {
        "array": (csi, MappedArray),
        "complex128": (csi.astype(np.complex128), MappedArray),
        "channels": (Channels.from_arrays(csi), MappedArray),
        "npy": (folder / "a.npy", MappedArray),
        "npz": (folder / "a.npz", MappedArray),
        "contiguous": (write_h5(folder / "contiguous.h5", csi), MappedArray),
        "chunked": (write_h5(folder / "chunked.h5", csi, **chunks), ReadArray),
        "compressed": (write_h5(folder / "gzip.h5", csi, compression="gzip", **chunks), ReadArray),
        "user block": (write_user_block(folder / "block.h5", csi), ReadArray),
        "saved": (Channels.from_arrays(csi).save(folder / "saved.h5"), MappedArray),
    }


def write_user_block(path: Path, csi: np.ndarray[Any, Any]) -> Path:
    with h5py.File(path, "w", userblock_size=512) as file:
        file["csi"] = csi.T  # files with a user block are read as MATLAB's, axes in reverse
    return path


NAMES = ["array", "complex128", "channels", "npy", "npz", "contiguous", "chunked", "compressed", "user block"]


@pytest.mark.parametrize("name", [*NAMES, "saved"])
def test_every_container_gives_its_csi(tmp_path, name):
    csi = random_csi(7, 8, 32)
    source, kind = sources_of(tmp_path, csi)[name]
    store = ChannelStore([random_csi(2, 4, 4), source])
    assert type(store._sources[1]) is kind
    assert len(store) == 9
    assert store.sizes(3).tolist() == [[4, 4]] * 2 + [[8, 32]] * 7
    assert store.lengths(3).tolist() == [2] * 2 + [17] * 7
    order = [8, 2, 5, 5, 3]
    for copy in (store, pickle.loads(pickle.dumps(store))):
        batch = MCMCollator()(copy.gather(0, order))
        assert np.array_equal(batch.csi.reshape(5, 8, 32), csi[np.array(order) - 2])


def test_pickles_without_mapped_data(tmp_path):
    csi = random_csi(500, 8, 32)
    store = ChannelStore(write_h5(tmp_path / "a.h5", csi))
    store.gather(0, [1])
    store.sizes(0)
    assert len(pickle.dumps(store)) < 3000


def ray_file(folder: Path, seed: int = 0, **meta: Any) -> Path:
    channels = Channels.from_rays(some_rays(seed=seed), ArrayGeometry(8, 16), meta=ChannelsMeta(**meta))
    return channels.save(folder / f"rays-{seed}.h5")


def test_saved_rays_are_mapped_and_built_as_asked(tmp_path):
    path = ray_file(tmp_path)
    store = ChannelStore([path, ray_file(tmp_path, seed=1)], plan=RayPlan(sizes=((8, 32), (16, 64))))
    source = store._sources[0]
    assert isinstance(source, RaySource)
    assert source.columns is not None
    for index in (0, 5, 9, 17):
        rays = some_rays(seed=index // 9)
        sample = store[(1, index)]
        num_antennas, num_subcarriers = store.sizes(1)[index]
        geometry = ArrayGeometry(int(num_antennas), int(num_subcarriers))
        assert sample.csi.shape == (num_antennas, num_subcarriers)
        own = Channels.from_rays(rays, geometry).csi[index % 9]
        assert np.array_equal(sample.csi, own)


def test_compressed_rays_are_read_into_memory(tmp_path):
    path = ray_file(tmp_path)
    with h5py.File(path, "a") as file:
        power = file["rays/power_db"][:]
        del file["rays/power_db"]
        file.create_dataset("rays/power_db", data=power, compression="gzip")
    store = ChannelStore(path)
    assert store._sources[0].columns is None
    assert np.array_equal(store[(0, 3)].csi, ChannelStore(ray_file(tmp_path))[(0, 3)].csi)


def test_users_without_rays_are_left_out():
    rays = some_rays(6)
    keep = [0, 2, 5]
    counts = np.where(np.isin(np.arange(6), keep), rays.num_paths, 0)
    rows = np.concatenate([np.arange(rays.offsets[u], rays.offsets[u + 1]) for u in keep])
    offsets = np.concatenate([[0], np.cumsum(counts)])
    names = ("power_db", "phase_deg", "delay_s", "aod_az_deg", "aod_zen_deg", "aoa_az_deg", "aoa_zen_deg")
    sparse = Rays(offsets, *(getattr(rays, name)[rows] for name in names))
    plan = RayPlan(sizes=((8, 32),))
    store = ChannelStore(Channels.from_rays(sparse), plan=plan)
    assert len(store) == 3
    assert store.place(2) == "array, user 5"
    full = ChannelStore(Channels.from_rays(rays), plan=plan)
    for i, user in enumerate(keep):
        assert np.array_equal(store[(0, i)].csi, full[(0, user)].csi)


def test_every_user_is_seen_once_at_every_size():
    plan = RayPlan(seed=3)
    sizes = np.stack([plan.sizes_of(np.arange(50), epoch) for epoch in range(20)])
    assert all(len({tuple(size) for size in sizes[:, user]}) == 20 for user in range(50))
    shares = np.unique(plan.sizes_of(np.arange(20000), 4), axis=0, return_counts=True)[1] / 1000
    assert len(shares) == 20
    assert np.abs(shares - 1).max() < 0.2


def test_rotations_are_drawn_per_sample_and_epoch():
    plan = RayPlan(rotation=(-60, 120))
    first, second = (plan.rotations_of(np.arange(4000), epoch) for epoch in (0, 1))
    assert first.min() >= -60
    assert first.max() < 120
    assert abs(first.mean() - 30) < 5
    assert (first != second).all()
    assert np.array_equal(plan.rotations_of(np.array([7, 2]), 1), second[[7, 2]])


def test_numbers_of_paths_are_drawn_per_sample_and_epoch():
    plan = RayPlan(max_paths=(1, 20))
    first, second = (plan.max_paths_of(np.arange(40_000), epoch) for epoch in (0, 1))
    share = np.bincount(first, minlength=22) / len(first)
    expected = np.log((np.arange(1, 21) + 1) / np.arange(1, 21)) / np.log(21)  # even in the logarithm
    assert share[[0, 21]].tolist() == [0, 0]
    assert np.abs(share[1:21] / expected - 1).max() < 0.15
    assert 0.8 < (first != second).mean() < 0.95
    assert np.array_equal(plan.max_paths_of(np.array([7, 2]), 1), second[[7, 2]])
    assert set(RayPlan(max_paths=(2, 3)).max_paths_of(np.arange(500), 0)) == {2, 3}


def test_csi_has_the_paths_that_were_drawn():
    rays = some_rays(60)
    plan = RayPlan(sizes=((8, 32),), max_paths=(1, 4))
    store = ChannelStore(Channels.from_rays(rays), plan=plan)
    drawn = plan.max_paths_of(np.arange(60), 2)
    assert len(set(drawn)) == 4
    for user in range(60):
        own = Channels.from_rays(rays, ArrayGeometry(8, 32, max_paths=int(drawn[user]))).csi[user]
        assert np.array_equal(store[(2, user)].csi, own)
    assert (
        store.fingerprint
        != ChannelStore(Channels.from_rays(rays), plan=RayPlan(sizes=((8, 32),))).fingerprint
    )


def test_pretraining_sizes():
    store = ChannelStore(Channels.from_rays(some_rays(200)))
    assert len(PRETRAINING_SIZES) == 20
    assert set(store.lengths(0)) == {17, 33, 65, 129, 257, 513}
    assert ChannelStore(Channels.from_rays(some_rays()), version="1.0").lengths(5).tolist() == [129] * 9


def test_carrier_chooses_sources(tmp_path):
    files = [ray_file(tmp_path, seed, carrier_frequency=f) for seed, f in enumerate((3.5e9, 28e9, 6e9))]
    store = ChannelStore(files, plan=RayPlan(carrier=(3e9, 7e9)))
    assert len(store) == 18
    assert "rays-2.h5, user 4" in store.place(13)
    with pytest.raises(InputError, match=r"none of the 3 sources .*carrier=\(60000000000"):
        ChannelStore(files, plan=RayPlan(carrier=(60e9, 61e9)))


def test_fingerprint_follows_content_and_plan_not_place(tmp_path):
    csi = random_csi(40, 8, 32)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_h5(tmp_path / name / "x.h5", csi)
    first = ChannelStore(tmp_path / "a" / "x.h5").fingerprint
    assert ChannelStore(tmp_path / "b" / "x.h5").fingerprint == first
    csi[0, 0, 0] = 1
    assert ChannelStore(write_h5(tmp_path / "b" / "x.h5", csi)).fingerprint != first
    assert ChannelStore(csi[:39]).fingerprint != ChannelStore(csi).fingerprint
    rays = Channels.from_rays(some_rays())
    prints = {
        ChannelStore(rays, plan=plan).fingerprint for plan in (None, RayPlan(seed=1), RayPlan(rotation=3.0))
    }
    assert len(prints) == 3
    path = ray_file(tmp_path)
    assert (
        ChannelStore(path).fingerprint
        == ChannelStore(Channels.from_rays(some_rays(), ArrayGeometry(8, 16))).fingerprint
    )


def test_too_long_sizes_are_all_listed():
    sources = [random_csi(1, 128, 64), random_csi(1, 8, 32), random_csi(1, 64, 256)]
    message = r"2 sizes are longer than max_len=65: 128 x 64 \(513 tokens, array\); 64 x 256 \(1025 tokens"
    with pytest.raises(InputError, match=message):
        ChannelStore(sources, max_len=65)
    with pytest.raises(InputError, match=r"longer than max_len=257: 8 x 1024 \(513 tokens, plan\)"):
        ChannelStore(Channels.from_rays(some_rays()), max_len=257)
    with pytest.raises(InputError, match=r"LWM v1\.0 needs a multiple of 16"):
        ChannelStore(random_csi(1, 3, 5), version="1.0")


def damage(path: Path, csi: np.ndarray[Any, Any], row: int) -> Path:
    """A file of one sample a chunk whose checksum no longer fits at `row`."""
    write_h5(path, csi, chunks=(1, *csi.shape[1:]), fletcher32=True)
    with h5py.File(path, "r") as file:
        place = file["csi"].id.get_chunk_info(row).byte_offset
    with open(path, "r+b") as raw:
        raw.seek(place + 100)
        raw.write(b"\xff\xff\xff\xff")
    return path


def test_a_damaged_chunk_is_named_or_skipped(tmp_path):
    csi = random_csi(6, 8, 32)
    path = damage(tmp_path / "bad.h5", csi, row=4)
    store = ChannelStore([random_csi(2, 4, 4), path])
    with pytest.raises(InputError, match=r"bad\.h5, dataset csi: sample 4 cannot be read .*on_bad=\"skip\""):
        store.gather(0, [1, 6, 3])
    assert MCMCollator()(store.gather(0, [1, 3])).sample_id.tolist() == [1, 3]
    patient = ChannelStore([random_csi(2, 4, 4), path], on_bad="skip")
    batch = MCMCollator()(patient.gather(0, [1, 6, 3]))
    assert batch.sample_id.tolist() == [1, 3]
    with pytest.raises(InputError, match="is skipped"):
        patient[(0, 6)]


def test_damaged_offsets_are_named_or_skipped(tmp_path):
    path = ray_file(tmp_path)
    with h5py.File(path, "a") as file:
        file["rays/offsets"][4] = 10**12
    with pytest.raises(InputError, match=r"rays-0\.h5: the rays of user 3 .*rays/offsets is damaged"):
        ChannelStore(path).gather(0, [0, 3])
    store = ChannelStore(path, on_bad="skip")
    assert store.gather(0, [0, 3, 4, 8]).index.tolist() == [0, 8]


def test_truncated_files_are_refused_not_mapped(tmp_path):
    csi = random_csi(50, 8, 32)
    path = write_h5(tmp_path / "cut.h5", csi)
    os.truncate(path, path.stat().st_size - 5000)
    with pytest.raises(InputError, match=r"cut\.h5"):
        ChannelStore(path)
    np.save(tmp_path / "cut.npy", csi)
    os.truncate(tmp_path / "cut.npy", 9000)
    with pytest.raises(InputError, match=r"cut\.npy"):
        ChannelStore(tmp_path / "cut.npy")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"on_bad": "ignore"}, 'on_bad=\'ignore\': choose "error" or "skip"'),
        ({"version": "1.2"}, "version: got '1.2'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        ChannelStore(random_csi(1, 8, 32), **arguments)


def test_bad_sources_and_indices(tmp_path):
    with pytest.raises(InputError, match="none of the 0 sources"):
        ChannelStore([])
    with pytest.raises(InputError, match="no such file"):
        ChannelStore(tmp_path / "none.h5")
    store = ChannelStore(random_csi(3, 8, 32))
    for index in (-1, 3):
        with pytest.raises(InputError, match=f"no sample {index}; there are 3"):
            store.gather(0, [0, index])
    with pytest.raises(InputError, match=r"epochs \[0, 1\]"):
        store.__getitems__([(0, 1), (1, 1)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": ((8, 0),)}, "size 8 x 0"),
        ({"bandwidth": -1.0}, r"bandwidth=-1\.0"),
        ({"rotation": (3.0, 1.0)}, r"rotation=\(3\.0, 1\.0\); give a pair \(low, high\)"),
        ({"carrier": 3e9}, "carrier=3000000000.0; give a pair"),
        ({"max_paths": 0}, "max_paths=0; give a whole number of at least 1"),
        ({"max_paths": (3, 2)}, r"max_paths=\(3, 2\); .* low first"),
        ({"max_paths": (0, 2)}, r"max_paths=\(0, 2\)"),
        ({"max_paths": 1.5}, r"max_paths=1\.5"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_bad_plans(options, message):
    with pytest.raises(InputError, match=message):
        RayPlan(**options)


def test_more_ray_files_than_are_kept_open(tmp_path, monkeypatch):
    monkeypatch.setattr("lwm_fast.data.channel_store._OPEN_FILES", 2)
    store = ChannelStore([ray_file(tmp_path, seed) for seed in range(4)], plan=RayPlan(sizes=((8, 32),)))
    batch = MCMCollator()(store.gather(0, np.arange(0, 36, 5)))
    assert sum(source.rays is not None for source in store._sources) == 2
    alone = [store[(0, i)].csi.reshape(-1) for i in range(0, 36, 5)]
    assert np.array_equal(batch.csi, np.concatenate(alone))


_MEMORY = """
import sys
from pathlib import Path
import numpy as np
from lwm_fast.data import ChannelStore
def resident():
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096
before = resident()
store = ChannelStore(sys.argv[1])
store.gather(0, np.arange(0, len(store), 97))
print(resident() - before, len(store))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_rays_take_less_than_640_bytes_a_sample(tmp_path):
    users = 20000
    path = Channels.from_rays(some_rays(users), ArrayGeometry()).save(tmp_path / "many.h5")
    run = subprocess.run(
        [sys.executable, "-c", _MEMORY, str(path)], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    growth, count = map(int, run.stdout.split())
    assert count == users
    assert growth / users < 640 + 20e6 / users  # h5py and other modules take some megabytes themselves
    assert path.stat().st_size / users < 640
