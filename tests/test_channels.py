"""Rays, ArrayGeometry and Channels: slicing, joining, streaming, saving, printing."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from support.ray_data import PaddedRays, random_csi, random_rays, reference_csi, relative_error

from lwm_fast.data import ArrayGeometry, Channels, ChannelsMeta, Rays, load_channels
from lwm_fast.errors import InputError


def to_rays(padded: PaddedRays) -> Rays:
    return Rays.from_padded(
        padded.power,
        phase_deg=padded.phase,
        delay_s=padded.delay,
        aod_az_deg=padded.aod_az,
        aod_zen_deg=padded.aod_el,
        aoa_az_deg=padded.aoa_az,
        aoa_zen_deg=padded.aoa_el,
    )


def ray_channels(num_users: int = 12, seed: int = 0, **columns: Any) -> Channels:
    padded = random_rays(num_users, seed=seed)
    meta = ChannelsMeta(source="test", carrier_frequency=3.5e9, num_users_total=num_users)
    return Channels.from_rays(
        to_rays(padded), ArrayGeometry(8, 16), los=padded.los, pos=padded.pos, meta=meta, **columns
    )


class TestRays:
    def test_csi_is_the_textbook_sum(self) -> None:
        padded = random_rays(num_users=30, max_paths=25, seed=1)
        csi = to_rays(padded).to_csi(ArrayGeometry(16, 64))
        assert relative_error(csi, reference_csi(padded, 16, 64)) < 3e-6

    def test_out_is_written_in_full(self) -> None:
        padded = random_rays()
        out = np.full((5, 4, 3), np.nan, dtype=np.complex64)
        result = to_rays(padded).to_csi(ArrayGeometry(4, 3), out=out, start=2, stop=7)
        assert result is out
        assert relative_error(out, reference_csi(padded, 4, 3)[2:7]) < 3e-6

    @pytest.mark.parametrize(
        "out",
        [
            np.zeros((12, 4, 2), dtype=np.complex64),
            np.zeros((12, 4, 3), dtype=np.complex128),
            np.zeros((3, 4, 12), dtype=np.complex64).transpose(2, 1, 0),
        ],
    )
    def test_wrong_out_is_refused(self, out: npt.NDArray[Any]) -> None:
        with pytest.raises(InputError, match="must be C-contiguous complex64"):
            to_rays(random_rays()).to_csi(ArrayGeometry(4, 3), out=out)

    @pytest.mark.parametrize(
        "index", [slice(2, 9), slice(None, None, -2), [3, 3, 0], [], np.arange(12) % 2 == 0]
    )
    def test_select(self, index: Any) -> None:
        rays, geometry = to_rays(random_rays()), ArrayGeometry(4, 4)
        everyone = rays.to_csi(geometry)
        wanted = everyone[np.asarray(index, dtype=np.int64) if isinstance(index, list) else index]
        part = rays.select(np.asarray(index, dtype=np.int64) if isinstance(index, list) else index)
        assert len(part) == len(wanted)
        np.testing.assert_array_equal(part.to_csi(geometry), wanted)

    def test_concatenate(self) -> None:
        parts = [to_rays(random_rays(num_users=n, seed=n)) for n in (3, 1, 6)]
        joined, geometry = Rays.concatenate(parts), ArrayGeometry(4, 4)
        expected = np.concatenate([part.to_csi(geometry) for part in parts])
        np.testing.assert_array_equal(joined.to_csi(geometry), expected)
        with pytest.raises(InputError, match="list is empty"):
            Rays.concatenate([])

    def test_nobody(self) -> None:
        nobody = to_rays(random_rays()).select(slice(0, 0))
        assert len(nobody) == 0
        assert nobody.to_csi(ArrayGeometry(4, 4)).shape == (0, 4, 4)

    @pytest.mark.parametrize("offsets", [[1, 2], [0, 3, 2], [[0, 1]], []])
    def test_bad_offsets(self, offsets: list[Any]) -> None:
        columns = [np.zeros(3, dtype=np.float32)] * 7
        with pytest.raises(InputError, match=r"offsets must be \[num_users \+ 1\]"):
            Rays(np.array(offsets, dtype=np.int64), *columns)

    def test_column_of_another_length(self) -> None:
        columns = [np.zeros(3, dtype=np.float32)] * 6 + [np.zeros(2, dtype=np.float32)]
        with pytest.raises(InputError, match=r"aoa_zen_deg has shape \(2,\).*must be \(3,\)"):
            Rays(np.array([0, 3]), *columns)


class TestGeometry:
    def test_defaults_are_those_of_lwm(self) -> None:
        geometry = ArrayGeometry()
        assert (geometry.size, geometry.num_subcarriers, geometry.max_paths) == (32, 32, 20)
        assert geometry.bandwidth_hz == 960e3
        assert geometry.rotation == -135.0
        assert replace(geometry, num_subcarriers=64).bandwidth_hz == 1920e3

    def test_z_rotation_turns_the_horizontal_axis(self) -> None:
        axis_h, axis_v = ArrayGeometry(rotation=30.0).axes()
        np.testing.assert_allclose(axis_h, (-0.5, np.sqrt(0.75), 0), atol=1e-15)
        np.testing.assert_allclose(axis_v, (0, 0, 1), atol=1e-15)

    def test_axes_stay_orthonormal(self) -> None:
        axis_h, axis_v = (np.array(axis) for axis in ArrayGeometry((2, 2), rotation=(10, -50, 200)).axes())
        np.testing.assert_allclose([axis_h @ axis_h, axis_v @ axis_v, axis_h @ axis_v], [1, 1, 0], atol=1e-15)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"num_antennas": 0}, "num_antennas=0"),
            ({"num_antennas": (4, 0)}, "num_antennas=0"),
            ({"num_antennas": (4, 2, 1)}, "horizontal, vertical"),
            ({"num_subcarriers": -1}, "num_subcarriers=-1"),
            ({"max_paths": 0}, "max_paths=0"),
            ({"bandwidth": 0.0}, "bandwidth=0.0"),
            ({"bandwidth": float("nan")}, "bandwidth=nan"),
            ({"spacing": -0.5}, "spacing=-0.5"),
            ({"rotation": (1.0, 2.0)}, "rotation="),
            ({"rotation": float("inf")}, "rotation=inf"),
        ],
    )
    def test_bad_settings(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            ArrayGeometry(**settings)


class TestChannels:
    def test_slices_masks_and_lists(self) -> None:
        channels = ray_channels(labels=np.arange(12) * 10)
        everyone = channels.csi
        mask = np.arange(12) % 3 == 0
        for index in (slice(1, 8, 2), mask, [5, 2, 2], slice(None, None, -1), []):
            part = channels[index]
            rows = np.arange(12)[index if not isinstance(index, list) else np.array(index, dtype=int)]
            np.testing.assert_array_equal(part.csi, everyone[rows])
            np.testing.assert_array_equal(part.user_index, rows)
            np.testing.assert_array_equal(part.labels, rows * 10)
            assert part.pos is not None
            assert channels.pos is not None
            np.testing.assert_array_equal(part.pos, channels.pos[rows])
            assert part.rays is not None
            assert len(part.rays) == rows.size

    @pytest.mark.parametrize(
        ("index", "message"),
        [
            (3, "one user is"),
            ([1.5], "whole numbers"),
            ([99], "12 users"),
            (np.ones(3, dtype=bool), "12 users"),
        ],
    )
    def test_bad_index(self, index: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            ray_channels()[index]

    def test_array_slices_share_memory(self) -> None:
        csi = random_csi(6)
        channels = Channels.from_arrays(csi)
        assert np.shares_memory(channels.csi, csi)
        assert np.shares_memory(channels[2:4].csi, csi)

    def test_read_and_iterate_equal_csi(self) -> None:
        channels = ray_channels()
        chunks = list(channels.iter_csi(5))
        assert [len(chunk) for chunk in chunks] == [5, 5, 2]
        assert channels._csi is None  # streaming keeps nothing
        joined = np.concatenate(chunks)
        np.testing.assert_array_equal(channels.read(3, 7), joined[3:7])
        np.testing.assert_array_equal(channels.read(10, 99), joined[10:])
        np.testing.assert_array_equal(channels.csi, joined)
        with pytest.raises(InputError, match="chunk=0"):
            next(channels.iter_csi(0))

    def test_concatenate_keeps_rays(self) -> None:
        parts = [ray_channels(5, seed=1), ray_channels(7, seed=2)]
        joined = Channels.concatenate(parts)
        assert joined.rays is not None
        np.testing.assert_array_equal(joined.csi, np.concatenate([part.csi for part in parts]))
        np.testing.assert_array_equal(joined.user_index, [*range(5), *range(7)])
        assert joined.meta.num_users_total == 12
        assert joined.meta.carrier_frequency == 3.5e9

    def test_concatenate_mixed_kinds_and_columns(self) -> None:
        rays, array = ray_channels(5), Channels.from_arrays(random_csi(4))
        joined = Channels.concatenate([rays, array])
        assert joined.rays is None
        assert joined.los is None
        assert joined.meta.carrier_frequency is None
        assert len(joined) == 9

    def test_concatenate_refuses(self) -> None:
        small, large = Channels.from_arrays(random_csi(2)), Channels.from_arrays(random_csi(2, 4, 4))
        with pytest.raises(InputError, match=r"sizes \[\(4, 4\), \(8, 16\)\]"):
            Channels.concatenate([small, large])
        with pytest.raises(InputError, match="list is empty"):
            Channels.concatenate([])
        other = Channels.from_arrays(random_csi(2), meta=ChannelsMeta(scale=1.0))
        with pytest.raises(InputError, match=r"scales \[1.0, 1000000.0\]"):
            Channels.concatenate([small, other])

    def test_columns_must_fit(self) -> None:
        with pytest.raises(InputError, match=r"pos has shape \(2, 2\); 2 users need \(2, 3\)"):
            Channels.from_arrays(random_csi(2), pos=np.zeros((2, 2)))
        with pytest.raises(InputError, match="labels has dtype <U1; give numbers"):
            Channels.from_arrays(random_csi(2), labels=["a", "b"])
        with pytest.raises(InputError, match="los has shape"):
            Channels.from_arrays(random_csi(2), los=[1])
        with pytest.raises(InputError, match="csi is float32"):
            Channels.from_arrays(np.zeros((2, 3, 4), dtype=np.float32))

    def test_with_geometry_needs_rays(self) -> None:
        with pytest.raises(InputError, match="fixed size, not rays"):
            Channels.from_arrays(random_csi(2)).with_geometry(num_antennas=4)

    @pytest.mark.parametrize("make", [ray_channels, lambda: Channels.from_arrays(random_csi(3))])
    def test_pickle(self, make: Callable[[], Channels]) -> None:
        channels = make()
        copy = pickle.loads(pickle.dumps(channels))
        np.testing.assert_array_equal(copy.csi, channels.csi)
        assert copy.meta == channels.meta

    def test_print(self) -> None:
        text = str(ray_channels())
        assert "12 kept of 12 (0 without a path dropped)" in text
        assert "8 antennas x 16 subcarriers" in text
        assert "3.5 GHz" in text
        assert "linear gain, before the 1e+06 scale" in text
        assert "synthetic" not in text
        starts = {re.match(r"  \S.*?\s{2,}", line).end() for line in text.split("\n")[1:]}  # type: ignore[union-attr]
        assert len(starts) == 1  # the values form a column
        generated = Channels.from_arrays(random_csi(2), meta=ChannelsMeta(synthetic=True))
        assert "synthetic channels" in repr(generated)

    def test_median_gain(self) -> None:
        csi = np.full((5, 2, 2), 3e-6, dtype=np.complex64) * np.arange(1, 6)[:, None, None]
        assert Channels.from_arrays(csi).median_gain() == pytest.approx(9e-6)
        assert np.isnan(Channels.from_arrays(csi)[:0].median_gain())


class TestSaved:
    def test_rays_stay_rays(self, tmp_path: Path) -> None:
        channels = ray_channels(labels=np.arange(12))[2:9]
        path = channels.save(tmp_path / "c.h5")
        again = load_channels(path)
        assert again.rays is not None
        assert again.geometry == channels.geometry
        assert again.meta == replace(channels.meta, sha256=again.meta.sha256)
        assert again.meta.sha256 is not None
        np.testing.assert_array_equal(again.csi, channels.csi)
        for name in ("los", "pos", "labels", "user_index"):
            np.testing.assert_array_equal(getattr(again, name), getattr(channels, name))
        assert load_channels(path, num_antennas=4, max_paths=1).shape == (7, 4, 16)

    @pytest.mark.parametrize("in_memory", [True, False])
    def test_arrays(self, tmp_path: Path, in_memory: bool) -> None:
        csi = random_csi(9)
        meta = ChannelsMeta(scale=1e5, base_station_pos=(1.0, 2.0, 3.0))
        path = Channels.from_arrays(csi, meta=meta).save(tmp_path / "c.h5")
        again = load_channels(path, in_memory=in_memory)
        np.testing.assert_array_equal(again.csi, csi)
        assert again.meta.scale == 1e5
        assert again.meta.base_station_pos == (1.0, 2.0, 3.0)
        assert load_channels(path, scale=1e6).meta.scale == 1e6

    def test_a_failed_save_leaves_nothing(self, tmp_path: Path) -> None:
        channels = Channels.from_arrays(random_csi(2))
        target = channels.save(tmp_path / "c.h5")
        before = target.read_bytes()

        class Broken:
            shape = (2, 8, 16)

            def read(self, start: int, stop: int) -> npt.NDArray[Any]:
                raise OSError("disk full")

        with pytest.raises(InputError, match=r"c.h5: writing failed \(disk full\)"):
            Channels(Broken()).save(target)  # type: ignore[arg-type]
        assert target.read_bytes() == before
        assert [entry.name for entry in tmp_path.iterdir()] == ["c.h5"]
        with pytest.raises(InputError, match="cannot be written"):
            channels.save(tmp_path / "missing" / "c.h5")

    def test_newer_format_is_refused(self, tmp_path: Path) -> None:
        path = Channels.from_arrays(random_csi(2)).save(tmp_path / "c.h5")
        with h5py.File(path, "a") as file:
            file.attrs["lwm_fast_channels"] = 99
        with pytest.raises(InputError, match="newer than 1; update lwm_fast"):
            load_channels(path)


class TestLazy:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        with h5py.File(tmp_path / "data.h5", "w") as file:
            file["channels"] = random_csi(40)
            file["labels"] = np.arange(40)
        return tmp_path / "data.h5"

    def test_selection_reads_only_its_rows(self, path: Path) -> None:
        channels, csi = load_channels(path, in_memory=False), random_csi(40)
        for index in (slice(3, 17), [5, 6, 7, 1, 39, 2], np.arange(40) % 7 == 0, slice(None, None, -1)):
            part = channels[index]
            assert part._csi is None
            rows = np.arange(40)[index]
            np.testing.assert_array_equal(part.read(0, len(part)), csi[rows])
            np.testing.assert_array_equal(part[1:3].csi, csi[rows][1:3])
            np.testing.assert_array_equal(part.labels, rows)

    def test_another_process_opens_the_file_anew(self, path: Path, tmp_path: Path) -> None:
        channels = load_channels(path, in_memory=False)
        pickled = tmp_path / "channels.pkl"
        pickled.write_bytes(pickle.dumps(channels))
        assert pickled.stat().st_size < 8 * 40 * 8 * 16
        code = (
            "import pickle, sys; c = pickle.load(open(sys.argv[1], 'rb')); "
            "print(c.read(3, 5).tobytes().hex(), flush=True)"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, str(pickled)],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ,
        )
        assert bytes.fromhex(run.stdout.strip()) == random_csi(40)[3:5].tobytes()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
    def test_a_forked_child_opens_the_file_anew(self, path: Path) -> None:
        channels = load_channels(path, in_memory=False)
        parent = channels.read(0, 3)
        child = os.fork()
        if child == 0:
            same = np.array_equal(channels.read(0, 3), parent)
            reopened = channels._store._process == os.getpid()  # type: ignore[attr-defined]
            os._exit(0 if same and reopened else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    def test_saving_streams(self, path: Path, tmp_path: Path) -> None:
        channels = load_channels(path, in_memory=False)
        again = load_channels(channels.save(tmp_path / "copy.h5"))
        assert channels._csi is None
        np.testing.assert_array_equal(again.csi, random_csi(40))

    def test_memory_stays_constant(self, tmp_path: Path) -> None:
        """A 192 MB file is loaded, checked and streamed with a few chunks in memory."""
        path = tmp_path / "large.h5"
        with h5py.File(path, "w") as file:
            data = file.create_dataset("channels", shape=(24_000, 32, 32), dtype=np.complex64)
            block = random_csi(1000, 32, 32)
            for start in range(0, 24_000, 1000):
                data[start : start + 1000] = block
        code = (
            "import resource, sys\n"
            "from lwm_fast.data import load_channels\n"
            "import h5py, scipy.io\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "c = load_channels(sys.argv[1], in_memory=False)\n"
            "assert sum(len(x) for x in c.iter_csi()) == 24000\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, str(path)],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ,
        )
        assert int(run.stdout) < 170_000  # kB; two chunks of 64 MiB and the reader's buffers
