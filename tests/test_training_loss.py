"""The loss of a step is that of its whole global batch, however it is cut into micro-batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.training_cases import MODEL, correlated_csi, tiny_config

from lwm_fast import LWM, LWMConfig
from lwm_fast.data import draw_mask
from lwm_fast.ops import mcm_loss, mcm_totals
from lwm_fast.packed import PackedBatch, Prepared
from lwm_fast.scaling import sample_power, scaled
from lwm_fast.training import Objective, Trainer, known_totals, micro_batches, share_of_loss
from lwm_fast.training.init import initial_model
from lwm_fast.training.sections import ModelSection
from lwm_fast.training.trainer import make_accelerator

LOSSES = [("1.0", "mse_var", False), ("1.1", "nmse", False), ("1.1", "nmse", True)]


def masked_batch(version: str, count: int, seed: int = 0) -> PackedBatch:
    size = (32, 32) if version == "1.0" else (8, 32)
    samples = correlated_csi(count, *size, seed)
    batch = PackedBatch.from_samples(samples, version, sample_id=np.arange(50, 50 + count))
    return replace(batch, mask=draw_mask(batch, seed=3, epoch=2))


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 9])
@pytest.mark.parametrize(("version", "kind", "compat"), LOSSES)
def test_the_shares_add_up_to_the_loss_and_its_gradient(version, kind, compat, parts):
    batch = masked_batch(version, 7)
    target = batch.masked_tokens()[1]
    generator = torch.Generator().manual_seed(1)
    predicted = (target + 0.3 * torch.randn(target.shape, generator=generator)).requires_grad_()
    whole = mcm_loss(predicted, target, torch.from_numpy(batch.mask.mask_cu), kind, compat=compat)
    (expected,) = torch.autograd.grad(whole, predicted)

    cut = micro_batches(batch, parts)
    known = torch.stack([known_totals(part, kind, "fixed") for part in cut]).sum(0)
    done, total = 0, 0.0
    for part in cut:
        rows = slice(done, done + len(part.mask.masked_index))
        done = rows.stop
        totals = mcm_totals(predicted[rows], target[rows], torch.from_numpy(part.mask.mask_cu), compat=compat)
        share = share_of_loss(totals, known, kind, compat)
        share.backward()
        total += share.item()
    assert len(cut) == parts
    assert done == len(target)
    assert total == pytest.approx(whole.item(), rel=1e-6)  # the kernel sums a sample's squares in float32
    torch.testing.assert_close(predicted.grad, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("made_before", [False, True])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_micro_batches_hold_the_tokens_of_the_batch(version, made_before):
    batch = masked_batch(version, 5)
    tokens, targets = batch.masked_tokens()
    if made_before:
        batch = replace(batch, prepared=Prepared(tokens, targets, batch.scale, batch.cls, batch.mask))
    parts = micro_batches(batch, 3)
    made = [part.masked_tokens() for part in parts]
    torch.testing.assert_close(torch.cat([t for t, _ in made]), tokens, rtol=0, atol=0)
    torch.testing.assert_close(torch.cat([t for _, t in made]), targets, rtol=0, atol=0)
    assert [int(i) for part in parts for i in part.sample_id] == list(range(50, 55))
    if made_before:
        assert made[1][0].untyped_storage().data_ptr() == tokens.untyped_storage().data_ptr(), (
            "not made again"
        )


@pytest.mark.parametrize(("version", "kind", "compat"), LOSSES)
def test_accumulation_does_not_change_a_step(version, kind, compat):
    batch = masked_batch(version, 7)
    found = {}
    for accumulate in (1, 3, 9):
        config = tiny_config(
            version,
            optimizer={"accumulate": accumulate, "eps": 1e-3},
            masking={"loss": kind, "compat": compat},
        )
        model = initial_model(config.model)
        trainer = Trainer(config, model, make_accelerator("float32", cpu=True))
        results = [trainer.step(batch, epoch=2, lr=1e-3) for _ in range(3)]
        weights = torch.cat([p.detach().flatten() for p in model.parameters()])
        found[accumulate] = ([r.loss for r in results], [r.grad_norm for r in results], weights)
        assert all(r.finite and r.samples == 7 for r in results)
    for accumulate in (3, 9):
        for one, several in zip(found[1][:2], found[accumulate][:2], strict=True):
            np.testing.assert_allclose(several, one, rtol=1e-6)
        assert torch.linalg.norm(found[accumulate][2] - found[1][2]) <= 1e-6 * torch.linalg.norm(found[1][2])
    assert found[1][0][2] < found[1][0][0], "three steps on one batch lower its loss"


def test_clipping_bounds_the_step_and_reports_the_norm_before_it():
    batch, norms, moved = masked_batch("1.1", 4), [], []
    for clip in (None, 1e-3):
        config = tiny_config(optimizer={"clip_norm": clip, "eps": 1.0, "weight_decay": 0.0})
        model = initial_model(config.model)
        before = [p.detach().clone() for p in model.parameters()]
        norms.append(
            Trainer(config, model, make_accelerator("float32", cpu=True)).step(batch, 0, 1.0).grad_norm
        )
        moved.append(
            sum(
                float((p.detach() - b).square().sum())
                for p, b in zip(model.parameters(), before, strict=True)
            )
        )
    assert norms[0] == norms[1] > 1e-2
    assert moved[1] < moved[0] / 10


def test_parameters_that_take_no_part_get_no_gradient():
    objective = Objective(LWM.random(LWMConfig.v1_0(**MODEL)))
    frozen = [name for name, p in objective.model.named_parameters() if not p.requires_grad]
    assert frozen == [
        f"layers.0.{part}.norm.{name}" for part in ("enc_self_attn", "pos_ffn") for name in ("alpha", "bias")
    ]
    predicted, _, _ = objective(masked_batch("1.0", 2))
    predicted.sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in objective.model.parameters())


def test_a_rank_without_samples_has_gradients_of_zero():
    objective = Objective(LWM.random(LWMConfig.v1_1(**MODEL)))
    predicted, target, _ = objective(micro_batches(masked_batch("1.1", 1), 2)[0])
    assert predicted.shape == target.shape == (0, 32)
    predicted.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in objective.model.parameters())


def test_unit_power_keeps_the_level_in_the_cls_token():
    batch, empty, others = masked_batch("1.1", 6), 2, [0, 1, 3, 4, 5]
    batch.csi[batch.offsets[empty] : batch.offsets[empty + 1]] = 0
    made = scaled(batch, "power")
    tokens = made.tokens().numpy()
    np.testing.assert_allclose(np.square(tokens[others, 1:]).mean((1, 2)), 1, rtol=1e-5)
    assert not tokens[empty, 1:].any()
    level = 10 * np.log10(sample_power(batch)[others] * 0.5e12) / 10
    np.testing.assert_allclose(tokens[others, 0, 0], level, rtol=1e-5)
    assert tokens[empty, 0, 0] == -6
    assert scaled(batch, "fixed") is batch
    assert scaled(made, "power") is made, "the loader has scaled it"
    larger = replace(batch, csi=batch.csi * np.float32(1e6), scale=np.ones(6, np.float32))
    np.testing.assert_allclose(scaled(larger, "power").tokens().numpy(), tokens, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_shallow_starts_are_reproducible_and_differ_from_default(version):
    section = ModelSection(lwm_version=version, init="shallow", seed=4, **MODEL)
    one, again, default = (
        initial_model(section),
        initial_model(section),
        initial_model(replace(section, init="default")),
    )
    attention = one.layers[0].enc_self_attn
    table = one.embedding.pos_embed.weight
    near, far = (torch.cosine_similarity(table[20], table[20 + gap], dim=0) for gap in (1, 3))
    assert near > far, "neighbours start alike"
    torch.testing.assert_close(attention.W_Q.weight, attention.W_K.weight, rtol=0, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert attention.W_V.weight.norm() < 0.6 * default.layers[0].enc_self_attn.W_V.weight.norm()
