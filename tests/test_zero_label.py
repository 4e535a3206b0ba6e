"""Predictions without labels: link heads, what generated streets taught, and copied beams."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.evaluation_cases import small_sweep, town, write_town

from lwm_fast import LWM, Channels, InputError, load_channels
from lwm_fast.data.ray_store import RayStore
from lwm_fast.data.synthetic.plan import StreetsPlan
from lwm_fast.data.synthetic.write import write_streets
from lwm_fast.evaluation import Sweep, make_inputs, run_sweep, zero_label
from lwm_fast.evaluation.physics import features
from lwm_fast.links import LinkHeads, LinkState
from lwm_fast.tasks import BeamTask, LosTask
from lwm_fast.tasks.fit import fit_head
from lwm_fast.tasks.fit_config import FitConfig
from lwm_fast.tasks.heads import build_head


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    return small_sweep(tmp_path, counts=(0,), test="rest", inputs=("cls", "link-state"))


@pytest.fixture(scope="module")
def streets(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("streets") / "store"
    plan = StreetsPlan(streets=2, users_per_street=60, seed=4, carrier=(2e9, 6e9))
    write_streets(plan, folder, workers=1)
    return folder


def with_heads(sweep: Sweep, seed: int = 1) -> Sweep:
    LinkHeads.random(128, seed=seed).save_pretrained(sweep.weights)
    return replace(sweep, inputs=("link-state",))


def state(n: int, **given: object) -> LinkState:
    values = {
        "los": np.full(n, 0.5), "power_db": np.full(n, -90.0), "mean_delay_s": np.full(n, 1e-7),
        "delay_spread_s": np.zeros(n), "direction": np.zeros(n),
    } | given  # fmt: skip
    return LinkState(**{name: np.asarray(value, np.float32) for name, value in values.items()})


# ------------------------------------------------------------------------------------------------- link heads


def test_link_heads_need_no_label(sweep, tmp_path):
    sweep = with_heads(sweep)
    (row,) = run_sweep(replace(sweep, seeds=(0, 1)), tmp_path / "out", 1)
    examples = LosTask().examples(load_channels(sweep.data[0]))
    model = LWM.from_pretrained(sweep.weights)
    cls, mean = (make_inputs(pool, examples, model, train=np.arange(0)) for pool in ("cls", "mean"))
    los = model.link_heads.predict(cls, mean).los > 0.5
    accuracy = (los == examples.targets).mean()
    assert row["best_accuracy"] == pytest.approx(accuracy, abs=1e-8)
    assert (row["head"], row["amount"], row["n_train"], row["n_test"]) == ("link-heads", "0", 0, 60)


def test_with_a_fixed_test_part_every_split_counts(sweep, tmp_path):
    rows = run_sweep(replace(with_heads(sweep), test="fixed", seeds=(0, 1)), tmp_path / "out", 1)
    assert [(row["seed"], row["n_train"], row["n_test"]) for row in rows] == [(0, 0, 12), (1, 0, 12)]


def test_link_state_is_an_input_for_heads_too(sweep, tmp_path):
    rows = run_sweep(replace(with_heads(sweep), counts=(0, 10), seeds=(0,)), tmp_path / "out", 1)
    assert [(row["amount"], row["head"]) for row in rows] == [("0", "link-heads"), ("10", "linear")]


def test_the_los_number_is_the_first_of_the_link_state(sweep):
    examples = LosTask().examples(load_channels(sweep.data[0]))
    model = LWM.from_pretrained(with_heads(sweep).weights)
    every, first = (
        make_inputs(name, examples, model, train=np.arange(0)) for name in ("link-state", "link-los")
    )
    assert first.shape == (len(examples), 1)
    assert np.array_equal(first[:, 0], every[:, 0])


def test_weights_without_link_heads_are_refused(sweep, tmp_path):
    with pytest.raises(
        InputError, match=r"'link-state' and 'link-los': .*weights.* has no link heads .*auxiliary\.weight"
    ):
        run_sweep(replace(sweep, inputs=("link-state",)), tmp_path / "out", 1)


def test_features_of_links_are_finite_and_in_decibels():
    made = zero_label.link_features(
        state(3, los=[0, 0.5, 1], mean_delay_s=[1e-6, 0, 1e-7], direction=[-1, 0, 0.5])
    )
    assert np.isfinite(made).all()
    np.testing.assert_allclose(made[:, 0], [-13.8, 0, 13.8], atol=0.1)
    np.testing.assert_allclose(made[:, 2], [-60, -100, -70], atol=1e-4)
    np.testing.assert_allclose(made[:, 4:], [[-1, 0], [1, 0], [0, 1]], atol=1e-6)


@pytest.mark.parametrize("num_beams", [16, 63])
def test_the_beam_of_a_direction_is_that_of_a_channel_from_there(num_beams):
    direction = np.linspace(-1, 0.99, 50)
    csi = np.exp(1j * np.pi * direction[:, None, None] * np.arange(32)[:, None]) * np.ones(4)
    examples = BeamTask(num_beams=num_beams).examples(Channels.from_arrays(1e-5 * csi))
    scores = zero_label.own_scores(examples, zero_label.link_features(state(50, direction=direction)))
    assert (scores.argmax(1) == examples.targets).mean() > 0.97  # 0.1 dB apart, rounding may choose another


# ------------------------------------------------------------------------------------------------- the streets


def test_street_heads_are_fitted_to_streets_alone(sweep, streets, tmp_path):
    wide = replace(sweep, inputs=("physics-excess", "cls"), zero_label_data=str(streets))
    rows = {row["input"]: row for row in run_sweep(wide, tmp_path / "out", 1)}
    channels = load_channels(sweep.data[0])
    told = zero_label.street_examples(LosTask(), str(streets), channels)
    fitted = fit_head(
        build_head("logistic", (1,), 2, seed=0), features(told.channels, "physics-excess"), told.targets,
        kind="classification", train=np.arange(len(told)), config=FitConfig(), num_classes=2,
    )  # fmt: skip
    examples = LosTask().examples(channels)
    scores = LosTask().score(examples, fitted.predict(features(channels, "physics-excess")))
    assert rows["physics-excess"]["best_f1_weighted"] == pytest.approx(scores["f1_weighted"], abs=1e-8)
    assert {row["head"] for row in rows.values()} == {"streets"}
    assert rows["cls"]["n_test"] == 60


def test_streets_are_seen_as_the_place_is(streets):
    channels = town()
    told = zero_label.street_examples(LosTask(), str(streets), channels)
    assert told.channels.shape[1:] == (8, 16)
    first = RayStore.open(streets).shard(0)
    expected = first.with_geometry(
        num_antennas=8, num_subcarriers=16, bandwidth=None, rotation=-135.0, max_paths=20
    )
    factor = first.meta.carrier_frequency / channels.meta.carrier_frequency
    np.testing.assert_allclose(told.channels.csi[:10], expected.csi[:10] * factor, rtol=1e-5)
    np.testing.assert_array_equal(told.targets[:10], first.los[:10])


def test_at_most_so_many_street_users_are_taken_evenly(streets, monkeypatch):
    monkeypatch.setattr(zero_label, "STREET_USERS", 40)
    told = zero_label.street_examples(LosTask(), str(streets), town())
    assert len(told) == 40


def test_a_place_without_a_carrier_is_refused(streets):
    channels = Channels.from_arrays(town().csi, los=town().los)
    with pytest.raises(InputError, match="array: its carrier is not known"):
        zero_label.street_examples(LosTask(), str(streets), channels)


def test_other_streets_are_another_sweep(sweep, streets, tmp_path):
    wide = replace(sweep, inputs=("physics-power",), zero_label_data=str(streets))
    run_sweep(wide, tmp_path / "out", 1)
    with pytest.raises(InputError, match="zero_label_data was"):
        run_sweep(replace(wide, zero_label_data=None, counts=(10,)), tmp_path / "out", 1)


# ------------------------------------------------------------------------------------------------- what is run


def test_what_is_run_without_labels(sweep):
    def places(**changes: object) -> list[tuple[str, str]]:
        return [(run.input, run.head) for run in replace(sweep, seeds=(0, 1), **changes).plan()]

    found = places(inputs=("cls", "link-state", "pca"), zero_label_data="streets", baselines=True)
    assert found == [
        ("cls", "streets"), ("link-state", "link-heads"), ("physics-power", "streets"), ("physics-excess", "streets"),
        ("random-cls", "streets"), ("random-cls", "streets"),
    ]  # fmt: skip
    assert places(inputs=("link-state", "cls")) == [("link-state", "link-heads")]
    beams = {"task": "beams", "settings": {"num_beams": 8}}
    assert places(inputs=("cls",), baselines=True, **beams) == [("csi", "copy-beam")]


def test_copied_beams_are_those_of_the_input_band(tmp_path):
    write_town(tmp_path / "town.h5")
    sweep = small_sweep(
        tmp_path, task="beams", inputs=("cls",), settings={"num_beams": 8}, counts=(0,),
        test="rest", baselines=True,
    )  # fmt: skip
    (row,) = run_sweep(sweep, tmp_path / "out", 1)
    assert row["best_accuracy"] == 1.0, "the labels are of the same band here"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counts": (-1,)}, r"counts=\(-1,\); give 0 \(no label\) or more"),
        (
            {"inputs": ("cls",)},
            r"nothing here predicts los without labels; add the input 'link-state', or give zero",
        ),
        (
            {"task": "beams", "inputs": ("cls",)},
            "nothing here predicts beams without labels; add the input 'link-s",
        ),
        ({"task": "localization"}, "without labels only los and beams can be predicted, not localization"),
        ({"task": "beams", "zero_label_data": "streets"}, "zero_label_data is for los"),
    ],
)
def test_what_cannot_be_done_without_labels_is_refused(sweep, changes, message):
    with pytest.raises(InputError, match=message):
        replace(sweep, **changes)
