"""Channels of different array sizes and bands through one model, without padding.

python examples/mixed_sizes.py
"""

from __future__ import annotations

import lwm_fast
from lwm_fast.data.synthetic import synthetic_streets


def main() -> None:
    street = synthetic_streets(12, seed=3)
    sizes = [(8, 32), (16, 64), (32, 32), (64, 64)]
    samples = []
    for i in range(len(street)):  # the same users, seen by arrays of different sizes
        num_antennas, num_subcarriers = sizes[i % len(sizes)]
        seen = street[i : i + 1].with_geometry(num_antennas=num_antennas, num_subcarriers=num_subcarriers)
        samples.append(seen.csi[0])

    model = lwm_fast.LWM.from_pretrained("lwm-fast-base")
    print("CLS:", model.encode(samples).shape)
    patches = model.encode(samples, pool="patches")
    for sample, rows in zip(samples, patches, strict=True):
        print(
            f"  {sample.shape[0]:>3} x {sample.shape[1]:<3} -> {rows.shape[0]:>4} patches of {rows.shape[1]}"
        )
    padded, mask = patches.padded()
    print("padded:", padded.shape, "real rows:", int(mask.sum()))


if __name__ == "__main__":
    main()
