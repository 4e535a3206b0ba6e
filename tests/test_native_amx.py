"""The bfloat16 and bf16x3 engines: AMX's arithmetic emulated bit for bit, and the instructions where they run.

The emulation is the same source as the engine for AMX, so packing, layouts, edges, masks and rounding are tested
here on any machine. Where AMX is present the two must agree bit for bit.
"""

from __future__ import annotations

import copy
import shutil
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.native_cases import draw, seeded
from support.released import golden, released

from lwm_fast import _C, reference
from lwm_fast.native_weights import packable
from lwm_fast.pooling import POOLS

Array = NDArray[np.float32]
PRECISIONS = ("bfloat16", "bf16x3")
# (version, precision) -> limit; measured on tokens and CLS of the users below.
LIMITS = {
    ("1.0", "bfloat16"): 8e-3,  # 2.6e-3, 3.6e-3
    ("1.0", "bf16x3"): 1e-5,  # 4.8e-6, 7.3e-6
    ("1.1", "bfloat16"): 3e-3,  # 2.6e-3, 2.4e-3
    ("1.1", "bf16x3"): 1e-5,  # 5.2e-6, 4.8e-6
}
# v1.0's joined heads, v1.1's, heads with padding that have columns of their own, and an odd number of heads.
SIZES = {
    "v1.0": reference.Sizes(16, 64, 2, 12, 5, 256, 129),
    "v1.1": reference.Sizes(32, 128, 2, 8, 16, 512, 513),
    "padded": reference.Sizes(32, 96, 2, 3, 11, 160, 70),
}
SEEDED_LIMITS = {"bfloat16": 5e-3, "bf16x3": 1e-5}  # worst of the cases below: 2.9e-3, 5.2e-6


def make(name: str, **changes: Any) -> reference.LWM:
    return seeded(SIZES[name], **changes)


def engine(model: reference.LWM, precision: str, isa: str = "amx-emulated") -> _C.NativeEncoder:
    return _C.NativeEncoder(
        packable(model, collapse=True), int(model.version.replace(".", "")), precision, isa
    )


def encode(
    native: _C.NativeEncoder, tokens: Array, lengths: Sequence[int], pool: str = "tokens", threads: int = 1
) -> Array:
    rows = {"tokens": sum(lengths), "patches": sum(lengths) - len(lengths)}.get(pool, len(lengths))
    out = np.full((rows, native.embed_dim), np.nan, np.float32)
    bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    native.encode_tokens(tokens, bounds, out, pool, threads)
    return out


def exact(model: reference.LWM, tokens: Array, lengths: Sequence[int], pool: str) -> NDArray[np.float64]:
    wide, rows = copy.deepcopy(model).double(), []
    with torch.no_grad():
        for part in np.split(tokens, np.cumsum(lengths)[:-1]):
            result = wide(torch.from_numpy(part)[None].double())
            output = result[1] if model.version == "1.0" else result[0]
            assert isinstance(output, torch.Tensor)
            rows.append(POOLS[pool](output)[0].reshape(-1, output.shape[-1]))
    return torch.cat(rows).numpy()


def relative(got: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("version", "name"), [("1.0", "v10_city_18_denver"), ("1.1", "v11_8x32")])
def test_error_on_released_inputs(shared_data: Path, version: str, name: str, precision: str) -> None:
    tokens = golden(shared_data, name)["tokens"][:4]
    model = released(shared_data, version)
    lengths = [tokens.shape[1]] * len(tokens)
    flat = np.ascontiguousarray(tokens.reshape(-1, tokens.shape[2]))
    native = engine(model, precision)
    for pool in ("tokens", "cls"):
        error = relative(encode(native, flat, lengths, pool), exact(model, flat, lengths, pool))
        assert error <= LIMITS[version, precision], pool


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("name", "lengths", "options"),
    [
        ("v1.0", [1, 2, 15, 16, 17, 31, 32, 33, 48, 129], {}),
        ("v1.0", [40, 17], {"dead": [0, 1]}),  # no live head in layer 1
        ("v1.1", [1, 16, 17, 33, 64, 65], {}),
        ("v1.1", [513], {}),
        ("padded", [70, 3, 32], {}),
        ("padded", [31, 32, 33], {"dead": [0]}),
    ],
)
def test_error_of_every_pool(name: str, lengths: list[int], options: dict[str, Any], precision: str) -> None:
    model = make(name, **options)
    tokens, native = draw(lengths, model.sizes.patch_len), engine(model, precision)
    for pool in POOLS:
        if pool == "mean" and 1 in lengths:
            continue
        error = relative(encode(native, tokens, lengths, pool), exact(model, tokens, lengths, pool))
        assert error <= SEEDED_LIMITS[precision], pool


@pytest.mark.parametrize("precision", PRECISIONS)
def test_scores_beyond_the_bound_have_their_largest_subtracted(precision: str) -> None:
    """Powers of two of these scores, up to 340, would leave float32."""
    model, lengths = make("v1.0", sharpness=8.0), [50, 33]
    tokens = draw(lengths, 16)
    got = encode(engine(model, precision), tokens, lengths)
    error = relative(got, exact(model, tokens, lengths, "tokens"))
    assert error <= {"bfloat16": 2e-2, "bf16x3": 3e-5}[precision]  # 5.5e-3, 1.1e-5
    wild = make("v1.0", sharpness=1000.0)
    assert np.isfinite(encode(engine(wild, precision), tokens, lengths)).all()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", SIZES)
def test_bits_depend_on_the_sequence_alone(name: str, precision: str) -> None:
    model, lengths = make(name, dead=[0]), [33, 5, 70, 16, 17]
    native, tokens = engine(model, precision), draw(lengths, model.sizes.patch_len)
    parts = np.split(tokens, np.cumsum(lengths)[:-1])
    together = np.split(encode(native, tokens, lengths, threads=3), np.cumsum(lengths)[:-1])
    backwards = encode(native, np.concatenate(parts[::-1]), lengths[::-1])
    np.testing.assert_array_equal(backwards, np.concatenate(together[::-1]))
    for part, length, among_others in zip(parts, lengths, together, strict=True):
        np.testing.assert_array_equal(encode(native, part, [length]), among_others)
    cls = encode(native, tokens, lengths, "cls")
    np.testing.assert_array_equal(cls, np.stack([rows[0] for rows in together]))


def test_threads_share_an_engine() -> None:
    model, lengths = make("v1.0"), [33, 17]
    native, tokens = engine(model, "bfloat16"), draw(lengths, 16)
    expected, got = encode(native, tokens, lengths), {}

    def work(number: int) -> None:
        got[number] = encode(native, tokens, lengths, threads=2)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 4
    for result in got.values():
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_channel_harms_no_other(precision: str, bad: float) -> None:
    model, lengths = make("v1.1"), [17, 20, 33]
    tokens, native = draw(lengths, 32), engine(model, precision)
    clean = encode(native, tokens, lengths)
    tokens[20, 3] = bad  # in the second sequence
    got = encode(native, tokens, lengths)
    np.testing.assert_array_equal(got[:17], clean[:17])
    np.testing.assert_array_equal(got[37:], clean[37:])
    assert np.isnan(got[17:37]).any()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (reference.Sizes(32, 48, 1, 3, 16, 64, 9), "embed_dim: got 48.*use precision float32"),
        (reference.Sizes(32, 544, 1, 2, 16, 64, 9), "embed_dim: got 544"),
        (reference.Sizes(32, 64, 1, 2, 17, 64, 9), "head_dim: got 17"),
        (reference.Sizes(32, 64, 1, 4, 16, 100, 9), "ffn_dim: got 100"),
    ],
)
def test_sizes_that_tiles_do_not_take_are_refused(sizes: reference.Sizes, message: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = reference.LWM("1.1", sizes)
    with pytest.raises(ValueError, match=message):
        engine(model, "bfloat16")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_emulation_is_never_offered(precision: str) -> None:
    assert "amx-emulated" not in _C.encoder_isas(precision)
    if "amx" not in _C.encoder_isas(precision):
        with pytest.raises(ValueError, match="amx"):
            engine(make("v1.0"), precision, "amx")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", SIZES)
def test_instructions_give_the_bits_of_the_emulation(name: str, precision: str) -> None:
    if "amx" not in _C.encoder_isas(precision):
        pytest.skip("this processor (or its system) has no AMX with bfloat16")
    for sharpness in (1.0, 8.0):
        model, lengths = make(name, sharpness=sharpness, dead=[0]), [2, 16, 17, 33, 70]
        tokens = draw(lengths, model.sizes.patch_len)
        for pool in POOLS:
            np.testing.assert_array_equal(
                encode(engine(model, precision, "amx"), tokens, lengths, pool),
                encode(engine(model, precision), tokens, lengths, pool),
            )


def test_the_module_holds_tile_instructions() -> None:
    """Compiled here even where they do not run; operands in the order destination, left, right."""
    if shutil.which("objdump") is None:
        pytest.skip("objdump (binutils) is not installed")
    assert _C.__file__ is not None
    done = subprocess.run(
        ["objdump", "-d", "-M", "intel", _C.__file__], capture_output=True, text=True, check=True, timeout=120
    )
    if "x86-64" not in done.stdout[:200]:
        pytest.skip("not built for x86-64")
    for instruction in (
        "tdpbf16ps tmm0,tmm4,tmm6",
        "tdpbf16ps tmm3,tmm5,tmm7",
        "tdpbf16ps tmm0,tmm4,tmm5",
        "tdpbf16ps tmm2,tmm6,tmm3",
        "tileloadd",
        "tilestored",
        "ldtilecfg",
        "tilerelease",
        "vcvtne2ps2bf16",
    ):
        assert instruction in done.stdout, instruction
