"""The `native` backend: right on every pool and size, the same bits for any packing, never stale weights."""

from __future__ import annotations

import copy
import multiprocessing
import threading
from typing import Any, NamedTuple

import numerics
import numpy as np
import numpy.typing as npt
import pytest
import torch
from support.native_cases import small
from support.released import golden, output_of, plain, random_csi, relative_error, released

from lwm_fast import LWM, InputError, LWMConfig, backends, native_weights, reference, use_backend
from lwm_fast.packed import PackedBatch
from lwm_fast.pooling import POOLS, Ragged

NATIVE = backends.BACKENDS["native"]
SIZES = {"1.0": [(32, 32)] * 3, "1.1": [(8, 32), (1, 1), (3, 5), (30, 50), (8, 32), (128, 64), (17, 2)]}


def samples_of(version: str) -> list[npt.NDArray[np.complex64]]:
    return [random_csi(1, n, sc, seed=i)[0] for i, (n, sc) in enumerate(SIZES[version])]


def native(model: LWM, batch: PackedBatch, pool: str, precision: str = "float32") -> npt.NDArray[np.float32]:
    with torch.inference_mode():
        return NATIVE.encode(model, batch, POOLS[pool], precision).numpy()


@pytest.fixture
def threads() -> Any:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("pool", list(POOLS))
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_every_pool_of_mixed_sizes(version, pool):
    model, samples = small(version), samples_of(version)
    rows = native(model, PackedBatch.from_samples(samples, version), pool)
    expected = []
    for sample in samples:
        tokens = reference.tokenize(torch.from_numpy(sample[None]).to(torch.complex128), version)
        expected.append(POOLS[pool](output_of(plain(model), tokens)).reshape(-1, model.config.embed_dim))
    assert relative_error(rows.reshape(-1, model.config.embed_dim), torch.cat(expected)) < 1e-6


class OnReleasedWeights(NamedTuple):
    model: LWM
    csi: npt.NDArray[np.complex64]
    tokens: torch.Tensor
    exact: torch.Tensor


@pytest.fixture(scope="module", params=["1.0", "1.1"])
def on_released(shared_data, request) -> OnReleasedWeights:
    z = golden(shared_data, "v10_city_18_denver" if request.param == "1.0" else "v11_32x32")
    model, tokens = released(shared_data, request.param), torch.from_numpy(z["tokens"])
    return OnReleasedWeights(model, z["raw"], tokens, output_of(plain(model), tokens.double()))


@pytest.mark.parametrize("pool", ["cls", "tokens"])
@pytest.mark.parametrize("precision", native_weights.PRECISIONS)
def test_precisions_on_released_weights(on_released, precision, pool):
    model = on_released.model
    got = native(model, PackedBatch.from_samples(on_released.csi, model.version), pool, precision)
    assert relative_error(got, POOLS[pool](on_released.exact)) <= numerics.ENCODER[model.version, precision]


def test_the_error_is_at_most_twice_that_of_plain_torch(on_released):
    model, exact = on_released.model, on_released.exact
    with torch.no_grad():
        got = model(on_released.tokens)[1 if model.version == "1.0" else 0]
    theirs = output_of(plain(model, torch.float32), on_released.tokens)
    assert relative_error(got, exact) <= 2 * relative_error(theirs, exact)
    assert relative_error(got[:, 0], exact[:, 0]) <= 2 * relative_error(theirs[:, 0], exact[:, 0])


@pytest.mark.parametrize(
    "changes",
    [
        {"embed_dim": 24, "num_heads": 3, "head_dim": 7, "ffn_dim": 40},
        {"embed_dim": 2, "num_heads": 1, "head_dim": 1, "ffn_dim": 1},
        {"embed_dim": 130, "num_heads": 2, "head_dim": 64, "ffn_dim": 33},
    ],
)
def test_models_of_other_sizes(changes):
    model = small("1.1", **changes)
    csi = random_csi(3, 8, 12)
    tokens = reference.tokenize(torch.from_numpy(csi).to(torch.complex128), "1.1")
    exact = output_of(plain(model), tokens)
    assert backends.select(model.device, config=model.config).name == "native"
    for precision in native_weights.PRECISIONS:
        error = relative_error(model.encode(csi, pool="tokens", precision=precision), exact)
        assert error < 1e-5  # sizes that the faster codes do not take run as float32


# ------------------------------------------------------------------------------------------ determinism


def test_bits_do_not_depend_on_the_packing_or_the_order():
    model, samples = small("1.1"), samples_of("1.1")
    alone = [native(model, PackedBatch.from_samples([s], "1.1"), "tokens").reshape(-1, 128) for s in samples]
    order = np.random.default_rng(0).permutation(len(samples))
    together = native(model, PackedBatch.from_samples([samples[i] for i in order], "1.1"), "tokens")
    assert np.array_equal(together, np.concatenate([alone[i] for i in order]))
    many = native(model, PackedBatch.from_samples(samples * 20, "1.1"), "tokens")
    assert np.array_equal(many, np.concatenate(alone * 20))


@pytest.mark.parametrize("pool", ["cls", "mean", "patches"])
def test_bits_do_not_depend_on_threads_or_batches(threads, pool):
    model, csi = small("1.1"), random_csi(200, 8, 32)
    results = []
    for count, batch_size in ((1, "auto"), (2, "auto"), (3, 7), (2, 1)):
        threads(count)
        results.append(model.encode(csi, pool=pool, batch_size=batch_size))
    assert all(np.array_equal(result, results[0]) for result in results[1:])


def test_several_python_threads_at_once(threads):
    threads(2)
    model, csi = small("1.1"), [random_csi(40, 8, 32, seed=i) for i in range(6)]
    expected: list[Any] = [model.encode(part) for part in csi]
    found: dict[int, Any] = {}

    def work(i: int) -> None:
        for _ in range(5):
            found[i] = model.encode(csi[i])

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(csi))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert all(np.array_equal(found[i], expected[i]) for i in range(len(csi)))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_embeds(threads):
    threads(2)
    model, csi = small("1.1"), random_csi(80, 8, 32)
    here: Any = model.encode(csi)  # the pool of threads is running
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=lambda: answers.put(model.encode(csi)))
    child.start()
    there: Any = answers.get()
    child.join(60)
    assert child.exitcode == 0
    assert np.array_equal(there, here)


def test_threads_are_torch_s_unless_the_environment_says(threads, monkeypatch):
    from lwm_fast.backends import native_backend

    monkeypatch.delenv("LWM_FAST_NUM_THREADS", raising=False)
    threads(3)
    assert native_backend._num_threads() == 3
    monkeypatch.setenv("LWM_FAST_NUM_THREADS", "2")
    assert native_backend._num_threads() == 0  # the engine reads it


# ------------------------------------------------------------------------------------------------ forward


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_forward_is_encode_of_all_tokens(version):
    model, csi = small(version), random_csi(3, 32, 32)
    tokens = reference.tokenize(torch.from_numpy(csi), version)
    with torch.no_grad():
        output = model(tokens)[1 if version == "1.0" else 0]
        strided = model(tokens.repeat(1, 1, 2)[..., : tokens.shape[2]])[1 if version == "1.0" else 0]
        assert model(tokens[:0])[1 if version == "1.0" else 0].shape == (0, *output.shape[1:])
    assert np.array_equal(output.numpy(), model.encode(csi, pool="tokens"))
    assert torch.equal(strided, output)
    with torch.no_grad(), use_backend("torch"):
        theirs = model(tokens)[1 if version == "1.0" else 0]
    assert not torch.equal(theirs, output)  # it was the engine
    assert relative_error(output, theirs) < 1e-6


def test_gradients_maps_and_other_dtypes_go_to_torch():
    model = small("1.1")
    tokens = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = model(tokens)[0]
        output, maps = model(tokens, return_attention=[1])
    assert relative_error(output, exact) < 1e-6
    assert [m.shape for m in maps] == [(2, 8, 9, 9)]
    differentiable = model(tokens)[0]
    differentiable.square().mean().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if name.startswith("layers"))
    assert relative_error(differentiable.detach(), exact) < 1e-6
    with torch.no_grad():
        double = copy.deepcopy(model).double()(tokens.double())[0]
    assert double.dtype == torch.float64
    assert relative_error(double, exact) < 1e-6


def test_a_compiled_model_leaves_the_engine_alone():
    model = small("1.1")
    tokens = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = model(tokens)[0]
        compiled = torch.compile(model, backend="eager")(tokens)[0]
    assert relative_error(compiled, exact) < 1e-6


# ------------------------------------------------------------------------------------------------- encode


@pytest.mark.parametrize("pool", list(POOLS))
def test_rows_are_written_into_the_caller_s_memory(monkeypatch, pool):
    model, csi = small("1.1"), random_csi(7, 8, 32)
    rooms: list[Any] = []
    real = NATIVE.encode

    def spy(model: LWM, batch: PackedBatch, how: Any, precision: str, out: Any = None) -> Any:
        rooms.append(out)
        return real(model, batch, how, precision, out)

    expected = model.encode(csi, pool=pool)
    out = np.full_like(expected, np.nan)
    monkeypatch.setattr(NATIVE, "encode", spy, raising=False)
    assert model.encode(csi, pool=pool, batch_size=3, out=out) is out
    assert [np.shares_memory(room.numpy(), out) for room in rooms] == [True] * 3
    assert np.array_equal(out, expected)
    for awkward in (np.full((*out.shape[:-1], 256), np.nan, np.float32)[..., ::2], out.astype(np.float64)):
        model.encode(csi, pool=pool, out=awkward)
        assert rooms[-1] is None
        assert np.array_equal(awkward, expected.astype(awkward.dtype))


@pytest.mark.parametrize("pool", ["cls", "patches"])
def test_mixed_sizes_share_a_batch(pool):
    model, samples = small("1.1"), samples_of("1.1")
    got = model.encode(samples, pool=pool, normalize=True)
    rows = got.values if isinstance(got, Ragged) else got
    with use_backend("torch"):
        theirs = model.encode(samples, pool=pool, normalize=True)
    assert relative_error(rows, theirs.values if isinstance(theirs, Ragged) else theirs) < 1e-6


def test_unit_power_channels_with_a_cls_of_their_own():
    model = LWM.random(LWMConfig.v1_1(num_layers=1, input_scale="power"), seed=2)
    samples = [s * np.float32(10.0**i) for i, s in enumerate(samples_of("1.1")[:4])]
    with use_backend("torch"):
        theirs = model.encode(samples)
    assert relative_error(model.encode(samples), theirs) < 1e-6


def test_tokens_beyond_the_position_table_are_named():
    model = LWM.random(LWMConfig.v1_1(num_layers=1, max_len=17))
    with torch.no_grad(), pytest.raises(InputError, match=r"18 tokens.*1\.\.17"):
        model(torch.zeros(1, 18, 32))


def test_an_empty_batch():
    model = small("1.1")
    empty = PackedBatch.from_samples([], "1.1")
    for pool in POOLS:
        assert native(model, empty, pool).shape == (0, 128)
