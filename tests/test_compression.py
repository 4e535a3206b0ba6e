"""Compression: every bit counted, bytes there and back, quantisers, codecs against what they should reach."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
import torch
from support.path_channels import path_channels

from lwm_fast.errors import InputError
from lwm_fast.tasks import classical
from lwm_fast.tasks.bits import fields_to_subset, pack, subset_bits, subset_to_fields, unpack
from lwm_fast.tasks.classical import AngleDelayCodec, PcaCodec
from lwm_fast.tasks.codec import LatentCodec, quantise
from lwm_fast.tasks.compression import CompressionTask
from lwm_fast.tasks.fit import FitConfig, FittedNetwork, fit_head
from lwm_fast.tasks.metrics import nmse_scores
from lwm_fast.tasks.patch_heads import reconstruction_head
from lwm_fast.tasks.reconstruction import gain_index, gain_of, raw_parts, to_csi, to_parts, user_scale


@pytest.mark.parametrize("widths", [[8], [1, 0, 3], [62, 1], [8, 4, 4, 4, 4, 4], [5] * 13, []])
def test_bytes_there_and_back(widths: list[int]) -> None:
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, 2**width, 9, dtype=np.int64) for width in widths]
    values = np.stack(columns, 1) if columns else np.empty((9, 0), np.int64)
    data = pack(values, widths)
    assert data.shape == (9, -(-sum(widths) // 8))
    np.testing.assert_array_equal(unpack(data, widths), values)


def test_order_of_bits() -> None:
    assert pack(np.array([[0b101, 0b0110, 1]]), [3, 4, 1]).tolist() == [[0b10101101]]
    assert pack(np.array([[1, 1]]), [1, 8]).tolist() == [[0b10000000, 0b10000000]]


def test_values_that_do_not_fit() -> None:
    for value in (16, -1):
        with pytest.raises(InputError, match="does not fit its field"):
            pack(np.array([[value]]), [4])
    with pytest.raises(InputError, match=r"take uint8 \[n, 2\]"):
        unpack(np.zeros((3, 1), np.uint8), [9])


@pytest.mark.parametrize(("size", "count"), [(1, 1), (5, 5), (6, 3), (1024, 1), (1024, 40), (70, 35)])
def test_sets_of_places(size: int, count: int) -> None:
    assert subset_bits(size, count) == (comb(size, count) - 1).bit_length()
    rng = np.random.default_rng(1)
    places = np.stack([rng.permutation(size)[:count] for _ in range(20)])
    places[0], places[1] = np.arange(count), np.arange(size - count, size)
    fields, widths = subset_to_fields(places, size, count)
    assert sum(widths) == subset_bits(size, count)
    np.testing.assert_array_equal(fields_to_subset(fields, size, count), np.sort(places, 1))
    assert (pack(fields, widths).shape[1] if widths else 0) == -(-sum(widths) // 8)


def test_gain_in_whole_decibels() -> None:
    levels = np.array([1e-9, 3.3e-6, 1.0, 20.0], np.float32)
    csi = np.full((4, 2, 2), 1 + 0j, np.complex64) * levels[:, None, None]
    index = gain_index(csi)
    off = 20 * np.log10(gain_of(index) / levels)
    assert np.abs(off).max() <= 0.5 + 1e-6
    assert gain_index(np.zeros((1, 2, 2), np.complex64)).tolist() == [0]
    assert gain_index(np.full((1, 2, 2), 1e9, np.complex64)).tolist() == [255]


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_quantiser(bits: int) -> None:
    values = torch.linspace(-1, 1, 101, requires_grad=True)
    received = quantise(values, bits)
    assert len(set(received.tolist())) == 2**bits
    assert float((received - values).detach().abs().max()) <= 1 / 2**bits + 1e-6
    received.sum().backward()
    assert values.grad is not None
    assert torch.equal(values.grad, torch.ones(101))


@pytest.mark.parametrize("bits", [20, 64, 133, 512])
@pytest.mark.parametrize("kind", [PcaCodec, AngleDelayCodec])
def test_classical_codecs_send_what_they_say(kind: type[PcaCodec] | type[AngleDelayCodec], bits: int) -> None:
    channels = path_channels(80)
    codec = kind.fit(channels.csi[:60], bits)
    data = codec.encode(channels.csi)
    assert codec.spent_bits <= bits
    assert data.dtype == np.uint8
    assert data.shape == (80, -(-codec.spent_bits // 8))
    np.testing.assert_array_equal(codec.encode(channels.csi), data)
    received = codec.decode(data)
    assert received.shape == channels.shape
    name = "pca" if kind is PcaCodec else "dft"
    examples = CompressionTask(bits).examples(channels)
    np.testing.assert_array_equal(classical.predict(name, examples, np.arange(60)), received)


@pytest.mark.parametrize("kind", [PcaCodec, AngleDelayCodec])
def test_more_bits_less_error(kind: type[PcaCodec] | type[AngleDelayCodec]) -> None:
    channels = path_channels(200)
    errors = []
    for bits in (24, 64, 160, 400):
        codec = kind.fit(channels.csi[:150], bits)
        received = codec.decode(codec.encode(channels.csi[150:]))
        errors.append(nmse_scores(received, channels.csi[150:])["nmse_db_per_sample"])
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < -8.0


def test_pca_spends_the_whole_budget_on_the_strongest() -> None:
    codec = PcaCodec.fit(path_channels(60).csi, 100)
    assert codec.spent_bits == 100
    widths = np.array(codec.widths)
    assert widths[:2].min() >= widths[-2:].max()
    np.testing.assert_allclose(codec.basis @ codec.basis.conj().T, np.eye(len(codec.basis)), atol=1e-4)


def test_pca_near_the_rate_of_a_gaussian_source() -> None:
    # One complex direction with a random coefficient: at b bits a real number a uniform quantiser of a Gaussian
    # reaches about -6.02 b + 1 to 3 dB; the ideal bound is -6.02 b.
    rng = np.random.default_rng(2)
    direction = np.exp(2j * np.pi * rng.random((4, 4))) / 4
    other = np.exp(2j * np.pi * rng.random((4, 4))) / 4
    coefficient = rng.standard_normal((4000, 2)) @ np.array([1, 1j])
    second = rng.standard_normal((4000, 2)) @ np.array([1, 1j])
    csi = (coefficient[:, None, None] * direction + second[:, None, None] * other).astype(np.complex64)
    codec = PcaCodec.fit(csi[:3000], 8 + 4 * 5)
    assert sorted(codec.widths) == [5, 5, 5, 5]
    error = nmse_scores(codec.decode(codec.encode(csi[3000:])), csi[3000:])["nmse_db"]
    assert -6.02 * 5 - 1 < error < -6.02 * 5 + 5


def test_plane_wave_takes_one_entry() -> None:
    antenna, subcarrier = np.arange(8)[:, None], np.arange(16)
    gain = np.array([1e-6, 3e-6j, -2e-5], np.complex64)[:, None, None]
    csi = gain * np.exp(2j * np.pi * (antenna * 3 / 8 - subcarrier * 5 / 16)).astype(np.complex64)
    codec = AngleDelayCodec.fit(csi, 8 + 7 + 16)
    assert codec.count == 1
    assert codec.part_bits == 8
    assert nmse_scores(codec.decode(codec.encode(csi)), csi)["nmse_db"] < -40.0


@pytest.mark.parametrize("shape", [(16, 8), (24,), (8, 16, 2)])
def test_learned_codec_through_bytes(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    codec = LatentCodec(shape, 8, 16, bits=53, bits_per_number=4)
    assert (codec.num_numbers, codec.spent_bits) == (11, 52)
    inputs = torch.randn(5, *shape, generator=torch.Generator().manual_seed(1))
    gains = np.array([0, 255, 100, 101, 92])
    data = codec.encode(inputs, gains)
    assert data.shape == (5, 7)
    received = codec.decode(data)
    expected = codec(inputs).detach().numpy()
    parts = to_parts(received, 1.0 / gain_of(gains))
    np.testing.assert_allclose(parts, expected, rtol=1e-4, atol=1e-5)


def test_learned_codec_learns_and_keeps_its_score_through_bytes() -> None:
    channels = path_channels(150, 4, 8, paths=1)
    task = CompressionTask(bits=48)
    examples = task.examples(channels)
    inputs = raw_parts(examples, user_scale(examples))
    head = reconstruction_head(examples, inputs.shape[1:], hidden=64)
    config = FitConfig(lr=3e-3, batch_size=32, epochs=60)
    fitted = fit_head(
        head,
        inputs,
        inputs,
        kind="reconstruction",
        train=np.arange(120),
        validation=np.arange(0),
        config=config,
    )
    assert fitted.history[-1]["loss"] < 0.3 * fitted.history[0]["loss"]
    assert isinstance(fitted, FittedNetwork)
    codec = fitted.network()
    assert isinstance(codec, LatentCodec)
    sent = codec.encode(torch.from_numpy(inputs), gain_index(channels.csi))
    assert sent.shape == (150, 48 // 8)
    direct = to_csi(fitted.predict(inputs), user_scale(examples))
    scores = [task.score(examples, csi)["nmse_db"] for csi in (codec.decode(sent), direct)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)
    assert scores[0] < -4.0


def test_task() -> None:
    channels = path_channels(4)
    examples = CompressionTask(bits=64).examples(channels)
    assert examples.channels is channels
    np.testing.assert_array_equal(examples.targets, channels.csi)
    assert examples.facts["bits"] == 64
    assert examples.facts["bits_per_entry"] == 64 / (8 * 16)
    assert examples.facts["gain_bits"] == 8
    np.testing.assert_allclose(user_scale(examples), 1 / gain_of(gain_index(channels.csi)), rtol=1e-6)


def test_silent_users_cost_nothing_but_stay_silent() -> None:
    csi = path_channels(30).csi.copy()
    csi[3] = 0
    for codec in (PcaCodec.fit(csi, 64), AngleDelayCodec.fit(csi, 64)):
        received = codec.decode(codec.encode(csi))
        assert np.abs(received[3]).max() < 1e-8
        assert np.isfinite(received).all()


def test_refusals() -> None:
    csi = path_channels(6).csi
    for bits in (8, 0, -1, 16.0):
        with pytest.raises(InputError, match="a whole number above 8"):
            CompressionTask(bits=bits)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the gain alone takes 8"):
        PcaCodec.fit(csi, 8)
    with pytest.raises(InputError, match="one DFT entry of a 8 x 16 channel takes 17 bits"):
        AngleDelayCodec.fit(csi, 16)
    with pytest.raises(InputError, match="all training channels are zero"):
        PcaCodec.fit(np.zeros((2, 4, 4), np.complex64), 64)
    with pytest.raises(InputError, match="need at least 12"):
        LatentCodec((16,), 4, 4, bits=11)
    with pytest.raises(InputError, match="bits_per_number=0"):
        LatentCodec((16,), 4, 4, bits=64, bits_per_number=0)
