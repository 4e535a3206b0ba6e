"""The packed encoder of models whose positions are grids: every pool, gradients, graphs, compiling, errors."""

from __future__ import annotations

import numerics
import numpy as np
import pytest
import torch
from support.op_path import gradients, masked_batch, mixed_samples, op_path  # noqa: F401
from support.released import plain, random_csi, relative_error

from lwm_fast import LWM, InputError, LWMConfig, reference
from lwm_fast.backends import BACKENDS
from lwm_fast.device_batch import DeviceBatch, Layout
from lwm_fast.draws import Draws
from lwm_fast.graphs import Graphs, HostRecorder
from lwm_fast.lanes import HostLanes
from lwm_fast.packed import PackedBatch
from lwm_fast.packed_model import encode_on_device, prepared
from lwm_fast.packed_positions import frozen_table, grids_of, live_table, starts_of
from lwm_fast.pooling import POOLS
from lwm_fast.positions import position_table
from lwm_fast.scaling import to_unit_power
from lwm_fast.streaming import Piece, Stream

TRITON = BACKENDS["triton"]
CPU = torch.device("cpu")
# Two grids of 33 tokens, odd sizes, a grid that comes twice, one of a single patch.
SIZES = [(16, 32), (8, 64), (3, 5), (16, 32), (1, 1), (32, 7)]


def base(**changes: float) -> LWM:
    return LWM.random(LWMConfig.base(num_layers=2, **changes), seed=1)


def exact_outputs(twin: reference.LWM, batch: PackedBatch, masked: bool = False) -> list[torch.Tensor]:
    """[S, D] of every sequence, by the reference in float64."""
    tokens = (batch.masked_tokens()[0] if masked else batch.tokens().flatten(0, -2)).double()
    cu = batch.cu_seqlens
    return [
        twin(tokens[cu[i] : cu[i + 1]][None], shape=tuple(batch.shape[i].tolist()))[0][0]
        for i in range(len(batch))
    ]


def unit_batch(sizes: list[tuple[int, int]]) -> PackedBatch:
    return to_unit_power(PackedBatch.from_samples(mixed_samples("1.1", sizes), "1.1"))


@pytest.mark.parametrize(
    "sizes", [[], [(8, 32)] * 3, [(5, 30), (8, 32)], SIZES, [(128, 64), (8, 1024), (1, 1)]]
)
def test_grids_and_starts_are_those_of_the_table(sizes: list[tuple[int, int]]) -> None:
    model, shape = base(), np.array(sizes, np.int32).reshape(-1, 2)
    table, start = position_table(model, shape)
    grids = grids_of(shape)
    assert grids == tuple(sorted({(-(-n // 4), -(-sc // 4)) for n, sc in sizes}))
    assert np.array_equal(starts_of(shape, grids), start)
    assert torch.equal(live_table(model)(grids), table)
    assert torch.equal(frozen_table(model)(grids), table)


def test_one_table_serves_models_with_positions_by_number() -> None:
    model = LWM.random(LWMConfig.v1_1(num_layers=1))
    positions = model.embedding.pos_embed
    assert isinstance(positions, torch.nn.Embedding)
    assert live_table(model)(()) is positions.weight
    assert torch.equal(frozen_table(model)(()), positions.weight)


@pytest.mark.parametrize("pool", list(POOLS))
@pytest.mark.parametrize("sizes", [[(16, 32)] * 2, [(8, 64), (16, 32)], SIZES])
def test_every_pool_of_mixed_grids(sizes: list[tuple[int, int]], pool: str) -> None:
    model, batch = base(), unit_batch(sizes)
    with torch.inference_mode():
        rows = TRITON.encode(model, batch, POOLS[pool], "float32")
        exact = [POOLS[pool](x[None]).reshape(-1, rows.shape[1]) for x in exact_outputs(plain(model), batch)]
    assert relative_error(rows, torch.cat(exact)) < 1e-6


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_precisions(precision: str) -> None:
    model, batch = base(), unit_batch(SIZES)
    with torch.inference_mode():
        rows = TRITON.encode(model, batch, POOLS["tokens"], precision)
        exact = torch.cat(exact_outputs(plain(model), batch))
    assert relative_error(rows, exact) <= numerics.ENCODER["1.1", precision]


def test_embeddings_follow_the_positions() -> None:
    model, batch = base(), unit_batch(SIZES)
    with torch.inference_mode():
        before = TRITON.encode(model, batch, POOLS["cls"], "float32")
    positions = model.embedding.pos_embed
    assert isinstance(positions, reference.GridPositions)
    with torch.no_grad():
        positions.columns[1] += 1.0
    with torch.inference_mode():
        after = TRITON.encode(model, batch, POOLS["cls"], "float32")
        exact = torch.stack([x[0] for x in exact_outputs(plain(model), batch)])
    assert relative_error(after, exact) < 1e-6
    moved = (after - before).abs().amax(1)
    assert moved[4] == 0  # of the single patch, which has no second column
    assert bool((moved[[0, 1, 2, 3, 5]] > 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [[(16, 32)] * 2, [(8, 64), (16, 32), (8, 64)]])
def test_forward_and_gradients_of_every_parameter(dtype: torch.dtype, sizes: list[tuple[int, int]]) -> None:
    model = base().to(dtype)
    shape = np.array(sizes, np.int32)
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randn(len(sizes), 33, 32, generator=generator, dtype=torch.float64).requires_grad_()
    found = TRITON.forward(model, tokens.to(dtype), shape=shape)
    found.sin().sum().backward()
    ours, token_gradient = gradients(model), tokens.grad
    tokens.grad = None
    twin = plain(model)
    expected = twin(tokens, shape=shape)[0]
    expected.sin().sum().backward()
    exact = gradients(twin)
    ceiling = numerics.GRADIENT if dtype == torch.float32 else 1e-12
    assert relative_error(found.detach(), expected.detach()) < (1e-6 if dtype == torch.float32 else 1e-13)
    assert (
        {f"embedding.pos_embed.{name}" for name in ("cls", "rows", "columns")} <= ours.keys() == exact.keys()
    )
    scale = max(float(g.norm()) for g in exact.values())
    for name, gradient in exact.items():
        error = float((ours[name] - gradient).norm())
        assert error <= ceiling * max(float(gradient.norm()), 0.01 * scale), name
    assert relative_error(token_gradient, tokens.grad) < ceiling


def joint_loss(outputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
    predicted, target, cls, mean = outputs
    return (predicted - target).square().mean() + (cls.sin() + 2 * mean.cos()).mean()


def test_mcm_with_pooled_outputs_and_its_gradients() -> None:
    sizes = [size for size in SIZES if size != (1, 1)]  # whose mask is empty
    model, batch = base(), to_unit_power(masked_batch("1.1", sizes=sizes))
    assert batch.mask is not None
    outputs = TRITON.mcm(model, batch, None, pooled=True)
    assert len(TRITON.mcm(model, batch, None)) == 2
    joint_loss(outputs).backward()
    ours = gradients(model)

    twin = plain(model)
    target = batch.masked_tokens()[1].double()
    exact = exact_outputs(twin, batch, masked=True)
    rows = torch.cat(exact)[torch.from_numpy(batch.mask.masked_index).long()]
    predicted = twin.head(rows[None], torch.arange(len(rows))[None])[0]
    expected = (predicted, target, *(torch.stack([f(x) for x in exact]) for f in (_cls, _mean)))
    for value, other in zip(outputs, expected, strict=True):
        assert relative_error(value.detach(), other.detach()) < 1e-6
    joint_loss(expected).backward()
    assert ours.keys() == gradients(twin).keys()
    scale = max(float(g.norm()) for g in gradients(twin).values())
    for name, gradient in gradients(twin).items():
        error = float((ours[name] - gradient).norm())
        assert error <= numerics.GRADIENT * max(float(gradient.norm()), 0.01 * scale), name


def _cls(x: torch.Tensor) -> torch.Tensor:
    return x[0]


def _mean(x: torch.Tensor) -> torch.Tensor:
    return x[1:].mean(0)


def test_mcm_of_a_plan_that_holds_its_random_patches() -> None:
    model, batch = base(), to_unit_power(masked_batch("1.1", compat=True, sizes=SIZES))
    predicted, target = TRITON.mcm(model, batch, None)
    exact = torch.cat(exact_outputs(plain(model), batch, masked=True))
    assert batch.mask is not None
    rows = exact[torch.from_numpy(batch.mask.masked_index).long()]
    expected = plain(model).head(rows[None], torch.arange(len(rows))[None])[0]
    assert relative_error(predicted.detach(), expected.detach()) < 1e-6
    assert torch.equal(target, batch.masked_tokens()[1])


def test_gradients_repeat_bit_for_bit() -> None:
    model, batch = base(dropout=0.1), to_unit_power(masked_batch("1.1", sizes=SIZES))
    draws = Draws(7, 2, torch.from_numpy(batch.sample_id))

    def run() -> dict[str, torch.Tensor]:
        model.zero_grad()
        predicted, target = TRITON.mcm(model, batch, draws)
        (predicted - target).square().mean().backward()
        return gradients(model)

    first, second = run(), run()
    assert first
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_layout_is_that_of_its_grids() -> None:
    wide, tall, both = (unit_batch(sizes) for sizes in ([(8, 64)] * 2, [(16, 32)] * 2, [(16, 32), (8, 64)]))
    assert len({Layout.of(batch) for batch in (wide, tall, both)}) == 1  # to a released model they are alike
    layouts = [Layout.of(batch, with_grids=True) for batch in (wide, tall, both)]
    assert len(set(layouts)) == 3
    assert Layout.of(unit_batch([(6, 61)] * 2), with_grids=True).grids == layouts[0].grids
    there = [DeviceBatch.of(batch, CPU, with_grids=True) for batch in (wide, tall, both)]
    assert [batch.position_start for batch in there[:2]] == [None, None]
    assert there[2].grids == ((2, 16), (4, 8))
    assert there[2].position_start is not None
    assert there[2].position_start.tolist() == [33, 0]


def test_recorded_graphs_take_batches_of_their_own_grids() -> None:
    model, recorder = base(), Graphs(HostRecorder())
    weights = prepared(model, "float32")
    stream = Stream(
        HostLanes(CPU), recorder, lambda b: encode_on_device(weights, b, POOLS["mean"]), with_grids=True
    )
    kinds = [[(8, 64), (8, 64)], [(16, 32), (8, 64)], [(8, 64), (16, 32)], [(16, 32), (16, 32)]]
    pieces = [
        Piece(np.arange(2 * i, 2 * i + 2), unit_batch(sizes))
        for i, sizes in enumerate(size for _ in range(3) for size in kinds)
    ]
    with torch.inference_mode():
        found = [rows.clone() for _, rows in stream.run(pieces, to_host=True)]
        expected = [TRITON.encode(model, piece.batch, POOLS["mean"], "float32") for piece in pieces]
    assert len(recorder) == 3  # the two mixed orders share one
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_encode_by_the_public_way(op_path) -> None:  # noqa: F811
    model, samples = base(), mixed_samples("1.1", SIZES)
    cls = model.encode(samples)
    with torch.no_grad():
        exact = torch.stack([x[0] for x in exact_outputs(plain(model), unit_batch(SIZES))])
    assert relative_error(cls, exact) < 1e-6
    one_by_one = np.concatenate([np.asarray(model.encode([sample])) for sample in samples])
    assert relative_error(one_by_one, exact) < 1e-6


def test_attention_maps(op_path) -> None:  # noqa: F811
    model = base()
    tokens = torch.randn(2, 33, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output, maps = model(tokens, shape=(8, 64), return_attention=[1])
        exact, exact_maps = plain(model)(tokens.double(), shape=(8, 64), return_attention=True)
    assert relative_error(output, exact) < 1e-6
    assert relative_error(maps[0], exact_maps[1]) < 1e-6


def test_export(op_path) -> None:  # noqa: F811
    model = base()
    tokens = torch.randn(2, 33, 32, generator=torch.Generator().manual_seed(0))
    program = torch.export.export(model, (tokens,), {"shape": (8, 64)})
    with torch.no_grad():
        exact, _ = plain(model)(tokens.double(), shape=(8, 64))
        found = program.module()(tokens, shape=(8, 64))[0]
    assert relative_error(found, exact) < 1e-6


def test_forward_of_no_samples(op_path) -> None:  # noqa: F811
    output, _ = base()(torch.zeros(0, 33, 32), shape=(8, 64))
    assert output.shape == (0, 33, 128)


def test_errors(op_path) -> None:  # noqa: F811
    model = base(max_rows=4, max_columns=8)
    tokens = torch.zeros(2, 33, 32)
    with pytest.raises(InputError, match="shape is missing"):
        TRITON.forward(model, tokens)
    with pytest.raises(InputError, match=r"2 x 16 patches .* has positions for 4 x 8.*resize_grid\(4, 16\)"):
        model(tokens, shape=(8, 64))
    with pytest.raises(InputError, match=r"5 x 1 patches .* positions for 4 x 8"):
        model.encode(random_csi(1, 20, 4))
    batch = masked_batch("1.1", sizes=[(8, 8), (4, 64)])
    with pytest.raises(InputError, match="1 x 16 patches"):
        TRITON.mcm(model, batch, None)
