"""The interpolation task: combs, what stands in its inputs, scores, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from support.path_channels import path_channels

from lwm_fast.errors import InputError
from lwm_fast.tasks import get_task
from lwm_fast.tasks.interpolation import InterpolationTask
from lwm_fast.tasks.reconstruction import finish, levelled, observed_rms, to_csi, to_parts, user_scale


def test_inputs_are_zero_off_the_comb_and_targets_are_whole() -> None:
    channels = path_channels(5, 8, 16)
    task = InterpolationTask(antenna_step=2, subcarrier_step=4, antenna_offset=1, subcarrier_offset=3)
    examples = task.examples(channels)
    comb = np.zeros((8, 16), bool)
    comb[1::2, 3::4] = True
    assert examples.observed is not None
    np.testing.assert_array_equal(examples.observed, comb)
    np.testing.assert_array_equal(examples.targets, channels.csi)
    np.testing.assert_array_equal(examples.channels.csi[:, comb], channels.csi[:, comb])
    assert not examples.channels.csi[:, ~comb].any()
    assert examples.facts["pilots"] == 4 * 4
    assert (examples.task, examples.kind) == ("interpolation", "reconstruction")


def test_users_keep_their_columns_and_the_source_is_not_claimed() -> None:
    channels = path_channels(5)
    inputs = InterpolationTask().examples(channels).channels
    np.testing.assert_array_equal(inputs.user_index, channels.user_index)
    assert inputs.pos is not None
    assert channels.pos is not None
    np.testing.assert_array_equal(inputs.pos, channels.pos)
    assert inputs.meta.sha256 is None
    assert "comb 1x4" in inputs.meta.source


@pytest.mark.parametrize("size", [(1, 2), (2, 1), (3, 5), (32, 32)])
def test_sizes(size: tuple[int, int]) -> None:
    steps = (1, 2) if size[1] > 1 else (2, 1)
    examples = InterpolationTask(*steps).examples(path_channels(3, *size))
    assert examples.channels.shape == (3, *size)
    assert len(examples[np.array([2, 0])]) == 2


def test_noise_on_pilots_has_the_ratio_asked_for() -> None:
    channels = path_channels(200)
    examples = InterpolationTask(1, 2, snr_db=10.0, seed=3).examples(channels)
    assert examples.observed is not None
    off = (examples.channels.csi - channels.csi)[:, examples.observed]
    power = np.square(np.abs(channels.csi)).mean((1, 2))
    ratio = np.square(np.abs(off)).mean(1) / power
    assert 10 * np.log10(ratio.mean()) == pytest.approx(-10.0, abs=0.15)
    clean = InterpolationTask(1, 2).examples(channels)
    assert finish(clean, np.zeros_like(channels.csi))[:, examples.observed].any()
    assert not finish(examples, np.zeros_like(channels.csi)).any()


def test_scores_over_all_and_over_missing_entries() -> None:
    channels = path_channels(6)
    task = InterpolationTask(1, 2)
    examples = task.examples(channels)
    scores = task.score(examples, examples.channels.csi)
    missing = channels.csi[:, :, 1::2]
    share = np.square(np.abs(missing)).sum() / np.square(np.abs(channels.csi)).sum()
    assert scores["nmse_db"] == pytest.approx(10 * np.log10(share), abs=1e-6)
    assert scores["missing_nmse_db"] == pytest.approx(0.0, abs=1e-6)
    assert task.metric in scores
    assert not task.higher_is_better


def test_level_of_what_is_observed() -> None:
    channels = path_channels(6)
    examples = InterpolationTask(2, 4).examples(channels)
    known = channels.csi[:, ::2, ::4]
    rms = np.sqrt(np.square(np.abs(known)).mean((1, 2)))
    np.testing.assert_allclose(observed_rms(examples), rms, rtol=1e-5)
    np.testing.assert_allclose(user_scale(examples), 1 / rms, rtol=1e-5)
    even = levelled(examples, 10.0)
    np.testing.assert_allclose(observed_rms(even) * channels.meta.scale, 10.0, rtol=1e-5)
    np.testing.assert_array_equal(even.targets, examples.targets)


def test_parts_and_back() -> None:
    channels = path_channels(4)
    scale = np.array([1e6, 2e6, 3e7, 5e5], np.float32)
    parts = to_parts(channels.csi, scale)
    assert parts.shape == (4, 8, 16, 2)
    np.testing.assert_allclose(parts[2, ..., 1], channels.csi[2].imag * 3e7, rtol=1e-6)
    np.testing.assert_allclose(to_csi(parts, scale), channels.csi, rtol=1e-6)


def test_silent_user_is_named() -> None:
    channels = path_channels(4)
    csi = channels.csi.copy()
    csi[1, :, ::4] = 0
    silent = type(channels).from_arrays(csi, user_index=channels.user_index)
    with pytest.raises(InputError, match="user 101 is zero wherever"):
        user_scale(InterpolationTask(1, 4).examples(silent))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"antenna_step": 0}, "antenna_step=0"),
        ({"subcarrier_step": 2.5}, "subcarrier_step=2.5"),
        ({"subcarrier_step": 4, "subcarrier_offset": 4}, r"subcarrier_offset=4: give 0\.\.3"),
        ({"antenna_step": 1, "subcarrier_step": 1}, "observe everything"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_refused_settings(settings: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        get_task("interpolation", **settings)


def test_comb_without_pilot_or_without_gap_is_refused() -> None:
    with pytest.raises(InputError, match="no pilot on 2 x 16"):
        InterpolationTask(antenna_step=4, antenna_offset=3).examples(path_channels(2, 2, 16))
    with pytest.raises(InputError, match="nothing is left to interpolate"):
        InterpolationTask(antenna_step=1, subcarrier_step=4).examples(path_channels(2, 8, 1))
    with pytest.raises(InputError, match="snr_db=nan"):
        InterpolationTask(snr_db=float("nan")).examples(path_channels(2))
