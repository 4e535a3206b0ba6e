"""The estimation task: noise as the release defines it, drawn by user; ratios over a range; scores."""

from __future__ import annotations

import numpy as np
import pytest
from support.path_channels import path_channels

from lwm_fast import philox
from lwm_fast.errors import InputError
from lwm_fast.tasks.estimation import EstimationTask
from lwm_fast.tasks.noise import add_noise, user_snr_db
from lwm_fast.tokens import tokenize


def test_noise_equals_the_plain_generator() -> None:
    channels = path_channels(3, 4, 8)
    noisy = EstimationTask(snr_db=7.0, seed=11).examples(channels).channels.csi
    for i, user in enumerate(channels.user_index):
        normals = philox.normal(11, int(user), 0, 2 * 4 * 8).astype(np.float64)
        clean = channels.csi[i].astype(np.complex128)
        sigma = np.sqrt(np.square(np.abs(clean)).mean() / 10**0.7 / 2)
        expected = clean + sigma * normals.view(np.complex128).reshape(4, 8)
        np.testing.assert_allclose(noisy[i], expected, rtol=0, atol=2e-6 * np.abs(clean).max())


def test_power_is_that_of_noisy_tokens() -> None:
    channels = path_channels(300, 8, 16)
    tokens = tokenize(channels.csi, snr_db=5.0, seed=2)[:, 1:]
    noisy = add_noise(channels.csi, 5.0, channels.user_index, 2)
    on_tokens = np.square(tokens - tokenize(channels.csi)[:, 1:]).mean((1, 2))
    on_csi = np.square(np.abs(noisy - channels.csi)).mean((1, 2)) * 1e12 / 2
    assert float(on_csi.sum()) == pytest.approx(float(on_tokens.sum()), rel=0.05)


def test_a_user_has_the_same_noise_in_any_company() -> None:
    channels = path_channels(9)
    task = EstimationTask(snr_db=(0.0, 20.0), seed=5)
    together = task.examples(channels).channels.csi
    some = np.array([7, 2])
    np.testing.assert_array_equal(task.examples(channels[some]).channels.csi, together[some])
    other = EstimationTask(snr_db=(0.0, 20.0), seed=6).examples(channels).channels.csi
    assert (other != together).all()
    np.testing.assert_array_equal(task.examples(channels).targets, channels.csi)


def test_ratios_of_a_range() -> None:
    users = np.arange(4000)
    ratios = user_snr_db(-5.0, 25.0, users, 1)
    assert ratios.min() >= -5.0
    assert ratios.max() < 25.0
    assert ratios.mean() == pytest.approx(10.0, abs=0.5)
    np.testing.assert_array_equal(user_snr_db(3.0, 3.0, users[:2], 1), np.array([3.0, 3.0], np.float32))
    channels = path_channels(500)
    task = EstimationTask(snr_db=(-5.0, 25.0), seed=1)
    off = np.square(np.abs(task.examples(channels).channels.csi - channels.csi)).mean((1, 2))
    measured = -10 * np.log10(off / np.square(np.abs(channels.csi)).mean((1, 2)))
    assert np.abs(measured - task.user_snr_db(channels)).max() < 2.0  # 256 draws a user


def test_scores_by_ratio() -> None:
    channels = path_channels(400)
    task = EstimationTask(snr_db=(0.0, 12.0))
    examples = task.examples(channels)
    scores = task.score(examples, examples.channels.csi)
    bins = [scores[f"nmse_db_per_sample_{low}_to_{high}"] for low, high in ((0, 5), (5, 10), (10, 12))]
    assert bins[0] > bins[1] > bins[2]
    assert bins[1] == pytest.approx(-7.2, abs=0.6)
    single = EstimationTask(snr_db=0.0)
    assert not [key for key in single.score(single.examples(channels), channels.csi + 1e-9) if "_to_" in key]


def test_scores_follow_the_users_of_a_subset() -> None:
    channels = path_channels(60)
    task = EstimationTask(snr_db=(-5.0, 25.0))
    examples = task.examples(channels)
    loud = np.flatnonzero(task.user_snr_db(channels) > 20)
    part = examples[loud]
    bins = {key: score for key, score in task.score(part, part.channels.csi).items() if "_to_" in key}
    assert len(bins) == 6
    assert [key for key, score in bins.items() if np.isfinite(score)] == ["nmse_db_per_sample_20_to_25"]


@pytest.mark.parametrize("users", [0, 1])
def test_few_users(users: int) -> None:
    examples = EstimationTask().examples(path_channels(4)[:users])
    assert examples.channels.shape == (users, 8, 16)


@pytest.mark.parametrize(
    ("snr_db", "message"),
    [
        (float("nan"), "finite"),
        ((10.0, 0.0), "the lower first"),
        ((1.0, 2.0, 3.0), "one ratio in dB, or a pair"),
    ],
)
def test_refused_ratios(snr_db: float | tuple[float, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EstimationTask(snr_db=snr_db)


def test_refused_noise() -> None:
    channels = path_channels(3)
    with pytest.raises(InputError, match="seed=-1"):
        EstimationTask(seed=-1)
    with pytest.raises(InputError, match="2 user numbers for 3 users"):
        add_noise(channels.csi, 0.0, channels.user_index[:2])
