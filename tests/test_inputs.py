"""Inputs of heads: what they are made of, that nothing is computed twice, and that tests users are not looked at."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.evaluation_cases import town

from lwm_fast import LWM, Channels, InputError, LWMConfig, tokenize
from lwm_fast.evaluation import INPUTS, ArrayCache, autoencoder, get_input, make_inputs
from lwm_fast.evaluation import inputs as inputs_module
from lwm_fast.evaluation.physics import NUM_BEAMS, delay_moments, features
from lwm_fast.links import LinkHeads
from lwm_fast.tasks import Examples, LosTask

EVERYONE = np.arange(60)


@pytest.fixture(scope="module")
def examples() -> Examples:
    return LosTask().examples(town())


@pytest.fixture(scope="module")
def model() -> LWM:
    model = LWM.random(LWMConfig.v1_1(num_layers=1), seed=5)
    model.link_heads = LinkHeads.random(128, seed=5)
    return model


def scaled(examples: Examples, factor: float, rows: np.ndarray | slice = slice(None)) -> Examples:
    csi = examples.channels.csi.copy()
    csi[rows] *= factor
    return LosTask().examples(Channels.from_arrays(csi, los=examples.channels.los, pos=examples.channels.pos))


@pytest.mark.parametrize("name", list(INPUTS))
def test_every_input_is_finite_float32_and_the_same_each_time(name, examples, model, monkeypatch):
    monkeypatch.setattr(autoencoder, "STEPS", 40)
    before = torch.get_rng_state()
    train = np.arange(20)
    made = make_inputs(name, examples, model, seed=3, train=train)
    again = make_inputs(name, examples, model, seed=3, train=train)
    assert made.dtype == np.float32
    assert len(made) == len(examples)
    assert np.isfinite(made).all()
    np.testing.assert_array_equal(made, again)
    assert torch.equal(torch.get_rng_state(), before), "the global random state is left alone"


def test_raw_is_the_tokens_without_cls(examples, model):
    raw = make_inputs("raw", examples, model, train=EVERYONE)
    np.testing.assert_array_equal(raw, tokenize(examples.channels.csi, "1.1")[:, 1:])
    older = make_inputs("raw", examples, LWM.random(LWMConfig.v1_0(num_layers=1)), train=EVERYONE)
    np.testing.assert_array_equal(older, tokenize(examples.channels.csi, "1.0")[:, 1:])


@pytest.mark.parametrize("pool", ["cls", "mean", "mean_with_cls", "patches"])
def test_embeddings_are_those_of_encode(pool, examples, model):
    made = make_inputs(pool, examples, model, train=EVERYONE)
    expected = model.encode(examples.channels, pool)
    assert made.shape == expected.shape
    np.testing.assert_allclose(made, expected, atol=2e-6)


def test_bits_of_an_embedding_do_not_depend_on_what_was_asked_for_before(examples, model):
    alone = make_inputs("mean", examples, model, train=EVERYONE, cache=ArrayCache())
    shared = ArrayCache()
    make_inputs("patches", examples, model, train=EVERYONE, cache=shared)
    np.testing.assert_array_equal(make_inputs("mean", examples, model, train=EVERYONE, cache=shared), alone)


def test_random_inputs_come_from_other_weights_for_each_seed(examples, model):
    first, second = (make_inputs("random-cls", examples, model, seed=seed, train=EVERYONE) for seed in (0, 1))
    assert np.abs(first - second).max() > 1e-3
    expected = LWM.random(model.config, seed=1).encode(examples.channels, "cls")
    np.testing.assert_allclose(second, expected, atol=2e-6)


@pytest.mark.parametrize("name", ["raw-power", "cls-power"])
def test_power_normalised_inputs_say_nothing_about_power(name, examples, model):
    made = make_inputs(name, examples, model, train=EVERYONE)
    louder = make_inputs(name, scaled(examples, 7.0), model, train=EVERYONE)
    np.testing.assert_allclose(made, louder, rtol=1e-3, atol=1e-4)
    if name == "raw-power":  # rms of |csi| is 10 at token scale, so the parts' mean square is 100 / 2
        np.testing.assert_allclose(np.square(made).mean((1, 2)), 50.0, rtol=1e-4)


def test_power_and_excess_have_the_values_of_a_single_path():
    subcarriers, delay, gain = np.arange(16), 0.01, 3e-5  # periods a subcarrier; linear
    csi = gain * np.exp(-2j * np.pi * delay * subcarriers) * np.exp(1j * 0.4 * np.arange(8))[:, None]
    channels = Channels.from_arrays(csi[None])
    level = 20 * np.log10(gain * 1e6)
    assert features(channels, "physics-power") == pytest.approx(np.array([[level]]), abs=1e-4)
    assert features(channels, "physics-excess") == pytest.approx(np.array([[level - 40.0]]), abs=1e-4)
    mean, spread = delay_moments(channels.csi.astype(np.complex128))
    assert mean == pytest.approx([delay], rel=1e-6)
    assert spread[0] < 1e-4, "one path has no spread"


def test_free_space_loss_alone_leaves_the_excess_constant():
    delays = np.array([0.002, 0.01, 0.05])
    csi = (1e-7 / delays)[:, None, None] * np.exp(-2j * np.pi * delays[:, None, None] * np.arange(32))
    excess = features(Channels.from_arrays(csi * np.ones((1, 4, 1))), "physics-excess")
    np.testing.assert_allclose(excess, excess[0, 0], atol=1e-4)


def test_delay_spread_is_the_rms_of_the_delay_profile():
    early, late = 0.010, 0.018
    csi = np.exp(-2j * np.pi * early * np.arange(64)) + np.exp(-2j * np.pi * late * np.arange(64))
    mean, spread = delay_moments(csi[None, None])
    assert mean[0] == pytest.approx((early + late) / 2, rel=0.05)
    assert spread[0] == pytest.approx((late - early) / 2, rel=0.1)


def test_beams_peak_where_the_path_leaves():
    sine = (2 * 20 + 1) / NUM_BEAMS - 1  # the direction of beam 20
    csi = np.exp(-1j * np.pi * np.arange(32) * sine)[None, :, None] * np.ones((1, 1, 4))
    beams = features(Channels.from_arrays(csi * 1e-5), "physics-beams")
    assert beams.shape == (1, NUM_BEAMS)
    assert beams[0].argmax() == 20
    assert features(Channels.from_arrays(csi), "physics").shape == (1, 4 + NUM_BEAMS)


@pytest.mark.parametrize("shape", [(0, 8, 16), (1, 1, 16), (2, 4, 1), (1025, 2, 2)])
def test_physics_takes_every_size(shape):
    csi = np.random.default_rng(0).standard_normal((*shape, 2)).view(np.complex128)[..., 0]
    made = features(Channels.from_arrays(csi), "physics")
    assert made.shape == (shape[0], 36)
    assert np.isfinite(made).all()


def test_silence_is_finite():
    made = features(Channels.from_arrays(np.zeros((2, 8, 16), np.complex64)), "physics")
    assert np.isfinite(made).all()


@pytest.mark.parametrize("name", ["pca", "autoencoder"])
def test_fitted_inputs_never_see_users_who_are_not_trained_on(name, examples, model, monkeypatch):
    monkeypatch.setattr(autoencoder, "STEPS", 40)
    train = np.arange(30)
    before = make_inputs(name, examples, model, seed=1, train=train)
    after = make_inputs(name, scaled(examples, 5.0, slice(30, None)), model, seed=1, train=train)
    np.testing.assert_allclose(after[:30], before[:30], rtol=1e-4, atol=1e-4)
    assert np.abs(after[30:] - before[30:]).max() > 1e-2
    other = make_inputs(name, examples, model, seed=1, train=np.arange(15))
    assert other.shape != before.shape or np.abs(other - before).max() > 1e-2


def test_components_are_as_many_as_training_users_allow(examples, model, monkeypatch):
    monkeypatch.setattr(autoencoder, "STEPS", 4)
    assert make_inputs("pca", examples, model, train=np.arange(6)).shape == (60, 6)
    assert make_inputs("pca", examples, model, train=EVERYONE).shape == (60, 60)
    assert make_inputs("autoencoder", examples, model, train=np.arange(6)).shape == (60, 128)


def test_autoencoder_learns_to_describe_channels(examples, model):
    """A linear map from its latents explains held-out channels better than their mean does."""
    train, later = np.arange(40), np.arange(40, 60)
    raw = make_inputs("raw-power", examples, model, train=train).reshape(60, -1)
    latents = make_inputs("autoencoder", examples, model, train=train)
    design = np.column_stack([latents, np.ones(60)])
    fitted = np.linalg.lstsq(design[train], raw[train], rcond=1e-3)[0]
    error = np.square(design[later] @ fitted - raw[later]).sum()
    assert error < 0.7 * np.square(raw[later] - raw[train].mean(0)).sum()


def test_encoding_happens_once_and_is_kept_in_a_folder(tmp_path, monkeypatch, examples, model):
    passes = []
    embed = inputs_module._embed
    monkeypatch.setattr(inputs_module, "_embed", lambda *a, **k: passes.append(1) or embed(*a, **k))
    first = make_inputs("patches", examples, model, train=EVERYONE, cache=ArrayCache(tmp_path))
    for _ in range(2):  # a cache of its own each time, as in another process
        for pool in ("patches", "cls", "mean"):
            kept = make_inputs(pool, examples, model, train=EVERYONE, cache=ArrayCache(tmp_path))
            if pool == "patches":
                np.testing.assert_array_equal(kept, first)
    assert len(passes) == 1
    assert not list(tmp_path.glob(".*")), "no temporary file is left"


def test_another_model_scale_or_channel_is_another_entry(tmp_path, examples, model):
    cache = ArrayCache(tmp_path)
    first = make_inputs("cls", examples, model, train=EVERYONE, cache=cache)
    other = LWM.random(model.config, seed=6)
    assert np.abs(make_inputs("cls", examples, other, train=EVERYONE, cache=cache) - first).max() > 1e-3
    louder = scaled(examples, 1.5)
    assert np.abs(make_inputs("cls", louder, model, train=EVERYONE, cache=cache) - first).max() > 1e-3
    with torch.no_grad():
        changed = LWM.random(model.config, seed=5)
        changed.layers[0].norm1.bias.add_(0.5)  # the same origin, other weights
    assert np.abs(make_inputs("cls", examples, changed, train=EVERYONE, cache=cache) - first).max() > 1e-3


def test_kept_arrays_can_be_given_to_torch(tmp_path, recwarn, examples, model):
    make_inputs("raw", examples, model, train=EVERYONE, cache=ArrayCache(tmp_path))
    kept = make_inputs("raw", examples, model, train=EVERYONE, cache=ArrayCache(tmp_path))
    torch.from_numpy(kept[:3]).add_(1.0)
    assert not [w for w in recwarn if "writable" in str(w.message)]
    again = make_inputs("raw", examples, model, train=EVERYONE, cache=ArrayCache(tmp_path))
    assert np.abs(kept[:3] - again[:3]).min() > 0.5, "what is written in memory does not reach the file"


def test_unknown_names_and_missing_users_are_named(examples, model):
    with pytest.raises(InputError, match=r"input 'random-clss' is unknown; did you mean random-cls"):
        get_input("random-clss")
    with pytest.raises(InputError, match=r"input 'zzz' is unknown; known: raw, raw-power"):
        get_input("zzz")
    with pytest.raises(InputError, match=r"'pca': no training users"):
        make_inputs("pca", examples, model, train=np.array([], np.int64))


def test_sizes_that_the_model_does_not_take_are_refused():
    odd = LosTask().examples(
        Channels.from_arrays(np.ones((4, 3, 5), np.complex64), los=np.array([0, 1, 0, 1]))
    )
    model = LWM.random(LWMConfig.v1_0(num_layers=1))
    for name in ("raw", "cls"):
        with pytest.raises(InputError, match=r"3 ?x ?5"):
            make_inputs(name, odd, model, train=np.arange(4))
