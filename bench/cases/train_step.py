"""One training step on the CPU: forward, loss, backward, optimizer, as released with its dropout, against ours.

Every arm starts from the same weights and sees one batch of masked tokens. Before any is timed, its gradients
without dropout are compared with float64's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench import released
from bench.gpu.attention_peers import sdpa
from bench.gpu.device import Cpu
from bench.gpu.encoder_peers import PeerEncoder
from bench.gpu.layout import Layout
from bench.inputs import Settings, csi_of_size, model
from bench.rows import Row
from bench.timing import Arm, compare
from bench.training import Batch, Trainee, as_peer, as_released, gradient_error, ours
from lwm_fast import reference
from lwm_fast.tokens import num_tokens

RELEASED, PEER = "released step", "SDPA and one QKV product"
_CHECKED = 4  # channels of the gradients that are compared
# Plain float32 torch reaches 4e-5 where rounding moves one pre-activation across ReLU's corner, else 5e-7.
_LIMIT = 1e-4
_CPU = torch.device("cpu")
# (version, num_antennas, num_subcarriers)
SIZES = (("1.1", 32, 64), ("1.1", 64, 64), ("1.0", 32, 32))


def arms(version: str, csi: NDArray[np.complex64], *, compiled: bool) -> list[Arm]:
    fast, _, _ = model(version)
    batch, small = Batch.of_csi(csi, version, _CPU), Batch.of_csi(csi[:_CHECKED], version, _CPU)
    exact = as_released(released.twin(fast, torch.float64)).gradients(small.double())

    def arm(name: str, make: Callable[[Batch], Trainee], *baselines: str, note: str = "") -> Arm:
        trainee = make(batch)

        def error(_: Any) -> float:  # of fresh weights: the step before has changed the trainee's
            return gradient_error(make(small).gradients(small), exact)

        return Arm(
            name, lambda: trainee.step(batch), len(csi), error, _LIMIT, baselines=baselines, note=note
        )  # fmt: skip

    found = [
        arm(RELEASED, lambda _: as_released(released.twin(fast)), note="eager, dropout 0.1"),
        arm(PEER, lambda b: _peer(released.twin(fast), b), RELEASED),
        arm("lwm_fast", lambda _: ours(copy.deepcopy(fast)), RELEASED, PEER),
    ]
    if compiled:
        found.append(
            arm("torch.compile of it", lambda b: _peer(released.twin(fast), b, compiled=True), RELEASED)
        )
    return found


def _peer(plain: reference.LWM, batch: Batch, *, compiled: bool = False) -> Trainee:
    layout = Layout.of([batch.packed.max_seqlen] * len(batch.packed), _CPU)
    encoder = PeerEncoder(plain, sdpa(layout, plain.sizes.head_dim, Cpu()), layout)
    return as_peer(encoder, torch.compile(encoder.predict) if compiled else encoder.predict)


def run(settings: Settings) -> list[Row]:
    rows = []
    for version, num_antennas, num_subcarriers in (SIZES[0], SIZES[2]) if settings.quick else SIZES:
        csi, users = csi_of_size(num_antennas, num_subcarriers, settings.pick(64, 2))
        first = (version, num_antennas, num_subcarriers) == SIZES[0]
        rows += compare(
            "train_step",
            "channel",
            arms(version, csi, compiled=first and not settings.quick),
            rounds=settings.rounds,
            min_seconds=settings.min_seconds,
            version=version,
            num_antennas=num_antennas,
            num_subcarriers=num_subcarriers,
            seq_len=num_tokens(num_antennas, num_subcarriers, version),
            batch=len(csi),
            note=f"{users}, {model(version)[2]}; error: all gradients together, without dropout",
        )
    return rows
