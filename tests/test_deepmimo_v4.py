"""DeepMIMO v4 folders and datasets, read without the package and compared with it where it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.ray_data import random_rays, reference_csi, relative_error
from support.v4_folder import TX_POS, txrx_set, write_arrays, write_params, write_v4_folder

from lwm_fast.data import describe, load_channels
from lwm_fast.errors import InputError


@pytest.mark.parametrize("fmt", ["npz", "mat", "npy"])
def test_written_folder(tmp_path: Path, fmt: str) -> None:
    rays = random_rays()
    channels = load_channels(write_v4_folder(tmp_path / "town", rays, fmt=fmt))
    valid = np.flatnonzero(rays.counts)
    np.testing.assert_array_equal(channels.user_index, valid)
    np.testing.assert_array_equal(channels.los, rays.los[valid])
    np.testing.assert_array_equal(channels.pos, rays.pos[valid])
    assert relative_error(channels.csi, reference_csi(rays)[valid]) < 3e-6
    assert channels.meta.base_station_pos == TX_POS
    assert channels.meta.carrier_frequency == 3.5e9
    assert channels.meta.format_version == "4.0.5"
    assert channels.meta.num_users_total == 12


def test_user_sets_follow_one_another_and_base_station_links_are_left_out(tmp_path: Path) -> None:
    parts = [random_rays(num_users=n, max_paths=m, seed=n) for n, m in ((7, 5), (4, 3))]
    folder = tmp_path / "town"
    sets = {
        1: txrx_set(1, is_tx=True, is_rx=True, num_points=1),
        2: txrx_set(2, is_tx=False, is_rx=True, num_points=7),
        10: txrx_set(10, is_tx=False, is_rx=True, num_points=4),
    }
    write_params(folder, sets)
    write_arrays(folder, random_rays(num_users=1), tx_set=1, rx_set=1)
    write_arrays(folder, parts[1], tx_set=1, rx_set=10)
    write_arrays(folder, parts[0], tx_set=1, rx_set=2)
    channels = load_channels(folder, empty="keep")
    assert len(channels) == 11
    reference = np.concatenate([reference_csi(part) for part in parts])
    assert relative_error(channels.csi, reference) < 3e-6


def test_base_stations(tmp_path: Path) -> None:
    folder = write_v4_folder(tmp_path / "town", random_rays(), num_tx=3)
    with pytest.raises(InputError, match=r"1 \(set 0, point 0\), 2 \(set 0, point 1\)"):
        load_channels(folder)
    with pytest.raises(InputError, match="base_station=9 does not exist"):
        load_channels(folder, base_station=9)
    assert load_channels(folder, base_station=3).meta.base_station == 3
    assert list(describe(folder).base_stations) == [1, 2, 3]
    known = write_v4_folder(tmp_path / "city_18_denver_3p5", random_rays(), num_tx=3)
    assert load_channels(known).meta.base_station == 3


def test_without_params_json(tmp_path: Path) -> None:
    rays = random_rays()
    folder = write_v4_folder(tmp_path / "town", rays)
    (folder / "params.json").unlink()
    channels = load_channels(folder)
    assert channels.meta.carrier_frequency is None
    assert relative_error(channels.csi, reference_csi(rays)[rays.counts > 0]) < 3e-6


def test_scenes_of_a_time_varying_scenario(tmp_path: Path) -> None:
    rays = random_rays()
    folder = tmp_path / "drive"
    sets = {
        0: txrx_set(0, is_tx=True, is_rx=False, num_points=1),
        1: txrx_set(1, is_tx=False, is_rx=True, num_points=12),
    }
    write_params(folder, sets, num_scenes=2)
    for scene in ("scene_0", "scene_1"):
        (folder / scene).mkdir()
        write_arrays(folder / scene, rays)
    with pytest.raises(InputError, match="2 scenes; give the folder of one scene: scene_0, scene_1"):
        load_channels(folder)
    assert load_channels(folder / "scene_1").meta.carrier_frequency == 3.5e9


class TestDamagedFolders:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return write_v4_folder(tmp_path / "town", random_rays())

    def test_missing_array(self, folder: Path) -> None:
        (folder / "delay_t000_tx000_r001.npz").unlink()
        with pytest.raises(InputError, match=r"delay_t000_tx000_r001.npz .* is missing"):
            load_channels(folder)

    def test_key_is_not_for_rays(self, folder: Path) -> None:
        with pytest.raises(InputError, match="key='power' is for array files"):
            load_channels(folder, key="power")

    def test_no_arrays(self, folder: Path) -> None:
        for file in folder.glob("power_*"):
            file.unlink()
        with pytest.raises(InputError, match="incomplete DeepMIMO v4 scenario"):
            load_channels(folder)

    def test_truncated_array(self, folder: Path) -> None:
        file = folder / "phase_t000_tx000_r001.npz"
        file.write_bytes(file.read_bytes()[:100])
        with pytest.raises(InputError, match=r"phase_t000.*cannot be read as a DeepMIMO v4 array"):
            load_channels(folder)

    def test_damaged_params(self, folder: Path) -> None:
        (folder / "params.json").write_text("{")
        with pytest.raises(InputError, match=r"params.json: cannot be read"):
            load_channels(folder)

    def test_lfs_pointer(self, folder: Path) -> None:
        (folder / "power_t000_tx000_r001.npz").write_text("version https://git-lfs.github.com/spec/v1\n")
        with pytest.raises(InputError, match="git lfs pull"):
            load_channels(folder)

    def test_arrays_that_disagree(self, folder: Path) -> None:
        np.savez(folder / "delay_t000_tx000_r001.npz", delay=np.zeros((12, 2), dtype=np.float32))
        with pytest.raises(InputError, match=r"delay has shape \(12, 2\) but power \(12, 6\)"):
            load_channels(folder)

    def test_pickled_array_is_not_executed(self, folder: Path, tmp_path: Path) -> None:
        marker = tmp_path / "executed"

        class Trap:
            def __reduce__(self) -> tuple[Any, tuple[Path]]:
                return (Path.touch, (marker,))

        np.savez(folder / "delay_t000_tx000_r001.npz", delay=np.array([Trap()], dtype=object))
        with pytest.raises(InputError, match="cannot be read"):
            load_channels(folder)
        assert not marker.exists()


def _dataset(rays: Any, **extra: Any) -> SimpleNamespace:
    names = ("power", "phase", "delay", "aod_az", "aod_el", "aoa_az", "aoa_el", "inter")
    arrays = {name: getattr(rays, name) for name in names}
    return SimpleNamespace(**arrays, rx_pos=rays.pos, tx_pos=np.array([TX_POS]), **extra)


class TestDuckTypedDataset:
    def test_dataset(self) -> None:
        rays = random_rays()
        channels = load_channels(_dataset(rays, rt_params={"frequency": 28e9}))
        assert channels.meta.carrier_frequency == 28e9
        assert channels.meta.sha256 is None
        assert relative_error(channels.csi, reference_csi(rays)[rays.counts > 0]) < 3e-6

    def test_macro_dataset_groups_by_transmitter(self) -> None:
        parts = [random_rays(seed=seed) for seed in range(3)]
        keys = [(1, 0), (0, 0), (0, 0)]
        datasets = [
            _dataset(rays, txrx={"tx_set_id": tx_set, "tx_idx": point, "rx_set_id": 2})
            for rays, (tx_set, point) in zip(parts, keys, strict=True)
        ]
        macro = SimpleNamespace(datasets=datasets)
        with pytest.raises(InputError, match="2 base stations"):
            load_channels(macro)
        channels = load_channels(macro, base_station=1, empty="keep")
        reference = np.concatenate([reference_csi(parts[1]), reference_csi(parts[2])])
        assert relative_error(channels.csi, reference) < 3e-6
        assert len(load_channels(macro, base_station=2, empty="keep")) == 12

    @pytest.mark.parametrize(
        ("params", "name"),
        [
            ({"bs_antenna": {"radiation_pattern": "halfwave-dipole"}}, "bs_antenna.radiation_pattern"),
            ({"ue_antenna": {"shape": np.array([2, 1])}}, "ue_antenna.shape"),
            ({"ofdm": {"rx_filter": 1}}, "ofdm.rx_filter"),
            ({"doppler": 1}, "doppler"),
        ],
    )
    def test_unconfirmed_parameters_are_refused(self, params: dict[str, Any], name: str) -> None:
        with pytest.raises(InputError, match=rf"ch_params.{name} is set.*dataset.channel"):
            load_channels(_dataset(random_rays(), ch_params=params))

    def test_other_objects(self) -> None:
        with pytest.raises(InputError, match="cannot read dict"):
            load_channels({"power": 1})
        with pytest.raises(InputError, match="cannot read SimpleNamespace"):
            load_channels(SimpleNamespace(datasets=[]))


class TestAgainstThePackage:
    """csi, los and positions equal those of the deepmimo package on a folder written here."""

    @pytest.fixture
    def dm(self) -> Any:
        return pytest.importorskip("deepmimo", reason="the optional package deepmimo is not installed")

    @pytest.fixture
    def folder(self, tmp_path: Path, dm: Any) -> Iterator[Path]:
        scenarios = tmp_path / "scenarios"
        folder = write_v4_folder(scenarios / "tiny_town", random_rays(num_users=40, seed=11))
        before = dm.config.get("scenarios_folder")
        dm.config.set("scenarios_folder", str(scenarios))
        yield folder
        dm.config.set("scenarios_folder", before)

    def _compute(
        self, dm: Any, dataset: Any, shape: tuple[int, int], rotation: Any, spacing: float = 0.5
    ) -> Any:
        params = dm.ChannelParameters()
        params.bs_antenna.shape = np.array(shape)
        params.bs_antenna.spacing = spacing
        params.bs_antenna.rotation = np.array(rotation)
        params.num_paths = 20
        params.ofdm.subcarriers = 32
        params.ofdm.selected_subcarriers = np.arange(32)
        params.ofdm.bandwidth = 30e3 * 32
        return dataset.compute_channels(params)[:, 0]

    @pytest.mark.parametrize(
        ("num_antennas", "rotation"),
        [
            (32, -135.0),
            (8, 0.0),
            ((4, 3), 30.0),
            ((1, 5), -60.0),
            ((4, 2), (10.0, 0.0, 0.0)),
            ((4, 2), (0.0, 25.0, 0.0)),
            ((3, 4), (12.0, -20.0, 75.0)),
        ],
    )
    def test_csi(self, dm: Any, folder: Path, num_antennas: Any, rotation: Any) -> None:
        dataset = dm.load("tiny_town")
        shape = num_antennas if isinstance(num_antennas, tuple) else (num_antennas, 1)
        angles = rotation if isinstance(rotation, tuple) else (0.0, 0.0, rotation)
        expected = self._compute(dm, dataset, shape, angles)
        settings = {"num_antennas": num_antennas, "rotation": rotation, "empty": "keep"}
        for source in (folder, dataset):
            channels = load_channels(source, **settings)
            assert relative_error(channels.csi, expected) < 1e-5
            np.testing.assert_array_equal(channels.los, dataset.los)
            np.testing.assert_array_equal(channels.pos, dataset.rx_pos)

    def test_spacing(self, dm: Any, folder: Path) -> None:
        expected = self._compute(dm, dm.load("tiny_town"), (6, 2), (0.0, 0.0, 40.0), spacing=0.7)
        channels = load_channels(folder, num_antennas=(6, 2), rotation=40.0, empty="keep")
        assert relative_error(channels.with_geometry(spacing=0.7).csi, expected) < 1e-5

    def test_macro_dataset(self, dm: Any, tmp_path: Path, folder: Path) -> None:
        write_v4_folder(folder.parent / "two_towers", random_rays(seed=3), num_tx=2)
        macro = dm.load("two_towers")
        from_folder = load_channels(folder.parent / "two_towers", base_station=2)
        np.testing.assert_array_equal(load_channels(macro, base_station=2).csi, from_folder.csi)

    def test_dipoles_are_refused(self, dm: Any, folder: Path) -> None:
        dataset = dm.load("tiny_town")
        params = dm.ChannelParameters()
        params.bs_antenna.radiation_pattern = "halfwave-dipole"
        dataset.set_channel_params(params)
        with pytest.raises(InputError, match="radiation_pattern"):
            load_channels(dataset)
