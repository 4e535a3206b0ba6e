"""A released-style pre-training loop, made fast by three lines (docs/drop_in.md shows them as a diff).

`lwm_model.py` is the released model file with its class `lwm`; `channels.npy` holds complex64 channels
[n, 32, 32] as a channel simulator gives them, unscaled.

    python examples/drop_in.py channels.npy --steps 50
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from lwm_model import lwm

import lwm_fast

MASK = 0.1


def train(path: str, steps: int, batch: int, dropout: float, seed: int) -> list[float]:
    """Losses of masked channel modelling, one a step."""
    torch.manual_seed(seed)
    model = lwm(dropout=dropout)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, weight_decay=1e-5)
    model = lwm_fast.accelerate(model)
    tokens = torch.from_numpy(lwm_fast.tokenize(np.load(path)))
    rng = np.random.default_rng(seed)
    model.train()
    losses = []
    for _ in range(steps):
        x = tokens[rng.choice(len(tokens), batch)].clone()
        real = np.stack([1 + rng.choice(64, 9, replace=False) for _ in range(batch)])
        positions = torch.from_numpy(np.concatenate([real, real + 64], axis=1))
        index = positions[:, :, None].expand(-1, -1, x.shape[2])
        targets = x.gather(1, index)
        x.scatter_(1, index, MASK)
        logits, _ = model(x, positions)
        loss = (logits - targets).square().mean() / targets.var()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("channels")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    losses = train(options.channels, options.steps, options.batch, options.dropout, options.seed)
    print("\n".join(f"{step} {loss:.8g}" for step, loss in enumerate(losses)))
