"""`encode`: order, pooling, sources, precisions, and inputs that must be refused."""

from __future__ import annotations

import numerics
import numpy as np
import pytest
import torch
from support.released import golden, output_of, plain, random_csi, relative_error, released

from lwm_fast import LWM, Channels, InputError, LWMConfig, reference
from lwm_fast.pooling import POOLS, Ragged


@pytest.fixture(scope="module")
def model() -> LWM:
    return LWM.random(LWMConfig.v1_1(num_layers=2), seed=1)


def expected(model: LWM, csi: np.ndarray, scale: float = 1e6) -> torch.Tensor:
    tokens = reference.tokenize(torch.from_numpy(csi).to(torch.complex128), model.version, scale)
    return output_of(plain(model), tokens)


REDUCE = {
    "cls": lambda x: x[:, 0],
    "mean": lambda x: x[:, 1:].mean(1),
    "mean_with_cls": lambda x: x.mean(1),
    "patches": lambda x: x[:, 1:],
    "tokens": lambda x: x,
}


def test_every_pool_is_tested():
    assert REDUCE.keys() == POOLS.keys()


@pytest.mark.parametrize("pool", list(POOLS))
@pytest.mark.parametrize("batch_size", ["auto", 1, 3])
def test_pools(model, pool, batch_size):
    csi = random_csi(7, 8, 32)
    got = model.encode(csi, pool=pool, batch_size=batch_size)
    exact = REDUCE[pool](expected(model, csi))
    assert got.dtype == np.float32
    assert got.shape == tuple(exact.shape)
    assert relative_error(got, exact) < 1e-6


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("pool", ["cls", "tokens"])
def test_precisions_on_released_weights(shared_data, version, precision, pool):
    z = golden(shared_data, "v10_city_18_denver" if version == "1.0" else "v11_32x32")
    model = released(shared_data, version)
    got = model.encode(z["raw"], pool=pool, precision=precision)
    exact = REDUCE[pool](output_of(plain(model), torch.from_numpy(z["tokens"]).double()))
    assert relative_error(got, exact) <= numerics.ENCODER[version, precision]


SIZES = [(8, 32), (32, 32), (3, 5), (8, 32), (16, 16), (1, 1), (64, 64), (30, 50)]


@pytest.mark.parametrize("pool", ["cls", "mean", "mean_with_cls"])
@pytest.mark.parametrize("batch_size", ["auto", 2])
def test_mixed_sizes_come_back_in_input_order(model, pool, batch_size):
    samples = [random_csi(1, n, sc, seed=i)[0] for i, (n, sc) in enumerate(SIZES)]
    got = model.encode(samples, pool=pool, batch_size=batch_size)
    for row, sample in zip(got, samples, strict=True):
        assert relative_error(row, REDUCE[pool](expected(model, sample[None]))[0]) < 1e-6


@pytest.mark.parametrize("pool", ["patches", "tokens"])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_mixed_sizes_ragged(model, pool, as_tensor):
    samples = [random_csi(1, n, sc, seed=i)[0] for i, (n, sc) in enumerate(SIZES)]
    got = model.encode(samples, pool=pool, convert_to_tensor=as_tensor)
    assert isinstance(got, Ragged)
    assert len(got) == len(samples)
    assert isinstance(got.values, torch.Tensor) is as_tensor
    rows = [REDUCE[pool](expected(model, sample[None]))[0] for sample in samples]
    for one, exact in zip(got, rows, strict=True):
        assert relative_error(one, exact) < 1e-6
    dense, mask = got.padded(fill=float("nan"))
    assert mask.sum() == len(got.values)
    for i, exact in enumerate(rows):
        assert relative_error(dense[i, : len(exact)], exact) < 1e-6
        assert bool(np.isnan(np.asarray(dense[i, len(exact) :])).all())
    assert relative_error(got[-1], rows[-1]) < 1e-6
    with pytest.raises(IndexError):
        got[len(samples)]


def test_sources_agree(model, tmp_path):
    csi = random_csi(6, 8, 32)
    np.save(tmp_path / "csi.npy", csi)
    exact = model.encode(csi)
    for source in (
        torch.from_numpy(csi),
        csi[:, None],
        csi.astype(np.complex128),
        np.asfortranarray(csi),
        Channels.from_arrays(csi),
        tmp_path / "csi.npy",
        str(tmp_path / "csi.npy"),
        list(csi),
        [torch.from_numpy(sample) for sample in csi],
    ):
        assert np.array_equal(model.encode(source), exact), type(source)
    tensor = model.encode(csi, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    assert np.array_equal(tensor.numpy(), exact)


def test_the_scale_is_the_channels_or_the_caller_s(model):
    csi = random_csi(3, 8, 32)
    exact = model.encode(csi)
    scaled = (csi * np.float32(1e3)).astype(np.complex64)
    assert relative_error(model.encode(scaled, scale=1e3), exact) < 1e-5
    assert relative_error(model.encode(list(scaled), scale=1e3), exact) < 1e-5
    assert relative_error(model.encode(csi, scale=2e6), expected(model, csi, 2e6)[:, 0]) < 1e-6


def test_normalize_and_out(model):
    csi = random_csi(5, 8, 32)
    exact = model.encode(csi)
    unit = model.encode(csi, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        unit, exact / np.linalg.norm(exact, axis=1, keepdims=True), rtol=1e-5, atol=1e-7
    )
    out = np.full((5, 128), np.nan, dtype=np.float32)
    assert model.encode(csi, out=out) is out
    assert np.array_equal(out, exact)
    half = torch.full((5, 128), float("nan"), dtype=torch.float16)
    assert model.encode(csi, out=half) is half
    assert torch.equal(half, torch.from_numpy(exact).half())
    for wrong in (np.empty((5, 64), np.float32), np.empty((5, 128), np.int32), torch.empty(4, 128)):
        with pytest.raises(InputError, match=r"out is .*\(5, 128\) was expected"):
            model.encode(csi, out=wrong)


def test_batching_does_not_change_results_much_and_repeats_are_equal(model):
    csi = random_csi(9, 16, 32)
    first = model.encode(csi)
    assert np.array_equal(first, model.encode(csi))
    assert relative_error(model.encode(csi, batch_size=2), first) < 1e-6


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("pool", ["cls", "patches"])
def test_bits_do_not_depend_on_the_threads(model, threads, pool):
    mixed = [random_csi(1, n, sc, seed=i)[0] for i, (n, sc) in enumerate(SIZES)]
    before = torch.get_num_threads()
    try:
        results = []
        for count in (1, threads):
            torch.set_num_threads(count)
            dense = model.encode(random_csi(150, 8, 32), pool=pool, batch_size=4)
            ragged = model.encode(mixed, pool=pool)
            results.append((dense, ragged.values if isinstance(ragged, Ragged) else ragged))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


def test_a_fault_in_the_middle_stops_all_threads(model):
    csi = random_csi(100, 8, 32)
    csi[57] = np.nan
    with pytest.raises(InputError, match="user 57"):
        model.encode(Channels.from_arrays(csi), batch_size=2)
    assert model.encode(csi[:3]).shape == (3, 128)


def test_empty_input(model):
    assert model.encode(np.zeros((0, 8, 32), np.complex64)).shape == (0, 128)
    assert model.encode(np.zeros((0, 8, 32), np.complex64), pool="patches").shape == (0, 16, 128)
    assert model.encode([]).shape == (0, 128)


def test_the_training_flag_is_restored(model):
    model.train()
    try:
        assert np.array_equal(model.encode(random_csi(2, 8, 32)), model.encode(random_csi(2, 8, 32)))
        assert model.training
    finally:
        model.eval()


def test_longer_channels_after_resize_positions():
    model = LWM.random(LWMConfig.v1_1(num_layers=1, max_len=17))
    csi = random_csi(1, 16, 32)
    with pytest.raises(InputError, match=r"16x32 channel gives 33 tokens.*17.*resize_positions\(33\)"):
        model.encode(csi)
    with pytest.warns(UserWarning, match="interpolated"):
        model.resize_positions(33)
    assert model.encode(csi).shape == (1, 128)


def poisoned(value: complex) -> np.ndarray:
    csi = random_csi(5, 8, 32)
    csi[3, 2, 1] = value
    return csi


BAD = [
    (random_csi(5, 8, 32).real, "complex"),
    (random_csi(2, 8, 32)[0], r"\[None\]"),
    (poisoned(complex("nan")), "NaN or Inf.*user 3"),
    (poisoned(complex("inf")), "NaN or Inf.*user 3"),
    (np.zeros((2, 8, 32), np.complex64), "all.zero"),
    ([random_csi(1, 8, 32)[0], np.zeros((4, 4), np.complex64)], "all-zero channels.*user 1"),
    ([random_csi(1, 8, 32)[0], poisoned(complex("nan"))[3]], "NaN or Inf.*user 1"),
    ([random_csi(1, 8, 32)], r"channel 0 of the list"),
    ([random_csi(1, 8, 32)[0].real], "must be complex"),
    ([random_csi(1, 128, 128)[0]], "channel 0: a 128x128 channel gives 1025 tokens"),
    ("no/such/path", "no/such/path"),
]


@pytest.mark.parametrize(("source", "match"), BAD)
def test_bad_input_is_named(model, source, match):
    with pytest.raises(InputError, match=match):
        model.encode(source)


def test_v1_0_takes_32x32_only():
    model = LWM.random(LWMConfig.v1_0(num_layers=1))
    with pytest.raises(InputError, match=r"LWM v1\.0 takes 32x32 channels.*16x64"):
        model.encode(random_csi(1, 16, 64))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"pool": "max"}, "pool='max' is unknown; use one of cls"),
        ({"precision": "fp8"}, "precision='fp8'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": "big"}, "batch_size='big'"),
    ],
)
def test_bad_options_are_named(model, options, match):
    with pytest.raises(InputError, match=match):
        model.encode(random_csi(1, 8, 32), **options)


def test_progress_bar_on_request(model, capfd):
    model.encode(random_csi(4, 8, 32), show_progress_bar=True)
    assert "embedding" in capfd.readouterr().err
    model.encode(random_csi(4, 8, 32))
    assert capfd.readouterr().err == ""
