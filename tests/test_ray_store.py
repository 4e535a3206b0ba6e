"""Ray stores: what is opened is what was written, whoever wrote it, however often it was stopped."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest

from lwm_fast import InputError, load_channels
from lwm_fast.data import Channels, describe
from lwm_fast.data.ray_store import MANIFEST, RayStore, begin_store, finish_store, is_ray_store, summary_of
from lwm_fast.data.rays import RAY_COLUMNS, ArrayGeometry
from lwm_fast.data.synthetic.plan import _LIMITS, LWM_SIZES, StreetsPlan
from lwm_fast.data.synthetic.write import shard_name, write_streets

PLAN = StreetsPlan(streets=3, users_per_street=20, seed=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store that tests only read."""
    return write_streets(PLAN, tmp_path_factory.mktemp("stores") / "whole", workers=1).folder


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "store"))


def content(folder: Path) -> dict[str, object]:
    """Every dataset and attribute of every shard, and the manifest."""
    found: dict[str, object] = {MANIFEST: json.loads((folder / MANIFEST).read_text())}
    for path in sorted(folder.glob("*.h5")):
        with h5py.File(path, "r") as file:
            found[path.name] = dict(file.attrs)

            def note(name: str, item: h5py.HLObject, place: str = path.name) -> None:
                value = item[...].tobytes() if isinstance(item, h5py.Dataset) else None
                found[f"{place}/{name}"] = (value, dict(item.attrs))

            file.visititems(note)
    return found


def test_a_store_holds_what_the_streets_give(whole):
    store = RayStore.open(whole)
    assert (len(store), store.num_users, store.counts.tolist()) == (3, 60, [20, 20, 20])
    assert is_ray_store(whole)
    for number, channels in enumerate(store):
        want = PLAN.street(number).trace(20)
        assert (channels.meta, channels.geometry) == (want.meta, want.geometry)
        for name in ("offsets", *RAY_COLUMNS):
            assert getattr(channels.rays, name).tobytes() == getattr(want.rays, name).tobytes(), name
        for name in ("los", "pos", "user_index"):
            assert getattr(channels, name).tobytes() == getattr(want, name).tobytes(), name
    assert pickle.loads(pickle.dumps(store)).fingerprint == store.fingerprint


def test_shards_can_be_memory_mapped(whole):
    for path in whole.glob("*.h5"):
        with h5py.File(path, "r") as file:
            for name in ("los", "pos", "user_index", *(f"rays/{name}" for name in ("offsets", *RAY_COLUMNS))):
                data = file[name]
                assert data.chunks is None, name
                assert data.id.get_offset() % data.dtype.itemsize == 0, name
                mapped = np.memmap(path, data.dtype, "r", data.id.get_offset(), data.shape)
                assert mapped.tobytes() == data[...].tobytes(), name


def test_streets_differ_and_depend_on_their_number_alone():
    many = StreetsPlan(streets=1000, users_per_street=7, seed=PLAN.seed)
    assert [many.street(number) for number in range(3)] == [PLAN.street(number) for number in range(3)]
    streets = [many.street(number) for number in range(1000)]
    carriers = np.array([street.carrier_frequency for street in streets])
    assert carriers.min() >= 2e9
    assert carriers.max() <= 60e9
    assert np.median(carriers) == pytest.approx(np.sqrt(2e9 * 60e9), rel=0.15)  # even in the logarithm
    sizes = {(street.num_antennas, street.num_subcarriers) for street in streets}
    assert sizes == set(LWM_SIZES)
    assert len(LWM_SIZES) == 20
    assert len({street.town_seed for street in streets}) == 1000
    heights = [street.layout.building_height[0] - street.layout.base_station_height for street in streets]
    assert min(heights) > 0
    assert len({street.layout for street in streets}) == 1000
    assert streets != [StreetsPlan(streets=1000, seed=6).street(number) for number in range(1000)]


@pytest.mark.parametrize("end", [0, 1])
def test_every_street_of_the_widest_plans_can_be_laid_out(end):
    for name, limits in _LIMITS.items():
        fixed = {name: (limits[end], limits[end]), "setback": (100.0, 100.0)}
        plan = StreetsPlan(streets=40, **fixed)  # type: ignore[arg-type]
        for number in range(40):
            layout = plan.street(number).layout
            assert layout.building_height[0] > max(layout.base_station_height, layout.user_height), name


def test_a_list_of_carriers_changes_nothing_but_the_carrier():
    listed = StreetsPlan(streets=3, users_per_street=20, seed=PLAN.seed, carriers=(3.5e9, 28e9))
    for number in range(3):
        assert listed.street(number).carrier_frequency in (3.5e9, 28e9)
        assert listed.street(number).layout == PLAN.street(number).layout


@pytest.mark.slow
def test_workers_change_nothing(whole, tmp_path):
    assert content(write_streets(PLAN, tmp_path / "store", workers=3).folder) == content(whole)


def test_resuming_changes_nothing(whole, store):
    assert write_streets(PLAN, store).fingerprint == RayStore.open(whole).fingerprint
    manifest = json.loads((store / MANIFEST).read_text())
    (store / MANIFEST).write_text(json.dumps({**manifest, "shards": None}))
    (store / shard_name(1)).unlink()
    with pytest.raises(InputError, match="unfinished, 2 of 3 shards are there; run the command"):
        RayStore.open(store)
    kept = (store / shard_name(2)).stat().st_mtime_ns
    (store / ".street-00001.h5.abc.tmp").write_text("of a writer that was killed")
    write_streets(PLAN, store, workers=1)
    assert content(store) == content(whole)
    assert (store / shard_name(2)).stat().st_mtime_ns == kept
    assert list(store.glob(".*")) == []


@pytest.mark.slow
def test_kill_9_leaves_no_worker_and_resumes(tmp_path):
    command = [sys.executable, "-m", "lwm_fast", "synth", "--streets", "12", "--users-per-street", "100"]
    out = tmp_path / "store"
    process = subprocess.Popen([*command, "--workers", "2", "-o", str(out)], start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(out.glob("street-*.h5")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    there = len(list(out.glob("street-*.h5")))
    assert 0 < there < 12
    while time.monotonic() < deadline:  # the workers end by themselves
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    result = subprocess.run([*command, "-o", str(out)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "12 streets are done" in result.stderr
    plan = StreetsPlan(streets=12, users_per_street=100)
    assert content(out) == content(write_streets(plan, tmp_path / "whole", workers=1).folder)
    assert list(out.glob(".*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["a worker is killed", "control C"])
def test_what_stops_a_run_is_said_and_the_rest_is_kept(tmp_path, stop):
    out = tmp_path / "store"
    command = [sys.executable, "-m", "lwm_fast", "synth", "--streets", "40", "--users-per-street", "50"]
    process = subprocess.Popen(
        [*command, "--workers", "2", "-o", str(out)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in background jobs
    )
    deadline = time.monotonic() + 60
    while not list(out.glob("street-*.h5")) and time.monotonic() < deadline:
        time.sleep(0.02)
    if stop == "control C":
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to everyone
    else:
        workers = [
            child
            for child in psutil.Process(process.pid).children()
            if "spawn_main" in " ".join(child.cmdline())
        ]
        workers[0].kill()
    _, errors = process.communicate(timeout=60)
    if stop == "control C":
        assert (process.returncode, errors.strip()) == (130, "interrupted")
    else:
        assert process.returncode == 2
        assert "a worker process was killed (out of memory?); the finished streets are kept" in errors
    kept = list(out.glob("street-*.h5"))
    assert 0 < len(kept) < 40
    assert sorted(out.glob("[!.]*")) == sorted([*kept, out / MANIFEST])


def test_another_plan_is_refused_with_the_difference(store):
    plan = StreetsPlan(streets=4, users_per_street=20, seed=6)
    with pytest.raises(
        InputError, match=r"streets was 3 and is now 4; seed was 2 and is now 6; give the same"
    ):
        write_streets(plan, store)


def test_another_generator_is_refused(store, monkeypatch):
    monkeypatch.setattr("lwm_fast.data.synthetic.write.GENERATOR", "lwm_fast.synthetic 99")
    with pytest.raises(
        InputError, match=r"generator was lwm_fast.synthetic \d+ and is now lwm_fast.synthetic 99"
    ):
        write_streets(PLAN, store)


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"holds thesis\.tex and no manifest\.json"):
        write_streets(PLAN, tmp_path)
    with pytest.raises(InputError, match="cannot be made a folder"):
        write_streets(PLAN, tmp_path / "absent" / "store")
    with pytest.raises(InputError, match=r"thesis\.tex: cannot be made a folder"):
        write_streets(PLAN, tmp_path / "thesis.tex")


def test_a_full_disk_keeps_what_is_done(whole, tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sizes = [path.stat().st_size for path in sorted(whole.glob("*.h5"))]
    assert sizes[2] > max(sizes[:2]), "PLAN needs a seed whose last shard is the largest"
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[2] - 1, limit[1]))
        with pytest.raises(InputError, match=r"street-00002\.h5: writing failed .* free space"):
            write_streets(PLAN, tmp_path / "store", workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, previous)
    left = sorted(path.name for path in (tmp_path / "store").iterdir())
    assert left == [MANIFEST, shard_name(0), shard_name(1)]
    assert content(write_streets(PLAN, tmp_path / "store", workers=1).folder) == content(whole)


def test_missing_and_damaged_shards_are_named(store):
    path = store / shard_name(1)
    with h5py.File(path, "r+") as file:
        file["rays/power_db"][3] = 7.0
    opened = RayStore.open(store)
    assert len(opened.shard(0)) == 20
    with pytest.raises(InputError, match=r"street-00001\.h5: its content is not what manifest\.json says"):
        opened.shard(1)
    with pytest.raises(InputError, match=r"street-00001\.h5: its content"):
        load_channels(store)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"street-00001\.h5: cannot be read as a shard of a ray store"):
        opened.shard(1)
    path.unlink()
    with pytest.raises(InputError, match=r"street-00001\.h5: this shard of the store is missing"):
        RayStore.open(store)
    with pytest.raises(InputError, match=r"street-00001\.h5: cannot be read"):
        opened.shard(1)


def test_a_damaged_shard_stops_a_resumed_run(store):
    manifest = json.loads((store / MANIFEST).read_text())
    (store / MANIFEST).write_text(json.dumps({**manifest, "shards": None}))
    (store / shard_name(0)).write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"street-00000\.h5: cannot be read as a shard"):
        write_streets(PLAN, store, workers=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as the manifest"),
        ('{"format": "lwm_fast.ray_store", "version": 99}', "version 99, newer than 1; update lwm_fast"),
        ('{"format": "lwm_fast.ray_store", "version": 1, "plan": {}}', "'streets'"),
    ],
)
def test_damaged_manifests(store, text, message):
    (store / MANIFEST).write_text(text)
    with pytest.raises(InputError, match=rf"manifest\.json: .*{message}"):
        load_channels(store)


def test_a_folder_without_a_store(tmp_path):
    with pytest.raises(
        InputError, match=r"no ray store \(no manifest\.json\); make one with `lwm-fast synth`"
    ):
        RayStore.open(tmp_path)
    (tmp_path / MANIFEST).write_text('{"format": "something else"}')
    assert not is_ray_store(tmp_path)
    with pytest.raises(InputError, match="says format 'something else'"):
        RayStore.open(tmp_path)


def test_csi_in_a_store_is_refused(tmp_path):
    channels = Channels.from_arrays(np.ones((2, 4, 4), np.complex64))
    path = channels.save(tmp_path / "a.h5")
    begin_store(tmp_path / "store", {}, [{}], generator="test")
    shutil.move(path, tmp_path / "store")
    summary = summary_of("a.h5", PLAN.street(0).trace(2))
    with pytest.raises(InputError, match=r"a\.h5: holds csi instead of rays"):
        finish_store(tmp_path / "store", [summary]).shard(0)


def test_fingerprint_follows_content(whole, store):
    other = write_streets(
        StreetsPlan(streets=3, users_per_street=20, seed=6), store.parent / "other", workers=1
    )
    assert RayStore.open(store).fingerprint == RayStore.open(whole).fingerprint != other.fingerprint


def test_load_channels_joins_the_shards_in_one_geometry(whole):
    channels = load_channels(whole, num_antennas=8, num_subcarriers=64)
    assert channels.shape == (60, 8, 64)
    assert channels.geometry == ArrayGeometry(num_antennas=8, num_subcarriers=64)
    parts = [part.with_geometry(**vars(channels.geometry)).csi for part in RayStore.open(whole)]
    assert np.array_equal(channels.csi, np.concatenate(parts))
    assert channels.user_index.tolist() == list(range(60))
    meta = channels.meta
    assert (meta.format, meta.synthetic, meta.base_station) == ("ray_store", True, None)
    assert meta.sha256 == RayStore.open(whole).fingerprint
    with pytest.raises(InputError, match="base_station=2: every shard of a ray store has its own"):
        load_channels(whole, base_station=2)
    with pytest.raises(InputError, match="layout='nas' is for array files"):
        load_channels(whole, layout="nas")


def test_describe_a_store(whole, store):
    text = str(describe(whole))
    for words in (
        "ray_store, version 1",
        "carriers",
        " GHz to ",
        "shards",
        "LoS",
        "delay spread",
        "power NLoS",
    ):
        assert words in text
    (store / shard_name(0)).unlink()
    assert "this shard of the store is missing" in str(describe(store).problem)
