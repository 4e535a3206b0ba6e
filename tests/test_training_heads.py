"""Link heads alone on an encoder as it is, and line of sight weighed so that delay alone tells nothing of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.training_cases import tiny_config, write_data, write_street

from lwm_fast import LWM, InputError
from lwm_fast.data import BucketSampler, ChannelStore
from lwm_fast.links import LOS, NUM_SCORES, LinkHeads, LinkState
from lwm_fast.training import TrainConfig, pretrain
from lwm_fast.training.folder import RunFolder
from lwm_fast.training.link_loss import LOS_LOSS, OTHER_LOSS, link_totals
from lwm_fast.training.los_balance import LosBalance

SEED = 7


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(RunFolder, "draw_curves", lambda self, **_: None)


def config_of(**sections: Any) -> TrainConfig:
    model = {"input_scale": "power", "positions": "grid", "dropout": 0.1}
    values = tiny_config(model=model).to_dict()
    values["auxiliary"]["weight"] = 0.5
    for name, changes in sections.items():
        values[name] |= changes
    return TrainConfig.from_dict(values)


def prior_links(count: int) -> LinkState:
    """Links in sight the more often the nearer: nine of ten at first, one of ten at last."""
    rng = np.random.default_rng(SEED)
    place = rng.random(count)
    los = (rng.random(count) < 0.9 - 0.8 * place).astype(np.float32)
    nothing = np.zeros(count, np.float32)
    return LinkState(los, nothing, (10 ** (place - 7)).astype(np.float32), nothing, nothing)


def test_weighed_links_are_in_sight_as_often_near_as_far():
    truth = prior_links(20_000)
    balance = LosBalance.of(truth)
    assert balance.edges.shape == (11,)
    assert balance.share[0] > 0.8
    assert balance.share[-1] < 0.2
    weights = balance.weights(truth)
    place = np.digitize(np.log10(truth.mean_delay_s), balance.edges)
    for i in range(12):
        own = place == i
        assert weights[own].mean() == pytest.approx(1, abs=1e-5), "no bin counts more than its links"
        assert weights[own & (truth.los == 1)].sum() == pytest.approx(0.5 * own.sum(), rel=1e-5)
    assert LosBalance.of(truth[:5]).weights(truth).shape == (20_000,)


def test_rare_classes_and_unknown_links_keep_finite_weights():
    truth = prior_links(600)
    truth.los[truth.mean_delay_s < 3e-7] = 1  # a near user is never out of sight
    balance = LosBalance.of(truth)
    other = replace(truth, los=1 - truth.los)
    assert balance.weights(other).max() == pytest.approx(25)
    unknown = replace(truth, los=np.full(600, np.nan, np.float32))
    assert np.array_equal(balance.weights(unknown), np.ones(600, np.float32))
    unknown = replace(truth, mean_delay_s=np.full(600, np.nan, np.float32))
    assert np.array_equal(balance.weights(unknown), np.ones(600, np.float32))
    with pytest.raises(InputError, match="no sample of the data knows its line of sight and delay"):
        LosBalance.of(unknown)
    same = LosBalance.of(replace(truth, mean_delay_s=np.full(600, 1e-7, np.float32)))
    assert np.isfinite(same.weights(truth)).all()


def test_the_balance_of_a_store_is_that_of_its_training_rays(tmp_path):
    store = ChannelStore(write_street(tmp_path / "street.h5"), version="1.1")
    sampler = BucketSampler(store, batch_size=8, split="train", validation=0.2)
    balance = LosBalance.of_store(store, sampler)
    assert np.count_nonzero((balance.share > 0) & (balance.share < 1)) <= 1, "here delay tells all"
    assert balance.share[0] == 1
    assert balance.share[-1] == 0
    assert len(np.intersect1d(sampler.members, np.arange(60))) == 48


def test_only_the_first_loss_is_weighed():
    truth = prior_links(50)
    truth.los[3] = np.nan
    balance = LosBalance.of(truth)
    scores = torch.randn(2, 50, NUM_SCORES, generator=torch.Generator().manual_seed(SEED)).requires_grad_()
    totals, plain = link_totals(scores, truth, balance), link_totals(scores, truth)
    weights = torch.from_numpy(balance.weights(truth))
    wanted = sum(
        weights[i] * F.binary_cross_entropy_with_logits(own[i, LOS], torch.tensor(float(truth.los[i]))) / 2
        for own in scores
        for i in range(50)
        if i != 3
    )
    assert totals[LOS_LOSS].item() == pytest.approx(wanted.item(), rel=1e-5)
    others = [i for i in range(len(totals)) if i != LOS_LOSS]
    torch.testing.assert_close(totals[others], plain[others], rtol=0, atol=0)
    assert totals[OTHER_LOSS].item() != totals[LOS_LOSS].item()
    (gradient,) = torch.autograd.grad(totals[LOS_LOSS], scores, retain_graph=True)
    (expected,) = torch.autograd.grad(wanted, scores)
    torch.testing.assert_close(gradient, expected.to(gradient.dtype), rtol=1e-4, atol=1e-6)


def trained(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    model = LWM.from_pretrained(folder / "model")
    assert model.link_heads is not None
    return model.state_dict(), model.link_heads.state_dict()


def test_heads_alone_learn_and_the_encoder_stays(tmp_path):
    data = write_street(tmp_path / "street.h5")
    pretrain(config_of(), data, tmp_path / "first")
    second = {
        "model": {"weights": str(tmp_path / "first/model")},
        "auxiliary": {"weight": 1.0, "heads_only": True, "balance_los": True},
        "optimizer": {"lr": 1e-2, "weight_decay": 0.1, "accumulate": 2},
        "schedule": {"epochs": 15},
    }
    pretrain(config_of(**second), data, tmp_path / "second")
    (encoder, heads), (same, learnt) = trained(tmp_path / "first"), trained(tmp_path / "second")
    assert encoder.keys() == same.keys()
    assert all(torch.equal(encoder[name], same[name]) for name in encoder)
    assert not any(torch.equal(heads[name], learnt[name]) for name in heads)
    saved = LinkHeads.from_pretrained(tmp_path / "second/model").state_dict()
    (folder,) = (tmp_path / "second/checkpoints").glob("step-*")
    last = LinkHeads.from_pretrained(folder).state_dict()
    assert all(torch.equal(saved[name], last[name]) for name in last), "the last heads are the best"

    pretrain(config_of(**second), data, tmp_path / "parts", max_steps=7)
    pretrain(config_of(**second), data, tmp_path / "parts", resume=True)
    again = trained(tmp_path / "parts")[1]
    assert all(torch.equal(learnt[name], again[name]) for name in learnt), "resumed bit for bit"


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"auxiliary.heads_only=true: there are no link heads; set auxiliary"
    ):
        config_of(auxiliary={"weight": 0.0, "heads_only": True})
    with pytest.raises(InputError, match=r"auxiliary.balance_los=true: there are no link heads"):
        config_of(auxiliary={"weight": 0.0, "balance_los": True})
    street = write_street(tmp_path / "street.h5")
    with pytest.raises(InputError, match=r"auxiliary.heads_only=true: model.weights must name the encoder"):
        pretrain(config_of(auxiliary={"heads_only": True}), street, tmp_path / "run")
    with pytest.raises(InputError, match="no sample of the data knows its line of sight"):
        pretrain(config_of(auxiliary={"balance_los": True}), write_data(tmp_path / "csi"), tmp_path / "other")
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "other").exists(), "the next try may have the name"


def test_heads_for_weights_of_the_release(tmp_path):
    """v1.0 has dropout, other patches and no heads to begin with."""
    config = tiny_config("1.0").to_dict()
    sizes = TrainConfig.from_dict(config).model.lwm_config()
    LWM.random(sizes, seed=SEED).save_pretrained(tmp_path / "released")
    config["model"]["weights"] = str(tmp_path / "released")
    config["auxiliary"] |= {"weight": 1.0, "heads_only": True, "balance_los": True}
    pretrain(TrainConfig.from_dict(config), write_street(tmp_path / "street.h5"), tmp_path / "run")
    before = LWM.from_pretrained(tmp_path / "released").state_dict()
    encoder, heads = trained(tmp_path / "run")
    assert all(torch.equal(before[name], encoder[name]) for name in before)
    begun = LinkHeads.random(sizes.embed_dim, seed=0).state_dict()
    assert not any(torch.equal(heads[name], begun[name]) for name in heads)


def test_the_second_recipe_is_the_first_but_for_its_heads():
    first, second = (TrainConfig.load(name) for name in ("lwm-fast-base", "lwm-fast-base-heads"))
    assert (first.data, first.model) == (second.data, second.model)
    assert second.auxiliary.heads_only
    assert second.auxiliary.balance_los
    assert second.masking.ratio is not None
    assert 1 <= int(second.masking.ratio * 16) <= 1, "17 tokens hide a patch"
