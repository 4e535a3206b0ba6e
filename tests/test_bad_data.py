"""Bad input: one clear error that names the value, the place and the remedy."""

from __future__ import annotations

import itertools
import os
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import scipy.io
import torch
from support.ray_data import random_csi, random_rays
from support.v3_folder import write_v3_folder
from support.v4_folder import write_v4_folder

from lwm_fast.data import describe, load_channels
from lwm_fast.errors import InputError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 123\n"


@pytest.mark.parametrize("name", ["a.h5", "a.mat", "a.npy", "a.npz", "a.pt"])
class TestEveryFileKind:
    def test_git_lfs_pointer(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(LFS)
        with pytest.raises(InputError, match=rf"{name}: this is a Git-LFS pointer.*git lfs pull"):
            load_channels(tmp_path / name)

    def test_empty_file(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).touch()
        with pytest.raises(InputError, match=rf"{name}: the file is empty"):
            load_channels(tmp_path / name)

    def test_missing_file(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError, match=rf"{name}: no such file or folder"):
            load_channels(tmp_path / name)

    def test_noise(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(5000))
        with pytest.raises(InputError, match=rf"{name}: cannot be read"):
            load_channels(tmp_path / name)

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.98])
    def test_truncated(self, tmp_path: Path, name: str, share: float) -> None:
        path, csi = tmp_path / name, random_csi(50)
        match path.suffix:
            case ".h5":
                with h5py.File(path, "w") as file:
                    file["channels"] = csi
            case ".mat":
                scipy.io.savemat(path, {"channels": csi})
            case ".npy":
                np.save(path, csi)
            case ".npz":
                np.savez(path, channels=csi)
            case ".pt":
                torch.save({"channels": torch.from_numpy(csi)}, path)
        load_channels(path)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        with pytest.raises(InputError, match=name):
            load_channels(path)
        assert describe(path).problem is not None


class TestFolders:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="nowhere: no such file or folder"):
            load_channels(tmp_path / "nowhere")

    def test_empty(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"not a scenario folder \(it is empty\)"):
            load_channels(tmp_path)

    def test_neither_says_what_was_looked_for(self, tmp_path: Path) -> None:
        (tmp_path / "train_data.pt").write_bytes(b"x")
        with pytest.raises(
            InputError, match=r"it holds train_data.pt\); looked for BS<number>_UE.*params.json"
        ):
            load_channels(tmp_path)

    def test_v3_and_v4_are_told_apart(self, tmp_path: Path) -> None:
        third = write_v3_folder(tmp_path / "third", random_rays())
        fourth = write_v4_folder(tmp_path / "fourth", random_rays())
        assert load_channels(third).meta.format == "deepmimo_v3"
        assert load_channels(fourth).meta.format == "deepmimo_v4"
        np.testing.assert_array_equal(load_channels(third).csi, load_channels(fourth).csi)

    def test_zarr_without_content(self, tmp_path: Path) -> None:
        pytest.importorskip("zarr", reason="the optional package zarr is not installed")
        (tmp_path / "zarr.json").write_text("{}")
        with pytest.raises(InputError, match=r"holds no array|cannot be read as zarr"):
            load_channels(tmp_path)


def test_unknown_extension_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(InputError, match=r"unknown kind of file '.csv'; known: .*\.npz.*\.pt"):
        load_channels(tmp_path / "a.csv")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", random_csi())
    (tmp_path / "a.npy").chmod(0)
    with pytest.raises(InputError, match="no permission"):
        load_channels(tmp_path / "a.npy")


class TestShapes:
    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (random_csi()[0], r"shape \(8, 16\) has two axes.*csi\[None\]"),
            (random_csi()[0, 0], r"shape \(16,\) has 1 axes"),
            (np.zeros((2, 3, 8, 16), dtype=np.complex64), r"3 user antennas on axis 1.*csi\[:, 0\]"),
            (np.zeros((2, 1, 1, 8, 16), dtype=np.complex64), "has 5 axes"),
            (random_csi().real, r"real data \(float32, shape \(5, 8, 16\)\) where complex csi was expected"),
            (np.zeros((8, 16, 2), dtype=np.float32), r"one channel with a real/imaginary axis.*csi\[None\]"),
            (np.zeros((2, 2, 8, 16), dtype=np.float32), r"ambiguous.*layout=\"cnas\" or layout=\"ncas\""),
            (np.zeros((4, 8, 16), dtype=np.int64), r"dtype int64 .* csi.astype\(numpy.complex64\)"),
            (np.zeros((0, 8, 16), dtype=np.complex64), "holds no channel"),
        ],
    )
    def test_array(self, array: npt.NDArray[Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            load_channels(array)

    @pytest.mark.parametrize(
        ("layout", "message"),
        [
            ("nax", "one letter per axis"),
            ("na", "one letter per axis"),
            ("nasc", r"layout='nasc' has 4 axes but the array has shape \(5, 8, 16\)"),
            ("n1as", "has 4 axes"),
        ],
    )
    def test_layout(self, layout: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            load_channels(random_csi(), layout=layout)

    def test_layout_against_dtype(self) -> None:
        with pytest.raises(InputError, match=r"does not fit real data.*name the pair axis with c"):
            load_channels(random_csi().real, layout="nas")
        with pytest.raises(InputError, match=r"does not fit complex data.*leave the letter c out"):
            load_channels(np.zeros((5, 8, 16, 2), dtype=np.complex64), layout="nasc")
        with pytest.raises(InputError, match="wants length 2 on axis 1"):
            load_channels(np.zeros((5, 3, 8, 16), dtype=np.float32), layout="ncas")

    def test_swapped_axes(self) -> None:
        with pytest.raises(InputError, match=r'8 x 16 but num_antennas=16, num_subcarriers=8.*layout="nsa"'):
            load_channels(random_csi(), num_antennas=16, num_subcarriers=8)
        swapped = load_channels(random_csi(), num_antennas=16, num_subcarriers=8, layout="nsa")
        assert swapped.shape == (5, 16, 8)

    def test_another_size(self) -> None:
        with pytest.raises(InputError, match="8 antennas and 16 subcarriers but num_antennas=32"):
            load_channels(random_csi(), num_antennas=32)
        with pytest.raises(InputError, match="num_antennas=0: must be a whole number of at least 1"):
            load_channels(random_csi(), num_antennas=0)
        assert load_channels(random_csi(), num_antennas=8).shape == (5, 8, 16)

    @pytest.mark.parametrize("option", ["bandwidth", "rotation", "max_paths", "base_station"])
    def test_ray_options_on_arrays(self, option: str) -> None:
        with pytest.raises(InputError, match=f"{option}=3 needs rays"):
            load_channels(random_csi(), **{option: 3})  # type: ignore[arg-type]

    def test_other_types(self) -> None:
        with pytest.raises(InputError, match="cannot read list"):
            load_channels([1, 2])
        with pytest.raises(InputError, match="empty='maybe': choose one of drop, keep, error"):
            load_channels(random_csi(), empty="maybe")


@pytest.fixture(params=["array", "memory", "lazy"])
def load(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Loads csi as an array, from a file into memory, and from a file lazily."""
    number = itertools.count()

    def load_csi(csi: npt.NDArray[Any], **options: Any) -> Any:
        if request.param == "array":
            return load_channels(csi, **options)
        path = tmp_path / f"{next(number)}.h5"  # a lazily opened file cannot be overwritten
        with h5py.File(path, "w") as file:
            file["channels"] = csi
        return load_channels(path, in_memory=request.param == "memory", **options)

    return load_csi


class TestValues:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1j * np.inf])
    def test_not_finite(self, load: Any, value: complex) -> None:
        csi = random_csi(30)
        csi[[4, 20], 3, 2] = value
        with pytest.raises(InputError, match="NaN or Inf in 2 of 30 channels: users 4, 20; repair or remove"):
            load(csi)

    def test_many_users_are_counted_not_listed(self, load: Any) -> None:
        csi = random_csi(30)
        csi[5:, 0, 0] = np.nan
        with pytest.raises(InputError, match="users 5, 6, 7, 8, 9, 10, 11, 12 and 17 more"):
            load(csi)

    def test_all_zero(self, load: Any) -> None:
        csi = random_csi(10)
        csi[[0, 7]] = 0
        with pytest.raises(InputError, match=r'2 of 10 channels are all zero: users 0, 7; .*empty="drop"'):
            load(csi)
        dropped = load(csi, empty="drop")
        assert len(dropped) == 8
        assert dropped.meta.num_dropped == 2
        np.testing.assert_array_equal(dropped.user_index, [1, 2, 3, 4, 5, 6, 8, 9])
        np.testing.assert_array_equal(dropped.csi, csi[dropped.user_index])
        assert len(load(csi, empty="keep")) == 10

    def test_nothing_but_zero(self, load: Any) -> None:
        for empty in ("error", "drop"):
            with pytest.raises(InputError, match="none of the 3 users has a path"):
                load(np.zeros((3, 4, 4), dtype=np.complex64), empty=empty)

    def test_complex128_beyond_float32(self) -> None:
        csi = random_csi(3).astype(np.complex128)
        csi[1, 0, 0] = 1e200
        with (
            np.errstate(over="ignore"),
            pytest.raises(InputError, match="NaN or Inf in 1 of 3 channels: user 1"),
        ):
            load_channels(csi)


class TestScale:
    @pytest.mark.parametrize("gain", [2e-5, 2.5e-6, 1e-6])
    def test_usual_channels_are_silent(self, gain: float) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert len(load_channels(random_csi() * np.float32(gain / 2e-5))) == len(random_csi())

    def test_scaled_already(self) -> None:
        with pytest.warns(UserWarning, match="look scaled already: pass scale=1") as record:
            load_channels(random_csi() * np.float32(1e6))
        assert len(record) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load_channels(random_csi() * np.float32(1e6), scale=1)

    def test_other_units(self) -> None:
        tiny = random_csi() * np.float32(1e-6)
        with pytest.warns(
            UserWarning, match=r"median \|H\| 2.\d*e-11 times scale 1e\+06 .*pass scale=1e\+12"
        ):
            load_channels(tiny)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load_channels(tiny, scale=1e12)

    @pytest.mark.parametrize("scale", [0, -1.0, float("nan"), float("inf")])
    def test_impossible(self, scale: float) -> None:
        with pytest.raises(InputError, match=r"scale=.*must be finite and positive"):
            load_channels(random_csi(), scale=scale)


class TestTorchFiles:
    def test_malicious_pickle_does_not_run(self, tmp_path: Path) -> None:
        marker = tmp_path / "executed"

        class Trap:
            def __reduce__(self) -> tuple[Any, tuple[Path]]:
                return (Path.touch, (marker,))

        torch.save({"channels": Trap()}, tmp_path / "trap.pt")
        with pytest.raises(InputError, match=r"trap.pt: cannot be read safely as a torch file"):
            load_channels(tmp_path / "trap.pt")
        assert not marker.exists()

    def test_weights_instead_of_data(self, tmp_path: Path) -> None:
        torch.save(torch.nn.Sequential(torch.nn.Linear(3, 4)).state_dict(), tmp_path / "model.pth")
        with pytest.raises(InputError, match=r"model weights, not channels.*from_pretrained"):
            load_channels(tmp_path / "model.pth")

    def test_other_content(self, tmp_path: Path) -> None:
        torch.save([1, 2], tmp_path / "list.pt")
        with pytest.raises(InputError, match="holds list; expected a tensor or a dict"):
            load_channels(tmp_path / "list.pt")
        torch.save({"note": "no tensor"}, tmp_path / "none.pt")
        with pytest.raises(InputError, match="holds no array"):
            load_channels(tmp_path / "none.pt")


def test_pickled_npy_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[Path]]:
            return (Path.touch, (marker,))

    np.save(tmp_path / "trap.npy", np.array([Trap()], dtype=object))
    np.savez(tmp_path / "trap.npz", channels=np.array([Trap()], dtype=object))
    for name in ("trap.npy", "trap.npz"):
        with pytest.raises(InputError, match=name):
            load_channels(tmp_path / name)
    assert not marker.exists()


def test_hdf5_without_csi(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"], file["y"] = np.zeros(3), np.zeros((3, 4))
    with pytest.raises(
        InputError, match=r"no array looks like complex csi \(x: float64 \[3\]; y: float64 \[3, 4\]\)"
    ):
        load_channels(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_group("empty")
    with pytest.raises(InputError, match="holds no array"):
        load_channels(tmp_path / "b.h5")
