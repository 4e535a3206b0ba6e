"""A small model and easy channels to fine-tune on, shared by the tests and by processes that are killed."""

from __future__ import annotations

import sys

import numpy as np
import torch

from lwm_fast import LWM, Channels, LWMConfig
from lwm_fast.tasks.fit import FitConfig

SMALL = {"num_layers": 3, "embed_dim": 32, "num_heads": 2, "head_dim": 16, "ffn_dim": 64, "max_len": 33}
CONFIG = FitConfig(epochs=4, batch_size=16, lr=3e-3, step_epochs=None)


def small_model(version: str = "1.1", **changes: object) -> LWM:
    """Seeded random weights; three layers."""
    make = LWMConfig.v1_1 if version == "1.1" else LWMConfig.v1_0
    return LWM.random(make(**{**SMALL, **changes}), seed=1)


def easy_channels(users: int = 60, seed: int = 0) -> Channels:
    """8 x 16 channels of two classes that differ in power (labels), with positions to match."""
    rng = np.random.default_rng(seed)
    labels = np.arange(users) % 2
    csi = rng.standard_normal((users, 8, 16)) + 1j * rng.standard_normal((users, 8, 16))
    csi *= (1 + 4 * labels)[:, None, None] * 1e-6
    pos = np.stack([10.0 * labels, -5.0 * labels, np.zeros(users)], axis=1)
    return Channels.from_arrays(csi.astype(np.complex64), labels=labels, los=labels, pos=pos)


def run_to_be_killed(out: str) -> None:
    """A last-2 run in `out` that says when an epoch's checkpoint is on the disk, and waits a little after each."""
    import time

    from lwm_fast.finetuning import finetune
    from lwm_fast.finetuning.folder import RunFolder

    save = RunFolder.save

    def say(self: RunFolder, loop, state, *, final: bool) -> None:
        save(self, loop, state, final=True)
        sys.stdout.write(f"saved {state.done}\n")
        sys.stdout.flush()
        time.sleep(0.5)

    RunFolder.save = say  # type: ignore[method-assign]
    torch.set_num_threads(1)
    finetune(
        small_model(),
        "los",
        easy_channels(),
        freeze="last-2",
        config=CONFIG,
        out=out,
        resume=True,
        progress=False,
    )


if __name__ == "__main__":
    run_to_be_killed(sys.argv[1])
