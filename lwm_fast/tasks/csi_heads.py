"""Networks without LWM that reconstruction tables stand beside: on raw csi, or from one vector to csi."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Mask = npt.NDArray[np.bool_]


class CsiCNN(nn.Module):
    """Residual convolutional network from input csi to csi: what it adds to the input is learned.

    Two residual blocks of two 3 x 3 convolutions over antennas x subcarriers; antennas and subcarriers keep their
    number. With width 16: 10,018 parameters, about ten times the 1,040 of the release's head on v1.0's patches,
    whose encoder has 603,712 frozen ones.

    Args:
        num_antennas, num_subcarriers: of the csi.
        observed: bool [num_antennas, num_subcarriers], given to the network as a third channel; None is all.
        width: channels of the hidden layers.
        blocks: residual blocks.
    """

    observed: Tensor

    def __init__(
        self,
        num_antennas: int,
        num_subcarriers: int,
        *,
        observed: Mask | None = None,
        width: int = 16,
        blocks: int = 2,
    ) -> None:
        super().__init__()
        mask = np.ones((num_antennas, num_subcarriers), bool) if observed is None else observed
        self.register_buffer("observed", torch.from_numpy(mask.astype(np.float32)))
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.last = nn.Conv2d(width, 2, 3, padding=1)
        nn.init.zeros_(self.last.weight)  # training starts at the input itself
        if self.last.bias is not None:
            nn.init.zeros_(self.last.bias)

    def forward(self, parts: Tensor) -> Tensor:
        """parts [n, num_antennas, num_subcarriers, 2] -> the same shape."""
        mask = self.observed[..., None].expand(len(parts), -1, -1, 1)
        image = torch.cat([parts, mask], -1).movedim(-1, 1)  # [n, 3, num_antennas, num_subcarriers]
        x = self.first(image)  # in channels-last memory throughout: a quarter faster on a CPU
        for block in self.blocks:
            x = block(x)
        change: Tensor = self.last(torch.relu(x)).movedim(1, -1)
        return parts + change


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(width, width, 3, padding=1)
        self.two = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.two(torch.relu(self.one(torch.relu(x))))
        return result


class RowMLP(nn.Module):
    """One hidden layer for each row of csi (an antenna's subcarriers, and a subcarrier's antennas), added up.

    The same map serves all antennas, another one all subcarriers, so neither sees more than its row. At 32 x 32
    with 64 hidden units: 16,640 parameters.

    Args:
        num_antennas, num_subcarriers: of the csi.
        hidden: units of each map's hidden layer.
    """

    def __init__(self, num_antennas: int, num_subcarriers: int, *, hidden: int = 64) -> None:
        super().__init__()
        self.along_subcarriers = _row_map(2 * num_subcarriers, hidden)
        self.along_antennas = _row_map(2 * num_antennas, hidden)

    def forward(self, parts: Tensor) -> Tensor:
        """parts [n, num_antennas, num_subcarriers, 2] -> the same shape."""
        rows = self.along_subcarriers(parts.flatten(2)).unflatten(2, (-1, 2))
        columns = parts.transpose(1, 2)  # [n, num_subcarriers, num_antennas, 2]
        turned = self.along_antennas(columns.flatten(2)).unflatten(2, (-1, 2))
        result: Tensor = parts + rows + turned.transpose(1, 2)
        return result


def _row_map(size: int, hidden: int) -> nn.Module:
    last = nn.Linear(hidden, size)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), last)


class VectorHead(nn.Module):
    """One vector for a user (CLS, a mean, PCA; anything flattened) to csi through one hidden layer.

    Args:
        input_shape: of one user's input.
        num_antennas, num_subcarriers: of the csi.
        hidden: units of the hidden layer. 64 inputs, 128 units and 32 x 32 csi: 272,512 parameters, nearly all of
            them in the last layer.
    """

    def __init__(
        self, input_shape: Sequence[int], num_antennas: int, num_subcarriers: int, *, hidden: int = 128
    ) -> None:
        super().__init__()
        self.size = (num_antennas, num_subcarriers, 2)
        self.layers = nn.Sequential(
            nn.Linear(math.prod(input_shape), hidden), nn.ReLU(), nn.Linear(hidden, math.prod(self.size))
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs [n, ...] -> [n, num_antennas, num_subcarriers, 2]."""
        result: Tensor = self.layers(inputs.flatten(1))
        return result.view(len(inputs), *self.size)
