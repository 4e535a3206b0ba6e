"""Splits: who goes where, in which shares, and how near neighbours stay."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from lwm_fast import Channels, InputError
from lwm_fast.tasks import Examples, Split, few, make_split
from lwm_fast.tasks.blocks import choose_cell, distance_to_training
from lwm_fast.tasks.splits import BY


def classified(targets: list[int] | np.ndarray, pos: np.ndarray | None = None) -> Examples:
    codes = np.asarray(targets, dtype=np.int64)
    csi = np.ones((codes.size, 1, 1), dtype=np.complex64)
    names = tuple("abcdefghij"[: max(2, int(codes.max(initial=0)) + 1)])
    return Examples("toy", "classification", Channels.from_arrays(csi, pos=pos), codes, names)


def measured(count: int, pos: np.ndarray | None = None) -> Examples:
    csi = np.ones((count, 1, 1), dtype=np.complex64)
    return Examples(
        "toy", "regression", Channels.from_arrays(csi, pos=pos), np.zeros((count, 1), np.float32), ("v",)
    )


def street_grid(rows: int = 60, columns: int = 40, step: float = 2.5) -> np.ndarray:
    y, x = np.divmod(np.arange(rows * columns), columns)
    return np.stack([x * step, y * step, np.full(x.size, 2.0)], axis=1).astype(np.float32)


def everyone(split: Split) -> list[int]:
    return sorted(np.concatenate([split.train, split.validation, split.test]).tolist())


class TestMakeSplit:
    @pytest.mark.parametrize("by", BY)
    def test_everybody_stands_in_one_part_and_seeds_count(self, by: str) -> None:
        examples = classified(np.arange(200) % 3, street_grid(20, 10))
        first, again, other = (make_split(examples, by=by, seed=seed) for seed in (5, 5, 6))
        assert everyone(first) == list(range(200))
        assert first.train.dtype == first.validation.dtype == first.test.dtype == np.int64
        assert first.train.tolist() == again.train.tolist()
        assert first.test.tolist() == again.test.tolist()
        assert first.train.tolist() != other.train.tolist()
        assert (first.seed, other.seed) == (5, 6)

    @pytest.mark.parametrize("by", ["random", "stratified", "released"])
    @pytest.mark.parametrize(
        ("fractions", "sizes"),
        [
            ((0.7, 0.1, 0.2), (70, 10, 20)),
            ((0.8, 0.2, 0), (80, 20, 0)),
            ((0.5, 0, 0.5), (50, 0, 50)),
            ((1, 0, 0), (100, 0, 0)),
        ],
    )
    def test_sizes(self, by, fractions, sizes) -> None:
        assert make_split(classified(np.arange(100) % 2), fractions, by=by).sizes == sizes

    @pytest.mark.parametrize("by", ["random", "stratified"])
    def test_a_sum_below_one_leaves_users_out(self, by: str) -> None:
        assert make_split(classified(np.arange(100) % 2), (0.2, 0.1, 0.1), by=by).sizes == (20, 10, 10)

    def test_auto(self) -> None:
        assert make_split(classified(np.arange(40) % 2)).by == "stratified"
        assert make_split(measured(40)).by == "random"

    @pytest.mark.parametrize("seed", range(5))
    def test_stratified_keeps_the_shares_of_every_class(self, seed: int) -> None:
        sizes = [500, 101, 37, 10, 5, 2]
        examples = classified(np.random.default_rng(1).permutation(np.repeat(np.arange(6), sizes)))
        split = make_split(examples, seed=seed)
        total = sum(sizes)
        for share, rows in ((0.7, split.train), (0.1, split.validation), (0.2, split.test)):
            counts = np.bincount(examples.targets[rows], minlength=6)
            assert np.abs(counts - share * np.array(sizes)).max() < 2
            assert abs(rows.size - share * total) < 2
        assert np.bincount(examples.targets[split.train]).min() >= 1

    def test_released_is_torchs_random_split(self) -> None:
        split = make_split(measured(101), (0.8, 0, 0.2), by="released", seed=42)
        generator = torch.Generator().manual_seed(42)
        users = torch.utils.data.TensorDataset(torch.arange(101))
        train, test = torch.utils.data.random_split(users, [80, 21], generator=generator)
        assert split.train.tolist() == sorted(train.indices)
        assert split.test.tolist() == sorted(test.indices)

    def test_the_global_generators_are_left_alone(self) -> None:
        state, numpy_state = torch.random.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
        for by in BY:
            make_split(classified(np.arange(100) % 2, street_grid(10, 10)), by=by)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert str(np.random.get_state()) == numpy_state  # noqa: NPY002

    def test_classes_of_one_user(self) -> None:
        examples = classified([0] * 20 + [1] * 20 + [2])
        with pytest.raises(InputError, match=r"one class has a single user \('c'\).*by=\"random\""):
            make_split(examples, by="stratified")
        with pytest.warns(UserWarning, match=r"a single user \('c'\), who cannot be trained and tested on"):
            split = make_split(examples)
        assert 40 in split.train

    @pytest.mark.parametrize(
        ("examples", "arguments", "message"),
        [
            (measured(10), {"by": "fold"}, "by='fold': choose one of auto, random"),
            (measured(10), {"seed": -1}, "seed=-1"),
            (measured(10), {"fractions": (0.7, 0.3)}, "give \\(train, validation, test\\)"),
            (measured(10), {"fractions": (0.7, 0.3, 0.1)}, "in all at most 1"),
            (measured(10), {"fractions": (1.2, -0.3, 0.1)}, "none negative"),
            (measured(10), {"fractions": (0, 0.5, 0.5)}, "training fraction is 0"),
            (measured(10), {"fractions": (0.9, 0.01, 0.09)}, "validation fraction of 0.01 of 10 users"),
            (measured(2), {"fractions": (0.1, 0, 0.9)}, "train fraction of 0.1 of 2 users .* is no user"),
            (measured(0), {}, "there is no user to split"),
            (measured(10), {"by": "stratified"}, "is for classification"),
            (measured(10), {"by": "position"}, "needs channels.pos"),
            (measured(10), {"cell": 3.0}, 'cell=3.0, gap=0.0: these are for by="position"'),
            (measured(10, street_grid(2, 5)), {"by": "position", "cell": -1.0}, "cell=-1.0"),
            (
                measured(10, street_grid(2, 5)),
                {"by": "position", "cell": 100.0},
                "1 squares of 100 m for 3 parts",
            ),
            (measured(10, street_grid(2, 5)), {"by": "position", "gap": -1.0}, "gap=-1.0"),
            (measured(10, np.full((10, 3), np.nan)), {"by": "position"}, "not finite"),
            (classified([0] * 10), {}, None),
        ],
    )
    def test_faults(self, examples, arguments, message) -> None:
        if message is None:  # a single class in all: nothing is missing in training, scores say the rest
            assert make_split(examples, **arguments).sizes == (7, 1, 2)
            return
        with pytest.raises(InputError, match=message):
            make_split(examples, **arguments)

    def test_classes_missing_in_training(self) -> None:
        examples = classified([0] * 50 + [1] * 50 + [2] * 2)
        missing = [
            seed for seed in range(30) if 2 not in examples.targets[plain_random_train(examples, seed)]
        ]
        with pytest.warns(
            UserWarning, match="no training user .* has the class 'c'; they cannot be predicted"
        ):
            make_split(examples, (0.5, 0.1, 0.4), by="random", seed=missing[0])
        with pytest.raises(InputError, match=r"no training user .* has the class"):
            make_split(classified([0] * 99 + [1]), (0.02, 0, 0.98), by="random", seed=0)


def plain_random_train(examples: Examples, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(len(examples))[: round(0.5 * len(examples))]


class TestPosition:
    @pytest.mark.parametrize("seed", range(4))
    def test_whole_squares_and_shares(self, seed: int) -> None:
        pos = street_grid()
        split = make_split(measured(len(pos), pos), by="position", seed=seed, cell=15.0)
        assert split.by == "position, 15 m cells"
        square = (pos[:, 0] // 15).astype(int) * 1000 + (pos[:, 1] // 15).astype(int)
        owners = [set(square[rows]) for rows in (split.train, split.validation, split.test)]
        assert not owners[0] & owners[1]
        assert not owners[0] & owners[2]
        assert not owners[1] & owners[2]
        largest = np.unique(square, return_counts=True)[1].max()
        for share, size in zip((0.7, 0.1, 0.2), split.sizes, strict=True):
            assert abs(size - share * len(pos)) <= largest

    def test_neighbours_are_farther_than_in_a_random_split(self) -> None:
        pos = street_grid()
        examples = measured(len(pos), pos)
        median = {}
        for by in ("random", "position"):
            split = make_split(examples, by=by)
            median[by] = float(np.median(distance_to_training(pos, split.train, split.test)))
        assert median["random"] == pytest.approx(2.5)  # the next user of the grid
        assert median["position"] >= 5.0

    @pytest.mark.parametrize("gap", [5.0, 12.5])
    def test_a_gap_keeps_training_users_away(self, gap: float) -> None:
        pos = street_grid()
        examples = measured(len(pos), pos)
        split = make_split(examples, by="position", gap=gap)
        whole = make_split(examples, by="position")
        others = np.concatenate([split.validation, split.test])
        assert distance_to_training(pos, split.train, others).min() >= gap
        assert distance_to_training(pos, whole.train, others).min() == pytest.approx(2.5)
        assert split.test.tolist() == whole.test.tolist()
        assert split.by.endswith(f", {gap:g} m gap")

    def test_a_gap_that_leaves_nobody_is_an_error(self) -> None:
        pos = street_grid(10, 10)
        with pytest.raises(InputError, match=r"train fraction .* is no user"):
            make_split(measured(100, pos), by="position", gap=1000.0)

    def test_as_many_squares_as_parts_give_each_one(self) -> None:
        pos = np.array([[0, 0, 0], [10, 0, 0], [20, 0, 0]], dtype=np.float32)
        assert make_split(measured(3, pos), by="position", cell=10.0).sizes == (1, 1, 1)

    def test_side_of_the_squares(self) -> None:
        side = choose_cell(street_grid().astype(np.float64)[:, :2])
        assert 10 < side < 30
        assert choose_cell(np.zeros((5, 2))) == 1.0
        assert choose_cell(np.zeros((0, 2))) == 1.0

    def test_real_city(self, shared_data) -> None:
        from lwm_fast import load_channels
        from lwm_fast.tasks import LosTask

        examples = LosTask().examples(load_channels(shared_data / "scenarios" / "city_18_denver_3p5"))
        pos = examples.channels.pos
        assert pos is not None
        split = make_split(examples, by="position")
        distance = distance_to_training(pos, split.train, split.test)
        # users stand 2.5 m apart: half of the tested have nobody trained on within three of them
        assert np.median(distance) >= 7.5
        assert np.abs(np.array(split.sizes) / len(examples) - (0.7, 0.1, 0.2)).max() < 0.03


class TestFew:
    def test_fixed_leaves_validation_and_test(self) -> None:
        examples = classified(np.arange(100) % 2)
        split = make_split(examples)
        smaller = few(examples, split, count=7, seed=3)
        assert smaller.sizes == (7, 10, 20)
        assert set(smaller.train) <= set(split.train)
        assert smaller.test.tolist() == split.test.tolist()
        assert few(examples, split, fraction=0.1).sizes == (7, 10, 20)

    def test_rest_tests_on_everyone_else(self) -> None:
        examples = classified(np.arange(100) % 2)
        smaller = few(examples, make_split(examples), count=80, test="rest")
        assert smaller.sizes == (80, 0, 20)
        assert everyone(smaller) == list(range(100))
        assert few(examples, make_split(examples), fraction=0.06, test="rest").sizes == (6, 0, 94)

    @pytest.mark.parametrize("test", ["fixed", "rest"])
    @pytest.mark.parametrize("kind", [classified, None])
    def test_larger_sets_hold_the_smaller_ones(self, test: str, kind) -> None:
        examples = classified(np.arange(90) % 3) if kind else measured(90)
        split = make_split(examples)
        sets = [set(few(examples, split, count=count, seed=1, test=test).train) for count in (3, 4, 10, 50)]
        assert all(small < large for small, large in itertools.pairwise(sets))

    def test_every_class_comes_before_any_comes_twice(self) -> None:
        examples = classified(np.repeat(np.arange(4), [900, 60, 30, 10]))
        split = make_split(examples)
        for seed in range(5):
            assert sorted(examples.targets[few(examples, split, count=4, seed=seed).train]) == [0, 1, 2, 3]
        counts = np.bincount(examples.targets[few(examples, split, count=100).train])
        assert np.abs(counts - [90, 6, 3, 1]).max() <= 1

    def test_shares_of_two_classes(self) -> None:
        examples = classified(np.arange(1000) % 2)
        split = make_split(examples)
        for count in (2, 6, 13, 100):
            counts = np.bincount(examples.targets[few(examples, split, count=count).train])
            assert abs(counts[0] - counts[1]) <= 1

    def test_too_few_users_for_the_classes(self) -> None:
        examples = classified(np.arange(90) % 3)
        split = make_split(examples)
        with pytest.warns(UserWarning, match="no training user .* has the class"):
            few(examples, split, count=2)
        with pytest.raises(InputError, match=r"no training user .* has the classes"):
            few(examples, split, count=1)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "give one of them"),
            ({"count": 3, "fraction": 0.1}, "give one of them"),
            ({"count": 0}, "0 training users of 70 .*; give 1 to 70"),
            ({"count": 71}, "71 training users of 70"),
            ({"count": 100, "test": "rest"}, r"100 training users of 100 .*; give 1 to 99"),
            ({"fraction": 0.0}, "fraction=0.0: give a share above 0"),
            ({"fraction": 1.5}, "fraction=1.5"),
            ({"fraction": 0.001}, "training fraction of 0.001 of 70 users is no user; raise it to 0.014"),
            ({"count": 3, "test": "all"}, 'choose "fixed" or "rest"'),
        ],
    )
    def test_faults(self, arguments, message) -> None:
        examples = classified(np.arange(100) % 2)
        with pytest.raises(InputError, match=message):
            few(examples, make_split(examples), **arguments)


def test_a_user_in_two_parts_is_refused() -> None:
    with pytest.raises(InputError, match="a user stands in two parts"):
        Split(np.array([0, 1]), np.array([1]), np.array([2]), "hand", 0)
