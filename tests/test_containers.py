"""Every array container, its layouts, and Sionna's arrays."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import scipy.io
import torch
from support.ray_data import random_csi, random_rays, reference_csi, relative_error

from lwm_fast.data import Channels, describe, from_sionna_cfr, from_sionna_paths, load_channels
from lwm_fast.errors import InputError


def as_pairs(csi: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    return np.stack([csi.real, csi.imag], axis=axis)


class TestArrays:
    @pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
    def test_numpy(self, dtype: type[np.generic]) -> None:
        csi = random_csi().astype(dtype)
        channels = load_channels(csi)
        np.testing.assert_array_equal(channels.csi, random_csi())
        assert np.shares_memory(channels.csi, csi) == (dtype is np.complex64)
        assert channels.csi.dtype == np.complex64

    def test_torch(self) -> None:
        csi = torch.from_numpy(random_csi())
        channels = load_channels(csi)
        assert channels.csi.ctypes.data == csi.data_ptr()
        conjugate = load_channels(csi.conj())
        np.testing.assert_array_equal(conjugate.csi, random_csi().conj())

    def test_layouts_recognised(self) -> None:
        csi = random_csi()
        for array in (
            csi[:, None],
            as_pairs(csi, 1),
            as_pairs(csi, -1),
            as_pairs(csi, 0),
            as_pairs(csi[:, None], -1),
        ):
            np.testing.assert_array_equal(load_channels(array).csi, csi)

    def test_layouts_named(self) -> None:
        csi = random_csi(2, 2, 2)
        for axes, array in (
            ("nas", csi),
            ("nsa", csi.transpose(0, 2, 1)),
            ("san", csi.transpose(2, 1, 0)),
            ("na1s", csi[:, :, None]),
            ("ncas", as_pairs(csi, 1)),
            ("nasc", as_pairs(csi, -1)),
            ("cnas", as_pairs(csi, 0)),
            ("ansc", as_pairs(csi.transpose(1, 0, 2), -1)),
        ):
            np.testing.assert_array_equal(load_channels(array, layout=axes).csi, csi)

    def test_channels_again(self) -> None:
        channels = load_channels(random_csi())
        again = load_channels(channels, scale=2e6)
        assert again.meta.scale == 2e6
        assert channels.meta.scale == 1e6
        np.testing.assert_array_equal(again.csi, channels.csi)


def write_demo_hdf5(path: Path, csi: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
    with h5py.File(path, "w") as file:
        file["channels"], file["labels"] = csi, labels


def write_wavesfm(path: Path, csi: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
    with h5py.File(path, "w") as file:
        file["sample"], file["label_class"] = as_pairs(csi, 1), labels


def write_only_complex(path: Path, csi: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
    with h5py.File(path, "w") as file:
        file["deep/down/H"], file["snr"], file["labels"] = csi, np.zeros(len(csi)), labels


def write_matlab_v73(path: Path, csi: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
    """As MATLAB writes it: a 512-byte block in front, reversed axes, compounds of real and imag."""
    compound = np.dtype([("real", "<f8"), ("imag", "<f8")])
    stored = np.empty(csi.shape[::-1], dtype=compound)
    stored["real"], stored["imag"] = csi.real.T, csi.imag.T
    with h5py.File(path, "w", userblock_size=512) as file:
        file["H"], file["labels"] = stored, labels[:, None].astype(np.float64)
        file["H"].attrs["MATLAB_class"] = np.bytes_("double")
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM")


def write_npz(path: Path, csi: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
    np.savez(path, channels=csi[:, None], labels=labels)


def write_npz_compressed(path: Path, csi: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
    np.savez_compressed(path, H=csi.astype(np.complex128), labels=labels, name=np.array(["a"]))


def write_mat(path: Path, csi: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
    scipy.io.savemat(path, {"H": csi, "labels": labels, "note": "text"})


def write_challenge(path: Path, csi: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
    torch.save({"channels": torch.from_numpy(csi), "labels": torch.from_numpy(labels)}, path)


def write_npy(path: Path, csi: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
    np.save(path, csi)


WRITERS = {
    "demo.h5": write_demo_hdf5,
    "wavesfm.hdf5": write_wavesfm,
    "only.h5": write_only_complex,
    "v73.mat": write_matlab_v73,
    "v5.mat": write_mat,
    "wimae.npz": write_npz,
    "packed.npz": write_npz_compressed,
    "train_data.pt": write_challenge,
    "plain.npy": write_npy,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("in_memory", [True, False])
def test_containers(tmp_path: Path, name: str, in_memory: bool) -> None:
    csi, labels = random_csi(7), np.arange(7) % 3
    WRITERS[name](tmp_path / name, csi, labels)
    channels = load_channels(tmp_path / name, in_memory=in_memory)
    np.testing.assert_array_equal(channels.read(2, 5), csi[2:5])
    np.testing.assert_array_equal(channels.csi, csi)
    assert channels.csi.flags.c_contiguous
    if name != "plain.npy":
        np.testing.assert_array_equal(channels.labels, labels)
    assert channels.meta.num_users_total == 7
    assert channels.meta.sha256 is not None
    description = describe(tmp_path / name)
    assert description.problem is None
    assert description.shape == csi.shape


def test_los_and_pos_travel_with_the_csi(tmp_path: Path) -> None:
    los, pos = np.array([0, 1, 1], dtype=np.int8), np.arange(9, dtype=np.float32).reshape(3, 3)
    np.savez(tmp_path / "a.npz", csi=random_csi(3), los=los, pos=pos)
    channels = load_channels(tmp_path / "a.npz")
    np.testing.assert_array_equal(channels.los, los)
    np.testing.assert_array_equal(channels.pos, pos)
    assert "2 LoS, 1 NLoS" in str(channels)


def test_key_chooses_among_several(tmp_path: Path) -> None:
    path = tmp_path / "two.h5"
    with h5py.File(path, "w") as file:
        file["up"], file["down"] = random_csi(3), random_csi(4)
    with pytest.raises(InputError, match=r"several arrays could be csi \(down: complex64 \[4, 8, 16\]; up: "):
        load_channels(path)
    assert len(load_channels(path, key="up")) == 3
    with pytest.raises(InputError, match=r"no array 'left'; it holds down"):
        load_channels(path, key="left")


def test_matlab_v73_layout_is_named_in_matlab_order(tmp_path: Path) -> None:
    csi = random_csi(3)
    with h5py.File(tmp_path / "pairs.mat", "w", userblock_size=512) as file:
        file["H"] = as_pairs(csi, -1).astype(np.float64).T
    for layout in (None, "nasc"):
        for in_memory in (True, False):
            channels = load_channels(tmp_path / "pairs.mat", layout=layout, in_memory=in_memory)
            assert channels.meta.format == "matlab_v7.3"
            np.testing.assert_array_equal(channels.csi, csi)


def test_wavesfm_with_two_samples_is_not_ambiguous(tmp_path: Path) -> None:
    csi = random_csi(2)
    write_wavesfm(tmp_path / "two.h5", csi, np.zeros(2))
    np.testing.assert_array_equal(load_channels(tmp_path / "two.h5").csi, csi)


def test_fingerprint_is_the_files_sha256(tmp_path: Path) -> None:
    import hashlib

    np.save(tmp_path / "a.npy", random_csi())
    expected = hashlib.sha256((tmp_path / "a.npy").read_bytes()).hexdigest()
    assert load_channels(tmp_path / "a.npy").meta.sha256 == expected


class TestZarr:
    @pytest.mark.parametrize("zarr_format", [2, 3])
    @pytest.mark.parametrize("in_memory", [True, False])
    def test_group(self, tmp_path: Path, zarr_format: int, in_memory: bool) -> None:
        zarr = pytest.importorskip("zarr", reason="the optional package zarr is not installed")
        csi, path = random_csi(9), tmp_path / "data.zarr"
        group = zarr.open_group(str(path), mode="w", zarr_format=zarr_format)
        for name, values in (("H", csi), ("labels", np.arange(9))):
            array = group.create_array(
                name, shape=values.shape, dtype=values.dtype, chunks=(4, *values.shape[1:])
            )
            array[...] = values
        channels = load_channels(path, in_memory=in_memory)
        np.testing.assert_array_equal(channels[[1, 2, 8]].csi, csi[[1, 2, 8]])
        np.testing.assert_array_equal(channels.csi, csi)
        np.testing.assert_array_equal(channels.labels, np.arange(9))
        assert channels.meta.format_version == str(zarr_format)

    def test_single_array(self, tmp_path: Path) -> None:
        zarr = pytest.importorskip("zarr", reason="the optional package zarr is not installed")
        csi, path = random_csi(4), tmp_path / "one.zarr"
        array = zarr.open_array(str(path), mode="w", shape=csi.shape, dtype=csi.dtype, chunks=(2, 8, 16))
        array[...] = csi
        np.testing.assert_array_equal(load_channels(path, in_memory=False).csi, csi)

    def test_not_installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a.zarr").mkdir()
        (tmp_path / "a.zarr/zarr.json").write_text("{}")
        monkeypatch.setitem(sys.modules, "zarr", None)
        with pytest.raises(InputError, match=r"pip install lwm_fast\[zarr\]"):
            load_channels(tmp_path / "a.zarr")


class TestSionna:
    def test_cfr(self) -> None:
        csi = random_csi(6)
        h = np.sqrt(16) * csi[:, None, None, :, None, :]  # [num_rx, rx_ant, tx, tx_ant, symbols, subcarriers]
        channels = from_sionna_cfr(h, los=[1] * 6)
        assert relative_error(channels.csi, csi) < 1e-6
        batched = from_sionna_cfr(h.reshape(2, 3, *h.shape[1:]))
        np.testing.assert_array_equal(batched.csi, channels.csi)

    def test_choices(self) -> None:
        rng = np.random.default_rng(0)
        h = (1e-4 * rng.standard_normal((3, 2, 2, 4, 2, 8))).astype(np.complex64)
        with pytest.raises(
            InputError, match=r"rx_antenna=None: there are 2; choose one with rx_antenna=0..1"
        ):
            from_sionna_cfr(h)
        with pytest.raises(InputError, match="tx=None"):
            from_sionna_cfr(h, rx_antenna=0)
        channels = from_sionna_cfr(h, rx_antenna=1, tx=0, symbol=1)
        assert relative_error(channels.csi, h[:, 1, 0, :, 1] / np.sqrt(8)) < 1e-6
        with pytest.raises(InputError, match="symbol=2: there are 2"):
            from_sionna_cfr(h, rx_antenna=1, tx=0, symbol=2)

    def test_bad_arrays(self) -> None:
        with pytest.raises(InputError, match="must be complex"):
            from_sionna_cfr(np.zeros((1, 1, 1, 4, 1, 8)))
        with pytest.raises(InputError, match=r"shape \(2, 4, 8\)"):
            from_sionna_cfr(random_csi(2, 4, 8))
        with pytest.raises(InputError, match="tau 4 with 3"):
            from_sionna_paths(np.ones((2, 1, 1, 4, 5, 1), dtype=complex), np.zeros((4, 1, 3)))

    @pytest.mark.parametrize("num_subcarriers", [16, 40])
    @pytest.mark.parametrize("per_antenna", [True, False])
    def test_paths_have_the_scale_of_deepmimo(self, num_subcarriers: int, per_antenna: bool) -> None:
        rays, num_antennas = random_rays(num_users=10, seed=3), 8
        antenna = np.arange(num_antennas)[:, None]
        sine = np.sin(np.deg2rad(rays.aod_el)) * np.sin(np.deg2rad(rays.aod_az + 135.0))
        gains = 10 ** (rays.power / 20.0) * np.exp(1j * np.deg2rad(rays.phase))
        a = gains[:, None] * np.exp(1j * np.pi * antenna * sine[:, None])  # [users, tx_ant, paths]
        a = np.nan_to_num(a)[:, None, None, :, :, None]
        tau = np.where(np.isnan(rays.delay), -1.0, rays.delay)[:, None]  # [users, tx, paths]
        if per_antenna:
            tau = np.broadcast_to(tau[:, None, :, None], (10, 1, 1, num_antennas, tau.shape[-1]))
        channels = from_sionna_paths(a, tau, num_subcarriers=num_subcarriers)
        expected = reference_csi(rays, num_antennas, num_subcarriers)[rays.counts > 0]
        assert relative_error(channels.csi, expected) < 1e-6
        assert channels.meta.num_dropped == int((rays.counts == 0).sum())


def test_half_precision(tmp_path: Path) -> None:
    scaled = random_csi() * 1e6
    tensor = torch.from_numpy(scaled).to(torch.complex32)
    with pytest.raises(InputError, match=r"half-precision csi.*pass scale=1"):
        load_channels(tensor)
    assert relative_error(load_channels(tensor, scale=1).csi, scaled) < 1e-3
    halves = as_pairs(scaled, -1).astype(np.float16)
    with pytest.raises(InputError, match="half-precision csi"):
        load_channels(halves)
    assert relative_error(load_channels(halves, scale=1).csi, scaled) < 1e-3


def test_describe_of_saved_channels(tmp_path: Path) -> None:
    path = Channels.from_arrays(random_csi(3), los=[1, 0, 0]).save(tmp_path / "c.h5")
    text = str(describe(path))
    assert "3 in the source, 3 to embed" in text
    assert "1 LoS, 2 NLoS" in text
