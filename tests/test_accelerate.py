"""`lwm_fast.accelerate`: the released class made fast, its parameters shared, and what it refuses."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from support.released_class import lwm
from torch import nn

import lwm_fast
from lwm_fast import InputError
from lwm_fast.accelerated import AcceleratedLWM, AttentionMaps

LENGTH = {"1.0": 16, "1.1": 32}
VERSIONS = pytest.mark.parametrize("version", ["1.0", "1.1"])


def released(version: str, dropout: float = 0.1, seed: int = 0) -> lwm:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return lwm(version, n_layers=2, max_len=33, dropout=dropout).eval()


def inputs(version: str, batch: int = 3, seq_len: int = 17) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randn(batch, seq_len, LENGTH[version], generator=generator)
    return tokens, torch.tensor([[1, 5, 16], [2, 2, 9], [16, 3, 4]])


@VERSIONS
def test_the_same_values_in_the_same_structure(version):
    model = released(version)
    fast = lwm_fast.accelerate(model)
    tokens, positions = inputs(version)
    with torch.no_grad():
        expected, result = model(tokens, positions), fast(tokens, positions)
    assert type(result) is type(expected)
    assert len(result) == len(expected)
    torch.testing.assert_close(result[0], expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result[1], expected[1], rtol=1e-5, atol=1e-6)
    if version == "1.1":
        assert len(result[2]) == len(expected[2]) == 2
        torch.testing.assert_close(list(result[2]), expected[2], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(fast(tokens)[0], model(tokens)[0], rtol=1e-5, atol=1e-6)
    else:
        logits, output = fast(tokens)  # the release cannot; LWM's own answer stands in
        assert logits is None
        torch.testing.assert_close(output, expected[1], rtol=1e-5, atol=1e-6)


@VERSIONS
def test_parameters_are_the_same_objects_in_the_same_order(version):
    model = released(version)
    fast = lwm_fast.accelerate(model)
    assert list(fast.state_dict()) == list(model.state_dict())
    assert [n for n, _ in fast.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert all(a is b for a, b in zip(fast.parameters(), model.parameters(), strict=True))


def test_the_order_of_another_registration_is_kept():
    class Reordered(lwm):
        def __init__(self) -> None:
            super().__init__("1.1", n_layers=1, max_len=17)
            self._modules = dict(reversed(self._modules.items()))

    model = Reordered()
    fast = lwm_fast.accelerate(model)
    assert list(fast.state_dict()) == list(model.state_dict())
    assert list(fast.state_dict())[1].startswith("decoder")


@VERSIONS
def test_an_existing_optimizer_goes_on(version):
    model = released(version, dropout=0.0).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    fast = lwm_fast.accelerate(model)
    tokens, positions = inputs(version)
    losses = []
    for _ in range(4):
        loss = fast(tokens, positions)[0].square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[3] < 0.9 * losses[0]
    with torch.no_grad():
        last, expected = fast(tokens, positions)[0], model(tokens, positions)[0]
    torch.testing.assert_close(last, expected, rtol=1e-5, atol=1e-6)


def test_modes_and_moves_act_on_both():
    model = released("1.1")
    fast = lwm_fast.accelerate(model)
    assert not fast.training
    fast.train()
    assert model.training
    assert model.layers[0].pos_ffn.dropout.training
    model.eval()
    assert not fast.training
    model.train()
    assert fast.training
    fast.double()
    assert model.decoder_bias.dtype == torch.float64
    tokens, positions = inputs("1.1")
    assert fast(tokens.double(), positions)[0].dtype == torch.float64


def test_dropout_acts_in_training_only_and_follows_the_seed():
    fast = lwm_fast.accelerate(released("1.0"))
    tokens, positions = inputs("1.0")
    assert torch.equal(fast(tokens, positions)[1], fast(tokens, positions)[1])
    fast.train()
    torch.manual_seed(3)
    first, second = fast(tokens, positions)[1], fast(tokens, positions)[1]
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(fast(tokens, positions)[1], first)


@VERSIONS
def test_the_original_and_the_random_state_are_left_alone(version):
    model = released(version).train()
    model.layers[1].eval()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(1)
    state = torch.get_rng_state()
    lwm_fast.accelerate(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not model.layers[1].training
    assert model.layers[0].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_lazy_maps_are_computed_late_and_never_out_of_date():
    model = released("1.1").train()
    fast = lwm_fast.accelerate(model)
    tokens, positions = inputs("1.1")
    maps = fast(tokens, positions)[2]
    assert isinstance(maps, AttentionMaps)
    assert maps._maps is None
    with torch.no_grad():
        expected = model.eval()(tokens, positions)[2]
    torch.testing.assert_close(maps[-1], expected[-1], rtol=1e-5, atol=1e-7)  # without dropout
    assert len(list(maps)) == 2
    late = fast(tokens, positions)[2]
    with torch.no_grad():
        model.decoder_bias.add_(1.0)
    with pytest.raises(InputError, match="parameters have changed since this forward"):
        late[0]


def test_maps_always_or_never():
    model = released("1.1", dropout=0.0)
    tokens, positions = inputs("1.1")
    always = lwm_fast.accelerate(model, attention_maps="always")(tokens, positions)
    expected = model(tokens, positions)
    assert type(always[2]) is list
    torch.testing.assert_close(always[2], expected[2])
    always[2][0].square().sum().backward()  # the list carries gradients, as released
    assert model.layers[0].enc_self_attn.W_Q.weight.grad is not None
    assert lwm_fast.accelerate(model, attention_maps=None)(tokens, positions)[2] is None
    with pytest.raises(InputError, match="attention_maps='sometimes' is unknown"):
        lwm_fast.accelerate(model, attention_maps="sometimes")


@VERSIONS
def test_copies_pickles_and_state_dicts(version):
    model = released(version)
    fast = lwm_fast.accelerate(model)
    tokens, positions = inputs(version)
    expected = fast(tokens, positions)[0]
    twin = copy.deepcopy(fast)
    assert torch.equal(twin(tokens, positions)[0], expected)
    assert twin.decoder_bias is not fast.decoder_bias
    assert twin.decoder_bias is twin.__dict__["_original"].decoder_bias
    restored = pickle.loads(pickle.dumps(fast))
    assert torch.equal(restored(tokens, positions)[0], expected)
    buffer = io.BytesIO()
    torch.save(fast.state_dict(), buffer)
    buffer.seek(0)
    other = released(version, seed=9)
    assert lwm_fast.accelerate(other).load_state_dict(torch.load(buffer, weights_only=True))
    torch.testing.assert_close(other(tokens, positions)[0], expected, rtol=1e-5, atol=1e-6)


def test_accelerating_twice_is_once():
    fast = lwm_fast.accelerate(released("1.0"))
    assert lwm_fast.accelerate(fast) is fast
    assert isinstance(lwm_fast.accelerate(lwm_fast.LWM.random(lwm_fast.LWMConfig.v1_0())), AcceleratedLWM)


def test_data_parallel_stays_around_it():
    model = nn.DataParallel(released("1.1"))
    fast = lwm_fast.accelerate(model)
    assert isinstance(fast, nn.DataParallel)
    assert isinstance(fast.module, AcceleratedLWM)
    assert not isinstance(model.module, AcceleratedLWM)
    assert list(fast.state_dict()) == list(model.state_dict())
    tokens, positions = inputs("1.1")
    torch.testing.assert_close(fast(tokens, positions)[0], model(tokens, positions)[0], rtol=1e-5, atol=1e-6)


def test_distributed_data_parallel_stays_around_it(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1
    )
    try:
        model = nn.parallel.DistributedDataParallel(released("1.0", dropout=0.0), find_unused_parameters=True)
        tokens, positions = inputs("1.0")
        model(tokens, positions)[0].square().sum().backward()
        expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        fast = lwm_fast.accelerate(model)
        for _ in range(2):  # the reducer is ready again after a step
            fast.zero_grad()
            fast(tokens, positions)[0].square().sum().backward()
        assert isinstance(fast, nn.parallel.DistributedDataParallel)
        largest = max(float(gradient.norm()) for gradient in expected.values())
        for name, p in fast.named_parameters():
            if name in expected:
                scale = max(float(expected[name].norm()), 0.01 * largest)  # some are zero but for rounding
                assert float((p.grad - expected[name]).norm()) <= 1e-5 * scale, name
    finally:
        torch.distributed.destroy_process_group()


class Changed(lwm):
    """The same parameters, another computation."""

    def __init__(self, change: str) -> None:
        super().__init__("1.1", n_layers=2, max_len=33)
        self.change = change

    def forward(self, input_ids, masked_pos=None):
        if self.change == "raises":
            raise RuntimeError("no such luck")
        result = super().forward(input_ids, masked_pos)
        if self.change == "scaled":
            return (result[0], 1.001 * result[1], *result[2:])
        if self.change == "stacked":
            return (*result[:-1], torch.stack(result[-1]))
        if self.change == "dict":
            return {"output": result[0]}
        if self.change == "alone":
            return result[-2]
        return result


def test_one_value_alone_stays_alone():
    model = Changed("alone").eval()
    tokens, positions = inputs("1.1")
    fast = lwm_fast.accelerate(model)
    torch.testing.assert_close(fast(tokens, positions), model(tokens, positions), rtol=1e-5, atol=1e-6)


def hooked():
    model = released("1.1")
    model.layers[1].register_forward_hook(lambda *_: None)
    return model


def two_dropouts():
    model = released("1.1")
    model.layers[1].pos_ffn.dropout.p = 0.3
    return model


def other_dropout():
    model = released("1.1")
    model.layers[0].pos_ffn.dropout = nn.AlphaDropout(0.1)
    return model


def hidden_dropout():
    class Hidden(lwm):
        def forward(self, input_ids, masked_pos=None):
            return super().forward(nn.functional.dropout(input_ids, 0.5, self.training), masked_pos)

    return Hidden("1.1", n_layers=1, max_len=33, dropout=0.0)


def parametrized():
    model = released("1.1")
    nn.utils.parametrizations.weight_norm(model.layers[0].pos_ffn.fc1)
    return model


def wider():
    model = released("1.1")
    model.linear = nn.Linear(128, 64)
    return model


def with_buffer():
    model = released("1.1")
    model.register_buffer("positions", torch.arange(5.0))
    return model


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: nn.Linear(3, 3), "not LWM weights"),
        (hooked, r"layers\.1 has forward or backward hooks"),
        (two_dropouts, r"dropouts differ \(p=0\.1 in .*, p=0\.3 in layers\.1\.pos_ffn\.dropout\)"),
        (other_dropout, "AlphaDropout"),
        (hidden_dropout, "no nn.Dropout to read the probability from"),
        (parametrized, "parametrized"),
        (wider, r"linear\.weight is \(64, 128\), not \(128, 128\)"),
        (with_buffer, "positions"),
        (lambda: released("1.1").half(), "float16; keep them float32"),
        (lambda: released("1.1").to("meta"), "on meta"),
        (lambda: Changed("scaled"), "output differs from LWM's by 1.0e-03"),
        (lambda: Changed("stacked"), "value 2 that its forward returns"),
        (lambda: Changed("dict"), "value 0 that its forward returns is dict"),
        (lambda: Changed("raises"), "RuntimeError: no such luck"),
        (lambda: torch.compile(released("1.1")), "went through torch.compile"),
    ],
)
def test_refusals_give_their_reason(make, reason):
    with pytest.raises(InputError, match=reason):
        lwm_fast.accelerate(make())


def test_quantised_layers_are_refused():
    model = released("1.1")
    with torch.no_grad():
        quantised = torch.quantize_per_tensor(model.decoder.weight, 0.1, 0, torch.qint8)
    del model.decoder.weight
    model.decoder.register_buffer("weight", quantised)
    with pytest.raises(InputError, match=r"decoder\.weight is quantised"):
        lwm_fast.accelerate(model)
