"""A learned codec: an input (embedding, PCA, raw csi) to a few numbers of few bits, and from these back to csi."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lwm_fast.errors import InputError
from lwm_fast.tasks.bits import Bytes, pack, unpack
from lwm_fast.tasks.reconstruction import GAIN_BITS, gain_of, to_csi


def quantise(values: Tensor, bits: int) -> Tensor:
    """Values to the 2^bits numbers (2 i + 1) / 2^bits - 1 in (-1, 1); gradients pass as if nothing was done."""
    received = _midpoints(_cells(values, bits), bits)
    passed: Tensor = values + (received - values).detach()
    return passed


def _cells(values: Tensor, bits: int) -> Tensor:
    levels = 2**bits
    scaled: Tensor = (values.detach() + 1) * (levels / 2)
    cells: Tensor = scaled.floor().clamp(0, levels - 1)
    return cells


def _midpoints(cells: Tensor, bits: int) -> Tensor:
    numbers: Tensor = (2 * cells + 1) / 2**bits - 1
    return numbers


class LatentCodec(nn.Module):
    """Encoder, uniform quantiser and decoder trained as one; the straight-through estimator passes the quantiser.

    A channel is sent as its gain (`GAIN_BITS`, see `reconstruction.gain_index`) and `num_numbers` numbers of
    `bits_per_number` bits. What the budget leaves below one more number is not used: `spent_bits` is what is sent.

    Args:
        input_shape: of one user's input. [num_patches, embed_dim] is first reduced to 4 values a patch by one map
            for all patches; everything else is flattened.
        num_antennas, num_subcarriers: of the csi.
        bits: budget of a channel, gain included.
        bits_per_number: resolution of the latent numbers.
        hidden: units of the encoder's and of the decoder's hidden layer.

    Raises:
        InputError: a budget that does not hold one number beside the gain.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_antennas: int,
        num_subcarriers: int,
        *,
        bits: int,
        bits_per_number: int = 4,
        hidden: int = 256,
    ) -> None:
        super().__init__()
        if not 1 <= bits_per_number <= 16:
            raise InputError(f"bits_per_number={bits_per_number}: give 1..16")
        self.num_numbers = (bits - GAIN_BITS) // bits_per_number
        if self.num_numbers < 1:
            raise InputError(
                f"bits={bits}: {GAIN_BITS} bits of gain and one number of {bits_per_number} bits need at least "
                f"{GAIN_BITS + bits_per_number}"
            )
        self.bits_per_number = bits_per_number
        self.size = (num_antennas, num_subcarriers, 2)
        shape = tuple(input_shape)
        features = math.prod(shape)
        self.per_patch: nn.Module = nn.Identity()
        if len(shape) == 2:
            self.per_patch = nn.Linear(shape[1], 4)
            features = 4 * shape[0]
        self.encoder = nn.Sequential(
            nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, self.num_numbers)
        )
        self.decoder = nn.Sequential(
            nn.Linear(self.num_numbers, hidden), nn.ReLU(), nn.Linear(hidden, math.prod(self.size))
        )

    @property
    def spent_bits(self) -> int:
        """Bits sent for a channel, gain included."""
        return GAIN_BITS + self.num_numbers * self.bits_per_number

    @property
    def _widths(self) -> list[int]:
        return [GAIN_BITS] + [self.bits_per_number] * self.num_numbers

    def latent(self, inputs: Tensor) -> Tensor:
        """inputs [n, ...] -> [n, num_numbers] in (-1, 1), before the quantiser."""
        result: Tensor = torch.tanh(self.encoder(self.per_patch(inputs).flatten(1)))
        return result

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs [n, ...] -> csi over its gain as received, [n, num_antennas, num_subcarriers, 2]."""
        return self._decoded(quantise(self.latent(inputs), self.bits_per_number))

    def _decoded(self, numbers: Tensor) -> Tensor:
        result: Tensor = self.decoder(numbers)
        return result.view(len(numbers), *self.size)

    @torch.no_grad()
    def encode(self, inputs: Tensor, gains: npt.NDArray[np.int64]) -> Bytes:
        """What is sent: uint8 [n, ceil(spent_bits / 8)].

        inputs [n, ...]; gains int64 [n] as `reconstruction.gain_index` gives them.
        """
        cells = _cells(self.latent(inputs), self.bits_per_number).cpu().numpy().astype(np.int64)
        return pack(np.column_stack([gains, cells]), self._widths)

    @torch.no_grad()
    def decode(self, data: Bytes) -> npt.NDArray[np.complex64]:
        """csi complex64 [n, num_antennas, num_subcarriers] from what was sent."""
        fields = unpack(data, self._widths)
        cells = torch.from_numpy(fields[:, 1:].astype(np.float32)).to(next(self.parameters()).device)
        parts = self._decoded(_midpoints(cells, self.bits_per_number)).cpu().numpy()
        return to_csi(parts, 1.0 / gain_of(fields[:, 0]))
