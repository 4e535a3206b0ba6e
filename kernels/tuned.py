"""The tile sizes of every kernel, in one table that all launchers and the compile test read.

Chosen to compile without spilling registers where that is possible; not yet measured on a GPU. Nothing here
depends on the batch, so neither do the bits of a result. `candidates` lists what a tuner may try and `override`
lets it; a better tile is then written into the table.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from lwm_fast.errors import InputError


@dataclass(frozen=True)
class Tile:
    """rows: tokens, positions, queries or entries of a program; steps: columns, keys or hidden features that it
    takes at a time; warps of a program; stages of its loads."""

    rows: int
    steps: int
    warps: int
    stages: int


# (op, size, bytes of an element of the products) -> tile. size: the row length, head_dim or embed_dim, padded
# to a power of two.
_TABLE: dict[tuple[str, int, int], Tile] = {
    # rows; steps: blocks of rows whose parameter gradients one program adds up
    **{("norm", d, b): Tile(max(2, min(16, 2048 // d)), 16, 1 if d <= 32 else 4, 2)
       for d in (32, 64, 128, 256, 512, 1024) for b in (2, 4)},
    # positions; steps are not used: the projection takes a patch whole
    ("patch_embed", 64, 2): Tile(32, 0, 4, 2),
    ("patch_embed", 64, 4): Tile(32, 0, 4, 2),
    ("patch_embed", 128, 2): Tile(16, 0, 8, 2),
    ("patch_embed", 128, 4): Tile(16, 0, 8, 2),
    ("patch_embed", 256, 2): Tile(16, 0, 8, 2),
    ("patch_embed", 256, 4): Tile(16, 0, 8, 2),
    ("patch_embed_backward", 64, 2): Tile(32, 0, 8, 2),
    ("patch_embed_backward", 64, 4): Tile(32, 0, 8, 2),
    ("patch_embed_backward", 128, 2): Tile(16, 0, 8, 2),
    ("patch_embed_backward", 128, 4): Tile(16, 0, 8, 2),
    ("patch_embed_backward", 256, 2): Tile(16, 0, 8, 2),
    ("patch_embed_backward", 256, 4): Tile(16, 0, 8, 2),
    # rows of the position table
    **{("position_gradient", d, 4): Tile(32, 0, 4, 2) for d in (64, 128, 256)},
    # masked patches
    ("patch_targets", 16, 4): Tile(32, 0, 4, 2),
    ("patch_targets", 32, 4): Tile(32, 0, 4, 2),
    # queries, keys; two warps, see SHORT in the attention module
    ("attention", 16, 2): Tile(64, 64, 2, 3),
    ("attention", 32, 2): Tile(64, 64, 2, 3),
    ("attention", 64, 2): Tile(64, 32, 2, 2),
    ("attention", 16, 4): Tile(32, 32, 2, 2),
    ("attention", 32, 4): Tile(32, 32, 2, 2),
    ("attention", 64, 4): Tile(32, 16, 4, 1),
    # rows that a program owns, rows that it visits
    ("attention_backward", 16, 2): Tile(64, 32, 2, 2),
    ("attention_backward", 32, 2): Tile(64, 32, 2, 2),
    ("attention_backward", 64, 2): Tile(64, 32, 4, 1),
    ("attention_backward", 16, 4): Tile(32, 32, 4, 1),
    ("attention_backward", 32, 4): Tile(32, 32, 4, 1),
    ("attention_backward", 64, 4): Tile(32, 16, 4, 1),
    # tokens, hidden features
    ("encoder_tail", 64, 2): Tile(64, 32, 4, 2),
    ("encoder_tail", 64, 4): Tile(32, 32, 8, 1),
    ("encoder_tail", 128, 2): Tile(64, 64, 8, 2),
    ("encoder_tail", 128, 4): Tile(16, 16, 8, 1),
    ("encoder_tail_backward", 64, 2): Tile(64, 32, 8, 1),
    ("encoder_tail_backward", 64, 4): Tile(16, 16, 8, 1),
    ("encoder_tail_backward", 128, 2): Tile(32, 32, 8, 1),
    ("encoder_tail_backward", 128, 4): Tile(16, 16, 16, 1),
    # tokens, output features; size: the depth of the product
    **{("linear", k, 2): Tile(64, 64, 4, 2) for k in (64, 128, 256, 512)},
    **{("linear", k, 4): Tile(32, 32, 4, 2) for k in (64, 128, 256, 512)},
    # tokens at a time
    **{("pool", d, b): Tile(32, 0, 4, 2) for d in (64, 128) for b in (2, 4)},
    # entries at a time
    **{("mcm_loss", n, b): Tile(1024, 0, 4, 2) for n in (16, 32) for b in (2, 4)},
}  # fmt: skip

# The same with an architecture (80, 90) where one needs another tile.
_BY_ARCH: dict[tuple[str, int, int, int], Tile] = {}

_overrides: dict[tuple[str, int, int], Tile] = {}


@functools.cache
def _device_arch() -> int | None:
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


def lookup(op: str, size: int, itemsize: int, arch: int | None = None) -> Tile:
    """The tile of an op for rows of `size` (padded) and products of `itemsize` bytes.

    arch: 80, 90, ...; None asks the GPU at hand, and gives the default where there is none.
    """
    key = (op, size, itemsize)
    if key in _overrides:
        return _overrides[key]
    arch = _device_arch() if arch is None else arch
    return _BY_ARCH.get((*key, arch or 0)) or _TABLE[key]


@contextmanager
def override(op: str, size: int, itemsize: int, tile: Tile) -> Iterator[None]:
    """Use `tile` within the block, whatever the table says. For tuners: not for several threads at once."""
    key = (op, size, itemsize)
    if key not in _TABLE:
        raise InputError(f"tuned.override: {key} is no key of the tile table; see tuned.keys()")
    before = _overrides.get(key)
    _overrides[key] = tile
    try:
        yield
    finally:
        _overrides.pop(key)
        if before is not None:
            _overrides[key] = before


def keys() -> list[tuple[str, int, int]]:
    """Every (op, size, itemsize) that has a tile."""
    return list(_TABLE)


def candidates(op: str, size: int, itemsize: int) -> list[Tile]:
    """The tile in use first, then its neighbours: rows, steps and warps halved or doubled, 1 to 4 stages.

    Where the bits of a result depend on a number it is held: the warps of attention, whose layout both of its
    query tiles must share.
    """
    now = lookup(op, size, itemsize)
    warps = (now.warps,) if op.startswith("attention") else (now.warps // 2, now.warps, 2 * now.warps)
    found: list[Tile] = []
    for rows in (now.rows // 2, now.rows, 2 * now.rows):
        for steps in {now.steps // 2, now.steps, 2 * now.steps}:
            for count in warps:
                found += [replace(now, rows=rows, steps=steps, warps=count, stages=n) for n in (1, 2, 3, 4)]
    least = min(16, now.rows)  # a matrix instruction takes 16 rows
    whole = (t for t in found if t.rows >= least and (t.steps >= 16 or not now.steps) and 1 <= t.warps <= 16)
    return list(dict.fromkeys([now, *whole]))
