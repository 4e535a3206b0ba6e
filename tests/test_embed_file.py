"""`embed_to_file`: constant memory, refusal to overwrite, and resumption after any kill."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.released import random_csi, relative_error

from lwm_fast import LWM, Channels, InputError, LWMConfig, embed_file, load_channels
from lwm_fast.embed_file import embed_to_file, read_embeddings


@pytest.fixture(scope="module")
def model() -> LWM:
    return LWM.random(LWMConfig.v1_1(num_layers=1), seed=1)


@pytest.fixture
def channels() -> Channels:
    rng = np.random.default_rng(0)
    return Channels.from_arrays(
        random_csi(23, 8, 32),
        los=rng.integers(0, 2, 23),
        pos=rng.standard_normal((23, 3)),
        user_index=np.arange(23) * 3,
    )


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(embed_file, "_PART_BYTES", 5 * 8 * 32 * 8)


def contents(path: Path) -> dict[str, object]:
    with h5py.File(path, "r") as file:
        found: dict[str, object] = {name: data[...] for name, data in file.items()}
        return found | {f"@{name}": value for name, value in file.attrs.items()}


def assert_same_file(a: Path, b: Path) -> None:
    first, second = contents(a), contents(b)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert np.array_equal(value, second[name]), name  # type: ignore[arg-type]


@pytest.mark.parametrize(("pool", "shape"), [("cls", (128,)), ("patches", (16, 128))])
def test_what_is_written(tmp_path, model, channels, small_parts, pool, shape):
    out = embed_to_file(model, channels, tmp_path / "e.h5", pool=pool, batch_size=2)
    found = contents(out)
    assert found["embeddings"].shape == (23, *shape)
    assert relative_error(found["embeddings"], model.encode(channels, pool=pool)) < 1e-6
    assert np.array_equal(found["user_index"], channels.user_index)
    assert np.array_equal(found["los"], channels.los)
    assert np.array_equal(found["pos"], channels.pos)
    assert found["@pool"] == pool
    assert found["@weights"] == "random weights, seed 1"
    assert found["@scale"] == 1e6
    assert {
        "@source_sha256",
        "@weights_sha256",
        "@lwm_version",
        "@precision",
        "@package_version",
    } <= found.keys()
    assert [p.name for p in tmp_path.iterdir()] == ["e.h5"]
    assert np.array_equal(read_embeddings(out), found["embeddings"])


def test_an_existing_output_is_never_overwritten(tmp_path, model, channels):
    out = embed_to_file(model, channels, tmp_path / "e.h5")
    before = out.read_bytes()
    with pytest.raises(InputError, match=r"e\.h5: exists already"):
        embed_to_file(model, channels, out)
    assert embed_to_file(model, channels, out, resume=True) == out
    assert out.read_bytes() == before
    with pytest.raises(InputError, match="pool was 'cls' and is now 'mean'"):
        embed_to_file(model, channels, out, pool="mean", resume=True)
    (tmp_path / "foreign.h5").write_bytes(b"something else")
    with pytest.raises(InputError, match="not an HDF5 file"):
        embed_to_file(model, channels, tmp_path / "foreign.h5", resume=True)
    with h5py.File(tmp_path / "other.h5", "w"):
        pass
    with pytest.raises(InputError, match="was not written by"):
        embed_to_file(model, channels, tmp_path / "other.h5", resume=True)


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


@pytest.mark.parametrize("survivors", [0, 1, 3, 5])
def test_resume_computes_only_what_is_missing(tmp_path, model, channels, small_parts, monkeypatch, survivors):
    whole = embed_to_file(model, channels, tmp_path / "whole.h5", batch_size=5)
    calls = []
    true_encode = embed_file.encode

    def dying(*args, **options):
        if len(calls) == survivors:
            raise Killed
        calls.append(args)
        return true_encode(*args, **options)

    monkeypatch.setattr(embed_file, "encode", dying)
    out = tmp_path / "cut.h5"
    if survivors < 5:
        with pytest.raises(Killed):
            embed_to_file(model, channels, out, batch_size=5)
        assert not out.exists()
        with pytest.raises(InputError, match=r"an unfinished run.*--resume"):
            embed_to_file(model, channels, out)
    monkeypatch.setattr(embed_file, "encode", lambda *a, **o: calls.append(a) or true_encode(*a, **o))
    embed_to_file(model, channels, out, resume=True, batch_size=5)
    assert len(calls) == 5
    assert_same_file(whole, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.h5", "whole.h5"]


def test_resume_refuses_another_run_and_shows_the_difference(
    tmp_path, model, channels, small_parts, monkeypatch
):
    out = tmp_path / "e.h5"
    monkeypatch.setattr(embed_file, "_assemble", lambda *_: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        embed_to_file(model, channels, out, batch_size=5)
    monkeypatch.undo()
    other = LWM.random(LWMConfig.v1_1(num_layers=1), seed=2)
    with pytest.raises(InputError, match="seed 1' and is now 'random weights, seed 2'"):
        embed_to_file(other, channels, out, resume=True)
    with pytest.raises(InputError, match="num_channels was 23 and is now 20"):
        embed_to_file(model, channels[:20], out, resume=True)
    embed_to_file(model, channels, out, resume=True)  # how it is cut comes from the first run
    assert contents(out)["@batch_size"] == 5


def test_a_run_killed_while_tidying_up_starts_afresh(tmp_path, model, channels, small_parts):
    whole = embed_to_file(model, channels, tmp_path / "whole.h5", batch_size=5)
    parts = tmp_path / "e.h5.parts"
    parts.mkdir()
    np.save(parts / "part-000000.npy", np.zeros((5, 128), np.float32))  # no manifest beside it
    embed_to_file(model, channels, tmp_path / "e.h5", resume=True, batch_size=5)
    assert_same_file(whole, tmp_path / "e.h5")


def test_what_cannot_be_embedded_leaves_nothing_behind(tmp_path, model, channels):
    with pytest.raises(InputError, match=r"LWM v1\.0 takes 32x32"):
        embed_to_file(LWM.random(LWMConfig.v1_0(num_layers=1)), channels, tmp_path / "e.h5")
    for wrong in ({"pool": "max"}, {"batch_size": 0}, {"batch_size": "big"}):
        with pytest.raises(InputError, match=r"max|batch_size"):
            embed_to_file(model, channels, tmp_path / "e.h5", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_places(tmp_path, model, channels):
    with pytest.raises(InputError, match=r"absent.*cannot be written"):
        embed_to_file(model, channels, tmp_path / "absent" / "e.h5")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        embed_to_file(model, channels, tmp_path / "file" / "e.h5")


def test_a_full_disk_leaves_what_is_done_and_resumes(tmp_path, model, channels, small_parts, monkeypatch):
    whole = embed_to_file(model, channels, tmp_path / "whole.h5", pool="tokens", batch_size=5)
    out = tmp_path / "e.h5"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (60_000, limit[1])
        )  # parts fit (44 kB), the assembly does not
        with pytest.raises(InputError, match=r"e\.h5: cannot be written \(no space left.*--resume"):
            embed_to_file(model, channels, out, pool="tokens", batch_size=5)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
        with pytest.raises(InputError, match=r"cannot be written after 0 of 23 channels"):
            embed_to_file(model, channels, tmp_path / "f.h5", pool="tokens", batch_size=5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, previous)
    assert not out.exists()
    assert not (tmp_path / "f.h5").exists()
    embed_to_file(model, channels, out, pool="tokens", resume=True, batch_size=5)
    assert_same_file(whole, out)


def test_log_lines_where_there_is_no_terminal(tmp_path, model, channels, small_parts, monkeypatch, caplog):
    monkeypatch.setattr("lwm_fast.progress._LINE_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, "lwm_fast"):
        embed_to_file(model, channels, tmp_path / "e.h5", batch_size=5)
    assert any("embedding: 23 of 23 channels (100%)" in line for line in caplog.messages)


def run_cli(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "lwm_fast", *map(str, arguments)]


@pytest.mark.slow
def test_kill_9_and_resume_from_the_shell(tmp_path):
    csi = random_csi(900, 8, 32)
    with h5py.File(tmp_path / "src.h5", "w") as file:
        file["channels"] = csi
    small_parts = "import lwm_fast.embed_file as e; e._PART_BYTES = 40 * 8 * 32 * 8; "
    small_parts += "import sys; from lwm_fast.cli import main; "
    options = [
        "embed",
        str(tmp_path / "src.h5"),
        "--weights",
        "random-1.1",
        "--threads",
        "1",
        "--batch-size",
        "8",
    ]

    def command(out: Path, *more: str) -> list[str]:
        return [sys.executable, "-c", f"{small_parts}sys.exit(main({[*options, '-o', str(out), *more]!r}))"]

    subprocess.run(command(tmp_path / "whole.h5"), check=True, capture_output=True, timeout=300)
    out, parts = tmp_path / "cut.h5", tmp_path / "cut.h5.parts"
    kills = 0
    for _ in range(3):
        process = subprocess.Popen(
            command(out, *(["--resume"] if parts.exists() else [])),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        before = len(list(parts.glob("part-*.npy"))) if parts.exists() else 0
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if len(list(parts.glob("part-*.npy"))) > before + 2:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.005)
        process.wait()
        assert not out.exists()
    assert kills == 3
    subprocess.run(command(out, "--resume"), check=True, capture_output=True, timeout=300)
    assert_same_file(tmp_path / "whole.h5", out)
    assert not parts.exists()


@pytest.mark.slow
def test_memory_stays_flat(tmp_path):
    """600 MB of channels through 64 KB batches: the peak must not follow the file."""
    source = tmp_path / "big.h5"
    block = random_csi(2048, 8, 32)
    with h5py.File(source, "w") as file:
        data = file.create_dataset("channels", (292_000, 8, 32), np.complex64, chunks=(512, 8, 32))
        for start in range(0, 292_000, 2048):
            data[start : start + 2048] = block[: 292_000 - start]
    script = (
        "import resource, sys, numpy as np, lwm_fast, lwm_fast.embed_file as e\n"
        "from lwm_fast.pooling import get_pool\n"
        # The encoder itself is not under test: rows of the right shape take its place.
        "e.encode = lambda m, c, *a, **o: c.read(0, len(c)).real.reshape(len(c), -1)[:, :128].copy()\n"
        "model = lwm_fast.LWM.random(lwm_fast.LWMConfig.v1_1(num_layers=1))\n"
        "base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "channels = lwm_fast.load_channels(sys.argv[1], in_memory=False)\n"
        "e.embed_to_file(model, channels, sys.argv[2])\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) // 1024)\n"
    )
    command = [sys.executable, "-c", script, str(source), str(tmp_path / "out.h5")]
    grown = int(
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=500).stdout.split()[-1]
    )
    assert grown < 350  # MiB, of a 600 MB source
    channels = load_channels(source, in_memory=False)
    got = read_embeddings(tmp_path / "out.h5")
    assert got.shape == (292_000, 128)
    assert np.array_equal(got[-5:], channels.read(291_995, 292_000).real.reshape(5, -1)[:, :128])
    shutil.rmtree(tmp_path, ignore_errors=True)
