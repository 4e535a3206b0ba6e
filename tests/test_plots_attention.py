"""Attention maps: the weights are the reference's, and each panel shows its own layer and head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.released import random_csi

from lwm_fast import LWM, InputError, LWMConfig, plots, reference, tokenize


def small(version: str, **changes: object) -> LWM:
    config = LWMConfig.v1_0 if version == "1.0" else LWMConfig.v1_1
    return LWM.random(config(num_layers=3, **changes), seed=2)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_weights_are_the_references_averaged_over_users(version):
    model, csi = small(version), random_csi(11, 32, 32)
    plain = reference.LWM(version, model.sizes).double().eval()
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        x = plain.embedding(torch.from_numpy(tokenize(csi, version)).double())
        maps = []
        for layer in plain.layers:
            x, weights = layer(x)
            maps.append(weights.mean(0).numpy())
    found = plots.attention_weights(model.train(), csi, [0, 2])
    assert model.training, "the model is left as it was"
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [maps[0], maps[2]], atol=2e-6)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5)


def test_power_scaled_models_see_scaled_tokens():
    model, csi = small("1.1", input_scale="power"), random_csi(2, 16, 16)
    np.testing.assert_allclose(
        plots.attention_weights(model, csi)[0], plots.attention_weights(model, csi * 3)[0], atol=0.05
    )
    fixed = small("1.1")
    assert np.abs(plots.attention_weights(fixed, csi) - plots.attention_weights(model, csi)).max() > 1e-4


def test_maps_by_layer_and_head():
    rng = np.random.default_rng(0)
    weights = rng.random((2, 4, 9, 9)).astype(np.float32)
    weights[1, 3] = 1
    weights /= weights.sum(-1, keepdims=True)
    np.testing.assert_array_equal(plots.uniform_heads(weights), [[False] * 4, [False, False, False, True]])
    figure = plots.attention_maps(weights, [0, 10], heads=[1, 3], strongest=4, title="one user")
    axes, bar = figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["head 1", "head 3"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["layer 0", "layer 10"]
    mosaic = axes.images[0].get_array().filled(np.nan)
    left, top = (int(ticks[1] - ticks[0]) for ticks in (axes.get_xticks(), axes.get_yticks()))
    for row, of_layer in enumerate(weights):
        for column, head in enumerate((1, 3)):
            part = mosaic[row * top : row * top + 9, column * left : column * left + 9]
            np.testing.assert_allclose(part, of_layer[head] * 9, rtol=1e-6)
    assert np.isnan(mosaic[:, 9]).all(), "maps stand apart"
    assert axes.images[0].get_clim() == (0.25, 4)
    (label,) = axes.texts
    assert (label.get_text(), *label.get_position()) == ("uniform", left + 4.5, top + 4.5)
    assert bar.get_ylabel() == "attention / uniform attention"
    assert axes.get_title() == "one user"


def test_patches_lie_where_the_tokeniser_cuts_them():
    csi = np.zeros((1, 8, 32), np.complex64)
    csi[0, 5, 17] = 1e-6 + 2e-6j
    for version in ("1.0", "1.1"):
        tokens = tokenize(csi, version)[0, 1:]
        grid = plots.patch_grid((tokens != 0).any(1).astype(float), 8, 32, version)
        real = grid[0]
        assert real[5, 17] == 1
        inside = np.zeros((8, 32), bool)
        if version == "1.0":
            inside[5, 16:32] = True
            np.testing.assert_array_equal(grid[1], grid[0])
        else:
            inside[4:8, 16:20] = True
        np.testing.assert_array_equal(real == 1, inside)
    assert plots.patch_grid(np.zeros(2 * 3), 5, 10, "1.1").shape == (1, 5, 10), "padding is cut off"
    with pytest.raises(InputError, match="into 128 patches"):
        plots.patch_grid(np.zeros(127), 32, 32, "1.0")


@pytest.mark.parametrize(("version", "seq_len", "parts"), [("1.0", 129, 2), ("1.1", 65, 1)])
def test_cls_over_the_channel(version, seq_len, parts):
    rng = np.random.default_rng(1)
    weights = rng.random((2, 3, seq_len, seq_len)).astype(np.float32)
    size = {"num_antennas": 32, "num_subcarriers": 32, "version": version}
    figure = plots.cls_attention(weights, [1, 2], head=2, **size)
    panels = [axes for axes in figure.axes if axes.get_xlabel() == "subcarrier"]
    assert len(panels) == 2 * parts
    assert [axes.get_title().split(",")[0] for axes in panels] == ["layer 1"] * parts + ["layer 2"] * parts
    shown = np.concatenate([axes.images[0].get_array()[None] for axes in panels[parts:]])
    expected = plots.patch_grid(weights[1, 2, 0, 1:].astype(float) * seq_len, 32, 32, version)
    np.testing.assert_allclose(shown, expected)
    mean = plots.cls_attention(weights, [1, 2], **size).axes[0].images[0].get_array()
    np.testing.assert_allclose(
        mean, plots.patch_grid(weights[0, :, 0, 1:].mean(0) * seq_len, 32, 32, version)[0], rtol=1e-5
    )


def test_what_is_not_there():
    model, csi = small("1.0"), random_csi(2, 32, 32)
    with pytest.raises(InputError, match="csi has no user"):
        plots.attention_weights(model, csi[:0])
    with pytest.raises(InputError, match=r"layers=\[3\]: give one or more numbers from 0 to 2"):
        plots.attention_weights(model, csi, [3])
    weights = np.ones((1, 2, 5, 5), np.float32)
    with pytest.raises(InputError, match="for 2 layers"):
        plots.attention_maps(weights, [0, 1])
    with pytest.raises(InputError, match=r"heads=\[2\]"):
        plots.attention_maps(weights, [0], heads=[2])
    with pytest.raises(InputError, match=r"head=\[-1\]"):
        plots.cls_attention(weights, [0], head=-1, num_antennas=4, num_subcarriers=16, version="1.0")
    with pytest.raises(InputError, match=r"values are \(4,\)"):
        plots.cls_attention(weights, [0], num_antennas=4, num_subcarriers=4, version="1.1")
