"""The table of tiles: found without a GPU, whole, and open to a tuner."""

from __future__ import annotations

import pytest
from lwm_fast.kernels import tuned
from lwm_fast.kernels.tuned import Tile

from lwm_fast import InputError

KEYS = tuned.keys()


def test_every_key_has_a_tile_on_every_architecture() -> None:
    for op, size, itemsize in KEYS:
        for arch in (None, 80, 90, 120):
            tile = tuned.lookup(op, size, itemsize, arch)
            assert tile.rows > 0
            assert tile.warps & (tile.warps - 1) == 0


def test_candidates_begin_with_the_tile_in_use_and_hold_what_fixes_the_bits() -> None:
    for key in KEYS:
        found = tuned.candidates(*key)
        assert found[0] == tuned.lookup(*key)
        assert len(found) == len(set(found)) > 1
    attention = tuned.candidates("attention", 16, 2)
    assert {tile.warps for tile in attention} == {2}


def test_an_override_holds_for_its_block_alone() -> None:
    before = tuned.lookup("linear", 128, 2)
    with tuned.override("linear", 128, 2, Tile(16, 16, 1, 1)):
        with tuned.override("linear", 128, 2, Tile(32, 16, 1, 1)):
            assert tuned.lookup("linear", 128, 2).rows == 32
        assert tuned.lookup("linear", 128, 2, 90).rows == 16
        assert tuned.lookup("linear", 64, 2).rows == before.rows
    assert tuned.lookup("linear", 128, 2) == before
    with pytest.raises(InputError, match="is no key of the tile table"), tuned.override("sort", 1, 2, before):
        pass
