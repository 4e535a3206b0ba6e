"""tokenize / detokenize against a plain numpy tokeniser and the released tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lwm_fast import _C
from lwm_fast.errors import InputError
from lwm_fast.tokens import CLS_VALUE, PATCH_LEN, detokenize, num_tokens, tokenize

V10_SIZES = [(32, 32), (1, 16), (16, 1), (3, 16), (5, 48), (7, 112), (128, 1024)]
V11_SIZES = [
    (1, 1),
    (1, 7),
    (3, 5),
    (4, 4),
    (5, 4),
    (4, 5),
    (8, 32),
    (30, 50),
    (32, 32),
    (128, 64),
    (128, 1024),
]
CASES = [("1.0", *size) for size in V10_SIZES] + [("1.1", *size) for size in V11_SIZES]


def make_csi(batch: int, num_antennas: int, num_subcarriers: int, seed: int = 0) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    parts = rng.standard_normal((2, batch, num_antennas, num_subcarriers), np.float32) * np.float32(2e-5)
    csi: NDArray[Any] = (parts[0] + 1j * parts[1]).astype(np.complex64)
    return csi


def plain_tokenize(csi: NDArray[Any], version: str, scale: NDArray[Any] | float = 1e6) -> NDArray[Any]:
    """The tokeniser in plain numpy, from the text of the release."""
    batch, num_antennas, num_subcarriers = csi.shape
    factor = np.broadcast_to(np.asarray(scale, np.float32), (batch,))[:, None, None]
    real, imag = csi.real * factor, csi.imag * factor
    if version == "1.0":
        size = num_antennas * num_subcarriers
        flat = np.concatenate([real.reshape(batch, size), imag.reshape(batch, size)], 1)
        patches = flat.reshape(batch, size // 8, 16)
    else:
        rows, columns = -(-num_antennas // 4), -(-num_subcarriers // 4)
        padded = np.zeros((batch, 4 * rows, 4 * columns, 2), np.float32)
        padded[:, :num_antennas, :num_subcarriers] = np.stack([real, imag], -1)
        blocks = padded.reshape(batch, rows, 4, columns, 8).transpose(0, 1, 3, 2, 4)
        patches = blocks.reshape(batch, rows * columns, 32)
    cls = np.full((batch, 1, patches.shape[2]), CLS_VALUE, np.float32)
    return np.concatenate([cls, patches], 1)


def poisoned(version: str, batch: int, num_antennas: int, num_subcarriers: int) -> NDArray[Any]:
    seq_len = num_tokens(num_antennas, num_subcarriers, version)
    return np.full((batch, seq_len, PATCH_LEN[version]), np.nan, np.float32)


@pytest.mark.parametrize(("version", "num_antennas", "num_subcarriers"), CASES)
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_equals_plain_numpy(version: str, num_antennas: int, num_subcarriers: int, batch: int) -> None:
    csi = make_csi(batch, num_antennas, num_subcarriers)
    out = poisoned(version, batch, num_antennas, num_subcarriers)
    assert tokenize(csi, version, out=out) is out
    np.testing.assert_array_equal(out, plain_tokenize(csi, version))
    assert out.dtype == np.float32


@pytest.mark.parametrize("num_threads", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_any_number_of_threads(version: str, num_threads: int) -> None:
    csi = make_csi(301, 8, 32)
    out = poisoned(version, 301, 8, 32)
    tokenize(csi, version, out=out, num_threads=num_threads)
    np.testing.assert_array_equal(out, plain_tokenize(csi, version))


def test_released_v10_tokens(shared_data: Path) -> None:
    with np.load(shared_data / "golden" / "golden_v10_city_18_denver.npz") as golden:
        np.testing.assert_array_equal(tokenize(golden["raw"], "1.0"), golden["tokens"])


@pytest.mark.parametrize("size", ["8x32", "32x32", "30x50"])
def test_released_v11_tokens(shared_data: Path, size: str) -> None:
    with np.load(shared_data / "golden" / f"golden_v11_{size}.npz") as golden:
        np.testing.assert_array_equal(tokenize(golden["raw"], "1.1"), golden["tokens"])


def test_scale_per_sample() -> None:
    csi = make_csi(4, 8, 32)
    scale = np.array([1.0, 1e6, 3e5, 1e-3], np.float32)
    np.testing.assert_array_equal(tokenize(csi, "1.1", scale), plain_tokenize(csi, "1.1", scale))


def test_nan_and_inf_pass_through() -> None:
    csi = make_csi(2, 4, 4)
    csi[0, 1, 2] = np.nan
    csi[1, 3, 3] = complex(0.0, np.inf)
    np.testing.assert_array_equal(tokenize(csi, "1.1"), plain_tokenize(csi, "1.1"))


@pytest.mark.parametrize(("version", "num_antennas", "num_subcarriers"), CASES)
def test_round_trip(version: str, num_antennas: int, num_subcarriers: int) -> None:
    csi = make_csi(3, num_antennas, num_subcarriers)
    exact = tokenize(csi, version, scale=2.0**20)
    back = detokenize(exact, num_antennas, num_subcarriers, version, scale=2.0**20)
    np.testing.assert_array_equal(back, csi)
    rounded = detokenize(tokenize(csi, version), num_antennas, num_subcarriers, version)
    np.testing.assert_allclose(rounded.view(np.float32), csi.view(np.float32), rtol=2.4e-7)


def test_round_trip_with_a_scale_per_sample() -> None:
    csi, scale = make_csi(3, 5, 7), np.array([2.0, 0.5, 1024.0], np.float32)
    np.testing.assert_array_equal(detokenize(tokenize(csi, "1.1", scale), 5, 7, "1.1", scale), csi)


def test_singleton_user_antenna_axis_strides_and_complex128() -> None:
    csi = make_csi(6, 8, 32)
    expected = tokenize(csi, "1.1")
    np.testing.assert_array_equal(tokenize(csi[:, None], "1.1"), expected)
    np.testing.assert_array_equal(tokenize(csi.astype(np.complex128), "1.1"), expected)
    np.testing.assert_array_equal(tokenize(np.asfortranarray(csi), "1.1"), expected)
    np.testing.assert_array_equal(tokenize(csi[::2], "1.1"), expected[::2])


def test_big_endian_is_converted() -> None:
    csi = make_csi(2, 4, 4)
    np.testing.assert_array_equal(tokenize(csi.astype(">c8"), "1.1"), tokenize(csi, "1.1"))


def test_torch_in_torch_out() -> None:
    csi = make_csi(5, 8, 32)
    tensor = torch.from_numpy(csi)
    tokens = tokenize(tensor, "1.1")
    assert isinstance(tokens, torch.Tensor)
    np.testing.assert_array_equal(tokens.numpy(), tokenize(csi, "1.1"))
    out = torch.full_like(tokens, torch.nan)
    assert tokenize(tensor, "1.1", out=out) is out
    assert torch.equal(out, tokens)
    np.testing.assert_array_equal(tokenize(tensor.conj(), "1.1").numpy(), tokenize(csi.conj(), "1.1"))
    back = detokenize(tokens, 8, 32, "1.1")
    assert isinstance(back, torch.Tensor)
    np.testing.assert_array_equal(back.numpy(), detokenize(tokens.numpy(), 8, 32, "1.1"))


def test_out_may_be_a_view_of_a_larger_buffer() -> None:
    csi = make_csi(3, 8, 32)
    buffer = np.full((5, 17, 32), np.nan, np.float32)
    tokenize(csi, "1.1", out=buffer[1:4])
    np.testing.assert_array_equal(buffer[1:4], plain_tokenize(csi, "1.1"))
    assert np.isnan(buffer[[0, 4]]).all()


def test_packed_mixed_sizes() -> None:
    sizes = [(8, 32), (1, 1), (5, 7), (32, 32)]
    samples = [make_csi(1, *size, seed=i)[0] for i, size in enumerate(sizes)]
    lengths = [num_tokens(*size, "1.1") for size in sizes]
    offsets = np.cumsum([0] + [sample.size for sample in samples])
    cu_seqlens = np.cumsum([0] + lengths).astype(np.int32)
    cls = np.arange(4 * 32, dtype=np.float32).reshape(4, 32)
    out = np.full((cu_seqlens[-1], 32), np.nan, np.float32)
    flat = np.concatenate([sample.ravel() for sample in samples])
    scale = np.array([1e6], np.float32)
    _C.tokenize(flat, offsets, np.array(sizes, np.int32), cu_seqlens, scale, cls, out, 11)
    for i, sample in enumerate(samples):
        tokens = out[cu_seqlens[i] : cu_seqlens[i + 1]]
        np.testing.assert_array_equal(tokens[1:], plain_tokenize(sample[None], "1.1")[0, 1:])
        np.testing.assert_array_equal(tokens[0], cls[i])


@pytest.mark.parametrize(
    ("version", "num_antennas", "num_subcarriers", "expected"),
    [("1.0", 32, 32, 129), ("1.1", 8, 32, 17), ("1.1", 30, 50, 105), ("1.1", 1, 1, 2), ("1.1", 128, 64, 513)],
)
def test_num_tokens(version: str, num_antennas: int, num_subcarriers: int, expected: int) -> None:
    assert num_tokens(num_antennas, num_subcarriers, version) == expected


def test_noise_leaves_cls_and_hits_the_ratio() -> None:
    csi = make_csi(40, 32, 32)
    clean = tokenize(csi, "1.0")
    noisy = tokenize(csi, "1.0", snr_db=5.0, seed=3)
    np.testing.assert_array_equal(noisy[:, 0], clean[:, 0])
    noise_power = np.mean((noisy - clean)[:, 1:].astype(np.float64) ** 2, axis=(1, 2))
    signal_power = np.mean(clean[:, 1:].astype(np.float64) ** 2, axis=(1, 2))
    ratio = noise_power / signal_power * 10**0.5
    # The mean of 2048 squared Gaussians has a relative deviation of sqrt(2 / 2048) = 0.031.
    assert np.all(np.abs(ratio - 1) < 5 * 0.032)
    assert abs(ratio.mean() - 1) < 5 * 0.032 / np.sqrt(40)


def test_noise_belongs_to_the_sample_not_to_the_batch() -> None:
    csi, ids = make_csi(7, 5, 9), np.array([5, 1, 2**40, 0, -3, 9, 8])
    whole = tokenize(csi, "1.1", snr_db=10.0, seed=2**63 + 5, epoch=4, sample_id=ids, num_threads=3)
    order = np.array([6, 2, 0])
    part = tokenize(
        csi[order], "1.1", snr_db=10.0, seed=2**63 + 5, epoch=4, sample_id=ids[order], num_threads=1
    )
    np.testing.assert_array_equal(part, whole[order])
    other_epoch = tokenize(csi, "1.1", snr_db=10.0, seed=2**63 + 5, epoch=5, sample_id=ids)
    assert not np.any(other_epoch[:, 1, 0] == whole[:, 1, 0])


def test_noise_of_each_sample_at_its_own_ratio() -> None:
    csi = make_csi(2, 64, 64)
    clean = tokenize(csi, "1.1")
    noisy = tokenize(csi, "1.1", snr_db=np.array([0.0, 40.0], np.float32))
    power = np.mean((noisy - clean)[:, 1:] ** 2, axis=(1, 2)) / np.mean(clean[:, 1:] ** 2, axis=(1, 2))
    np.testing.assert_allclose(power, [1.0, 1e-4], rtol=0.1)


CSI = make_csi(2, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"csi": CSI[0]}, r"one matrix of shape \[4, 4\].*csi\[None\]"),
        ({"csi": CSI.real}, r"float32 array, but channels are complex"),
        ({"csi": CSI.tolist()}, r"expected a complex array.*got a list"),
        ({"csi": CSI[:, None, None]}, r"got shape \[2, 1, 1, 4, 4\]"),
        ({"csi": np.zeros((2, 0, 4), np.complex64)}, r"a channel of 0 x 4 has no values"),
        ({"version": "2.0"}, r"version: got '2.0', expected \"1.0\" or \"1.1\""),
        ({"version": "1.0", "csi": make_csi(1, 3, 5)}, r"3 x 5 channel has 15 values.*multiple of 16"),
        ({"scale": np.ones(3, np.float32)}, r"scale: got shape \[3\], expected one number or \[2\]"),
        ({"scale": np.nan}, r"scale: got nan"),
        ({"out": np.empty((2, 2, 31), np.float32)}, r"out: got shape \[2, 2, 31\], expected \[2, 2, 32\]"),
        ({"out": np.empty((2, 2, 32))}, r"out: got a float64 array, expected float32"),
        ({"out": np.empty((2, 2, 64), np.float32)[..., ::2]}, r"out: expected a writable, C-contiguous"),
        ({"out": torch.empty(2, 2, 32)}, r"out: got a Tensor, expected a numpy array"),
        ({"snr_db": 5.0, "sample_id": np.arange(3)}, r"sample_id: got a int64 array of shape \[3\]"),
        ({"snr_db": 5.0, "seed": -1}, r"seed: got -1"),
        ({"snr_db": 5.0, "epoch": 2**32}, r"epoch: got 4294967296"),
        ({"snr_db": np.inf}, r"snr_db: got inf"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tokenize(**{"csi": CSI, "version": "1.1", **arguments})


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_bad_tensors() -> None:
    tensor = torch.from_numpy(CSI)
    with pytest.raises(InputError, match=r"csi\.detach\(\)"):
        tokenize(tensor.clone().requires_grad_(), "1.1")
    with pytest.raises(InputError, match=r"csi is on meta.*csi\.cpu\(\)"):
        tokenize(tensor.to("meta"), "1.1")
    with pytest.raises(InputError, match="has no numpy form"):
        tokenize(tensor.to(torch.complex32), "1.1")


def test_bad_tokens() -> None:
    tokens = tokenize(CSI, "1.1")
    with pytest.raises(InputError, match=r"tokens: got shape \[2, 2, 32\].*make \[batch, 5, 32\]"):
        detokenize(tokens, 8, 8, "1.1")
    with pytest.raises(InputError, match="expected a float32 array, got a float64 array"):
        detokenize(tokens.astype(np.float64), 4, 4, "1.1")
    with pytest.raises(InputError, match="scale: got 0"):
        detokenize(tokens, 4, 4, "1.1", scale=0.0)
