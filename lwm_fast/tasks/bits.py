"""Whole numbers to bytes and back with the exact number of bits, for channels sent as feedback."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
import numpy.typing as npt

from lwm_fast.errors import InputError

Bytes = npt.NDArray[np.uint8]
Int64Array = npt.NDArray[np.int64]


def pack(values: Int64Array, widths: Sequence[int]) -> Bytes:
    """Fields of fixed widths one after another, highest bit first, padded with zeros to whole bytes.

    Args:
        values: int64 [n, fields], field i in 0 .. 2^widths[i] - 1.
        widths: bits of each field, 0..62; a field of 0 bits takes no room.

    Returns:
        uint8 [n, ceil(sum(widths) / 8)].

    Raises:
        InputError: a value that its field does not hold.
    """
    sizes = np.asarray(widths, np.int64)
    if values.shape[1:] != sizes.shape:
        raise InputError(f"pack: {values.shape[1:]} values a row for {sizes.size} fields")
    if ((values < 0) | (values >> sizes != 0)).any():
        raise InputError("pack: a value does not fit its field; give each field enough bits")
    field, shift = _places(sizes)
    bits = (values[:, field] >> shift) & 1  # [n, total bits]
    return np.packbits(bits.astype(np.uint8), axis=1)


def unpack(data: Bytes, widths: Sequence[int]) -> Int64Array:
    """The inverse of `pack`: int64 [n, fields].

    Raises:
        InputError: rows of another length than the fields take.
    """
    sizes = np.asarray(widths, np.int64)
    total = int(sizes.sum())
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != -(-total // 8):
        raise InputError(
            f"unpack: {data.dtype} {data.shape}; fields of {total} bits take uint8 [n, {-(-total // 8)}]"
        )
    _, shift = _places(sizes)
    bits = np.unpackbits(data, axis=1, count=total).astype(np.int64) << shift
    ends = np.cumsum(sizes)
    columns = [bits[:, end - size : end].sum(1) for end, size in zip(ends, sizes, strict=True)]
    return np.stack(columns, axis=1) if columns else np.empty((len(data), 0), np.int64)


def subset_bits(size: int, count: int) -> int:
    """Bits that name one subset of `count` out of `size` places: ceil(log2 of the number of subsets)."""
    return (comb(size, count) - 1).bit_length()


def subset_to_fields(places: Int64Array, size: int, count: int) -> tuple[Int64Array, list[int]]:
    """Subsets as numbers (the combinatorial number system), cut into fields for `pack`.

    Args:
        places: int64 [n, count], different places in 0 .. size - 1, in any order.

    Returns:
        int64 [n, fields] and the fields' widths, `subset_bits` in all.
    """
    widths = _chunks(subset_bits(size, count))
    values = np.empty((len(places), len(widths)), np.int64)
    for row, chosen in enumerate(np.sort(places, axis=1).tolist()):
        rank = sum(comb(place, k + 1) for k, place in enumerate(chosen))
        for i in range(len(widths) - 1, -1, -1):
            values[row, i] = rank & ((1 << widths[i]) - 1)
            rank >>= widths[i]
    return values, widths


def fields_to_subset(values: Int64Array, size: int, count: int) -> Int64Array:
    """The inverse of `subset_to_fields`: int64 [n, count], places in ascending order."""
    widths = _chunks(subset_bits(size, count))
    places = np.empty((len(values), count), np.int64)
    for row, fields in enumerate(values.tolist()):
        rank = 0
        for value, width in zip(fields, widths, strict=True):
            rank = (rank << width) | value
        top = size
        for k in range(count, 0, -1):  # the largest place whose comb(place, k) does not exceed the rank
            low, high = k - 1, top - 1
            while low < high:
                middle = (low + high + 1) // 2
                low, high = (middle, high) if comb(middle, k) <= rank else (low, middle - 1)
            places[row, k - 1] = top = low
            rank -= comb(low, k)
    return places


def _places(sizes: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Of every bit: the field it belongs to and how far it is shifted in it, int64 [total bits]."""
    field = np.repeat(np.arange(sizes.size), sizes)
    position = np.arange(field.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return field, np.repeat(sizes, sizes) - 1 - position


def _chunks(total: int) -> list[int]:
    """Widths of at most 32 bits that add up to `total`."""
    return [32] * (total // 32) + ([total % 32] if total % 32 else [])
