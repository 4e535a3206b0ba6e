"""The random numbers: published vectors, C++ against numpy, statistics."""

from __future__ import annotations

import numpy as np
import pytest

from lwm_fast import _C
from lwm_fast.errors import InputError
from lwm_fast.philox import Stream, normal, philox4x32, uniform, words

# Known answers published with the Random123 library for philox4x32-10.
KNOWN_ANSWERS = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_known_answers(counter: list[int], key: list[int], answer: list[int]) -> None:
    assert philox4x32(counter, (key[0], key[1])).tolist() == answer
    out = np.zeros((1, 4), np.uint32)
    _C.philox(np.array([counter], np.uint32), (key[0], key[1]), out)
    assert out[0].tolist() == answer


def test_native_bits_equal_numpy() -> None:
    counter = np.random.default_rng(0).integers(0, 2**32, (1000, 4), dtype=np.uint32)
    out = np.zeros_like(counter)
    _C.philox(counter, (123, 0x89ABCDEF), out)
    np.testing.assert_array_equal(out, philox4x32(counter, (123, 0x89ABCDEF)))


def test_counter_layout() -> None:
    seed, sample, epoch = 0x0123456789ABCDEF, 0x1122334455667788, 7
    counter = [[0x55667788, 0x11223344, epoch, (2 << 24) | block] for block in range(2)]
    expected = philox4x32(counter, (0x89ABCDEF, 0x01234567)).ravel()
    drawn = words(seed, sample, epoch, Stream.RANDOM_PATCHES, 7)
    np.testing.assert_array_equal(drawn, expected[:7])
    u = uniform(seed, sample, epoch, Stream.RANDOM_PATCHES, 7)
    np.testing.assert_array_equal(u, (expected[:7] >> 8) / np.float64(2**24))
    assert u.dtype == np.float32


def test_streams_samples_and_epochs_differ() -> None:
    draws = [words(1, sample, epoch, stream, 4) for sample in (0, 1) for epoch in (0, 1) for stream in Stream]
    assert len({tuple(draw.tolist()) for draw in draws}) == len(draws)


def test_uniform_and_normal_statistics() -> None:
    count = 200_000
    u = uniform(5, 0, 0, Stream.ACTIONS, count).astype(np.float64)
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 5 / np.sqrt(12 * count)
    z = normal(5, 0, 0, count).astype(np.float64)
    assert abs(z.mean()) < 5 / np.sqrt(count)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / count)
    assert abs(np.mean(z**4) - 3) < 5 * np.sqrt(96 / count)
    assert abs(np.mean(z[:-1] * z[1:])) < 5 / np.sqrt(count)


def test_native_noise_equals_numpy() -> None:
    """Tokens of mean square 1 at 0 dB: sigma = 1, so the noise itself is seen. One unit in the last place."""
    lengths = [1, 0, 2, 30, 1001]  # tokens with CLS; a sequence may be empty or CLS alone
    cu_seqlens = np.cumsum([0] + lengths).astype(np.int32)
    tokens = np.ones((cu_seqlens[-1], 16), np.float32)
    ids = np.array([4, 5, -6, 7, 2**40 + 1])
    _C.add_noise(tokens, cu_seqlens, np.zeros(5, np.float32), ids, 99, 3)
    for i, length in enumerate(lengths):
        rows = tokens[cu_seqlens[i] : cu_seqlens[i + 1]]
        assert np.all(rows[:1] == 1)
        count = 16 * max(0, length - 1)
        z = normal(99, int(ids[i]), 3, count)
        expected = np.float32(1) + z
        error = np.abs(rows[1:].ravel() - expected)
        assert np.all(error <= np.spacing(np.maximum(np.abs(z), np.abs(expected))))


def test_noise_of_lengths_that_fill_no_block() -> None:
    """A patch length of 3: the noise of a short sample is the beginning of a longer one's."""
    tokens = np.ones((3 + 30, 3), np.float32)
    _C.add_noise(tokens, np.array([0, 3, 33], np.int32), np.zeros(2, np.float32), np.array([1, 1]), 0, 0)
    short, long = tokens[1:3].ravel(), tokens[4:].ravel()
    np.testing.assert_array_equal(short, long[:6])


def test_zero_power_gets_no_noise() -> None:
    tokens = np.zeros((5, 16), np.float32)
    _C.add_noise(tokens, np.array([0, 5], np.int32), np.zeros(1, np.float32), np.array([0]), 0, 0)
    assert not tokens.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 0, 0, Stream.NOISE, 4), "seed: got -1"),
        ((0, 2**63, 0, Stream.NOISE, 4), "sample_id: got 9223372036854775808"),
        ((0, 0, 2**32, Stream.NOISE, 4), "epoch: got 4294967296"),
        ((0, 0, 0, Stream.NOISE, 2**26 + 1), "count: got 67108865"),
    ],
)
def test_bad_arguments(arguments: tuple[int, int, int, Stream, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        words(*arguments)


def test_bad_counter() -> None:
    with pytest.raises(InputError, match=r"counter: got shape \[3\]"):
        philox4x32([1, 2, 3], (0, 0))
