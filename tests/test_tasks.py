"""Tasks by name, LoS, localization, and a user's own labels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.ray_data import random_csi

from lwm_fast import Channels, InputError, load_channels
from lwm_fast.tasks import (
    TASKS,
    ClassificationTask,
    LocalizationTask,
    LosTask,
    RegressionTask,
    get_task,
)
from lwm_fast.tasks.labels import encode_labels

LOS = [1, 0, -1, 1, 0]


def channels(**columns: Any) -> Channels:
    return Channels.from_arrays(random_csi(5, 4, 3, seed=1), **columns)


class TestNames:
    def test_every_task_has_a_class_and_a_name(self) -> None:
        assert list(TASKS) == [
            "los", "beams", "localization", "interpolation", "estimation", "compression", "classification",
            "regression",
        ]  # fmt: skip
        assert len(TASKS) == 8
        for name in TASKS:
            task = get_task(name, **({"bits": 512} if name == "compression" else {}))
            assert task.name == name
            assert isinstance(task, TASKS[name])
            assert task.kind in ("classification", "regression", "reconstruction")

    def test_settings_reach_the_task(self) -> None:
        assert get_task("beams", num_beams=16, codebook="half-open").num_beams == 16  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        ("name", "settings", "message"),
        [
            ("beam", {}, "task 'beam' is not known; did you mean 'beams'"),
            ("xyz", {}, "task 'xyz' is not known; there are: los, beams, localization"),
            ("beams", {"beams": 3}, "task 'beams' has no setting 'beams'; did you mean 'num_beams'"),
            ("los", {"snr": 3}, "task 'los' has no setting 'snr'; there are: none"),
            ("beams", {"num_beams": 0}, "num_beams=0"),
        ],
    )
    def test_faults(self, name: str, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message):
            get_task(name, **settings)
        assert name in TASKS or name not in list(TASKS)

    def test_importing_tasks_needs_no_optional_package(self) -> None:
        code = (
            "import sys; import lwm_fast.tasks as t; t.LosTask, t.BeamTask, t.make_split; "
            "loaded = {'sklearn', 'peft', 'matplotlib', 'scipy.spatial'} & set(sys.modules); assert not loaded, loaded"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    def test_unknown_attribute(self) -> None:
        import lwm_fast.tasks

        with pytest.raises(AttributeError, match="no attribute 'NoTask'"):
            _ = lwm_fast.tasks.NoTask


class TestLos:
    def test_examples(self) -> None:
        examples = LosTask().examples(channels(los=LOS))
        assert examples.channels.user_index.tolist() == [0, 1, 3, 4]
        assert examples.targets.tolist() == [1, 0, 1, 0]
        assert examples.targets.dtype == np.int64
        assert examples.classes == ("NLoS", "LoS")
        assert (examples.facts["source"], examples.facts["num_antennas"]) == ("array", 4)
        assert LosTask().score(examples, np.eye(2)[examples.targets])["f1_weighted"] == 1.0

    def test_nobody_is_copied_when_all_have_a_path(self) -> None:
        given = channels(los=[1, 0, 0, 1, 1])
        assert LosTask().examples(given).channels is given

    def test_counts_of_a_real_city(self, shared_data: Path) -> None:
        examples = LosTask().examples(load_channels(shared_data / "scenarios" / "city_18_denver_3p5"))
        assert np.bincount(examples.targets).tolist() == [1354 - 709, 709]
        golden = np.load(shared_data / "golden" / "labels_city_18_denver.npz")
        np.testing.assert_array_equal(examples.targets, golden["los"])

    @pytest.mark.parametrize(
        ("los", "message"),
        [
            (None, "says nothing about line of sight"),
            ([1, 0, 2, 0, 0], "has the value 2; use 1 LoS, 0 NLoS, -1 no path"),
            ([-1] * 5, "none of the 5 users of array has a path"),
        ],
    )
    def test_faults(self, los: list[int] | None, message: str) -> None:
        with pytest.raises(InputError, match=message):
            LosTask().examples(channels(los=los))


class TestLocalization:
    def test_examples(self) -> None:
        pos = np.arange(15, dtype=np.float32).reshape(5, 3)
        examples = LocalizationTask().examples(channels(pos=pos, los=LOS))
        np.testing.assert_array_equal(examples.targets, pos[[0, 1, 3, 4], :2])
        assert examples.targets.dtype == np.float32
        assert examples.classes == ("x", "y")
        assert LocalizationTask().score(examples, examples.targets + [3, 4])["error_m"] == pytest.approx(5)
        assert len(LocalizationTask().examples(channels(pos=pos))) == 5

    def test_faults(self) -> None:
        pos = np.zeros((5, 3))
        with pytest.raises(InputError, match="array has no positions"):
            LocalizationTask().examples(channels())
        with pytest.raises(InputError, match="no user of array has a path"):
            LocalizationTask().examples(channels(pos=pos, los=[-1] * 5))
        pos[3, 1] = np.nan
        with pytest.raises(InputError, match="position of 1 users is not finite, the first is user 3"):
            LocalizationTask().examples(channels(pos=pos))


class TestLabels:
    @pytest.mark.parametrize(
        ("labels", "codes", "names"),
        [
            ([7, -2, 7, 9, 9], [1, 0, 1, 2, 2], ("-2", "7", "9")),
            ([True, False, True, True, True], [1, 0, 1, 1, 1], ("False", "True")),
            (["walk", "run", "run", "walk", "sit"], [2, 0, 0, 2, 1], ("run", "sit", "walk")),
            ([1.0, 0.0, 1.0, 1.0, 0.0], [1, 0, 1, 1, 0], ("0", "1")),
            (np.array(["b", "a", "a", "a", "a"], dtype=object), [1, 0, 0, 0, 0], ("a", "b")),
            (np.array([3, 1, 1, 1, 1], dtype=object), [1, 0, 0, 0, 0], ("1", "3")),
        ],
    )
    def test_values_are_numbered_in_their_order(self, labels, codes, names) -> None:
        examples = ClassificationTask(labels).examples(channels())
        assert examples.targets.tolist() == codes
        assert examples.targets.dtype == np.int64
        assert examples.classes == names

    def test_given_classes_keep_their_place(self) -> None:
        codes, names = encode_labels(["on", "on"], ["off", "idle", "on"])
        assert (codes.tolist(), names) == ([2, 2], ("off", "idle", "on"))
        codes, names = encode_labels([2, 0], ["off", "idle", "on"])
        assert (codes.tolist(), names) == ([2, 0], ("off", "idle", "on"))

    def test_labels_of_the_channels_and_the_tasks_name(self) -> None:
        task = ClassificationTask(name="presence")
        examples = task.examples(channels(labels=[0, 1, 1, 0, 1]))
        assert (examples.task, task.name, examples.targets.tolist()) == (
            "presence",
            "presence",
            [0, 1, 1, 0, 1],
        )
        assert task.score(examples, np.eye(2)[examples.targets])["accuracy"] == 1.0

    @pytest.mark.parametrize(
        ("labels", "classes", "message"),
        [
            (None, None, r"array has no labels; give labels= \(one for each of the 5 users\)"),
            ([0, 1], None, "2 labels for 5 channels of array"),
            (3, None, "one value for 5 channels"),
            ([0, 1, np.nan, 1, 0], None, "NaN or Inf in 1 of 5 labels, the first in row 2"),
            ([0, 1, 0.5, 1, 0], None, "label 0.5 is not a class; .* use RegressionTask"),
            ([1, 1, 1, 1, 1], None, "every user has the label 1; classification needs at least two"),
            ([[0]] * 5, None, r"labels are int64 \(5, 1\)"),
            ([1j] * 5, None, "labels are complex128"),
            (np.array(["a", None, "b", "a", "a"], dtype=object), None, "label None of row 1 is a NoneType"),
            (np.array([1, "b", 1, 1, 1], dtype=object), None, "label 'b' of row 1 is a str"),
            (np.array([1, np.nan, 1, 1, 1], dtype=object), None, "label nan of row 1 is a float"),
            (["a", "b", "c", "a", "a"], ["a", "b"], "label c of row 2 is none of the classes a, b"),
            ([0, 1, 2, 0, 0], ["a", "b"], r"label 2 of row 2 is none of the classes 0\.\.1"),
            ([0, 1, -1, 0, 0], ["a", "b"], "label -1 of row 2"),
            ([0, 0, 0, 0, 0], ["a", "a"], "at least two names, all different"),
        ],
    )
    def test_faults(self, labels, classes, message) -> None:
        with pytest.raises(InputError, match=message):
            ClassificationTask(labels, classes).examples(channels())

    def test_nobody(self) -> None:
        with pytest.raises(InputError, match="there is no user"):
            encode_labels([])


class TestRegression:
    def test_examples(self) -> None:
        examples = RegressionTask([1, 2, 3, 4, 5]).examples(channels())
        assert (examples.targets.dtype, examples.targets.shape) == (np.float32, (5, 1))
        assert examples.classes == ("target",)
        two = RegressionTask(np.zeros((5, 2)), name="pose").examples(channels())
        assert (two.task, two.classes) == ("pose", ("target_0", "target_1"))
        named = RegressionTask(names=["speed"]).examples(channels(labels=np.arange(5.0)))
        assert named.classes == ("speed",)
        assert RegressionTask().score(named, named.targets + 2)["mae"] == 2

    @pytest.mark.parametrize(
        ("targets", "names", "message"),
        [
            (None, None, "array has no labels; give targets="),
            ([1.0], None, "1 targets for 5 channels"),
            ([1, 2, np.inf, 4, 5], None, "NaN or Inf in 1 of 5 targets, the first in row 2"),
            (["a"] * 5, None, "give numbers"),
            (np.zeros((5, 2, 2)), None, r"give numbers \[n\] or \[n, k\]"),
            (np.zeros((5, 2)), ["x"], "1 names for 2 numbers a user"),
        ],
    )
    def test_faults(self, targets, names, message) -> None:
        with pytest.raises(InputError, match=message):
            RegressionTask(targets, names).examples(channels())
