"""Positions of rows and columns: against the float64 reference on every path, in any packing, kept and refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from support.released import relative_error

from lwm_fast import _C, LWM, InputError, LWMConfig, reference, use_backend
from lwm_fast.data import draw_mask
from lwm_fast.links import LinkHeads
from lwm_fast.mcm import mcm_by_length
from lwm_fast.native_weights import packable
from lwm_fast.packed import PackedBatch
from lwm_fast.positions import position_table
from lwm_fast.scaling import scaled
from lwm_fast.train_encoder import encode_for_training

SMALL = {"num_layers": 2, "embed_dim": 32, "num_heads": 2, "head_dim": 16, "ffn_dim": 64}
SIZES = [
    (8, 64),
    (16, 32),
    (5, 7),
    (4, 4),
    (32, 8),
    (1, 1),
    (16, 32),
]  # two grids of 33 tokens, odd ones, one patch


def make(**changes: object) -> LWM:
    model = LWM.random(LWMConfig.base(**{**SMALL, **changes}), seed=5)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():  # no bias of zero hides a missing term
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def exact_twin(model: LWM) -> reference.LWM:
    twin = reference.LWM("1.1", model.sizes).double().eval()
    twin.load_state_dict(model.state_dict())
    return twin


def channels(sizes=SIZES, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=s) + 1j * rng.normal(size=s)).astype(np.complex64) for s in sizes]


def packed(sizes=SIZES) -> PackedBatch:
    return scaled(PackedBatch.from_samples(channels(sizes), "1.1", scale=1.0), "power")


@torch.no_grad()
def exact_rows(twin: reference.LWM, batch: PackedBatch) -> torch.Tensor:
    """Reference outputs of all tokens, sequence after sequence, one by one."""
    tokens = batch.tokens().reshape(-1, 32).double()
    edges = batch.cu_seqlens
    return torch.cat(
        [
            twin(tokens[a:b][None], shape=(int(n), int(sc)))[0][0]
            for a, b, (n, sc) in zip(edges[:-1], edges[1:], batch.shape, strict=True)
        ]
    )


def test_a_patch_gets_its_row_and_its_column():
    model = make()
    grid = model.embedding.pos_embed
    table, start = position_table(model, np.array([(8, 12), (12, 8), (7, 9)]))  # 2 x 3, 3 x 2, 2 x 3 patches
    assert start.tolist() == [0, 7, 0]
    assert start.dtype == np.int32
    assert torch.equal(table[0], grid.cls)
    assert torch.equal(table[1 + 1 * 3 + 2], grid.rows[1] + grid.columns[2])
    assert torch.equal(table[7 + 1 + 2 * 2 + 1], grid.rows[2] + grid.columns[1])
    assert len(table) == 14


def test_released_models_keep_their_table_and_keys():
    model = LWM.random(LWMConfig.v1_1(num_layers=1))
    table, start = position_table(model, np.array([(8, 8), (4, 64)]))
    assert table is model.embedding.pos_embed.weight
    assert start.tolist() == [0, 0]
    assert "embedding.pos_embed.weight" in model.state_dict()
    assert list(make().state_dict())[3:6] == [f"embedding.pos_embed.{x}" for x in ("cls", "rows", "columns")]


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("size", [(4, 4), (5, 7), (128, 64), (8, 1024), (3, 33)])
def test_forward_against_float64(backend, size):
    model = make()
    batch = packed([size, size])
    tokens, exact = batch.tokens(), exact_rows(exact_twin(model), batch)
    with use_backend(backend), torch.no_grad():
        output, maps = model(tokens, shape=size)
        with_maps = model(tokens, shape=batch.shape, return_attention=[1])
    assert maps is None
    assert relative_error(output.flatten(0, 1), exact) <= 1e-6
    assert relative_error(with_maps[0].flatten(0, 1), exact) <= 1e-6
    assert with_maps[1][0].shape == (2, 2, tokens.shape[1], tokens.shape[1])


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_two_grids_of_one_length_in_one_forward(backend):
    model, batch = make(), packed([(8, 64), (16, 32), (8, 64)])
    with use_backend(backend), torch.no_grad():
        output = model(batch.tokens(), shape=batch.shape)[0]
    assert relative_error(output.flatten(0, 1), exact_rows(exact_twin(model), batch)) <= 1e-6


def test_every_gradient_of_masked_modelling_over_mixed_grids():
    model, batch = make(), packed()
    batch = PackedBatch(**{**vars(batch), "mask": draw_mask(batch, seed=1, epoch=0)})
    found, exact = {}, {}
    for store, own in ((found, model), (exact, copy.deepcopy(model).double())):
        tokens, target = batch.masked_tokens()
        if store is exact:  # sequence by sequence through the plain reference
            own = exact_twin(model)
            parts = []
            for i, (n, sc) in enumerate(batch.shape):
                a, b = batch.cu_seqlens[i : i + 2]
                first, last = batch.mask.mask_cu[i : i + 2]
                rows = torch.from_numpy(batch.mask.masked_index[first:last].astype(np.int64)) - int(a)
                parts.append(own(tokens[a:b][None].double(), rows[None], shape=(int(n), int(sc)))[0][0])
            predicted = torch.cat(parts)
        else:
            predicted = mcm_by_length(own, batch, None, encode_for_training)[0]
        ((predicted - target.to(predicted.dtype)) ** 2).sum().backward()
        store.update({name: p.grad for name, p in own.named_parameters()})
    largest = max(float(g.norm()) for g in exact.values())
    for name, gradient in exact.items():
        scale = max(float(gradient.norm()), 0.01 * largest)
        assert float((found[name].double() - gradient).norm()) <= 2e-6 * scale, name
    assert all(float(found[f"embedding.pos_embed.{x}"].norm()) > 0 for x in ("cls", "rows", "columns"))


CODES = [("float32", isa) for isa in _C.encoder_isas("float32")]
CODES += [(precision, "amx-emulated") for precision in ("bf16x3", "bfloat16")]
CEILING = {"float32": 1e-6, "bf16x3": 2e-5, "bfloat16": 1e-2}


@pytest.mark.parametrize(("precision", "isa"), CODES)
def test_native_codes_against_float64_in_any_packing(precision, isa):
    model, batch = make(), packed()
    engine = _C.NativeEncoder(packable(model, collapse=True), 11, precision, isa)
    tokens = batch.tokens().numpy()
    rows = np.full((len(tokens), 32), np.nan, np.float32)
    engine.encode_tokens(tokens, batch.cu_seqlens, rows, "tokens", 2, batch.shape)
    assert relative_error(torch.from_numpy(rows), exact_rows(exact_twin(model), batch)) <= CEILING[precision]
    from_csi = np.full_like(rows, np.nan)
    engine.encode(
        batch.csi, batch.offsets, batch.shape, batch.cu_seqlens, batch.scale, batch.cls, from_csi, "tokens", 1
    )
    assert np.array_equal(from_csi, rows)
    for i, (a, b) in enumerate(zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True)):
        alone = np.full((b - a, 32), np.nan, np.float32)
        bounds = np.array([0, b - a], np.int32)
        engine.encode_tokens(tokens[a:b].copy(), bounds, alone, "tokens", 1, batch.shape[i : i + 1])
        assert np.array_equal(alone, rows[a:b])


def test_the_engine_refuses_shapes_that_do_not_fit():
    engine = _C.NativeEncoder(packable(make(max_rows=2, max_columns=3), collapse=True), 11)
    tokens, out = np.zeros((7, 32), np.float32), np.zeros((7, 32), np.float32)
    bounds = np.array([0, 7], np.int32)

    def run(shape):
        engine.encode_tokens(
            tokens, bounds, out, "tokens", 1, None if shape is None else np.array([shape], np.int32)
        )

    run((8, 12))
    for shape, message in (
        (None, "shape is missing"),
        ((12, 8), r"3 x 2 patches, but the model has positions for 2 x 3"),
        ((8, 8), "5 tokens, but cu_seqlens give 7"),
        ((0, 8), "both must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            run(shape)


@pytest.mark.parametrize("backend", ["torch", "native"])
@pytest.mark.parametrize("pool", ["cls", "mean", "mean_with_cls", "patches", "tokens"])
def test_encode_of_mixed_sizes_is_that_of_each_alone(backend, pool):
    model, mixed = make(), channels()
    with use_backend(backend):
        together = model.encode(mixed, pool, scale=1.0, show_progress_bar=False)
        for i, one in enumerate(mixed):
            alone = np.asarray(model.encode(one[None], pool, scale=1.0, show_progress_bar=False))
            assert (
                relative_error(torch.from_numpy(np.asarray(together[i])), torch.from_numpy(alone[0]).double())
                < 1e-6
            )


def test_shapes_are_asked_for_and_checked():
    model = make(max_rows=4, max_columns=8)
    tokens = torch.zeros(2, 7, 32)
    for shape, message in (
        (None, "shape is missing"),
        ((8, 8), "8x8 gives 5 tokens .* input_ids holds 7"),
        ((0, 8), "two positive integers"),
        ((8.0, 12.0), "two positive integers"),
        (np.ones((3, 2), int), "two positive integers"),
        ((4, 4 * 9), r"1 x 9 patches .* positions for 4 x 8.*resize_grid\(4, 9\)"),
    ):
        with pytest.raises(InputError, match=message):
            model(tokens, shape=shape)
    with pytest.raises(InputError, match=r"channel 1: a channel of 5 x 1 patches"):
        model.encode([np.ones((4, 4), np.complex64), np.ones((20, 4), np.complex64)])
    with pytest.raises(InputError, match="3 x 9 patches"):
        position_table(model, np.array([[12, 36]]))
    with pytest.raises(InputError, match=r'lwm_version="1\.1"'):
        LWMConfig.v1_0(positions="grid")
    with pytest.raises(InputError, match=r"LWMConfig\.positions='waves'"):
        LWMConfig.v1_1(positions="waves")


def test_kept_with_config_without_it_and_with_link_heads(tmp_path):
    model = make(max_rows=9)
    model.link_heads = LinkHeads.random(32, seed=1)
    assert not any("link" in name for name in model.state_dict())
    model.save_pretrained(tmp_path / "kept")
    again = LWM.from_pretrained(tmp_path / "kept")
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    assert torch.equal(again.link_heads.cls.weight, model.link_heads.cls.weight)
    model.link_heads = None
    model.save_pretrained(tmp_path / "kept")  # heads of other weights do not stay beside these
    assert LWM.from_pretrained(tmp_path / "kept").link_heads is None
    bare = make(embed_dim=64, num_heads=8, head_dim=8)
    torch.save(bare.state_dict(), tmp_path / "bare.pth")
    assert LWM.from_pretrained(tmp_path / "bare.pth").config == bare.config


def test_link_heads_of_another_width_are_refused(tmp_path):
    make().save_pretrained(tmp_path)
    LinkHeads.random(16, seed=0).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"reads embeddings of 16 numbers.* makes 32"):
        LWM.from_pretrained(tmp_path)


def test_resizing_the_grid():
    model = make(max_rows=3)
    old = model.embedding.pos_embed.rows.detach().clone()
    with pytest.warns(UserWarning, match="max_rows 3 to 5, max_len 513 to 700"):
        model.resize_grid(5, max_len=700)
    new = model.embedding.pos_embed.rows
    assert (model.config.max_rows, model.config.max_len, model.sizes.max_rows) == (5, 700, 5)
    assert torch.allclose(new[::2], old)
    assert torch.allclose(new[1], (old[0] + old[1]) / 2)
    assert new.requires_grad
    assert model.resize_grid(5) is model  # nothing to do, nothing to warn of
    with pytest.raises(InputError, match="max_columns=0"):
        model.resize_grid(max_columns=0)
    with pytest.raises(InputError, match=r"model\.resize_grid"):
        model.resize_positions(600)
    with pytest.raises(InputError, match=r"model\.resize_positions"):
        LWM.random(LWMConfig.v1_1(num_layers=1)).resize_grid(4)
