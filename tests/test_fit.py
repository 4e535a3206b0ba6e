"""`fit_head`: what it learns, its determinism, small sets, resumable epochs, estimators, and what it refuses."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from lwm_fast import InputError
from lwm_fast.tasks.fit import FitConfig, Scaling, fit_head
from lwm_fast.tasks.fit_config import LOSSES
from lwm_fast.tasks.heads import build_head
from lwm_fast.tasks.loop import Loop, RunState, batches, flushed_denormals

SHORT = FitConfig(epochs=6, batch_size=16, lr=1e-2)


def classes(n: int = 90, features: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, features)).astype(np.float32)
    return x, x[:, :3].argmax(1)


def rows(first: int, last: int) -> np.ndarray:
    return np.arange(first, last, dtype=np.int64)


def fit(
    x, y, head="linear", kind="classification", config=SHORT, seed=0, train=None, validation=None, **more
):
    train = rows(0, 60) if train is None else train
    outputs = 3 if kind == "classification" else y.shape[1]
    head = build_head(head, x.shape[1:], outputs, seed=seed, kind=kind) if isinstance(head, str) else head
    return fit_head(
        head, x, y, kind=kind, train=train, validation=validation, config=config, seed=seed, **more
    )


def test_a_linear_head_learns_a_linear_rule():
    x, y = classes(400)
    fitted = fit(x, y, train=rows(0, 300), config=FitConfig(epochs=60, lr=1e-2, step_epochs=None))
    assert (fitted.predict(x[300:]).argmax(1) == y[300:]).mean() > 0.85
    assert fitted.history[-1]["loss"] < 0.5 * fitted.history[0]["loss"]
    assert fitted.num_parameters == 5 * 3 + 3


def test_the_given_head_and_the_global_state_are_left_alone():
    x, y = classes()
    head = build_head("mlp", (5,), 3, seed=0).eval()
    before, state = copy.deepcopy(head.state_dict()), torch.get_rng_state()
    fit(x, y, head=head)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), head.state_dict().values(), strict=True))
    assert not head.training
    assert torch.equal(state, torch.get_rng_state())


def test_equal_seeds_give_equal_bits_and_others_do_not():
    x, y = classes()
    first, again = (fit(x, y, head="mlp", seed=3).predict(x) for _ in range(2))
    other = fit(x, y, head="mlp", seed=4).predict(x)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_best_and_last_are_different_epochs_and_the_best_is_the_first_of_equals():
    x, y = classes()
    scores = iter([0.1, 0.7, 0.7, 0.2, 0.3, 0.1])
    fitted = fit(x, y, validation=rows(60, 90), metric=lambda truth, predicted: next(scores))
    assert fitted.best_epoch == 2
    assert [record["validation"] for record in fitted.history] == [0.1, 0.7, 0.7, 0.2, 0.3, 0.1]
    assert not np.array_equal(fitted.predict(x), fitted.predict(x, which="last"))
    short = fit(x, y, config=FitConfig(epochs=2, batch_size=16, lr=1e-2))
    np.testing.assert_array_equal(fitted.predict(x), short.predict(x, which="last"))
    with pytest.raises(InputError, match="which='first'"):
        fitted.predict(x, which="first")


def test_lower_is_better_picks_the_smallest_and_the_loss_is_such():
    x, y = classes()
    scores = iter([0.5, 0.2, 0.3, 0.9, 0.4, 0.6])
    metric = {"metric": lambda truth, predicted: next(scores), "higher_is_better": False}
    assert fit(x, y, validation=rows(60, 90), **metric).best_epoch == 2
    fitted = fit(x, y, validation=rows(60, 90))
    losses = [record["validation"] for record in fitted.history]
    assert fitted.best_epoch == 1 + int(np.argmin(losses))


def test_the_metric_sees_the_validation_users_and_their_predictions():
    x, y = classes()
    seen = []
    fit(x, y, validation=rows(70, 90), metric=lambda t, p: seen.append((t, p)) or 0.0)
    assert len(seen) == SHORT.epochs
    assert all(np.array_equal(t, y[70:90]) and p.shape == (20, 3) for t, p in seen)


def test_without_validation_the_best_is_the_last():
    x, y = classes()
    fitted = fit(x, y, validation=rows(0, 0))
    assert fitted.best_epoch == SHORT.epochs
    assert np.array_equal(fitted.predict(x), fitted.predict(x, which="last"))


@pytest.mark.parametrize("count", [2, 3, 6, 17, 33])
def test_small_sets_and_a_last_batch_of_one_train_batch_norm(count):
    x, y = classes()
    fitted = fit(x, y, head="mlp", train=rows(0, count))
    assert np.isfinite(fitted.predict(x)).all()


def test_a_last_batch_of_one_joins_the_one_before():
    sizes = [[len(part) for part in batches(torch.arange(n), 4)] for n in (1, 4, 5, 6, 9)]
    assert sizes == [[1], [4], [5], [4, 2], [4, 5]]


def test_one_user_trains_a_head_without_batch_norm_only():
    x, y = classes()
    assert np.isfinite(fit(x, y, train=rows(0, 1)).predict(x)).all()
    with pytest.raises(InputError, match="1 training users: BatchNorm needs 2"):
        fit(x, y, head="mlp", train=rows(0, 1))
    with pytest.raises(InputError, match="no training user"):
        fit(x, y, train=rows(0, 0))


def test_regression_is_fitted_at_unit_scale_and_given_back_in_units():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 4)).astype(np.float32)
    y = (1000 * x[:, :2] + np.array([5000.0, -3000.0])).astype(np.float32)
    config = FitConfig(epochs=80, lr=2e-2, step_epochs=None)
    fitted = fit(x, y, kind="regression", train=rows(0, 200), validation=rows(200, 250), config=config)
    assert np.abs(fitted.predict(x[250:]) - y[250:]).mean() < 50
    assert fitted.history[0]["loss"] < 3  # of standardised targets


def test_a_constant_target_stays_what_it_is():
    x, _ = classes()
    y = np.full((90, 1), 7.0, np.float32)
    y[:, 0] = 7
    predicted = fit(x, y, kind="regression", config=FitConfig(epochs=40, lr=1e-2)).predict(x)
    assert np.abs(predicted - 7).mean() < 1


@pytest.mark.parametrize("loss", ["nmse", "nmse-pooled"])
def test_reconstruction_minimises_nmse(loss):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 12)).astype(np.float32)
    y = x.reshape(200, 2, 3, 2) * 2
    head = nn.Sequential(nn.Linear(12, 12), nn.Unflatten(1, (2, 3, 2)))
    config = FitConfig(epochs=60, lr=2e-2, batch_size=15, loss=loss)
    fitted = fit_head(head, x, y, kind="reconstruction", train=rows(0, 150), config=config)
    error = np.square(fitted.predict(x[150:]) - y[150:]).sum() / np.square(y[150:]).sum()
    assert error < 0.02


def test_the_losses_are_what_they_say():
    from lwm_fast.tasks.loop import LOSS_FUNCTIONS

    targets = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    outputs = torch.tensor([[0.0, 4.0], [5.0, 0.0], [1.0, 2.0]])
    assert float(LOSS_FUNCTIONS["nmse"](outputs, targets)) == pytest.approx((9 / 25 + 0 + 4) / 3)
    assert float(LOSS_FUNCTIONS["nmse-pooled"](outputs, targets)) == pytest.approx((9 + 25 + 4) / 26)
    assert set(LOSSES) == {"auto", *LOSS_FUNCTIONS}


def test_standardising_uses_training_users_only_and_is_off_by_default():
    x, y = classes()
    x = 1000 * x + 5
    far = x.copy()
    far[60:] *= 100  # users that are not trained on
    config = FitConfig(epochs=4, standardize=True)
    near, moved = (fit(values, y, config=config).predict(x) for values in (x, far))
    assert np.array_equal(near, moved)
    assert np.abs(fit(x, y, config=FitConfig(epochs=1)).predict(x)).max() > 100
    assert np.abs(near).max() < 10


def test_scaling_is_undone_and_constant_features_are_only_shifted():
    x = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32) * 7 + 3
    x[:, 1] = 4
    scaling = Scaling.of(x)
    y = scaling(x)
    assert np.allclose(y.mean(0), 0, atol=1e-5)
    assert np.allclose(y.std(0), [1, 0, 1], atol=1e-5)
    assert np.allclose(scaling.undo(y), x, atol=1e-4)


def test_inputs_may_be_a_memory_map(tmp_path):
    x, y = classes()
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.testing.assert_array_equal(fit(mapped, y).predict(mapped), fit(x, y).predict(x))


def test_predicting_nobody_gives_no_rows():
    x, y = classes()
    assert fit(x, y).predict(x[:0]).shape == (0, 3)


def test_schedules():
    steps, miles = FitConfig.fig4(), FitConfig.fig3()
    assert [steps.rate(e) for e in (0, 29, 30, 60, 119)] == [1, 1, 0.5, 0.25, 0.125]
    assert [miles.rate(e) for e in (0, 14, 15, 34, 35, 49)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert FitConfig(step_epochs=None).rate(1000) == 1
    assert (steps.lr, FitConfig.fig4(raw=True).lr, steps.batch_size, steps.epochs) == (1e-3, 1e-4, 128, 120)
    assert (miles.batch_size, miles.epochs, miles.clip_norm) == (32, 50, 1.0)
    tuning = FitConfig.finetuning()
    assert (tuning.epochs, tuning.step_epochs, tuning.gamma) == (15, 20, 0.8)
    assert [r["lr"] for r in fit(*classes(), config=FitConfig(epochs=3, step_epochs=1)).history] == [
        1e-3,
        5e-4,
        2.5e-4,
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": 0}, "FitConfig.lr=0 must be a positive number"),
        ({"loss": "mae"}, "one of auto, cross-entropy"),
        ({"optimizer": "sgd"}, '"adam" or "adamw"'),
        ({"milestones": (3, 2), "step_epochs": None}, "rising epochs"),
        ({"milestones": (3, 5)}, "set step_epochs=None"),
        ({"gamma": 1.5}, "a factor"),
        ({"clip_norm": 0}, "clip_norm=0"),
    ],
)
def test_wrong_settings_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        FitConfig(**values)


def test_settings_survive_a_dict_and_unknown_ones_are_named():
    config = FitConfig.fig3()
    assert FitConfig.from_dict(config.to_dict()) == config
    with pytest.raises(InputError, match="unknown key 'epoch'; did you mean 'epochs'"):
        FitConfig.from_dict({"epoch": 3})


def test_misfits_name_both_sides():
    x, y = classes()
    with pytest.raises(InputError, match=r"does not take these inputs, \[5\]"):
        fit(x, y, head=nn.Linear(6, 3))
    with pytest.raises(InputError, match=r"gives \[2\] a user, and the classification targets need \[3\]"):
        fit(x, y, head=nn.Linear(5, 2))
    with pytest.raises(InputError, match=r"gives \[4\] a user"):
        fit(x, y, head=nn.Linear(5, 4), num_classes=3)
    with pytest.raises(InputError, match="90 inputs and 80 targets"):
        fit(x, y[:80])
    with pytest.raises(InputError, match="seed=-1"):
        fit_head(nn.Linear(5, 3), x, y, kind="classification", train=rows(0, 9), seed=-1)
    x[7, 0] = np.nan
    with pytest.raises(InputError, match="1 training users hold NaN or Inf, first of user row 7"):
        fit(x, y)


def test_divergence_is_one_clear_error():
    x, _y = classes()
    targets = np.full((90, 1), 1.0, np.float32) * np.arange(90)[:, None].astype(np.float32)
    with pytest.raises(InputError, match=r"training diverged: the loss of epoch \d+ is (nan|inf); lower lr"):
        fit(x * 1e18, targets, kind="regression", config=FitConfig(lr=1e18, epochs=3))


# ------------------------------------------------------------------------------------------ the loop


def test_steps_equal_torchs_own_adam_with_clipping():
    x, y = classes()
    data, truth = torch.from_numpy(x), torch.from_numpy(y)
    config = FitConfig(epochs=3, batch_size=90, lr=1e-2, clip_norm=0.05, weight_decay=0.1)
    own, plain = (build_head("challenge-localization", (5,), 3, seed=0) for _ in range(2))
    loop = Loop(own, lambda r, _: own(data[r]), truth, "cross-entropy", config, 0)
    adam = torch.optim.Adam(plain.parameters(), lr=1e-2, weight_decay=0.1)
    for epoch in range(3):
        loop.epoch(epoch)
        order = torch.from_numpy(np.random.default_rng([0, epoch]).permutation(90))
        adam.zero_grad()
        nn.functional.cross_entropy(plain(data[order]), truth[order]).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.05)
        adam.step()
    for a, b in zip(own.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_loop_taken_up_after_any_epoch_gives_the_same_weights():
    x, y = classes()
    data, truth = torch.from_numpy(x), torch.from_numpy(y)

    def make() -> tuple[Loop, nn.Module]:
        head = build_head("mlp", (5,), 3, seed=0)
        return Loop(head, lambda r, _: head(data[r]), truth, "cross-entropy", SHORT, 0), head

    whole, _ = make()
    whole.run(RunState(), None, higher_is_better=True, progress=False)
    first, _ = make()
    for epoch in range(3):
        first.epoch(epoch)
    second, _ = make()
    second.load(first.state())
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    second.run(RunState(done=3), None, higher_is_better=True, progress=False)
    a, b = whole.state(), second.state()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_flushing_denormals_ends_with_the_block():
    def flushes() -> bool:
        return float(torch.full((), 1e-39) * 1.0) == 0.0

    assert not flushes()
    with flushed_denormals():
        assert flushes()
        with flushed_denormals():
            pass
        assert flushes()
    assert not flushes()


# ---------------------------------------------------------------------------------------- estimators


@pytest.mark.parametrize("name", ["logistic", "nearest-mean", "ridge", "knn"])
def test_estimators_score_every_class_even_one_never_seen(name):
    x, y = classes(200)
    train = np.flatnonzero(y[:150] != 1)
    fitted = fit(x, y, head=name, train=train, num_classes=3)
    scores = fitted.predict(x[150:])
    assert scores.shape == (50, 3)
    assert not (scores.argmax(1) == 1).any()
    seen = y[150:] != 1
    assert (scores.argmax(1)[seen] == y[150:][seen]).mean() > 0.8
    assert fitted.history == []


def test_an_estimator_is_cloned_and_sees_flat_inputs():
    from sklearn.linear_model import LogisticRegression

    x, y = classes()
    estimator = LogisticRegression()
    fitted = fit(x.reshape(90, 5, 1), y, head=estimator)
    assert not hasattr(estimator, "coef_")
    assert fitted.num_parameters == 3 * 5 + 3


def test_any_object_with_fit_and_predict_will_do():
    class Majority:
        def fit(self, x, y):
            self.value = int(np.bincount(y).argmax())

        def predict(self, x):
            return np.full(len(x), self.value)

    x, y = classes()
    mine = Majority()
    scores = fit(x, y, head=mine).predict(x)
    assert set(scores.argmax(1)) == {int(np.bincount(y[:60]).argmax())}
    assert not hasattr(mine, "value")


def test_ridge_predicts_csi_of_any_shape():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, 12)).astype(np.float32)
    y = x.reshape(100, 2, 3, 2)
    head = build_head("ridge", (12,), 12, seed=0, kind="regression")
    fitted = fit_head(head, x, y, kind="reconstruction", train=rows(0, 80))
    assert fitted.predict(x[80:]).shape == (20, 2, 3, 2)
    assert np.square(fitted.predict(x[80:]) - y[80:]).mean() < 0.01


def test_what_an_estimator_refuses_is_said_with_its_name():
    x, y = classes()
    with pytest.raises(InputError, match=r"head LogisticRegression: cannot be fitted to 5 training users"):
        fit(x, np.zeros_like(y), head="logistic", train=rows(0, 5), num_classes=3)
    with pytest.raises(InputError, match="head KNeighborsClassifier: cannot predict: Expected n_neighbors"):
        fit(x, y, head="knn", train=rows(0, 3)).predict(x)


def test_a_loss_of_an_untrained_head_is_that_of_chance():
    x, y = classes()
    head = nn.Linear(5, 3)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    history = fit(x, y, head=head, config=FitConfig(epochs=1, lr=1e-9)).history
    assert history[0]["loss"] == pytest.approx(math.log(3), rel=1e-4)
