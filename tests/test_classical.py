"""Classical baselines: exact cases, what they may look at, and how they compare where theory says."""

from __future__ import annotations

import numpy as np
import pytest
from support.path_channels import path_channels

from lwm_fast.data import Channels
from lwm_fast.errors import InputError
from lwm_fast.tasks import classical, get_task
from lwm_fast.tasks.base import Examples
from lwm_fast.tasks.classical.covariance import FullCovariance, KroneckerCovariance, marginals
from lwm_fast.tasks.classical.linear import comb_axes, interpolate
from lwm_fast.tasks.metrics import nmse_scores

TRAIN = np.arange(0, 160)
TEST = np.arange(160, 200)


def per_sample_db(
    examples: Examples, predictions: np.ndarray[tuple[int, ...], np.dtype[np.complex64]]
) -> float:
    return nmse_scores(predictions[TEST], examples.targets[TEST])["nmse_db_per_sample"]


def test_every_task_has_its_baselines() -> None:
    channels = path_channels(40)
    for task, names in classical.BASELINES.items():
        examples = get_task(task).examples(channels)
        for name in names:
            predictions = classical.predict(name, examples, np.arange(30))
            assert predictions.shape == channels.shape
            assert predictions.dtype == np.complex64
            assert np.isfinite(predictions).all()


@pytest.mark.parametrize("comb", [(1, 4, 0, 0), (2, 4, 1, 2), (3, 1, 0, 0), (1, 16, 0, 5)])
def test_linear_interpolation_of_planes_is_exact(comb: tuple[int, int, int, int]) -> None:
    antenna, subcarrier = np.arange(7)[:, None], np.arange(16)
    plane = ((1 + 2j) + (0.25 - 0.5j) * subcarrier * (comb[1] < 16) + 0 * antenna).astype(np.complex64)
    channels = Channels.from_arrays(np.stack([plane, 2j * plane]))
    settings = dict(
        zip(("antenna_step", "subcarrier_step", "antenna_offset", "subcarrier_offset"), comb, strict=True)
    )
    examples = get_task("interpolation", **settings).examples(channels)
    predictions = classical.predict("linear", examples, np.empty(0, np.int64))
    np.testing.assert_allclose(predictions, channels.csi, rtol=1e-5)


def test_linear_interpolation_between_and_beyond_antennas() -> None:
    csi = np.zeros((1, 5, 1), np.complex64)
    csi[0, [1, 3], 0] = 2.0, 4.0
    observed = np.zeros((5, 1), bool)
    observed[[1, 3]] = True
    np.testing.assert_allclose(interpolate(csi, observed)[0, :, 0], [2, 2, 3, 4, 4])


def test_pilots_off_a_comb_are_refused() -> None:
    with pytest.raises(InputError, match="nothing is observed"):
        comb_axes(np.zeros((4, 4), bool))
    with pytest.raises(InputError, match="2 pilots lie on 2 antennas and 2 subcarriers"):
        comb_axes(np.eye(2, dtype=bool))


@pytest.mark.parametrize("kind", [KroneckerCovariance, FullCovariance])
def test_estimate_equals_the_formula(kind: type[KroneckerCovariance] | type[FullCovariance]) -> None:
    shapes = path_channels(30, 4, 6).csi
    shapes = shapes / np.sqrt(np.square(np.abs(shapes)).mean((1, 2), keepdims=True))
    antennas, subcarriers = np.array([0, 2]), np.array([1, 3, 4])
    rng = np.random.default_rng(0)
    pilots = (rng.standard_normal((2, 3, 2, 3)) @ np.ones((3, 3))).view()
    y = (pilots[0] + 1j * pilots[1]).astype(np.complex64)
    white, signal, noise = 0.05, np.array([0.9, 0.5, 1.0]), np.array([0.1, 0.5, 0.0])
    over_antennas, over_subcarriers = marginals(shapes)
    if kind is KroneckerCovariance:
        factors = [(1 - white) * f + white * np.eye(len(f)) for f in (over_antennas, over_subcarriers)]
        covariance = np.kron(*factors)
    else:
        flat = shapes.reshape(30, -1).astype(np.complex128)
        covariance = 0.9 * flat.T @ flat.conj() / 30 + 0.1 * np.kron(over_antennas, over_subcarriers)
        covariance = (1 - white) * covariance + white * np.eye(24)
    places = (antennas[:, None] * 6 + subcarriers).ravel()
    estimates = kind(shapes, antennas, subcarriers).estimate(y, signal, noise, white)
    for i in range(3):
        inner = signal[i] * covariance[np.ix_(places, places)] + noise[i] * np.eye(6)
        expected = signal[i] * covariance[:, places] @ np.linalg.solve(inner, y[i].ravel())
        np.testing.assert_allclose(estimates[i].ravel(), expected, rtol=1e-4, atol=1e-5)


def test_lmmse_beats_least_squares_at_every_ratio() -> None:
    channels = path_channels(200)
    for snr_db, gain in ((-5.0, 8.0), (10.0, 3.0), (20.0, 1.0)):
        examples = get_task("estimation", snr_db=snr_db).examples(channels)
        noisy = per_sample_db(examples, classical.predict("ls", examples, TRAIN))
        estimated = per_sample_db(examples, classical.predict("lmmse", examples, TRAIN))
        assert noisy == pytest.approx(-snr_db, abs=0.3)
        assert estimated < noisy - gain


def test_lmmse_weighs_each_users_own_ratio() -> None:
    channels = path_channels(200)
    examples = get_task("estimation", snr_db=(-10.0, 30.0)).examples(channels)
    mixed = per_sample_db(examples, classical.predict("lmmse", examples, TRAIN))
    assert mixed < per_sample_db(examples, classical.predict("ls", examples, TRAIN)) - 8.0


def test_lmmse_interpolates_and_keeps_clean_pilots() -> None:
    channels = path_channels(200)
    examples = get_task("interpolation", subcarrier_step=4).examples(channels)
    assert examples.observed is not None
    predictions = classical.predict("lmmse", examples, TRAIN)
    linear = classical.predict("linear", examples, TRAIN)
    assert per_sample_db(examples, predictions) < per_sample_db(examples, linear) - 10.0
    known = examples.observed
    np.testing.assert_array_equal(predictions[:, known], channels.csi[:, known])


def test_only_training_targets_are_looked_at() -> None:
    channels = path_channels(120)
    train = np.arange(80)
    for task in ("interpolation", "estimation", "compression"):
        examples = get_task(task).examples(channels)
        hidden = examples.targets.copy()
        hidden[80:] = np.nan
        blind = Examples(
            task, examples.kind, examples.channels, hidden, observed=examples.observed, facts=examples.facts
        )
        for name in classical.BASELINES[task]:
            np.testing.assert_array_equal(
                classical.predict(name, blind, train), classical.predict(name, examples, train)
            )


@pytest.mark.parametrize("count", [1, 4, 5, 20])
def test_few_training_users_do_no_harm(count: int) -> None:
    channels = path_channels(200)
    examples = get_task("estimation", snr_db=10.0).examples(channels)
    estimated = classical.predict("lmmse", examples, TRAIN[:count])
    assert per_sample_db(examples, estimated) < -9.0  # what the noisy csi has is -10


def test_result_does_not_depend_on_the_level_of_a_user() -> None:
    channels = path_channels(60)
    louder = Channels.from_arrays(channels.csi * np.float32(1024.0), user_index=channels.user_index)
    for task in ("interpolation", "estimation"):
        one, two = (get_task(task).examples(c) for c in (channels, louder))
        small, large = (classical.predict("lmmse", e, np.arange(40)) for e in (one, two))
        np.testing.assert_allclose(large, small * 1024.0, rtol=1e-3, atol=1e-3 * np.abs(large).max())


def test_refusals() -> None:
    examples = get_task("estimation").examples(path_channels(10))
    with pytest.raises(InputError, match="'linear' is none of task 'estimation'; there are: ls, lmmse"):
        classical.predict("linear", examples, np.arange(5))
    with pytest.raises(InputError, match="no training users"):
        classical.predict("lmmse", examples, np.empty(0, np.int64))
    plain = Examples("estimation", "reconstruction", examples.channels, examples.targets)
    with pytest.raises(InputError, match="without the fact 'snr_db_low'"):
        classical.predict("lmmse", plain, np.arange(5))
    csi = path_channels(6).csi.copy()
    csi[3] = 0
    silent = get_task("interpolation").examples(Channels.from_arrays(csi))
    with pytest.raises(InputError, match="nothing is observed of user 3"):
        classical.predict("lmmse", silent, np.array([0, 1]))
