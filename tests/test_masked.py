"""Masked reconstruction: the model's own predictions, the baselines by hand, and what makes no sense."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.evaluation_cases import small_sweep, town

from lwm_fast import LWM, Channels, InputError, LWMConfig, tokenize
from lwm_fast.cli import main
from lwm_fast.data import draw_mask
from lwm_fast.evaluation.masked import MaskedScore, masked_scores, masked_table, write_scores
from lwm_fast.evaluation.pursuit import pursue
from lwm_fast.packed import PackedBatch
from lwm_fast.philox import Stream, uniform


def one(model: LWM, channels: Channels, method: str, **options: object) -> MaskedScore:
    (score,) = masked_scores(model, channels, seeds=(3,), methods=(method,), **options)  # type: ignore[arg-type]
    return score


@pytest.fixture(scope="module")
def model() -> LWM:
    return LWM.random(LWMConfig.v1_1(num_layers=1), seed=5)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_model_is_scored_on_what_it_predicts_of_hidden_patches(version):
    if version == "1.0":
        rng = np.random.default_rng(0)
        csi = rng.normal(size=(6, 32, 32)) + 1j * rng.normal(size=(6, 32, 32))
        channels, config = Channels.from_arrays(1e-5 * csi), LWMConfig.v1_0(num_layers=1)
    else:
        channels, config = town(6), LWMConfig.v1_1(num_layers=1)
    own = LWM.random(config, seed=5).eval()
    batch = PackedBatch.from_samples(channels.csi, version)
    plan = draw_mask(batch, seed=3, epoch=0)
    tokens = torch.from_numpy(tokenize(channels.csi, version))
    seq_len = tokens.shape[1]
    ratios = []
    for user in range(6):
        rows = plan.masked_index[plan.mask_cu[user] : plan.mask_cu[user + 1]] - user * seq_len
        hidden = tokens[user].clone()
        for row in rows:
            action = plan.action[user * seq_len + row]
            if action == 1:
                hidden[row] = 0.1
            elif action == 2:
                stream = uniform(3, user, 0, Stream.RANDOM_PATCHES, seq_len * tokens.shape[2])
                hidden[row] = torch.from_numpy(stream.reshape(seq_len, -1)[row])
        predicted = own(hidden[None], torch.from_numpy(rows.astype(np.int64))[None])[0][0].detach()
        target = tokens[user, rows]
        ratios.append(float((predicted - target).square().sum() / target.square().sum()))
    score = one(own, channels, "model")
    assert score.users == 6
    assert score.nmse == pytest.approx(np.mean(ratios), rel=1e-2)
    assert score.nmse_median == pytest.approx(np.median(ratios), rel=1e-2)
    assert score.nmse_db == pytest.approx(10 * np.log10(score.nmse))


def test_scores_do_not_depend_on_what_else_is_asked_for(model):
    channels = town(9)
    every = masked_scores(model, channels, seeds=(2, 3))
    assert [(s.method, s.seed) for s in every] == [
        ("model", 2), ("model", 3), ("neighbour", 2), ("neighbour", 3), ("pursuit", 2),
    ]  # fmt: skip
    assert every[1] == one(model, channels, "model")
    assert every[0] != every[1], "another seed, other masks"
    assert not model.training


def test_training_mode_is_left_as_it_was(model):
    model.train()
    try:
        score = one(model, town(4), "model")
        assert model.training
    finally:
        model.eval()
    assert score == one(model, town(4), "model"), "no dropout while scoring"


def test_the_neighbour_is_of_the_same_antennas_and_near(model):
    csi = np.zeros((5, 8, 16), np.complex64)  # 2 x 4 patches, each one of its own level
    csi += (np.arange(2).repeat(4)[:, None] * 100 + np.arange(4).repeat(4) + 1).astype(np.complex64) * 1e-6
    score = one(model, Channels.from_arrays(csi), "neighbour", mask_ratio=0.2)  # one patch of eight
    plan = draw_mask(PackedBatch.from_samples(csi, "1.1"), seed=3, epoch=0, mask_ratio=0.2)
    ratios = []
    for row in plan.masked_index % 9 - 1:
        level = row // 4 * 100 + row % 4 + 1
        nearest = level - 1 if row % 4 else level + 1  # of two at the same distance the first
        ratios.append((nearest / level - 1) ** 2)
    assert score.nmse == pytest.approx(np.mean(ratios), rel=1e-4)


def test_pursuit_finds_waves_on_and_off_its_grid():
    rng = np.random.default_rng(1)
    antennas, subcarriers = np.arange(16)[:, None], np.arange(32)
    waves = [(1.0, 0.25, 0.125), (0.3j, -0.31, 0.0437), (0.1, 0.0, 0.3)]
    csi = sum(g * np.exp(2j * np.pi * (u * antennas + v * subcarriers)) for g, u, v in waves).astype(
        np.complex64
    )
    visible = rng.random((16, 32)) < 0.6
    found = pursue(np.where(visible, csi, np.complex64(1e3)), visible)
    hidden = ~visible
    error = np.square(np.abs(found - csi))[hidden].sum() / np.square(np.abs(csi))[hidden].sum()
    assert error < 1e-2
    alone = pursue(
        csi * 0 + waves[0][0] * np.exp(2j * np.pi * (0.25 * antennas + 0.125 * subcarriers)), visible, 1
    )
    assert np.abs(np.abs(alone) - 1).max() < 1e-5, "a single wave on the grid is found exactly"


def test_pursuit_of_silence_is_silence():
    assert not pursue(np.zeros((4, 4), np.complex64), np.ones((4, 4), bool)).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("neighbor",)}, "'neighbor' is unknown; there are: model, neighbour"),
        ({"seeds": ()}, "60 users, 0 seeds"),
        ({"mask_ratio": 0.01}, r"mask_ratio=0\.01 masks 0 of 8"),
        ({"mask_ratio": 1.0}, r"mask_ratio=1 masks 8 of 8"),
        ({"mask_ratio": 1.5}, r"mask_ratio: got 1\.5"),
    ],
)
def test_what_makes_no_sense_is_refused(model, options, message):
    with pytest.raises(InputError, match=message):
        masked_scores(model, town(), **options)


def test_from_the_command_line(tmp_path, capsys):
    small_sweep(tmp_path)
    arguments = [
        "evaluate", "--task", "masked", "--data", str(tmp_path / "town.h5"), "--weights", str(tmp_path / "weights"),
        "--seeds", "0:2", "--set", "mask_ratio=0.5", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["model", "neighbour", "pursuit"]
    rows = (tmp_path / "out" / "masked.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 + 2 + 1
    assert main([*arguments, "--inputs", "cls"]) == 2
    assert "--inputs is not for --task masked" in capsys.readouterr().err
    assert main([*arguments, "--set", "ratio=0.5"]) == 2
    assert "the task masked has mask_ratio only" in capsys.readouterr().err


def test_tables_have_means_and_spreads(tmp_path):
    scores = [
        MaskedScore("model", seed, 7, 0.4, nmse, 0.0, nmse, nmse) for seed, nmse in ((0, 0.1), (1, 0.3))
    ]
    assert "| model | 0.2 ± 0.1 | -7.0 | 0.2 | 0.2 | 2 | 7 |" in masked_table(scores)
    write_scores(scores, tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_text().splitlines()[1].startswith("model,0,7,0.4,0.1,")
