"""Heads by name: their layers, their seeds, what they refuse; the residual CNN against torch's own modules."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from lwm_fast import InputError
from lwm_fast.tasks.base import Kind
from lwm_fast.tasks.cnn import Block, Convolution, ResidualCNN
from lwm_fast.tasks.heads import (
    HEADS,
    build_head,
    check_head,
    count_parameters,
    default_head,
    is_network,
    seeded,
)

ESTIMATORS = ("logistic", "nearest-mean", "ridge", "knn")


@dataclasses.dataclass(frozen=True)
class FakeTask:
    """What `default_head` looks at."""

    name: str
    kind: Kind
    metric: ClassVar[str] = "f1_weighted"
    higher_is_better: ClassVar[bool] = True


def linears(head: nn.Module) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in head.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize(
    ("name", "widths", "norms", "dropouts"),
    [
        ("linear", [], 0, []),
        ("mlp", [512, 256, 128], 3, [0.1, 0.1]),
        ("mlp-regression", [512, 256], 2, [0.1, 0.1]),
        ("challenge-los", [8], 1, [0.1]),
        ("challenge-beam", [256, 128, 64], 3, []),
        ("challenge-localization", [64, 32], 0, []),
    ],
)
def test_networks_have_the_widths_of_the_release_and_of_the_challenge(name, widths, norms, dropouts):
    head = build_head(name, (4, 5), 3, seed=0)
    sizes = [20, *widths, 3]
    assert linears(head) == list(itertools.pairwise(sizes))
    assert sum(isinstance(m, nn.BatchNorm1d) for m in head.modules()) == norms
    assert [m.p for m in head.modules() if isinstance(m, nn.Dropout)] == dropouts
    assert head(torch.zeros(2, 4, 5)).shape == (2, 3)


def test_the_third_hidden_layer_has_no_dropout_and_each_relu_follows_its_norm():
    names = [type(m).__name__ for m in build_head("mlp", (64,), 2, seed=0)]
    block = ["Linear", "BatchNorm1d", "ReLU"]
    assert names == ["Flatten", *block, "Dropout", *block, "Dropout", *block, "Linear"]


@pytest.mark.parametrize("name", [name for name in HEADS if name not in ESTIMATORS])
def test_a_seed_gives_one_head_and_leaves_the_global_state_alone(name):
    before = torch.get_rng_state()
    first, again, other = (build_head(name, (16, 4), 3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    weights = [next(iter(head.parameters())) for head in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_estimators_fit_or_say_which_do(name, kind):
    if kind == "regression" and name in ("logistic", "nearest-mean"):
        with pytest.raises(InputError, match="for classification; use one of ridge, knn"):
            build_head(name, (3,), 2, seed=0, kind=kind)
        return
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 3)), np.arange(40) % 2
    head = build_head(name, (3,), 2, seed=0, kind=kind)
    assert not is_network(head)
    assert len(head.fit(x, y).predict(x)) == 40


def test_unknown_names_list_the_nearest():
    with pytest.raises(InputError, match=r"head='mpl' is unknown; did you mean 'mlp'\?"):
        build_head("mpl", (3,), 2, seed=0)
    with pytest.raises(InputError, match="use one of linear, mlp"):
        build_head("transformer-xl", (3,), 2, seed=0)


def test_missing_scikit_learn_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InputError, match=r'pip install "lwm_fast\[tasks\]"'):
        build_head("logistic", (3,), 2, seed=0)


@pytest.mark.parametrize(
    ("task", "kind", "style", "head"),
    [
        ("los", "classification", "release", "mlp"),
        ("los", "classification", "challenge", "challenge-los"),
        ("beams", "classification", "challenge", "challenge-beam"),
        ("localization", "regression", "release", "mlp-regression"),
        ("localization", "regression", "challenge", "challenge-localization"),
        ("presence", "classification", "challenge", "mlp"),
        ("estimation", "reconstruction", "release", "patches"),
        ("compression", "reconstruction", "release", "default"),
    ],
)
def test_default_heads(task, kind, style, head):
    assert default_head(FakeTask(task, kind), "patches", style) == head
    with pytest.raises(InputError, match='"release" or "challenge"'):
        default_head(FakeTask(task, kind), "patches", "paper")


def test_what_is_not_a_head_is_refused():
    with pytest.raises(InputError, match="an instance, not its class"):
        is_network(nn.Linear)
    with pytest.raises(InputError, match="fit and"):
        is_network("something")


def test_a_head_that_the_inputs_do_not_fit_is_named_with_both_shapes():
    with pytest.raises(
        InputError, match=r"head Linear does not take these inputs, \[7\] a user .*7 features"
    ):
        check_head(nn.Linear(8, 2), torch.zeros(2, 7))
    with pytest.raises(InputError, match=r"from inputs \[2, 7\] it gives \[14\]"):
        check_head(nn.Flatten(0), torch.zeros(2, 7))
    with pytest.raises(InputError, match="gives a tuple"):
        check_head(nn.LSTM(7, 2), torch.zeros(2, 3, 7))


def test_checking_a_head_gives_its_output_and_leaves_its_modes_alone():
    head = nn.Sequential(nn.Linear(7, 3), nn.BatchNorm1d(3))
    head[1].eval()
    assert check_head(head, torch.zeros(2, 7)) == (3,)
    assert (head.training, head[0].training, head[1].training) == (True, True, False)


def test_cnn_takes_positions_and_features_only():
    with pytest.raises(InputError, match=r"takes inputs \[positions, features\], these are \[64\]"):
        build_head("cnn", (64,), 4, seed=0)


# --------------------------------------------------------------------------------- the residual CNN


def plain_convolution(own: Convolution) -> nn.Sequential:
    """Conv1d and BatchNorm1d with the weights of a `cnn.Convolution`."""
    num_out, num_in = own.weight.shape[0], own.weight.shape[1] // own.kernel
    conv = nn.Conv1d(num_in, num_out, own.kernel, own.stride, own.kernel // 2, bias=False)
    norm = nn.BatchNorm1d(num_out)
    with torch.no_grad():
        conv.weight.copy_(own.weight.view(num_out, own.kernel, num_in).transpose(1, 2))
        norm.weight.copy_(own.gamma)
        norm.bias.copy_(own.beta)
    return nn.Sequential(conv, norm)


class PlainBlock(nn.Module):
    def __init__(self, own: Block) -> None:
        super().__init__()
        self.first, self.second = plain_convolution(own.first), plain_convolution(own.second)
        self.shortcut: nn.Module = own.shortcut
        if isinstance(own.shortcut, Convolution):
            self.shortcut = plain_convolution(own.shortcut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


class PlainCNN(nn.Module):
    """The same network of torch's own modules, on [n, features, positions]."""

    def __init__(self, own: ResidualCNN) -> None:
        super().__init__()
        self.stem = plain_convolution(own.stem)
        self.blocks = nn.ModuleList(PlainBlock(block) for block in own.blocks if isinstance(block, Block))
        self.head = own.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x.transpose(1, 2)))
        x = nn.functional.max_pool1d(x, 3, 2, 1)
        for block in self.blocks:
            x = block(x)
        scores: torch.Tensor = self.head(x.mean(2))
        return scores


def make_cnns() -> tuple[ResidualCNN, PlainCNN]:
    own = build_head("cnn", (0, 6), 5, seed=0)
    assert isinstance(own, ResidualCNN)
    with torch.no_grad(), seeded(1):
        for p in own.parameters():
            if p.ndim == 1:  # no scale of one and no shift of zero hides a missing term
                p.add_(0.3 * torch.randn(p.shape))
    dropout = own.head[3]
    assert isinstance(dropout, nn.Dropout)
    dropout.p = 0.0
    return own.double(), PlainCNN(own).double()


@pytest.mark.parametrize("positions", [128, 37, 5, 1])
@pytest.mark.parametrize("training", [True, False])
def test_cnn_equals_torchs_own_modules_with_all_gradients(positions, training):
    own, plain = make_cnns()
    own.train(training)
    plain.train(training)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((4, positions, 6))).requires_grad_()
    got, wanted = own(x), plain(x)
    assert got.shape == (4, 5)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
    (dx,) = torch.autograd.grad(got.square().sum(), x, retain_graph=True)
    (dx_plain,) = torch.autograd.grad(wanted.square().sum(), x, retain_graph=True)
    torch.testing.assert_close(dx, dx_plain, rtol=1e-6, atol=1e-6)
    got.square().sum().backward()
    mine = [own.stem.gamma.grad, own.blocks[0].second.beta.grad, own.blocks[2].shortcut.gamma.grad]
    kernel = own.blocks[3].first.weight.grad
    own.zero_grad()
    wanted.square().sum().backward()
    theirs = [
        plain.stem[1].weight.grad,
        plain.blocks[0].second[1].bias.grad,
        plain.blocks[2].shortcut[1].weight.grad,
    ]
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    reference = plain.blocks[3].first[0].weight.grad  # [out, in, kernel]
    torch.testing.assert_close(kernel.view(64, 3, 64).transpose(1, 2), reference, rtol=1e-6, atol=1e-6)
    if training and positions > 1:
        torch.testing.assert_close(own.stem.running_mean, plain.stem[1].running_mean)
        torch.testing.assert_close(own.stem.running_var, plain.stem[1].running_var)


def test_cnn_has_about_half_a_million_parameters():
    assert 450_000 < count_parameters(build_head("cnn", (128, 64), 64, seed=0)) < 550_000
    assert 450_000 < count_parameters(build_head("cnn", (128, 16), 16, seed=0)) < 550_000
