"""Link heads: what scores mean, files, and reading channels with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.released import random_csi

from lwm_fast import LWM, InputError, LWMConfig, links
from lwm_fast.data import Channels
from lwm_fast.links import NUM_DIRECTIONS, NUM_SCORES, LinkHeads, link_state, link_state_of

SMALL = {"num_layers": 1, "embed_dim": 16, "num_heads": 1, "head_dim": 16, "ffn_dim": 32}


def model_with_heads() -> LWM:
    model = LWM.random(LWMConfig.base(**SMALL), seed=1)
    model.link_heads = LinkHeads.random(16, seed=2)
    with torch.no_grad():
        for parameter in model.link_heads.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    return model


def test_scores_are_read_in_their_units():
    scores = torch.zeros(3, NUM_SCORES)
    scores[0, :4] = torch.tensor([40.0, 1.0, -1.0, 2.0])
    scores[1, 0] = -2.0
    state = link_state_of(scores)
    np.testing.assert_allclose(state.los, [1, 1 / (1 + np.exp(2)), 0.5], rtol=1e-6)
    np.testing.assert_allclose(state.power_db, [-80, -95, -95], rtol=1e-6)
    np.testing.assert_allclose(np.log10(state.mean_delay_s), [-7, -6.5, -6.5], rtol=1e-6)
    np.testing.assert_allclose(np.log10(state.delay_spread_s), [-6.6, -8, -8], rtol=1e-6)


@pytest.mark.parametrize("place", [0.0, 0.3, 12.5, 63.0, 63.7])
def test_directions_lie_on_a_circle_and_between_their_neighbours(place):
    scores = torch.full((1, NUM_SCORES), -30.0)
    low, share = int(place), place % 1
    scores[0, 4 + low] = float(np.log(1 - share))
    if share:
        scores[0, 4 + (low + 1) % NUM_DIRECTIONS] = float(np.log(share))
    wanted = (place * 2 / NUM_DIRECTIONS) % 2 - 1
    found = float(link_state_of(scores).direction[0])
    assert -1 <= found < 1
    assert abs((found - wanted + 1) % 2 - 1) < 1e-5


def test_both_read_outs_count_half():
    heads = LinkHeads.random(6, seed=0)
    cls, mean = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    state = heads.predict(cls.numpy(), mean)
    by_hand = link_state_of((heads.cls(cls) + heads.mean(mean)).detach() / 2)
    np.testing.assert_allclose(state.power_db, by_hand.power_db, rtol=1e-6)
    np.testing.assert_allclose(state.direction, by_hand.direction, rtol=1e-5)
    assert heads(cls, mean).shape == (2, 5, NUM_SCORES)
    assert len(heads.predict(cls[:0], mean[:0])) == 0


def test_heads_survive_a_folder_bit_for_bit(tmp_path):
    heads = LinkHeads.random(12, seed=7)
    assert heads.save_pretrained(tmp_path).name == LinkHeads.NAME
    again = LinkHeads.from_pretrained(tmp_path)
    assert again.embed_dim == 12
    assert all(torch.equal(a, b) for a, b in zip(heads.parameters(), again.parameters(), strict=True))
    same, other = LinkHeads.random(12, seed=7), LinkHeads.random(12, seed=8)
    assert torch.equal(same.cls.weight, heads.cls.weight)
    assert not torch.equal(other.cls.weight, heads.cls.weight)


def test_what_is_no_heads_is_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / LinkHeads.NAME
    with pytest.raises(
        InputError, match=r"holds no link_heads.safetensors; take weights .* auxiliary.weight"
    ):
        LinkHeads.from_pretrained(tmp_path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        LinkHeads.from_pretrained(tmp_path)
    save_file({"cls.weight": torch.zeros(NUM_SCORES, 8)}, path)
    with pytest.raises(InputError, match=r"holds \{'cls.weight'.* and link heads have"):
        LinkHeads.from_pretrained(tmp_path)
    heads = LinkHeads.random(8, seed=0)
    heads.mean.bias.data[3] = torch.nan
    heads.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"NaN or Inf in mean\.bias"):
        LinkHeads.from_pretrained(tmp_path)


def test_heads_of_another_width_are_refused():
    heads = LinkHeads.random(8, seed=0)
    with pytest.raises(InputError, match=r"cls has shape \[2, 9\]; both must be \[batch, 8\]"):
        heads.predict(torch.zeros(2, 9), torch.zeros(2, 9))
    with pytest.raises(InputError, match=r"mean has shape \[3, 8\]"):
        heads.predict(torch.zeros(2, 8), torch.zeros(3, 8))


def test_channels_are_read_in_one_pass(monkeypatch):
    monkeypatch.setattr(links, "_CHANNELS_AT_ONCE", 3)
    model, csi = model_with_heads(), random_csi(7, 8, 16, seed=1)
    passes = []
    encode = LWM.encode
    monkeypatch.setattr(
        LWM, "encode", lambda self, *a, **o: passes.append(len(a[0])) or encode(self, *a, **o)
    )
    state = link_state(model, csi)
    assert passes == [3, 3, 1]
    wanted = model.link_heads.predict(encode(model, csi, "cls"), encode(model, csi, "mean"))
    for name in ("los", "power_db", "mean_delay_s", "delay_spread_s", "direction"):
        np.testing.assert_allclose(getattr(state, name), getattr(wanted, name), rtol=1e-4)
        assert getattr(state, name).dtype == np.float32
    again = link_state(model, Channels.from_arrays(csi), batch_size=2)
    np.testing.assert_allclose(again.power_db, state.power_db, rtol=1e-5)
    mixed = link_state(model, [csi[0], random_csi(1, 5, 9, seed=2)[0]])
    np.testing.assert_allclose(mixed.power_db[0], state.power_db[0], rtol=1e-5)


def test_a_folder_and_a_file_of_channels_are_read(tmp_path):
    model, csi = model_with_heads(), random_csi(4, 8, 16, seed=1)
    model.save_pretrained(tmp_path / "weights")
    np.save(tmp_path / "csi.npy", csi)
    state = link_state(tmp_path / "weights", tmp_path / "csi.npy", show_progress_bar=False)
    np.testing.assert_allclose(state.los, link_state(model, csi).los, rtol=1e-5)


def test_models_without_heads_and_fixed_options_are_refused():
    model = LWM.random(LWMConfig.base(**SMALL), seed=1)
    with pytest.raises(InputError, match=r"random weights, seed 1 has no link heads"):
        link_state(model, random_csi(2, 8, 16, seed=1))
    with pytest.raises(InputError, match=r"link_state: pool= is fixed here"):
        link_state(model_with_heads(), random_csi(2, 8, 16, seed=1), pool="cls")
