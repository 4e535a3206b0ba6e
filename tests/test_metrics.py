"""Scores against textbook sums written out here."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from lwm_fast.errors import InputError
from lwm_fast.tasks import metrics


def one_hot(classes: list[int], num_classes: int) -> np.ndarray:
    return np.eye(num_classes, dtype=np.float32)[classes]


def weighted_f1(targets: np.ndarray, predicted: np.ndarray) -> float:
    total = 0.0
    for label in np.unique(targets):
        hits = int(((predicted == label) & (targets == label)).sum())
        wrong = int((predicted == label).sum()) - hits
        missed = int((targets == label).sum()) - hits
        total += (hits + missed) * 2 * hits / (2 * hits + wrong + missed)
    return total / len(targets)


class TestClassification:
    def test_by_hand(self) -> None:
        scores = metrics.classification_scores(np.array([0, 0, 1, 1]), one_hot([0, 1, 1, 1], 2), 2)
        # class 0: precision 1, recall 1/2, F1 2/3; class 1: precision 2/3, recall 1, F1 4/5
        assert scores == pytest.approx({"f1_weighted": (2 / 3 + 4 / 5) / 2, "accuracy": 0.75})

    @pytest.mark.parametrize("num_classes", [2, 3, 4, 5, 6, 64])
    def test_against_the_definition(self, num_classes: int) -> None:
        rng = np.random.default_rng(num_classes)
        targets = rng.integers(0, num_classes, 201)
        given = rng.standard_normal((201, num_classes))
        scores = metrics.classification_scores(targets, given, num_classes)
        predicted = given.argmax(axis=1)
        assert scores["f1_weighted"] == pytest.approx(weighted_f1(targets, predicted), abs=1e-12)
        assert scores["accuracy"] == pytest.approx((predicted == targets).mean())
        assert ("top3" in scores, "top5" in scores) == (num_classes > 3, num_classes > 5)
        rank = (given > given[np.arange(201), targets][:, None]).sum(axis=1)  # 0 for the best
        for k in (3, 5):
            if num_classes > k:
                assert scores[f"top{k}"] == pytest.approx((rank < k).mean())

    def test_classes_that_do_not_occur_do_not_count(self) -> None:
        targets = np.array([0, 0, 1, 1])
        few = metrics.classification_scores(targets, one_hot([0, 1, 1, 1], 2), 2)
        many = metrics.classification_scores(targets, one_hot([0, 1, 1, 1], 9), 9)
        assert many["f1_weighted"] == pytest.approx(few["f1_weighted"])

    def test_equal_scores_go_to_the_first_class(self) -> None:
        scores = metrics.classification_scores(np.array([3]), np.zeros((1, 5)), 5)
        assert (scores["accuracy"], scores["top3"]) == (0.0, 0.0)
        assert metrics.classification_scores(np.array([2]), np.zeros((1, 5)), 5)["top3"] == 1.0

    def test_one_user(self) -> None:
        scores = metrics.classification_scores(np.array([1]), one_hot([1], 2), 2)
        assert scores == {"f1_weighted": 1.0, "accuracy": 1.0}

    def test_confusion(self) -> None:
        counts = metrics.confusion(np.array([0, 0, 2]), one_hot([0, 1, 2], 4), 4)
        assert counts.dtype == np.int64
        np.testing.assert_array_equal(counts, [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])

    @pytest.mark.parametrize(
        ("targets", "scores", "message"),
        [
            ([], np.zeros((0, 2)), "test set is empty"),
            ([0, 1], np.zeros((2, 3)), r"scores are \(2, 3\); 2 users and 2 classes need \(2, 2\)"),
            ([0, 1], np.zeros(2), r"scores are \(2,\)"),
            ([0, 2], np.zeros((2, 2)), "targets lie in 0..2; 2 classes are 0..1"),
            ([-1, 1], np.zeros((2, 2)), "targets lie in -1..1"),
            ([0, 1], np.array([[np.nan, 0], [0, 1]]), "NaN for 1 users; training diverged"),
        ],
    )
    @pytest.mark.parametrize("score", [metrics.classification_scores, metrics.confusion])
    def test_faults(self, score, targets, scores, message) -> None:
        with pytest.raises(InputError, match=message):
            score(np.array(targets, dtype=np.int64), scores, 2)

    def test_without_scikit_learn_the_remedy_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
        with pytest.raises(InputError, match=r'pip install "lwm_fast\[tasks\]"'):
            metrics.classification_scores(np.array([0, 1]), one_hot([0, 1], 2), 2)


class TestNmse:
    def test_global_and_per_sample_ratios_differ(self) -> None:
        targets = np.array([[1.0 + 0j, 0], [0, 10j]], dtype=np.complex64)
        predictions = np.array([[0.5 + 0j, 0], [0, 9j]], dtype=np.complex64)
        scores = metrics.nmse_scores(predictions, targets)
        assert scores["nmse"] == pytest.approx((0.25 + 1) / (1 + 100))
        assert scores["nmse_db"] == pytest.approx(10 * np.log10(1.25 / 101))
        assert scores["nmse_db_per_sample"] == pytest.approx(10 * np.log10((0.25 + 0.01) / 2))
        assert scores["nmse_db_median"] == pytest.approx(10 * np.log10(0.13))

    @pytest.mark.parametrize("shape", [(1, 1), (7, 3, 5), (300, 32, 32), (5,)])
    def test_against_the_definition(self, shape: tuple[int, ...]) -> None:
        rng = np.random.default_rng(3)
        targets = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
        predictions = targets + np.complex64(0.1) * rng.standard_normal(shape).astype(np.float32)
        wide = targets.astype(np.complex128)
        expected = (np.abs(predictions - wide) ** 2).sum() / (np.abs(wide) ** 2).sum()
        assert metrics.nmse_scores(predictions, targets)["nmse"] == pytest.approx(expected, rel=1e-6)

    def test_small_channels_do_not_underflow(self) -> None:
        targets = np.full((2, 4), 1e-23 + 1e-23j, dtype=np.complex64)  # |h|^2 is below float32's smallest
        assert metrics.nmse_scores(targets * np.complex64(0.9), targets)["nmse_db"] == pytest.approx(
            -20, abs=1e-3
        )

    def test_exact_predictions_and_zero_users(self) -> None:
        targets = np.array([[0j, 0], [1, 1]], dtype=np.complex64)
        assert metrics.nmse_scores(targets, targets)["nmse_db"] == float("-inf")
        wrong = np.array([[1j, 0], [1, 1]], dtype=np.complex64)
        scores = metrics.nmse_scores(wrong, targets)
        assert scores["nmse"] == pytest.approx(0.5)
        assert scores["nmse_db_per_sample"] == float("-inf")

    @pytest.mark.parametrize(
        ("predictions", "targets", "message"),
        [
            (np.zeros((0, 2)), np.zeros((0, 2)), "test set is empty"),
            (np.zeros((2, 2)), np.zeros((2, 3)), "give one shape"),
            (np.zeros((2, 2)), np.zeros((2, 2)), "zero everywhere"),
            (np.array([[0j, 1], [np.nan, 1]]), np.ones((2, 2), complex), "NaN for 1 users, first row 1"),
        ],
    )
    def test_faults(self, predictions, targets, message) -> None:
        with pytest.raises(InputError, match=message):
            metrics.nmse_scores(predictions, targets)


class TestNumbers:
    def test_positions(self) -> None:
        targets = np.array([[0, 0], [0, 0], [1, 1]], dtype=np.float32)
        scores = metrics.position_scores(np.array([[3, 4], [0, 0], [1, 2]], dtype=np.float32), targets)
        assert scores["error_m"] == pytest.approx((5 + 0 + 1) / 3)
        assert scores["error_median_m"] == pytest.approx(1)
        assert scores["mae_m"] == pytest.approx((3 + 4 + 0 + 0 + 0 + 1) / 6)
        assert (scores["mae_x_m"], scores["mae_y_m"]) == pytest.approx((1, 5 / 3))
        assert scores["error_p90_m"] == pytest.approx(0.8 * 5 + 0.2 * 1)
        assert "mae_z_m" not in scores
        assert metrics.position_scores(np.ones((1, 3)), np.zeros((1, 3)))["mae_z_m"] == 1

    @pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 4)])
    def test_positions_of_other_sizes_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(InputError, match=r"give \[n, 2\] or \[n, 3\]"):
            metrics.position_scores(np.zeros(shape), np.zeros(shape))

    def test_regression(self) -> None:
        targets = np.array([[0.0, 10], [2, 30]])
        scores = metrics.regression_scores(np.array([[1.0, 10], [2, 20]]), targets, ["angle", "speed"])
        assert scores["mae"] == pytest.approx(11 / 4)
        assert scores["rmse"] == pytest.approx(np.sqrt(101 / 4))
        assert (scores["mae_angle"], scores["mae_speed"]) == (0.5, 5.0)
        assert scores["r2"] == pytest.approx(((1 - 1 / 2) + (1 - 100 / 200)) / 2)
        assert metrics.regression_scores(np.zeros((1, 1)), np.ones((1, 1)), ["v"]) == {"mae": 1, "rmse": 1}
