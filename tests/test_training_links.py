"""Link heads in training: their loss, that they learn, and that runs with them resume bit for bit."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.training_cases import MODEL, tiny_config, write_data, write_street

from lwm_fast import LWM, InputError
from lwm_fast.links import LOG_DELAY, LOG_SPREAD, NUM_DIRECTIONS, NUM_SCORES, POWER_DB, LinkHeads, LinkState
from lwm_fast.training import TrainConfig, Trainer, micro_batches, pretrain
from lwm_fast.training.cost import CostMeter, energy
from lwm_fast.training.feed import Feed
from lwm_fast.training.folder import RunFolder
from lwm_fast.training.init import initial_model
from lwm_fast.training.link_loss import LinkScore, known_links, link_loss, link_totals
from lwm_fast.training.records import LINKS, read_table
from lwm_fast.training.sections import AuxiliarySection
from lwm_fast.training.trainer import make_accelerator

AUGMENTED = {"phase": True, "gain_db": [-2, 2], "reference_carrier": 3.5e9, "rotation": [-180, 180]}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(RunFolder, "draw_curves", lambda self, **_: None)


def config_of(**sections: Any) -> TrainConfig:
    model = {"input_scale": "power", "positions": "grid", "init": "shallow", "dropout": 0.0}
    values = tiny_config(model=model).to_dict()
    values["auxiliary"]["weight"] = 0.5
    for name, changes in sections.items():
        values[name] |= changes
    return TrainConfig.from_dict(values)


def some_truth(count: int, seed: int = 0) -> LinkState:
    rng = np.random.default_rng(seed)
    truth = LinkState(
        rng.integers(0, 2, count).astype(np.float32),
        rng.uniform(-130, -70, count).astype(np.float32),
        10 ** rng.uniform(-7, -6, count).astype(np.float32),
        10 ** rng.uniform(-10, -7, count).astype(np.float32),
        rng.uniform(-1, 1, count).astype(np.float32),
    )
    truth.los[::3] = np.nan
    for name in ("los", "power_db", "mean_delay_s", "delay_spread_s", "direction"):
        getattr(truth, name)[1] = np.nan
    return truth


def plain_loss(scores: torch.Tensor, truth: LinkState) -> torch.Tensor:
    """Mean over the samples that are known, sample by sample, of both read-outs."""
    los, rest = [], []
    for own in scores:
        for i in range(len(truth)):
            if np.isfinite(truth.los[i]):
                wanted = torch.tensor(float(truth.los[i]))
                los.append(F.binary_cross_entropy_with_logits(own[i, 0], wanted))
            if not np.isfinite(truth.power_db[i]):
                continue
            numbers = (
                (truth.power_db[i] - POWER_DB[0]) / POWER_DB[1],
                (np.log10(truth.mean_delay_s[i]) - LOG_DELAY[0]) / LOG_DELAY[1],
                (np.log10(max(truth.delay_spread_s[i], 1e-9)) - LOG_SPREAD[0]) / LOG_SPREAD[1],
            )
            place = (float(truth.direction[i]) + 1) * NUM_DIRECTIONS / 2
            share = torch.zeros(NUM_DIRECTIONS)
            share[int(place) % NUM_DIRECTIONS] = 1 - place % 1
            share[(int(place) + 1) % NUM_DIRECTIONS] = place % 1
            huber = sum(
                F.smooth_l1_loss(own[i, 1 + k], torch.tensor(float(n))) for k, n in enumerate(numbers)
            )
            rest.append(huber + F.cross_entropy(own[i, 4:][None], share[None]))
    return torch.stack(los).mean() + torch.stack(rest).mean()


def test_the_loss_is_that_of_a_loop_over_samples():
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(2, 11, NUM_SCORES, generator=generator).requires_grad_()
    truth = some_truth(11)
    totals = link_totals(scores, truth)
    wanted = plain_loss(scores, truth)
    assert link_loss(totals, totals).item() == pytest.approx(wanted.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(link_loss(totals, totals), scores)
    (expected,) = torch.autograd.grad(wanted, scores)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    assert not gradient[:, 1].any(), "a sample of unknown truth teaches nothing"


def test_a_perfect_reading_scores_perfectly():
    truth = some_truth(8)
    scores = torch.full((2, 8, NUM_SCORES), -40.0)
    scores[..., 0] = torch.from_numpy(np.where(truth.los > 0.5, 9, -9))
    spread = np.maximum(truth.delay_spread_s, 1e-9)
    scores[..., 1] = torch.from_numpy((truth.power_db - POWER_DB[0]) / POWER_DB[1])
    scores[..., 2] = torch.from_numpy((np.log10(truth.mean_delay_s) - LOG_DELAY[0]) / LOG_DELAY[1])
    scores[..., 3] = torch.from_numpy((np.log10(spread) - LOG_SPREAD[0]) / LOG_SPREAD[1])
    for i, direction in enumerate(np.nan_to_num(truth.direction)):
        scores[:, i, 4 + round((float(direction) + 1) * 32) % NUM_DIRECTIONS] = 0.0
    score = LinkScore.of(link_totals(scores, truth))
    assert (score.los_accuracy, score.direction_accuracy) == (1.0, 1.0)
    assert max(score.power_rmse_db, score.delay_rmse, score.spread_rmse) < 1e-4
    none = LinkScore.of(link_totals(scores[:, 1:2], truth[1:2]))
    assert np.isnan(none.los_accuracy)


@pytest.mark.parametrize("parts", [2, 5, 13])
def test_the_shares_add_up(parts):
    truth, edges = some_truth(11), np.linspace(0, 11, parts + 1).round().astype(int)
    scores = torch.randn(2, 11, NUM_SCORES, generator=torch.Generator().manual_seed(1)).requires_grad_()
    whole = link_totals(scores, truth)
    (expected,) = torch.autograd.grad(link_loss(whole, whole), scores)
    cut = [slice(a, b) for a, b in pairwise(edges)]
    known = torch.stack([known_links(truth[rows]) for rows in cut]).sum(0)
    shares = [link_loss(link_totals(scores[:, rows], truth[rows]), known) for rows in cut]
    assert sum(share.item() for share in shares) == pytest.approx(link_loss(whole, whole).item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(sum(shares), scores)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)


def test_accumulation_does_not_change_a_step_with_heads(tmp_path):
    data, found = write_street(tmp_path / "street.h5"), []
    for accumulate in (1, 3):
        config = config_of(data=AUGMENTED, optimizer={"accumulate": accumulate})
        feed = Feed(config, data, rank=0, world_size=1, on_gpu=False)
        model = initial_model(config.model, config.auxiliary)
        result = Trainer(config, model, make_accelerator("float32", True)).step(
            next(iter(feed.loader)), 0, 1e-3
        )
        feed.close()
        found.append((result, [*model.parameters(), *model.link_heads.parameters()]))
    (one, weights), (other, same) = found
    assert one.link_loss == pytest.approx(other.link_loss, rel=1e-6)
    assert asdict(one.links) == pytest.approx(asdict(other.links), rel=1e-6)
    for a, b in zip(weights, same, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-6)


def tensors_of(run: Path) -> list[torch.Tensor]:
    heads = LinkHeads.from_pretrained(run / "model")
    return [*LWM.from_pretrained(run / "model").state_dict().values(), *heads.state_dict().values()]


def test_a_run_with_heads_and_augmentation_resumes_bit_for_bit(tmp_path):
    data, config = write_street(tmp_path / "street.h5"), config_of(data=AUGMENTED)
    whole = pretrain(config, data, tmp_path / "whole")
    for stop in (1, 4):
        pretrain(config, data, tmp_path / "parts", resume=True, max_steps=stop)
    pretrain(config, data, tmp_path / "parts", resume=True)
    one, other = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "parts")
    assert len(one) == len(other)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert read_table(tmp_path / "whole/validation.csv") == read_table(tmp_path / "parts/validation.csv")
    summary = json.loads((tmp_path / "parts/summary.json").read_text())
    assert summary["step"] == summary["total_steps"] == whole.total_steps
    assert summary["cpu_seconds"] > 0
    assert summary["energy_wh"] > 0


def test_heads_learn_and_come_with_the_model(tmp_path):
    data = write_street(tmp_path / "street.h5")
    config = config_of(schedule={"epochs": 25}, optimizer={"lr": 1e-2}, auxiliary={"weight": 1.0})
    pretrain(config, data, tmp_path / "run")
    rows = read_table(tmp_path / "run/validation.csv")
    metrics = read_table(tmp_path / "run/metrics.csv")
    assert float(metrics[-1]["link_loss"]) < 0.8 * float(metrics[0]["link_loss"])
    assert float(rows[-1]["los_accuracy"]) > 0.9
    assert all(row[name] != "" for row in rows for name in LINKS)
    model = LWM.from_pretrained(tmp_path / "run/model")
    assert isinstance(model.link_heads, LinkHeads)
    assert not any("link" in name or "heads" in name for name in model.state_dict())


def test_masked_channel_modelling_alone_is_as_it_was(tmp_path):
    """No heads, empty columns, and weights that do not know of the auxiliary section."""
    data = write_data(tmp_path / "data")
    seeded = replace(tiny_config(), auxiliary=AuxiliarySection(weight=0.0, seed=3))
    pretrain(seeded, data, tmp_path / "one")
    pretrain(tiny_config(), data, tmp_path / "other")
    assert not (tmp_path / "one/model" / LinkHeads.NAME).exists()
    one, other = (LWM.from_pretrained(tmp_path / name / "model").state_dict() for name in ("one", "other"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(row[name] == "" for row in read_table(tmp_path / "one/metrics.csv") for name in LINKS)


def test_batches_without_truth_are_refused(tmp_path):
    config = config_of()
    feed = Feed(config, write_street(tmp_path / "s.h5"), rank=0, world_size=1, on_gpu=False)
    batch = next(iter(feed.loader))
    feed.close()
    trainer = Trainer(
        config, initial_model(config.model, config.auxiliary), make_accelerator("float32", True)
    )
    with pytest.raises(
        InputError, match=r"no truth about its links; make batches with MCMCollator\(\.\.\., truth"
    ):
        trainer.step(replace(batch, truth=None), 0, 1e-3)
    first, last = (part.truth.power_db for part in micro_batches(batch, 2))
    np.testing.assert_array_equal(np.concatenate([first, last]), batch.truth.power_db)


def test_grid_positions_start_as_waves():
    positions = initial_model(config_of().model).embedding.pos_embed
    for table in (positions.rows, positions.columns):
        near, far = (torch.cosine_similarity(table[3:9], table[3 + gap : 9 + gap]).mean() for gap in (1, 3))
        assert near > far, "neighbours start alike"
    assert MODEL["embed_dim"] == positions.cls.shape[0]


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("auxiliary", {"weight": -1}, "auxiliary.weight=-1.0: zero or more"),
        ("auxiliary", {"wait": 1}, "unknown key 'auxiliary.wait'; did you mean 'auxiliary.weight'"),
        ("data", {"size_weights": [1]}, r"data.size_weights=\(1,\): 2 positive numbers, one a size"),
        ("data", {"reference_carrier": 0.0}, "data.reference_carrier=0.0: a positive number"),
        ("model", {"positions": "grids"}, 'positions=.grids. must be "index" or "grid"'),
    ],
)
def test_bad_settings_are_refused(section, changes, message):
    with pytest.raises(InputError, match=message):
        config_of(**{section: changes})


def test_sizes_come_as_often_as_their_weights_say():
    data = TrainConfig.load("lwm-fast-base").data
    sizes = data.weighted_sizes()
    assert {size: sizes.count(size) for size in data.sizes} == dict(
        zip(data.sizes, data.size_weights, strict=True)
    )
    tokens = {size: (size[0] * size[1] // 16 + 1) * sizes.count(size) for size in data.sizes}
    by_length: dict[int, int] = {}
    for (n, sc), total in tokens.items():
        by_length[n * sc // 16 + 1] = by_length.get(n * sc // 16 + 1, 0) + total
    share = {length: total / sum(by_length.values()) for length, total in by_length.items()}
    assert 0.45 < tokens[32, 32] / sum(tokens.values()) < 0.5
    assert all(0.09 < share[length] < 0.13 for length in (129, 257, 513))
    assert min(share.values()) > 0.03
    plain = config_of().data
    assert plain.weighted_sizes() == plain.sizes


def test_cost_goes_on_and_counters_turn_over(tmp_path):
    counter = tmp_path / "intel-rapl:0"
    for folder in (counter, tmp_path / "intel-rapl:0:0"):
        folder.mkdir()
        (folder / "max_energy_range_uj").write_text("10000000\n")
        (folder / "energy_uj").write_text("9000000\n")
    meter = CostMeter(counters=tmp_path)
    (counter / "energy_uj").write_text("2000000\n")
    (tmp_path / "intel-rapl:0:0/energy_uj").write_text("9500000\n")
    cost = meter.read()
    assert cost["package_joules"] == pytest.approx(3.0), "the cores' own counter is part of the package's"
    assert energy(cost)["energy_wh"] == pytest.approx(3 / 3600)
    again = CostMeter({"cpu_seconds": 100.0, "package_joules": 3.0}, counters=tmp_path)
    (counter / "energy_uj").write_text("2500000\n")
    assert again.read()["package_joules"] == pytest.approx(3.5)
    assert again.read()["cpu_seconds"] >= 100
    nowhere = CostMeter(counters=tmp_path / "none").read()
    assert nowhere["package_joules"] is None
    assert "10 W" in energy(nowhere)["energy_from"]
