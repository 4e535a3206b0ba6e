"""`LWM` against the reference and the release: outputs, logits, gradients, arity, caches."""

from __future__ import annotations

import copy
import pickle
import warnings

import numerics
import pytest
import torch
from support.released import golden, output_of, plain, random_csi, relative_error, released

from lwm_fast import LWM, InputError, LWMConfig, tokenize
from lwm_fast.encoder import NormWeights
from lwm_fast.reference import norm as plain_norm

SMALL = {"embed_dim": 24, "num_layers": 3, "num_heads": 4, "head_dim": 6, "ffn_dim": 40, "max_len": 40}


def small(version: str, **changes) -> LWM:
    make = LWMConfig.v1_0 if version == "1.0" else LWMConfig.v1_1
    return LWM.random(make(**{**SMALL, **changes}), seed=3)


def random_tokens(model: LWM, batch: int, seq_len: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(batch, seq_len, model.config.patch_len, generator=generator)
    tokens[:, 0] = 0.2
    return tokens


def test_parameter_counts_and_tensors_are_the_release_s():
    assert sum(p.numel() for p in LWM(LWMConfig.v1_0()).parameters()) == 603_712
    assert sum(p.numel() for p in LWM(LWMConfig.v1_1()).parameters()) == 2_470_304
    assert len(LWM(LWMConfig.v1_0()).state_dict()) == 227
    assert len(LWM(LWMConfig.v1_1()).state_dict()) == 203


def test_v1_0_outputs_and_logits_on_the_real_weights(shared_data):
    z = golden(shared_data, "v10_city_18_denver")
    model = released(shared_data, "1.0")
    tokens = torch.from_numpy(z["tokens"])
    exact = output_of(plain(model), tokens.double())
    output = output_of(model, tokens)
    ceiling = numerics.ENCODER["1.0", "float32"]
    assert relative_error(output, exact) <= min(ceiling, 2 * relative_error(z["output"], exact))
    per_user = (output - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)
    assert per_user.max() < 4e-6  # measured 2.7e-6; the release itself reaches 2.6e-6
    for kind in ("fmask", "rmask"):
        positions = torch.from_numpy(z[f"{kind}_pos"])
        positions = positions.expand(64, -1) if positions.ndim == 1 else positions
        masked = torch.from_numpy(z[f"{kind}_tokens"])
        with torch.no_grad():
            logits, output = model(masked, positions)
            exact_logits, exact_output = plain(model)(masked.double(), positions)
        assert relative_error(logits, exact_logits) <= ceiling
        assert relative_error(output, exact_output) <= ceiling
        assert relative_error(logits, z[f"{kind}_logits"]) <= 2 * ceiling


@pytest.mark.parametrize("size", ["8x32", "32x32", "30x50"])
def test_v1_1_golden_outputs_and_logits(shared_data, size):
    z = golden(shared_data, f"v11_{size}")
    model = released(shared_data, "1.1")
    output = output_of(model, torch.from_numpy(z["tokens"]))
    assert relative_error(output[:1], z["output_pert_f64ref_user0"]) <= numerics.ENCODER["1.1", "float32"]
    assert relative_error(output, z["output_pert"]) <= 5e-6
    with torch.no_grad():
        logits, output, maps = model(torch.from_numpy(z["mask_tokens"]), torch.from_numpy(z["mask_pos"]))
    assert maps is None
    assert relative_error(logits, z["mask_logits_pert"]) <= 5e-6
    assert relative_error(output, z["mask_output_pert"]) <= 5e-6


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_forward_arity_is_the_release_s(version):
    model = small(version)
    tokens, positions = random_tokens(model, 2, 9), torch.tensor([[1, 3], [2, 8]])
    with torch.no_grad():
        without, with_mask = model(tokens), model(tokens, positions)
        mapped = model(tokens, positions, return_attention=True)
    if version == "1.0":
        assert without[0] is None
        assert len(without) == len(with_mask) == len(mapped) == 2
        assert with_mask[0].shape == (2, 2, 16)
        assert with_mask[1].shape == (2, 9, 24)
    else:
        assert [len(without), len(with_mask), len(mapped)] == [2, 3, 3]
        assert without[1] is None
        assert with_mask[2] is None
        assert with_mask[0].shape == (2, 2, 32)
        assert [m.shape for m in mapped[2]] == [(2, 4, 9, 9)] * 3


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(("batch", "seq_len"), [(1, 1), (1, 2), (3, 17), (2, 40), (0, 5)])
def test_forward_against_float64_at_odd_shapes(version, batch, seq_len):
    model = small(version)
    tokens = random_tokens(model, batch, seq_len)
    exact = output_of(plain(model), tokens.double())
    fast, same_dtype = output_of(model, tokens), output_of(plain(model, torch.float32), tokens)
    assert fast.shape == exact.shape
    if batch:
        assert relative_error(fast, exact) <= max(2 * relative_error(same_dtype, exact), 2e-7)


@pytest.mark.parametrize("seq_len", [17, 33, 65, 129, 257, 258, 513])
def test_every_bucket_of_v1_1(seq_len):
    model = LWM.random(LWMConfig.v1_1(num_layers=2), seed=1)
    tokens = 3 * random_tokens(model, 2, seq_len)
    exact = output_of(plain(model), tokens.double())
    error = relative_error(output_of(model, tokens), exact)
    assert error <= min(2 * relative_error(output_of(plain(model, torch.float32), tokens), exact), 2e-6)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_gradients_of_every_parameter(version):
    model = small(version)
    twin = plain(model)
    tokens = random_tokens(model, 3, 11)
    positions = torch.tensor([[1, 4, 10]] * 3)

    def backward(m, x):
        result = m(x, positions)
        ((result[0] ** 2).sum() + result[1].sin().sum()).backward()
        return {name: p.grad for name, p in m.named_parameters() if p.grad is not None}

    fast, exact = backward(model, tokens), backward(twin, tokens.double())
    assert fast.keys() == exact.keys()
    unused = {name for name, _ in model.named_parameters()} - fast.keys()
    assert all("enc_self_attn.norm" in name or "pos_ffn.norm" in name for name in unused)
    scale = max(
        float(g.norm()) for g in exact.values()
    )  # gradients that are zero in exact arithmetic stay noise
    for name, gradient in exact.items():
        assert float((fast[name] - gradient).norm()) <= numerics.GRADIENT * max(
            float(gradient.norm()), 0.01 * scale
        ), name


def test_dropout_only_in_training():
    model = small("1.0")
    tokens = random_tokens(model, 2, 9)
    assert torch.equal(output_of(model, tokens), output_of(model, tokens))
    model.train()
    assert not torch.equal(output_of(model, tokens), output_of(model, tokens))
    still = LWM.random(LWMConfig.v1_0(**SMALL, dropout=0.0), seed=3).train()
    assert relative_error(output_of(still, tokens), output_of(small("1.0"), tokens)) < 1e-6


def test_uniform_heads_collapse_exactly(shared_data):
    model = released(shared_data, "1.0")
    prepared = model.prepared()
    assert prepared.num_collapsed == 117
    assert [layer.num_live for layer in prepared.layers] == [0, 5, 3, 2, 0, 0, 1, 0, 0, 0, 12, 4]
    assert LWM.random(LWMConfig.v1_0()).prepared().num_collapsed == 0


def test_a_head_with_any_key_is_not_collapsed():
    model = small("1.0")
    with torch.no_grad():
        model.layers[0].enc_self_attn.W_K.weight.zero_()
        model.layers[1].enc_self_attn.W_K.weight[:6].zero_()
        model.layers[2].enc_self_attn.W_K.weight.zero_()
        model.layers[2].enc_self_attn.W_K.weight[7, 3] = 1e-3
    assert [layer.num_live for layer in model.prepared().layers] == [0, 3, 1]
    tokens = random_tokens(model, 3, 12)
    exact = output_of(plain(model), tokens.double())
    assert relative_error(output_of(model, tokens), exact) < 1e-6


def test_prepared_weights_follow_the_parameters():
    model = small("1.1")
    tokens = random_tokens(model, 1, 6)
    before = output_of(model, tokens)
    with torch.no_grad():
        model.layers[1].pos_ffn.fc1.weight.mul_(1.5)
    after = output_of(model, tokens)
    assert not torch.equal(before, after)
    assert relative_error(after, output_of(plain(model), tokens.double())) < 1e-6
    model.load_state_dict(small("1.1").state_dict())
    assert torch.equal(output_of(model, tokens), before)


def test_optimizer_steps_are_seen_by_inference():
    model = small("1.0").train()
    tokens = random_tokens(model, 2, 8)
    output_of(model.eval(), tokens)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()(tokens)[1].sum().backward()
    optimizer.step()
    assert relative_error(output_of(model.eval(), tokens), output_of(plain(model), tokens.double())) < 1e-6


def test_float64_and_half_models_run():
    model = small("1.1").double()
    tokens = random_tokens(model, 2, 7).double()
    assert relative_error(output_of(model, tokens), output_of(plain(model), tokens)) < 1e-12
    assert output_of(small("1.1").bfloat16(), tokens.bfloat16()).dtype == torch.bfloat16


def test_norm_is_exact_at_extremes():
    x = torch.tensor(
        [[1.0, 1.0, 1.0, 1.0], [1e-6, 0.0, 2e-6, 1e-6], [5e3, -5e3, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    )
    alpha, bias = torch.tensor([1.0, -2.0, 0.5, 3.0]), torch.tensor([0.1, 0.2, -0.3, 0.0])
    y = NormWeights(alpha * (3 / 4) ** 0.5, bias)(x)
    exact = plain_norm(x.double(), alpha.double(), bias.double())
    assert relative_error(y, exact) < numerics.NORM
    assert torch.equal(y[0], bias)


def test_copies_and_pickles():
    model = small("1.0")
    tokens = random_tokens(model, 1, 5)
    expected = output_of(model, tokens)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(output_of(twin, tokens), expected)
        assert twin.weights_info == model.weights_info


def test_resize_positions_keeps_cls_and_warns():
    model = LWM.random(LWMConfig.v1_1(**SMALL), seed=2)
    old = model.embedding.pos_embed.weight.detach().clone()
    with pytest.warns(UserWarning, match="interpolated from 40 to 78"):
        model.resize_positions(78)
    new = model.embedding.pos_embed.weight.detach()
    assert new.shape == (78, 24)
    assert torch.equal(new[0], old[0])
    torch.testing.assert_close(new[1::2], old[1:])
    assert model.config.max_len == 78
    assert output_of(model, random_tokens(model, 1, 78)).shape == (1, 78, 24)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.resize_positions(78)
    with pytest.raises(InputError, match="max_len=1"):
        model.resize_positions(1)


def test_random_weights_are_reproducible_and_leave_the_global_state_alone():
    state = torch.get_rng_state()
    first, second, other = LWM.random(seed=4), LWM.random(seed=4), LWM.random(seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.decoder.weight, other.decoder.weight)
    assert all(torch.isfinite(p).all() for p in first.parameters())
    assert first.weights_info is not None
    assert "random" in first.weights_info.source


@pytest.mark.parametrize(
    ("tokens", "match"),
    [
        (torch.zeros(2, 9), r"\(2, 9\)"),
        (torch.zeros(2, 9, 32), r"\[batch, seq_len, 16\]"),
        (torch.zeros(2, 9, 16, dtype=torch.complex64), "complex64"),
        (torch.zeros(2, 41, 16), r"41 tokens.*resize_positions"),
    ],
)
def test_wrong_tokens_are_named(tokens, match):
    with pytest.raises(InputError, match=match):
        small("1.0")(tokens)


def test_wrong_masked_positions_are_named():
    with pytest.raises(InputError, match="masked_pos"):
        small("1.0")(torch.zeros(2, 9, 16), torch.tensor([1, 2]))


def test_tokenize_feeds_forward():
    model = LWM.random()
    tokens = tokenize(random_csi(2, 32, 32))
    assert output_of(model, torch.from_numpy(tokens)).shape == (2, 129, 64)
