"""The training forward: every gradient against float64, dropout against its plain twin, bits and threads."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numerics
import numpy as np
import pytest
import torch
from lwm_fast.kernels.dropout import Dropout, keep_plain
from support.released import relative_error

from lwm_fast import _C, LWM, InputError, LWMConfig, reference, train_encoder
from lwm_fast.draws import Draws
from lwm_fast.train_encoder import encode_for_training

VERSIONS = pytest.mark.parametrize("version", ["1.0", "1.1"])
LENGTHS = pytest.mark.parametrize(("batch", "seq_len"), [(1, 1), (3, 2), (2, 16), (2, 17), (2, 33), (1, 129)])


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(version: str, num_layers: int = 2, seed: int = 1, **changes: object) -> LWM:
    config = LWMConfig.v1_0 if version == "1.0" else LWMConfig.v1_1
    model = LWM.random(config(num_layers=num_layers, **changes), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # no bias of zero and no alpha of one hides a missing term
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def draws_for(batch: int, seed: int = 0x9E3779B97F4A7C15, epoch: int = 7) -> Draws:
    return Draws(seed, epoch, torch.arange(batch) * 10_000_000_019 - 5)


def random(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradients(model: LWM, tokens: torch.Tensor, draws: Draws | None, encode=encode_for_training):
    """(output, gradients of the parameters and of the tokens) of a loss that weights every output differently."""
    model.zero_grad()
    tokens = tokens.clone().requires_grad_()
    output = encode(model, tokens, draws)
    (output * random(*output.shape, seed=9).to(output.dtype)).sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return output.detach(), {**found, "tokens": tokens.grad}


def assert_gradients(found, exact, ceiling: float) -> None:
    assert found.keys() == exact.keys()
    largest = max(float(g.norm()) for g in exact.values())
    for name, gradient in exact.items():  # those that are zero in exact arithmetic stay noise
        scale = max(float(gradient.norm()), 0.01 * largest)
        assert float((found[name].double() - gradient).norm()) <= ceiling * scale, name


@VERSIONS
@LENGTHS
@pytest.mark.parametrize("dropped", [False, True])
def test_output_and_every_gradient_against_float64(version, batch, seq_len, dropped):
    model = make(version)
    tokens = random(batch, seq_len, model.config.patch_len)
    draws = draws_for(batch) if dropped else None
    output, found = gradients(model, tokens, draws)
    exact_output, exact = gradients(copy.deepcopy(model).double(), tokens.double(), draws)
    assert relative_error(output, exact_output) <= numerics.ENCODER[version, "float32"]
    assert_gradients(found, exact, numerics.GRADIENT)


@VERSIONS
def test_without_dropout_it_is_the_reference(version):
    model = make(version)
    tokens = random(2, 17, model.config.patch_len)
    twin = reference.LWM(version, model.sizes).double().eval()
    twin.load_state_dict(model.state_dict())

    def plain(m, x, _):
        result = m(x)
        return result[1] if version == "1.0" else result[0]

    exact_output, exact = gradients(twin, tokens.double(), None, plain)
    output, found = gradients(model, tokens, None)
    assert relative_error(output, exact_output) <= numerics.ENCODER[version, "float32"]
    assert_gradients(found, exact, numerics.GRADIENT)


def plain_keep(draws: Draws, seq_len: int, layer: int, first_word: int, width: int, words: int, p: float):
    sample = draws.sample_id.repeat_interleave(seq_len)
    token = torch.arange(seq_len, dtype=torch.int32).repeat(len(draws.sample_id))
    return keep_plain(Dropout(p, draws.seed, draws.epoch, layer, sample, token), first_word, width, words)


@pytest.mark.parametrize(
    ("layer", "first_word", "width", "words", "p"),
    [(0, 0, 64, 384, 0.1), (11, 64, 256, 384, 0.1), (15, 320, 64, 384, 0.5), (3, 8, 4, 12, 0.25),
     (1, 128, 512, 768, 1e-7), (2, 0, 2052, 2052, 0.9999999)],
)  # fmt: skip
def test_kept_entries_are_the_plain_twin_s(layer, first_word, width, words, p):
    draws = draws_for(3)
    dropout = _C.LayerDropout(draws.sample_id.numpy(), 5, draws.seed, draws.epoch, layer, p, words)
    out = torch.ones(15, width, dtype=torch.bool)
    for fill in (True, False):
        out.fill_(fill)
        _C.draw_keep(dropout, first_word, out.numpy())
        assert torch.equal(out, plain_keep(draws, 5, layer, first_word, width, words, p))


@VERSIONS
def test_dropout_sits_where_the_release_has_it(version):
    """The reference with its nn.Dropouts replaced by the plain twin's masks, in the order of their calls."""
    model = make(version)
    s, draws = model.sizes, draws_for(2)
    twin = reference.LWM(version, s).double()
    twin.load_state_dict(model.state_dict())
    words = 2 * s.embed_dim + s.ffn_dim
    tokens = random(2, 9, s.patch_len)

    class Replay(torch.nn.Module):
        def __init__(self, layer: int, first_words: list[int]) -> None:
            super().__init__()
            self.layer, self.first_words = layer, first_words

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = self.first_words.pop(0)
            keep = plain_keep(draws, 9, self.layer, first, x.shape[-1], words, s.dropout)
            return x * keep.view_as(x) / (1 - s.dropout)

    for i, layer in enumerate(twin.layers):
        layer.dropout = Replay(i, [0, s.embed_dim + s.ffn_dim])  # v1.1 calls it once
        layer.pos_ffn.dropout = Replay(i, [s.embed_dim])
    result = twin.train()(tokens.double())
    expected = result[1] if version == "1.0" else result[0]
    assert relative_error(encode_for_training(model, tokens, draws).detach(), expected.detach()) < 2e-6


@VERSIONS
def test_the_same_draws_give_the_same_bits_for_any_threads(version, one_thread):
    model = make(version)
    tokens, draws = random(5, 33, model.config.patch_len), draws_for(5)
    expected = gradients(model, tokens, draws)
    torch.set_num_threads(2)
    threaded = gradients(model, tokens, draws)
    torch.set_num_threads(1)
    again = gradients(model, tokens, draws)
    assert torch.equal(again[0], expected[0])
    assert all(torch.equal(again[1][name], value) for name, value in expected[1].items())
    # Torch's own products may change with threads; what C++ computes must not add to it.
    assert relative_error(threaded[0], expected[0]) < 1e-6
    other = encode_for_training(model, tokens, Draws(draws.seed, 8, draws.sample_id)).detach()
    assert not torch.equal(other, expected[0])


def test_native_operations_do_not_depend_on_threads():
    rng = np.random.default_rng(4)
    qkv = rng.standard_normal((5, 33, 3, 8, 16), np.float32)
    bias = rng.standard_normal(384).astype(np.float32)
    dout = rng.standard_normal((5, 33, 8, 16), np.float32)
    rows, normal = rng.standard_normal((2, 333, 64), np.float32)
    results = []
    for threads in (1, 3):
        out, stats = np.full((5, 33, 8, 16), np.nan, np.float32), np.full((5, 8, 2, 33), np.nan, np.float32)
        _C.attention_forward(qkv, bias, out, stats, threads)
        dqkv, dbias = np.full_like(qkv, np.nan), np.full_like(bias, np.nan)
        _C.attention_backward(qkv, bias, out, stats, dout, dqkv, dbias, threads)
        du, sums = np.full_like(rows, np.nan), np.full((3, 64), np.nan, np.float32)
        row_stats = np.abs(rows[:, :2]).copy()
        _C.norm_backward(rows, normal, row_stats, bias[:64].copy(), 2.0, None, du, sums, None, 0, threads)
        results.append([out, stats, dqkv, dbias, du, sums])
    assert all(np.isfinite(a).all() and np.array_equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("head_dim", [5, 16])
@pytest.mark.parametrize("seq_len", [1, 15, 17, 64, 513])
def test_attention_against_float64(head_dim, seq_len):
    rng = np.random.default_rng(seq_len)
    heads = 3
    qkv = rng.standard_normal((2, seq_len, 3, heads, head_dim), np.float32)
    qkv[0, :, :2] *= 6  # weights near one and near zero
    bias = rng.standard_normal(3 * heads * head_dim).astype(np.float32)
    dout = rng.standard_normal((2, seq_len, heads, head_dim), np.float32)
    x = torch.from_numpy(qkv).double().requires_grad_()
    b = torch.from_numpy(bias).double().requires_grad_()
    q, k, v = (x + b.view(3, heads, head_dim)).permute(2, 0, 3, 1, 4)
    expected = reference.attention(q, k, v)[0].transpose(1, 2)
    expected.backward(torch.from_numpy(dout).double())
    out = np.full(dout.shape, np.nan, np.float32)
    stats = np.full((2, heads, 2, seq_len), np.nan, np.float32)
    _C.attention_forward(qkv, bias, out, stats)
    dqkv, dbias = np.full_like(qkv, np.nan), np.full_like(bias, np.nan)
    _C.attention_backward(qkv, bias, out, stats, dout, dqkv, dbias)
    single = torch.from_numpy(qkv).requires_grad_()
    plain = reference.attention(
        *(single + torch.from_numpy(bias).view(3, heads, head_dim)).permute(2, 0, 3, 1, 4)
    )
    values = plain[0].transpose(1, 2)
    values.backward(torch.from_numpy(dout))
    assert (
        relative_error(out, expected.detach())
        <= 2 * relative_error(values.detach(), expected.detach()) + 1e-7
    )
    assert relative_error(dqkv, x.grad) <= 2 * relative_error(single.grad, x.grad) + 1e-6
    assert float(np.abs(dbias - b.grad.numpy()).max()) < 1e-5 * float(np.abs(dqkv).sum((0, 1)).max())


def test_nan_reaches_the_output():
    model = make("1.1")
    with torch.no_grad():
        model.layers[0].enc_self_attn.W_Q.weight[0, 0] = torch.nan
    assert encode_for_training(model, random(1, 17, 32), None).isnan().any()
    model = make("1.1")
    with torch.no_grad():
        model.layers[0].pos_ffn.fc1.bias[3] = torch.nan
    assert encode_for_training(model, random(1, 17, 32), draws_for(1)).isnan().all()


def test_rows_without_spread_stay_finite():
    model = make("1.0", num_layers=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    _, found = gradients(model, torch.zeros(1, 3, 16), draws_for(1))
    assert all(torch.isfinite(g).all() for g in found.values())


@VERSIONS
@pytest.mark.parametrize("changes", [{"head_dim": 4}, {"num_heads": 1, "head_dim": 16, "ffn_dim": 36}])
def test_other_sizes(version, changes):
    model = make(version, **changes)
    tokens, draws = random(2, 7, model.config.patch_len), draws_for(2)
    output, found = gradients(model, tokens, draws)
    exact_output, exact = gradients(copy.deepcopy(model).double(), tokens.double(), draws)
    assert relative_error(output, exact_output) < 2e-6
    assert_gradients(found, exact, numerics.GRADIENT)


@VERSIONS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(version, dtype):
    model = make(version)
    tokens, draws = random(2, 17, model.config.patch_len), draws_for(2)
    exact, _ = gradients(model, tokens, draws)
    with torch.autocast("cpu", dtype):
        output, found = gradients(model, tokens, draws)
    assert 1e-6 < relative_error(output.float(), exact) < 3e-2
    assert all(torch.isfinite(g).all() and g.dtype == torch.float32 for g in found.values())


def test_frozen_parameters_get_no_gradient():
    model = make("1.1")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("layers.1.pos_ffn"))
    encode_for_training(model, random(2, 9, 32), draws_for(2)).sum().backward()
    have = {name for name, p in model.named_parameters() if p.grad is not None}
    assert have == {name for name, _ in model.named_parameters() if name.startswith("layers.1.pos_ffn")}


def test_an_empty_batch():
    model = make("1.1")
    output = encode_for_training(model, torch.empty(0, 17, 32), draws_for(0))
    assert output.shape == (0, 17, 128)
    output.sum().backward()


def test_a_tensor_that_is_not_contiguous():
    model = make("1.1")
    tokens, draws = random(32, 17, 2).permute(2, 1, 0), draws_for(2)
    expected = encode_for_training(model, tokens.contiguous(), draws)
    assert torch.equal(encode_for_training(model, tokens, draws), expected)
    with torch.no_grad():  # checkpoints of v1.0 store a matrix by columns
        weight = model.layers[0].pos_ffn.fc1.weight
        model.layers[0].pos_ffn.fc1.weight = torch.nn.Parameter(weight.T.contiguous().T)
    torch.testing.assert_close(encode_for_training(model, tokens, draws), expected)


def test_refusals():
    model = make("1.1")
    with pytest.raises(InputError, match=r"sample_id is \(3,\); tokens \(2, 9, 32\) need one number"):
        encode_for_training(model, random(2, 9, 32), draws_for(3))
    odd = make("1.1", ffn_dim=37)
    with pytest.raises(InputError, match="ffn_dim=37"):
        encode_for_training(odd, random(2, 9, 32), draws_for(2))
    assert encode_for_training(odd, random(2, 9, 32), None).shape == (2, 9, 128)
    deep = make("1.1", num_layers=train_encoder.MAX_LAYERS + 1)
    with pytest.raises(InputError, match="num_layers=17"):
        encode_for_training(deep, random(1, 2, 32), draws_for(1))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"seq_len": 0}, "seq_len: got 0"), ({"layer": 16}, "layer: got 16"), ({"words": 6}, "words: got 6"),
     ({"probability": 1.0}, "probability: got 1.0"), ({"probability": float("nan")}, "probability: got")],
)  # fmt: skip
def test_native_dropout_refuses(changes, reason):
    arguments = {"seq_len": 3, "seed": 1, "epoch": 0, "layer": 0, "probability": 0.1, "words": 8, **changes}
    with pytest.raises(ValueError, match=reason):
        _C.LayerDropout(np.arange(2), **arguments)


def test_native_operations_refuse_what_does_not_fit():
    dropout = _C.LayerDropout(np.arange(2), 3, 1, 0, 0, 0.1, 8)
    with pytest.raises(ValueError, match="rows: got 5, expected 6"):
        _C.draw_keep(dropout, 0, np.empty((5, 4), bool))
    with pytest.raises(ValueError, match="first_word: got 8"):
        _C.draw_keep(dropout, 8, np.empty((6, 4), bool))
    with pytest.raises(TypeError, match="float64"):
        _C.relu_dropout(np.zeros((2, 4)), np.zeros(4, np.float32))
    three = np.zeros((1, 2, 3, 1, 3), np.float32)
    with pytest.raises(ValueError, match="head_dim: got 3"):
        _C.attention_forward(three, np.zeros(9, np.float32), np.zeros((1, 2, 1, 3), np.float32),
                             np.zeros((1, 1, 2, 2), np.float32))  # fmt: skip


OUTPUTS = """
import sys
import numpy as np
import torch
from test_train_encoder import draws_for, gradients, make, random
result = {}
for version in ("1.0", "1.1"):
    model = make(version)
    output, found = gradients(model, random(2, 18, model.config.patch_len), draws_for(2))
    result |= {f"{version} output": output} | {f"{version} {name}": g for name, g in found.items()}
np.savez(sys.argv[1], **{name: value.numpy() for name, value in result.items()})
"""


@pytest.mark.slow
def test_every_instruction_set_gives_the_same_numbers(tmp_path):
    expected: dict[str, np.ndarray] = {}
    for isa in _C.cpu_info()["available_isas"]:
        path = tmp_path / f"{isa}.npz"
        environment = {**os.environ, "LWM_FAST_ISA": isa, "PYTHONPATH": str(Path(__file__).parent)}
        done = subprocess.run(
            [sys.executable, "-c", OUTPUTS, str(path)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        with np.load(path) as found:
            expected = expected or {name: found[name] for name in found.files}
            largest = {
                v: max(np.abs(expected[n]).max() for n in expected if n[:3] == v) for v in ("1.0", "1.1")
            }
            for name in expected:
                np.testing.assert_allclose(
                    found[name], expected[name], atol=3e-6 * largest[name[:3]], rtol=1e-4
                )
