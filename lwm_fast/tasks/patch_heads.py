"""Heads from embeddings back to csi: one small map for every patch, then the patches put together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lwm_fast.errors import InputError
from lwm_fast.tasks.base import Examples
from lwm_fast.tokens import PATCH_LEN, num_tokens


def patches_to_csi(patches: Tensor, version: str, num_antennas: int, num_subcarriers: int) -> Tensor:
    """Puts patches together: the inverse of tokenising, without CLS and scale, differentiable.

    patches [n, num_patches, patch_len] -> [n, num_antennas, num_subcarriers, 2], real and imaginary parts.
    """
    if version == "1.0":
        halves = patches.reshape(-1, 2, num_antennas, num_subcarriers)
        return halves.movedim(1, -1)
    rows, columns = math.ceil(num_antennas / 4), math.ceil(num_subcarriers / 4)
    blocks = patches.reshape(-1, rows, columns, 4, 4, 2)
    grid = blocks.transpose(2, 3).reshape(-1, 4 * rows, 4 * columns, 2)
    return grid[:, :num_antennas, :num_subcarriers]  # what was padded is dropped


class PatchHead(nn.Module):
    """Each patch's embedding to the patch's csi values, by one map for all patches (the release's head).

    v1.0: patches of 16 real or 16 imaginary parts; v1.1: patches of 4 antennas x 4 subcarriers. With the released
    sizes `hidden=None` has 64 * 16 + 16 = 1,040 parameters for v1.0 and 128 * 32 + 32 = 4,128 for v1.1.

    Args:
        version: "1.0" or "1.1".
        num_antennas, num_subcarriers: of the csi.
        embed_dim: of the embeddings.
        hidden: width of a hidden layer with ReLU; None is a single linear map.

    Raises:
        InputError: an unknown version, a size that version does not take, a width below 1.
    """

    def __init__(
        self,
        version: str,
        num_antennas: int,
        num_subcarriers: int,
        embed_dim: int,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        self.version = version
        self.num_antennas, self.num_subcarriers = num_antennas, num_subcarriers
        self.num_patches = num_tokens(num_antennas, num_subcarriers, version) - 1
        self.embed_dim = embed_dim
        for name, width in (("embed_dim", embed_dim), ("hidden", hidden)):
            if width is not None and width < 1:
                raise InputError(f"PatchHead: {name}={width}; give at least 1")
        patch_len = PATCH_LEN[version]
        self.to_patch: nn.Module = (
            nn.Linear(embed_dim, patch_len)
            if hidden is None
            else nn.Sequential(nn.Linear(embed_dim, hidden), nn.ReLU(), nn.Linear(hidden, patch_len))
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """embeddings [n, num_patches, embed_dim] -> [n, num_antennas, num_subcarriers, 2] at the targets' scale."""
        wanted = (self.num_patches, self.embed_dim)
        if embeddings.ndim != 3 or tuple(embeddings.shape[1:]) != wanted:
            raise InputError(
                f"PatchHead: embeddings are {tuple(embeddings.shape)}; [n, {wanted[0]}, {wanted[1]}] was expected, "
                f'the pool "patches" of {self.num_antennas} x {self.num_subcarriers} channels (v{self.version})'
            )
        patches = self.to_patch(embeddings)  # [n, num_patches, patch_len]
        return patches_to_csi(patches, self.version, self.num_antennas, self.num_subcarriers)


def reconstruction_head(
    examples: Examples,
    input_shape: Sequence[int],
    *,
    version: str = "1.0",
    name: str = "default",
    hidden: int | None = None,
    seed: int = 0,
) -> nn.Module:
    """The head that takes inputs of this shape to the csi of these examples.

    Every head gives float32 [n, num_antennas, num_subcarriers, 2]. The global random state is not touched.

    Args:
        examples: of a reconstruction task.
        input_shape: of one user's input: (num_patches, embed_dim) for patches, (num_antennas, num_subcarriers, 2)
            for raw csi, anything else for one vector.
        version: of the patches.
        name: "patches", "cnn", "row-mlp", "vector" or "codec"; "default" is the codec for compression, else
            what the shape says.
        hidden: width of hidden layers; None is each head's own.
        seed: of the first weights.

    Raises:
        InputError: an unknown name, or a name that does not take this shape.
    """
    from lwm_fast.tasks.codec import LatentCodec
    from lwm_fast.tasks.csi_heads import CsiCNN, RowMLP, VectorHead

    _, num_antennas, num_subcarriers = examples.channels.shape
    size, shape = (num_antennas, num_subcarriers), tuple(input_shape)
    if name == "default":
        name = _default_name(examples.task, shape, size)
    accepted = {"patches": len(shape) == 2, "cnn": shape == (*size, 2), "row-mlp": shape == (*size, 2)}
    if name not in (*accepted, "vector", "codec"):
        raise InputError(
            f"head={name!r} is unknown for {examples.task}; use patches, cnn, row-mlp, vector or codec"
        )
    if not accepted.get(name, True):
        raise InputError(
            f"head={name!r} does not take inputs of shape {shape}; patches takes [num_patches, embed_dim], cnn and "
            f"row-mlp take raw csi [{num_antennas}, {num_subcarriers}, 2]"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "patches":
            return PatchHead(version, *size, shape[1], hidden)
        if name == "cnn":
            return CsiCNN(*size, observed=examples.observed, **({} if hidden is None else {"width": hidden}))
        widths = {} if hidden is None else {"hidden": hidden}
        if name == "row-mlp":
            return RowMLP(*size, **widths)
        if name == "vector":
            return VectorHead(shape, *size, **widths)
        return LatentCodec(shape, *size, bits=_budget(examples), **widths)


def _default_name(task: str, shape: tuple[int, ...], size: tuple[int, int]) -> str:
    if task == "compression":
        return "codec"
    if shape == (*size, 2):
        return "cnn"
    return "patches" if len(shape) == 2 else "vector"


def _budget(examples: Examples) -> int:
    bits = examples.facts.get("bits")
    if not isinstance(bits, int):
        raise InputError(f"head='codec': {examples.task} has no bit budget; it is for the compression task")
    return bits
