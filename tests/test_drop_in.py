"""The drop-in in a released-style loop: three changed lines, the same losses."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from support.released import random_csi
from support.released_class import lwm

import lwm_fast

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "drop_in.py"
MODEL = """
from support import released_class

class lwm(released_class.lwm):
    def __init__(self, dropout):
        super().__init__("1.0", n_layers=2, dropout=dropout)
"""
PREPROCESS = """
import numpy as np

def tokenizer(csi):
    tokens = []
    for channel in csi:
        flat = (channel * np.float32(1e6)).reshape(-1)
        patches = np.concatenate([flat.real, flat.imag]).reshape(-1, 16)
        tokens.append(np.concatenate([np.full((1, 16), 0.2, np.float32), patches]))
    return tokens
"""


def changed_lines() -> list[tuple[str, str]]:
    """(before, after) of each line that docs/drop_in.md changes."""
    block = re.search(r"```diff\n(.*?)```", (ROOT / "docs" / "drop_in.md").read_text(encoding="utf-8"), re.S)
    assert block is not None
    lines = block[1].splitlines()
    before = [line[1:] for line in lines if line.startswith("-")]
    after = [line[1:] for line in lines if line.startswith("+")]
    return list(zip(before, after, strict=True))


def test_the_diff_of_the_guide_is_three_lines_of_the_example():
    text = EXAMPLE.read_text(encoding="utf-8")
    assert len(changed_lines()) == 3
    assert all(text.count(f"\n{after}\n") == 1 for _, after in changed_lines())
    assert text.count("lwm_fast.") == 2, "nothing else of the loop uses the package"


@pytest.mark.filterwarnings("ignore:Creating a tensor from a list of numpy.ndarrays")
def test_the_example_gives_the_released_losses(tmp_path, monkeypatch):
    (tmp_path / "lwm_model.py").write_text(MODEL)
    (tmp_path / "input_preprocess.py").write_text(PREPROCESS)
    np.save(tmp_path / "channels.npy", random_csi(24, 32, 32))
    released = EXAMPLE.read_text(encoding="utf-8")
    for before, after in changed_lines():
        released = released.replace(f"\n{after}\n", f"\n{before}\n")
    (tmp_path / "released.py").write_text(released)
    monkeypatch.syspath_prepend(str(tmp_path))
    options = {"path": str(tmp_path / "channels.npy"), "steps": 50, "batch": 2, "dropout": 0.0, "seed": 3}
    expected = runpy.run_path(str(tmp_path / "released.py"))["train"](**options)
    losses = runpy.run_path(str(EXAMPLE))["train"](**options)
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


def make(version: str, dropout: float, seed: int = 0) -> lwm:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return lwm(version, n_layers=2, max_len=33, dropout=dropout).train()


@pytest.mark.parametrize(("version", "length"), [("1.0", 16), ("1.1", 32)])
def test_loss_curves_agree_without_dropout(version, length):
    curves = []
    for fast in (False, True):
        model: torch.nn.Module = make(version, 0.0)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=0.05)
        if fast:
            model = lwm_fast.accelerate(model)
        generator, losses = torch.Generator().manual_seed(8), []
        for _ in range(50):
            tokens = torch.randn(4, 33, length, generator=generator)
            positions = torch.stack([1 + torch.randperm(32, generator=generator)[:12] for _ in range(4)])
            logits = model(tokens, positions)[0]
            targets = tokens.gather(1, positions[:, :, None].expand(-1, -1, length))
            errors = (targets - logits).square().sum((1, 2)) / targets.square().sum((1, 2))
            optimizer.zero_grad()
            errors.sum().backward()
            optimizer.step()
            losses.append(errors.sum().item())
        curves.append(losses)
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5)


def output_moments(model: torch.nn.Module, tokens: torch.Tensor, draws: int) -> tuple[torch.Tensor, float]:
    """Mean of each output value over draws of the dropout, and the variance averaged over values."""
    with torch.no_grad():
        outputs = torch.stack([model(tokens, torch.ones(len(tokens), 1).long())[1] for _ in range(draws)])
    return outputs.mean(0), float(outputs.var(0).mean())


@pytest.mark.parametrize(("version", "length"), [("1.0", 16), ("1.1", 32)])
def test_dropout_is_equal_in_distribution(version, length):
    """Mean and variance over draws. Their errors: about 0.6% for the variance, from 200 draws of 8 x 17 rows."""
    tokens = torch.randn(8, 17, length, generator=torch.Generator().manual_seed(2))
    draws = 200
    torch.manual_seed(11)
    mean, variance = output_moments(make(version, 0.1), tokens, draws)
    fast_mean, fast_variance = output_moments(lwm_fast.accelerate(make(version, 0.1)), tokens, draws)
    other_variance = output_moments(lwm_fast.accelerate(make(version, 0.12)), tokens, draws)[1]
    assert fast_variance == pytest.approx(variance, rel=0.03)
    assert other_variance > 1.1 * variance, "the test tells 0.1 from 0.12"
    # The difference of two means over n draws has the variance 2 v / n.
    difference = float((fast_mean - mean).square().mean())
    assert difference == pytest.approx(2 * variance / draws, rel=0.15)
