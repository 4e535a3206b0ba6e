"""The reference against the release itself: golden vectors made by the released code."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from support.released import golden, output_of, plain, random_csi, relative_error, released

from lwm_fast import reference


def test_imports_nothing_from_the_rest_and_stays_short():
    text = Path(reference.__file__).read_text(encoding="utf-8")
    imported = {
        name.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in node.names
    }
    assert not [name for name in imported if name and name.startswith("lwm_fast")]
    assert text.count("\n") < 350


def test_fixture_of_the_released_v1_0_weights(shared_data):
    model = plain(released(shared_data, "1.0"))
    t, e = torch.arange(129)[:, None].double(), torch.arange(16)[None].double()
    tokens = (3 * torch.sin(0.37 * t + 0.11 * e)).float().double()[None]
    tokens[:, 0] = 0.2
    with torch.no_grad():
        logits, output = model(tokens, torch.tensor([[1, 5, 64, 65, 128]]))
    expected_cls = torch.tensor([-0.012123, -0.053987, 0.001571, -0.013702], dtype=torch.float64)
    expected_logits = torch.tensor([0.823357, 1.078358, 1.336517, 1.593292], dtype=torch.float64)
    torch.testing.assert_close(output[0, 0, :4], expected_cls, atol=6e-7, rtol=0)
    torch.testing.assert_close(logits[0, 0, :4], expected_logits, atol=6e-7, rtol=0)
    assert abs(output.norm().item() - 9.883973) < 6e-7


def test_v1_0_matches_the_release_in_float64(shared_data):
    z = golden(shared_data, "v10_city_18_denver")
    model = plain(released(shared_data, "1.0"))
    assert list(model.state_dict()) == list(z["state_keys"])
    tokens = torch.from_numpy(z["tokens"]).double()
    assert relative_error(output_of(model, tokens[:16]), z["output_f64ref_first16"]) < 1e-14
    masked = torch.from_numpy(z["fmask_tokens"]).double()
    positions = torch.from_numpy(z["fmask_pos"])[None].expand(len(masked), -1)
    with torch.no_grad():
        logits, _ = model(masked, positions)
    assert relative_error(logits, z["fmask_logits_f64ref"]) < 1e-14


@pytest.mark.parametrize("size", ["8x32", "32x32", "30x50"])
def test_v1_1_matches_the_release_in_float64(shared_data, size):
    z = golden(shared_data, f"v11_{size}")
    model = plain(released(shared_data, "1.1"))
    assert list(model.state_dict()) == list(z["state_keys"])
    output = output_of(model, torch.from_numpy(z["tokens"]).double())
    assert relative_error(output[:1], z["output_pert_f64ref_user0"]) < 1e-14
    assert relative_error(output, z["output_pert"]) < 1e-6  # the release's own float32


def test_v1_1_attention_maps_match_the_release(shared_data):
    z = golden(shared_data, "v11_8x32")
    model = plain(released(shared_data, "1.1"))
    with torch.no_grad():
        _, maps = model(torch.from_numpy(z["tokens"][:2]).double(), return_attention=True)
    assert len(maps) == 12
    assert relative_error(maps[-1], z["attn_last_pert"]) < 1e-6


@pytest.mark.parametrize("name", ["v10_city_18_denver", "v11_8x32", "v11_32x32", "v11_30x50"])
def test_tokens_are_the_release_s_bit_for_bit(shared_data, name):
    z = golden(shared_data, name)
    version = "1.0" if name.startswith("v10") else "1.1"
    csi = torch.from_numpy(z["raw"])
    tokens = reference.tokenize(csi, version)
    assert torch.equal(tokens, torch.from_numpy(z["tokens"]))
    back = reference.detokenize(tokens, *z["raw"].shape[1:], version)
    torch.testing.assert_close(back, csi, rtol=1e-6, atol=0)


def test_noise_is_the_release_s_complex_noise(shared_data):
    z = golden(shared_data, "v10_city_18_denver")
    draws = np.random.RandomState(3)
    normals = np.concatenate([draws.randn(64, 1024), draws.randn(64, 1024)], axis=1).reshape(64, 128, 16)
    tokens = torch.from_numpy(z["tokens"]).double()
    noisy = reference.add_noise(tokens, 5.0, torch.from_numpy(normals))
    assert torch.equal(noisy[:, 0], tokens[:, 0])
    assert relative_error(noisy[:, 1:], z["noisy5dB_patches_seed3"]) < 2e-7


@pytest.mark.parametrize(
    ("version", "num_patches", "num_masked"), [("1.0", 128, 18), ("1.1", 64, 25), ("1.1", 16, 6)]
)
def test_mask_draws(version, num_patches, num_masked):
    rng = np.random.default_rng(5)
    tokens = reference.tokenize(torch.from_numpy(random_csi(1, 32, 32)), version)[0, : 1 + num_patches]
    seen = np.zeros(num_patches + 1, dtype=bool)
    actions = []
    for _ in range(400):
        mask = reference.draw_mask(num_patches, version, rng)
        assert len(mask.positions) == num_masked == len(set(mask.positions.tolist()))
        assert mask.positions.min() >= 1
        assert mask.positions.max() <= num_patches
        if version == "1.0":
            assert np.array_equal(mask.positions[9:], mask.positions[:9] + 64)
        seen[mask.positions] = True
        actions.append(mask.actions)
        masked, targets = reference.apply_mask(tokens, mask)
        assert torch.equal(targets, tokens[mask.positions])
        changed = (masked != tokens).any(1).nonzero().flatten().tolist()
        assert set(changed) <= set(mask.positions.tolist())
        assert torch.all(masked[mask.positions[mask.actions == 1]] == np.float32(0.1))
        kept = mask.positions[mask.actions == 3]
        assert torch.equal(masked[kept], tokens[kept])
    assert seen[1:].all(), "every patch can be masked, the last one too"
    share = np.bincount(np.concatenate(actions), minlength=4)[1:] / (400 * num_masked)
    np.testing.assert_allclose(share, [0.8, 0.1, 0.1], atol=0.02)


def test_constant_rows_stay_finite():
    y = reference.norm(torch.full((2, 8), 3.0), torch.ones(8), torch.full((8,), 0.5))
    assert torch.equal(y, torch.full((2, 8), 0.5))
