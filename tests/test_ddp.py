"""Two ranks over the packed encoder give the gradients of one process at the same global batch."""

from __future__ import annotations

import torch
import torch.multiprocessing as mp
from support.ddp_worker import SIZES, Objective, batch_of, masked_patches, rank
from support.op_path import gradients, two_layers


def test_two_ranks_equal_one(tmp_path):
    mp.spawn(rank, args=(2, str(tmp_path)), nprocs=2)
    model = two_layers("1.1")
    Objective(model)(batch_of(list(range(len(SIZES)))), masked_patches()).backward()
    expected = gradients(model)
    scale = max(float(g.norm()) for g in expected.values())
    for index in (0, 1):
        found = torch.load(tmp_path / f"rank{index}.pt", weights_only=True)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            error = float((found[name] - gradient).norm())
            assert error <= 1e-6 * max(float(gradient.norm()), 0.01 * scale), name
