"""Compression in the angle-delay domain: the strongest entries of the channel's two-dimensional DFT."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lwm_fast.errors import InputError
from lwm_fast.tasks.bits import Bytes, fields_to_subset, pack, subset_bits, subset_to_fields, unpack
from lwm_fast.tasks.reconstruction import GAIN_BITS, LOWEST_GAIN_DB, gain_of

Complex64Array = npt.NDArray[np.complex64]
Int64Array = npt.NDArray[np.int64]

_PART_BITS = range(1, 11)
_USERS_LOOKED_AT = 512


@dataclass(frozen=True)
class AngleDelayCodec:
    """The `count` strongest DFT entries of a channel, with where they are.

    A channel is the power of its strongest entry in whole dB (`GAIN_BITS`), the set of places as one number
    (`subset_bits`, the fewest bits that name every set), and a real and an imaginary part of `part_bits` bits each
    for every place, uniform between minus and plus the strongest entry. The training users say how many entries at
    how many bits are best within the budget; nothing else is fitted.

    Args:
        count: entries sent.
        part_bits: bits of a real or imaginary part.
        size: (num_antennas, num_subcarriers).
    """

    count: int
    part_bits: int
    size: tuple[int, int]

    @property
    def spent_bits(self) -> int:
        """Bits sent for a channel, peak and places included."""
        return _bits(self.count, self.part_bits, self._entries)

    @classmethod
    def fit(cls, csi: Complex64Array, bits: int) -> AngleDelayCodec:
        """The codec that is best on training csi [m, num_antennas, num_subcarriers] within a budget a channel.

        Raises:
            InputError: a budget that does not hold one entry.
        """
        size = (csi.shape[1], csi.shape[2])
        entries = size[0] * size[1]
        if _bits(1, 1, entries) > bits:
            raise InputError(
                f"bits={bits}: one DFT entry of a {size[0]} x {size[1]} channel takes {_bits(1, 1, entries)} bits "
                "with its place and gain; give more"
            )
        looked_at = csi[:: max(1, -(-len(csi) // _USERS_LOOKED_AT))]
        energy = np.square(np.abs(looked_at)).sum((1, 2))
        looked_at, energy = looked_at[energy > 0], energy[energy > 0]
        best: tuple[float, AngleDelayCodec] | None = None
        for part_bits in _PART_BITS:
            count = _most_entries(part_bits, entries, bits)
            if count == 0:
                continue
            codec = cls(count, part_bits, size)
            off = codec._received(*codec._sent(looked_at)) - _transform(looked_at)
            error = float((np.square(np.abs(off)).sum(1) / energy).mean()) if len(energy) else 0.0
            if best is None or error < best[0]:
                best = error, codec
        assert best is not None  # one bit a part fits, as checked above
        return best[1]

    def encode(self, csi: Complex64Array) -> Bytes:
        """What is sent of each channel: uint8 [n, ceil(spent_bits / 8)]."""
        peak, places, cells = self._sent(csi)
        subset, widths = subset_to_fields(places, self._entries, self.count)
        return pack(np.column_stack([peak, subset, cells]), self._fields(widths))

    def decode(self, data: Bytes) -> Complex64Array:
        """csi complex64 [n, num_antennas, num_subcarriers] from what was sent."""
        _, widths = subset_to_fields(np.empty((0, self.count), np.int64), self._entries, self.count)
        fields = unpack(data, self._fields(widths))
        subset, cells = fields[:, 1 : 1 + len(widths)], fields[:, 1 + len(widths) :]
        places = fields_to_subset(subset, self._entries, self.count)
        spectrum = self._received(fields[:, 0], places, cells).reshape(-1, *self.size)
        return np.fft.ifft2(spectrum, norm="ortho").astype(np.complex64)

    def _sent(self, csi: Complex64Array) -> tuple[Int64Array, Int64Array, Int64Array]:
        """Peak index [n], places [n, count] in ascending order, cells of the parts [n, 2 count]."""
        spectrum = _transform(csi)
        strength = np.abs(spectrum)
        places = np.sort(np.argsort(-strength, axis=1, kind="stable")[:, : self.count], axis=1)
        power = np.square(strength.max(1, initial=0.0).astype(np.float64))
        decibels = 10 * np.log10(np.maximum(power, 1e-300)) - LOWEST_GAIN_DB
        peak = np.clip(np.ceil(decibels), 0, 2**GAIN_BITS - 1).astype(
            np.int64
        )  # never below the strongest part
        kept = np.take_along_axis(spectrum, places, 1) / gain_of(peak)[:, None]
        parts = np.ascontiguousarray(kept).view(np.float32)  # [n, 2 count] in [-1, 1]
        top = 2**self.part_bits - 1
        cells = np.clip(np.floor((parts + 1) * (2**self.part_bits / 2)), 0, top)
        return peak, places, cells.astype(np.int64)

    def _received(self, peak: Int64Array, places: Int64Array, cells: Int64Array) -> Complex64Array:
        """The spectrum as the other side has it, complex64 [n, entries]."""
        parts = ((2 * cells + 1) / 2**self.part_bits - 1).astype(np.float32)
        spectrum = np.zeros((len(peak), self._entries), np.complex64)
        np.put_along_axis(spectrum, places, parts.view(np.complex64) * gain_of(peak)[:, None], 1)
        return spectrum

    def _fields(self, subset_widths: list[int]) -> list[int]:
        return [GAIN_BITS, *subset_widths, *[self.part_bits] * (2 * self.count)]

    @property
    def _entries(self) -> int:
        return self.size[0] * self.size[1]


def _bits(count: int, part_bits: int, entries: int) -> int:
    return GAIN_BITS + subset_bits(entries, count) + 2 * part_bits * count


def _most_entries(part_bits: int, entries: int, bits: int) -> int:
    """Entries that fit the budget; 0 if not even one does."""
    most = min(entries // 2, bits // (2 * part_bits))  # a set's name takes fewer bits again beyond a half
    return next((count for count in range(most, 0, -1) if _bits(count, part_bits, entries) <= bits), 0)


def _transform(csi: Complex64Array) -> Complex64Array:
    """Unitary DFT over antennas and subcarriers, complex64 [n, entries]."""
    return np.fft.fft2(csi, norm="ortho").astype(np.complex64).reshape(len(csi), -1)
