"""lwm_fast._C.NativeEncoder: errors against float64, bits whatever the packing, checks of arguments."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.native_cases import draw, seeded
from torch import Tensor

from lwm_fast import _C, reference
from lwm_fast.native_weights import packable
from lwm_fast.pooling import POOLS

Array = NDArray[np.float32]
ISAS = _C.encoder_isas("float32")
# Odd widths everywhere; a hidden layer of more than one chunk; v1.0's and v1.1's own heads.
SIZES = {
    "odd": reference.Sizes(32, 37, 3, 3, 7, 131, 200),
    "v1.1": reference.Sizes(32, 128, 2, 8, 16, 512, 513),
    "v1.0": reference.Sizes(16, 64, 3, 12, 5, 256, 129),
    "one_wide_head": reference.Sizes(16, 48, 1, 1, 64, 96, 40),
}
POOL_FACTOR = 2  # of plain torch's own float32 error; measured: 0.8 to 1.5


def make(name: str, **changes: Any) -> reference.LWM:
    return seeded(SIZES[name], **changes)


def engine(model: reference.LWM, isa: str = "") -> _C.NativeEncoder:
    version = int(model.version.replace(".", ""))
    return _C.NativeEncoder(packable(model, collapse=True), version, isa=isa)


def encode(
    native: _C.NativeEncoder, tokens: Array, lengths: Sequence[int], pool: str, threads: int = 1
) -> Array:
    rows = {"tokens": sum(lengths), "patches": sum(lengths) - len(lengths)}.get(pool, len(lengths))
    out = np.full((rows, native.embed_dim), np.nan, np.float32)
    native.encode_tokens(tokens, bounds(lengths), out, pool, threads)
    return out


def bounds(lengths: Sequence[int]) -> NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def plain(model: reference.LWM, tokens: Array, lengths: Sequence[int], pool: str) -> NDArray[np.float64]:
    """The reference's pooled rows, computed in the model's dtype."""
    rows = []
    with torch.no_grad():
        for part in np.split(tokens, np.cumsum(lengths)[:-1]):
            result = model(torch.from_numpy(part)[None].to(model.decoder_bias.dtype))
            output: Tensor = result[1] if model.version == "1.0" else result[0]
            rows.append(POOLS[pool](output)[0].double().reshape(-1, output.shape[-1]))
    return torch.cat(rows).numpy()


def relative(got: NDArray[Any], expected: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("name", "lengths", "options"),
    [
        ("odd", [1, 2, 3, 15, 16, 17, 40, 48, 49, 97, 200], {}),
        ("odd", [64, 17], {"dead": [0, 1]}),
        ("v1.1", [17, 33, 129], {}),
        ("v1.1", [513], {}),
        ("v1.0", [129, 129], {}),
        ("v1.0", [129], {"dead": [0, 1, 2]}),  # no live head in layer 1
        ("one_wide_head", [40, 5], {}),
        ("one_wide_head", [40, 5], {"sharpness": 30.0}),  # scores up to 1200: the highest must be subtracted
    ],
)
def test_error_is_at_most_twice_that_of_plain_torch(
    isa: str, name: str, lengths: list[int], options: dict[str, Any]
) -> None:
    model = make(name, **options)
    tokens = draw(lengths, model.sizes.patch_len)
    native, wide = engine(model, isa), make(name, **options).double()
    for parameter in (*model.parameters(), *wide.parameters()):
        parameter.data[parameter.abs() < torch.finfo(torch.float32).tiny] = 0
    for pool in POOLS:
        if pool == "mean" and 1 in lengths:
            continue
        exact = plain(wide, tokens, lengths, pool)
        allowed = max(POOL_FACTOR * relative(plain(model, tokens, lengths, pool), exact), 2e-7)
        assert relative(encode(native, tokens, lengths, pool), exact) < allowed, pool


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("pool", POOLS)
def test_bits_depend_on_the_sequence_alone(isa: str, pool: str) -> None:
    """Alone, in any order, among any others, with any number of threads: the same bits."""
    native = engine(make("v1.0", dead=[1]), isa)
    rng = np.random.default_rng(5)
    lengths = [int(n) for n in rng.integers(2, 130, 40)]
    pieces = [draw([n], 16, seed) for seed, n in enumerate(lengths)]
    alone = [encode(native, piece, [n], pool) for piece, n in zip(pieces, lengths, strict=True)]
    for threads in (1, 3):
        order = rng.permutation(len(lengths))
        together = encode(
            native, np.concatenate([pieces[i] for i in order]), [lengths[i] for i in order], pool, threads
        )
        np.testing.assert_array_equal(together, np.concatenate([alone[i] for i in order]))


@pytest.mark.parametrize("pool", POOLS)
def test_a_nan_stays_in_its_sequence(pool: str) -> None:
    native = engine(make("v1.0", dead=[0]))
    lengths = [20, 33, 18]
    tokens = draw(lengths, 16)
    expected = encode(native, tokens, lengths, pool)
    tokens[25] = np.nan
    got = encode(native, tokens, lengths, pool)
    rows = {"tokens": lengths, "patches": [n - 1 for n in lengths]}.get(pool, [1, 1, 1])
    before, spoilt, behind = np.split(got, np.cumsum(rows)[:-1])
    np.testing.assert_array_equal(before, expected[: rows[0]])
    np.testing.assert_array_equal(behind, expected[-rows[2] :])
    assert np.isnan(spoilt).all()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_from_channels_equals_from_tokens(version: str) -> None:
    model = make("v" + version)
    native, patch_len = engine(model), model.sizes.patch_len
    sizes = [(32, 32)] * 3 if version == "1.0" else [(5, 7), (32, 32), (1, 1), (30, 50)]
    rng = np.random.default_rng(2)
    csi = [rng.standard_normal((n, 2 * sc), np.float32).view(np.complex64) for n, sc in sizes]
    flat = np.concatenate([sample.reshape(-1) for sample in csi])
    shape = np.array(sizes, np.int32)
    offsets = np.concatenate([[0], np.cumsum([n * sc for n, sc in sizes])])
    parts = [reference.tokenize(torch.from_numpy(sample)[None], version, 3.0)[0].numpy() for sample in csi]
    lengths = [len(part) for part in parts]
    out = np.full((len(csi), native.embed_dim), np.nan, np.float32)
    scale, cls = np.array([3.0], np.float32), np.full(patch_len, 0.2, np.float32)
    native.encode(flat, offsets, shape, bounds(lengths), scale, cls, out, "mean_with_cls", 2)
    expected = encode(native, np.concatenate(parts), lengths, "mean_with_cls")
    np.testing.assert_array_equal(out, expected)
    other = np.tile(cls, (len(csi), 1)) + np.arange(len(csi), dtype=np.float32)[:, None]
    native.encode(flat, offsets, shape, bounds(lengths), scale.repeat(len(csi)), other, out, "mean_with_cls")
    np.testing.assert_array_equal(out[0], expected[0])
    assert (out[1:] != expected[1:]).any(axis=1).all()


def test_empty_batch() -> None:
    native = engine(make("odd"))
    for pool in POOLS:
        assert encode(native, draw([], 32), [], pool).shape == (0, 37)
    none = np.zeros(0, np.complex64)
    scale, cls, out = np.ones(1, np.float32), np.zeros(32, np.float32), np.zeros((0, 37), np.float32)
    shape = np.zeros((0, 2), np.int32)
    native.encode(none, np.zeros(1, np.int64), shape, np.zeros(1, np.int32), scale, cls, out, "cls")


def test_weights_are_copied_and_several_threads_may_call() -> None:
    model = make("v1.0")
    parts = packable(model, collapse=True)
    native = _C.NativeEncoder(parts, 10)
    lengths = [129, 17, 64]
    tokens = draw(lengths, 16)
    expected = encode(native, tokens, lengths, "tokens")
    for array in (parts["proj"], parts["layers"][0]["qkv"], parts["layers"][2]["norm1"][0]):
        array[...] = np.nan
    results: list[Array] = []

    def work() -> None:
        results.extend(encode(native, tokens, lengths, "tokens", 2) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20
    for result in results:
        np.testing.assert_array_equal(result, expected)


def test_what_an_engine_says_of_itself() -> None:
    native = engine(make("odd"), "portable")
    assert (native.isa, native.precision) == ("portable", "float32")
    assert (native.patch_len, native.embed_dim, native.max_len) == (32, 37, 200)
    assert engine(make("odd")).isa == ISAS[-1]
    assert ISAS[0] == "portable"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"pool": "max"}, ValueError, r'pool: got "max", expected cls, mean,'),
        ({"tokens": np.zeros((37, 16), np.float32)}, ValueError, r"tokens: .* shape \[any, 32\]"),
        ({"tokens": np.zeros((37, 32))}, TypeError, r"tokens: .* got dtype float64; convert"),
        ({"tokens": np.zeros((74, 32), np.float32)[::2]}, ValueError, r"tokens: .* strided or unaligned"),
        (
            {"tokens": np.zeros((38, 32), np.float32)},
            ValueError,
            r"cu_seqlens ends at 37 but tokens holds 38",
        ),
        (
            {"tokens": np.zeros((36, 32), np.float32)},
            ValueError,
            r"cu_seqlens ends at 37 but tokens holds 36",
        ),
        ({"cu_seqlens": np.array([0, 37])}, TypeError, r"cu_seqlens: .*int32.* got dtype int64"),
        ({"cu_seqlens": np.array([1, 20, 37], np.int32)}, ValueError, r"cu_seqlens\[0\] is 1: it must be 0"),
        ({"cu_seqlens": np.array([0, 38, 37], np.int32)}, ValueError, r"less than cu_seqlens\[1\] = 38"),
        (
            {"cu_seqlens": np.array([0, 37, 37], np.int32)},
            ValueError,
            r"sequence 1 has 0 tokens: this pool needs at least 1",
        ),
        (
            {"cu_seqlens": np.array([0, 36, 37], np.int32), "pool": "mean"},
            ValueError,
            r"sequence 1 has 1 tokens: this pool needs at least 2",
        ),
        ({"out": np.zeros((3, 37), np.float32)}, ValueError, r"out has 3 rows, but these sequences give 2"),
        ({"out": np.zeros((2, 36), np.float32)}, ValueError, r"out: .* shape \[any, 37\]"),
        ({"num_threads": -2}, ValueError, r"num_threads: got -2"),
    ],
)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {
        "tokens": np.zeros((37, 32), np.float32),
        "cu_seqlens": np.array([0, 20, 37], np.int32),
        "out": np.full((2, 37), np.nan, np.float32),
        "pool": "cls",
    }
    engine(make("odd")).encode_tokens(**arguments)
    arguments.update(change)
    with pytest.raises(error, match=message):
        engine(make("odd")).encode_tokens(**arguments)


def test_sequences_beyond_the_positions_and_shared_memory() -> None:
    native = engine(make("odd"))
    with pytest.raises(ValueError, match="sequence 1 has 201 tokens, but the model has positions for 200"):
        encode(native, draw([3, 201], 32), [3, 201], "cls")
    memory = np.zeros(37 * 40, np.float32)
    tokens, out = memory[: 37 * 32].reshape(37, 32), memory[: 2 * 37].reshape(2, 37)
    with pytest.raises(ValueError, match="out shares memory with tokens"):
        native.encode_tokens(tokens, bounds([20, 17]), out, "cls")


@pytest.mark.parametrize(
    ("path", "value", "error", "message"),
    [
        (("proj",), np.zeros((37, 16), np.float32), ValueError, r"takes patches of 16 values, but .* 32"),
        (("position",), np.zeros((200, 36), np.float32), ValueError, r'weights\["position"\]: .*\[200, 37\]'),
        (("head_dim",), 65, ValueError, r"head_dim: got 65, expected 1..64"),
        (("head_dim",), 5, ValueError, r'\["layers"\]\[0\]\["qkv"\]: got 21 rows .* multiple of head_dim, 5'),
        (("norm",), None, ValueError, r'weights\["norm"\]: must not be None'),
        (("layers",), [], ValueError, r'weights\["layers"\]: expected a list of at least one dict'),
        (("layers", 2, "fc1"), np.zeros((130, 37), np.float32), ValueError, r"\[2\].*fc1.* \[131, 37\]"),
        (("layers", 1, "fc2"), np.zeros((37, 131)), TypeError, r'\[1\]\["fc2"\]: .* got dtype float64'),
        (("layers", 1, "norm1"), np.zeros(37, np.float32), ValueError, r'\[1\]\["norm1"\]: expected a tuple'),
        (("layers", 0, "out"), "x", TypeError, r'\["layers"\]\[0\]\["out"\]: .* got str'),
    ],
)
def test_bad_weights(path: tuple[Any, ...], value: Any, error: type[Exception], message: str) -> None:
    parts = packable(make("odd"), collapse=True)
    place: Any = parts
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(error, match=message):
        _C.NativeEncoder(parts, 11)
    del place[path[-1]]
    if path != ("layers",):
        with pytest.raises(ValueError, match=rf'{path[-1]}"\] is missing'):
            _C.NativeEncoder(parts, 11)


def test_unknown_precision_and_isa(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = packable(make("odd"), collapse=True)
    with pytest.raises(ValueError, match=r'precision: got "float64", expected float32, bf16x3 or bfloat16'):
        _C.NativeEncoder(parts, 11, "float64")
    with pytest.raises(
        ValueError, match=r"isa=sse9: cannot run precision float32 here; .* offer it on: portable"
    ):
        _C.NativeEncoder(parts, 11, isa="sse9")
    with pytest.raises(ValueError, match=r"version: got 12"):
        _C.NativeEncoder(parts, 12)
    monkeypatch.setenv("LWM_FAST_ISA", "portable")
    assert _C.NativeEncoder(parts, 11).isa == "portable"
    monkeypatch.setenv("LWM_FAST_ISA", "sse9")
    with pytest.raises(ValueError, match="LWM_FAST_ISA=sse9: cannot run precision float32 here"):
        _C.NativeEncoder(parts, 11)
