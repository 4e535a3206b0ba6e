"""The challenge's scores by their formulas, its composite, its limits."""

from __future__ import annotations

import numpy as np
import pytest

from lwm_fast import InputError
from lwm_fast.challenge import HEAD_LIMIT, TASK_NAMES, TOTAL_LIMIT, check_limits, composite, score
from lwm_fast.tasks import Examples
from lwm_fast.tasks.heads import build_head, count_parameters


def csi(shape: tuple[int, ...] = (6, 3, 4), seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (2e-5 * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))).astype(np.complex64)


class TestScore:
    @pytest.mark.parametrize("task", ["los", "beams"])
    def test_classes_and_scores_agree(self, task: str) -> None:
        targets = np.array([0, 0, 1, 1])
        given = np.array([0, 1, 1, 1])
        by_class = score(task, given, targets)
        by_score = score(task, np.eye(8, dtype=np.float32)[given], targets)
        assert by_class["score"] == pytest.approx((2 / 3 + 4 / 5) / 2)
        assert by_score["score"] == pytest.approx(by_class["score"])
        assert "top3" in by_score
        assert "top3" not in by_class
        assert by_class["accuracy"] == 0.75

    @pytest.mark.parametrize("task", ["interpolation", "estimation"])
    @pytest.mark.parametrize(
        ("error", "expected"),
        [(1.0, 0.0), (2.0, 0.0), (10**-0.5, 0.5), (0.1, 1.0), (0.01, 1.0), (0.0, 1.0), (10**-0.25, 0.25)],
    )
    def test_csi(self, task: str, error: float, expected: float) -> None:
        targets = csi()
        result = score(task, targets * (1 + error), targets)
        assert result["score"] == pytest.approx(expected, abs=1e-5)
        if error > 0:
            assert result["nmse_db"] == pytest.approx(20 * np.log10(error), abs=1e-4)

    def test_one_ratio_for_the_whole_test_set(self) -> None:
        targets = csi()
        targets[0] *= 100  # one strong user decides
        predictions = targets.copy()
        predictions[0] *= 0.9
        predictions[1:] = 0
        wide = targets.astype(np.complex128)
        ratio = (np.abs(predictions - wide) ** 2).sum() / (np.abs(wide) ** 2).sum()
        assert score("estimation", predictions, targets)["score"] == pytest.approx(-10 * np.log10(ratio) / 20)

    @pytest.mark.parametrize(
        ("dx", "dy", "expected"),
        [(0, 0, 1.0), (3, 4, 1 - 3.5 / 100), (100, 100, 0.0), (150, 250, 0.0), (-20, 0, 0.9)],
    )
    def test_localization_is_the_error_of_a_coordinate(self, dx: float, dy: float, expected: float) -> None:
        targets = np.random.default_rng(1).uniform(-50, 50, (7, 2)).astype(np.float32)
        result = score("localization", targets + np.array([dx, dy]), targets)
        assert result["score"] == pytest.approx(expected, abs=1e-6)
        assert result["error_m"] == pytest.approx(np.hypot(dx, dy), abs=1e-4)

    @pytest.mark.parametrize(
        ("task", "predictions", "targets", "message"),
        [
            ("beam", [0], [0], "no task 'beam'; did you mean 'beams'"),
            ("los", [0, 1], [0], "give classes"),
            ("los", [0.0, 1.0], [0, 1], "give classes .* as whole numbers"),
            ("los", [0, -1], [0, 1], "class -1 among the predictions"),
            ("los", [], [], "give classes"),
            ("los", np.zeros((0, 2)), np.zeros(0, int), "test set is empty"),
            ("beams", np.zeros((2, 3)), [0, 3], "3 classes are 0..2"),
            ("estimation", csi((2, 3, 4)), csi((3, 3, 4)), "give one shape"),
            ("estimation", csi() * np.nan, csi(), "NaN for 6 users"),
            ("localization", np.zeros((2, 3)), np.zeros((2, 2)), "give one shape"),
        ],
    )
    def test_faults(self, task, predictions, targets, message) -> None:
        with pytest.raises(InputError, match=message):
            score(task, predictions, targets)


class TestComposite:
    def test_published_baseline(self) -> None:
        published = dict(zip(TASK_NAMES, (0.9396, 0.6137, 0.4165, 0.4576, 0.6711), strict=True))
        assert composite(published) == pytest.approx(0.6197, abs=5e-5)

    def test_the_order_of_tasks_does_not_matter(self) -> None:
        values = {name: index / 10 for index, name in enumerate(TASK_NAMES)}
        assert composite(dict(reversed(values.items()))) == composite(values) == pytest.approx(0.2)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"los": 1.2}, "score of los is 1.2"),
            ({"los": float("nan")}, "score of los is nan"),
            ({"lso": 0.5}, "no task 'lso'; did you mean 'los'"),
        ],
    )
    def test_faults(self, change: dict[str, float], message: str) -> None:
        with pytest.raises(InputError, match=message):
            composite(dict.fromkeys(TASK_NAMES, 0.5) | change)

    def test_missing_tasks_are_named(self) -> None:
        with pytest.raises(InputError, match="no score of beams, estimation"):
            composite({"los": 1.0, "interpolation": 1.0, "localization": 1.0})


class TestLimits:
    def test_the_limits_themselves_pass(self) -> None:
        check_limits("los", HEAD_LIMIT, TOTAL_LIMIT)
        assert (HEAD_LIMIT, TOTAL_LIMIT) == (100_000, 3_000_000)

    def test_the_counts_are_named(self) -> None:
        with pytest.raises(
            InputError, match="challenge, beams: the head has 100,001 parameters, the limit is 100,000"
        ):
            check_limits("beams", 100_001, 0)
        with pytest.raises(InputError, match="3,000,001 parameters are trained, the limit is 3,000,000"):
            check_limits("beams", 5, 3_000_001)

    @pytest.mark.parametrize("num_beams", [16, 64, 128])
    def test_the_published_heads_pass(self, num_beams: int) -> None:
        encoder = 2_470_304  # LWM v1.1, all of it
        heads = {
            "los": build_head("challenge-los", (128,), 2, seed=0),
            "beams": build_head("challenge-beam", (128,), num_beams, seed=0),
            "localization": build_head("challenge-localization", (128,), 2, seed=0),
        }
        for name, head in heads.items():
            count = count_parameters(head)
            check_limits(name, count, encoder + count)
            assert 1_000 < count < HEAD_LIMIT

    def test_the_published_patch_head_passes(self) -> None:
        from lwm_fast import Channels
        from lwm_fast.tasks.heads import head_for

        examples = Examples(
            "estimation", "reconstruction", Channels.from_arrays(csi((2, 32, 32))), csi((2, 32, 32))
        )
        head = head_for(examples, "patches", (64, 128), version="1.1")
        assert count_parameters(head) == 128 * 32 + 32  # Linear(128, 32)
        check_limits("estimation", count_parameters(head), 2_470_304 + count_parameters(head))
