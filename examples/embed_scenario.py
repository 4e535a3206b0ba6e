"""From a scenario to embeddings to a first look: nearest-class-mean LoS accuracy from a few labels.

python examples/embed_scenario.py                                       # synthetic street, the package's weights
python examples/embed_scenario.py city_18_denver lwm_v1.0.pth           # DeepMIMO folder, released weights
"""

from __future__ import annotations

import sys

import numpy as np

import lwm_fast
from lwm_fast.data.synthetic import synthetic_streets


def main(scenario: str | None = None, weights: str = "lwm-fast-base", num_labels: int = 20) -> float:
    channels = lwm_fast.load_channels(scenario) if scenario else synthetic_streets(1000, seed=1)
    model = lwm_fast.LWM.from_pretrained(weights)
    print(channels)
    embeddings = model.encode(channels, pool="mean")  # float32 [users, embed_dim]

    assert channels.los is not None, "the source has no LoS labels"
    order = np.random.default_rng(0).permutation(len(channels))
    known, rest = order[:num_labels], order[num_labels:]
    means = [embeddings[known][channels.los[known] == label].mean(0) for label in (0, 1)]
    nearer = np.linalg.norm(embeddings[rest] - means[1], axis=1) < np.linalg.norm(
        embeddings[rest] - means[0], axis=1
    )
    accuracy = float((nearer == (channels.los[rest] == 1)).mean())
    print(
        f"LoS/NLoS from {num_labels} labels, nearest class mean: accuracy {accuracy:.3f} on {len(rest)} other users"
    )
    return accuracy


if __name__ == "__main__":
    main(*sys.argv[1:3])
