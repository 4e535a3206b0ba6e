"""What `encode` embeds: channels from anywhere, checked and cut into packed batches."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lwm_fast import _C
from lwm_fast.errors import InputError
from lwm_fast.packed import PackedBatch
from lwm_fast.positions import check_grid, length_remedy
from lwm_fast.scaling import scaled
from lwm_fast.streaming import Piece
from lwm_fast.tokens import num_tokens

if TYPE_CHECKING:
    from lwm_fast.config import LWMConfig
    from lwm_fast.data import Channels

Array = npt.NDArray[Any]
Source: TypeAlias = "Channels | Array | Tensor | Sequence[Array | Tensor] | str | os.PathLike[str]"

_BLOCK_BYTES = 32 << 20  # csi read at once
_V1_0_SIZE = (32, 32)


class Work:
    """What is to be embedded: ``Channels`` of one size, or a list of mixed sizes."""

    def __init__(
        self, channels: Channels | None, samples: list[Array], config: LWMConfig, scale: float
    ) -> None:
        self._channels, self._samples, self._scale, self._config = channels, samples, scale, config
        version = config.lwm_version
        if channels is not None:
            check_size(channels.shape[1:], config)
            length = num_tokens(channels.shape[1], channels.shape[2], version)
            self.seq_lens: npt.NDArray[np.int64] = np.full(len(channels), length, dtype=np.int64)
            self.common_length: int | None = length
        else:
            for i, sample in enumerate(samples):
                check_size(sample.shape, config, f"channel {i}: ")
            self.seq_lens = np.array(
                [num_tokens(s.shape[0], s.shape[1], version) for s in samples], dtype=np.int64
            )
            self.common_length = None

    @classmethod
    def of(cls, source: Any, config: LWMConfig, scale: float | None) -> Work:
        from lwm_fast.data import Channels, load_channels

        source = _widened(source, scale)
        if isinstance(source, (list, tuple)):
            return cls(None, _samples(source), config, 1e6 if scale is None else scale)
        if isinstance(source, Channels):
            channels = source
        elif isinstance(source, (np.ndarray, Tensor)) and source.ndim == 3 and len(source) == 0:
            channels = Channels.from_arrays(np.asarray(source))  # nothing to check, nothing to embed
        else:
            channels = load_channels(source, in_memory=False, scale=scale)
        return cls(channels, [], config, channels.meta.scale if scale is None else scale)

    def __len__(self) -> int:
        return len(self.seq_lens)

    def pieces(self, batch_size: int, *, mixes_lengths: bool) -> Iterator[Piece]:
        """Checked batches. Lists of mixed sizes: of equal lengths, or of any where ``mixes_lengths``."""
        if self._channels is not None:
            yield from self._dense(batch_size)
        else:
            yield from self._listed(batch_size, mixes_lengths)

    def _dense(self, batch_size: int) -> Iterator[Piece]:
        channels = self._channels
        assert channels is not None
        entry_bytes = 8 * channels.shape[1] * channels.shape[2]
        block = batch_size * max(1, _BLOCK_BYTES // (batch_size * entry_bytes))
        for start in range(0, len(channels), block):
            csi = channels.read(start, min(start + block, len(channels)))
            for first in range(0, len(csi), batch_size):
                part = csi[first : first + batch_size]
                index = np.arange(start + first, start + first + len(part))
                yield self._piece(part, index, zero_is_an_error=False)

    def _listed(self, batch_size: int, mixes_lengths: bool) -> Iterator[Piece]:
        lengths = self.seq_lens
        budget = batch_size * int(lengths.max(initial=1))
        order = np.argsort(lengths, kind="stable")  # nothing is padded, and equal work lies together
        first = 0
        while first < len(order):
            after = lengths[order[first:]]
            fits = int(np.searchsorted(np.cumsum(after), budget, side="right"))
            if not mixes_lengths:
                fits = min(fits, int(np.searchsorted(after, after[0], side="right")))
            index = order[first : first + max(1, fits)]
            first += len(index)
            yield self._piece([self._samples[i] for i in index], index, zero_is_an_error=True)

    def _piece(self, csi: Array | list[Array], index: Array, *, zero_is_an_error: bool) -> Piece:
        version, input_scale = self._config.lwm_version, self._config.input_scale
        packed = PackedBatch.from_samples(csi, version, scale=self._scale, sample_id=index)
        _check_values(packed, index, zero_is_an_error=zero_is_an_error)
        return Piece(index, scaled(packed, input_scale))


def _widened(source: Any, scale: float | None) -> Any:
    """Complex-half channels as complex64, which holds them exactly; they must be scaled already."""
    if isinstance(source, (list, tuple)):
        return [_widened(item, scale) for item in source]
    if not (isinstance(source, Tensor) and source.dtype == torch.complex32):
        return source
    if scale != 1.0:
        raise InputError(
            f"channels are complex32 with scale={scale}: in half precision unscaled channels (of order 1e-5) "
            "underflow, up to 73% is lost at 28 GHz; multiply by 1e6 in complex64 first and pass scale=1.0"
        )
    return torch.view_as_complex(torch.view_as_real(source).float())


def _samples(source: Sequence[Any]) -> list[Array]:
    samples = []
    for i, item in enumerate(source):
        array = item.detach().cpu().resolve_conj().numpy() if isinstance(item, Tensor) else np.asarray(item)
        if array.ndim != 2 or array.dtype.kind != "c":
            raise InputError(
                f"channel {i} of the list is {array.dtype} {array.shape}; each must be complex "
                "[num_antennas, num_subcarriers] (one array [n, num_antennas, num_subcarriers] needs no list)"
            )
        samples.append(np.ascontiguousarray(array, dtype=np.complex64))
    return samples


def check_size(size: Sequence[int], config: LWMConfig, place: str = "") -> None:
    """Raises InputError for channels of a size that the model does not take."""
    num_antennas, num_subcarriers = size
    if config.lwm_version == "1.0" and (num_antennas, num_subcarriers) != _V1_0_SIZE:
        raise InputError(
            f"{place}LWM v1.0 takes 32x32 channels (antennas x subcarriers), these are "
            f"{num_antennas}x{num_subcarriers}; load them as 32x32 or use v1.1 weights, which take any size"
        )
    check_grid(num_antennas, num_subcarriers, config, place)
    length = num_tokens(num_antennas, num_subcarriers, config.lwm_version)
    if length > config.max_len:
        raise InputError(
            f"{place}a {num_antennas}x{num_subcarriers} channel gives {length} tokens and the model has positions for "
            f"{config.max_len}; use fewer antennas or subcarriers, or {length_remedy(config, length)}"
        )


def _check_values(packed: PackedBatch, index: Array, *, zero_is_an_error: bool) -> None:
    flags = np.empty(len(packed), dtype=np.uint8)
    _C.check_csi(packed.csi, packed.offsets, flags)
    for bit, what in ((1, "NaN or Inf in"), (2, "all-zero")):
        bad = index[(flags & bit) != 0]
        if len(bad) and (bit == 1 or zero_is_an_error):
            from lwm_fast.data.checks import name_users

            raise InputError(f"{what} channels ({name_users(bad)}); remove them before embedding")
