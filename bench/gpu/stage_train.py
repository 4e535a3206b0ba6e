"""The training step on the device, forward, backward and optimizer, bfloat16 by autocast, with and without its data."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from bench import released
from bench.gpu import attention_peers, ceilings
from bench.gpu.encoder_peers import PeerEncoder
from bench.gpu.layout import Layout
from bench.gpu.subjects import pairs, subject
from bench.gpu.timing import GpuArm, GpuSettings, compare
from bench.inputs import csi_of_size
from bench.rows import Row
from bench.training import Batch, Trainee, as_peer, as_released, gradient_error, ours
from lwm_fast import reference
from lwm_fast.backends.triton_backend import TritonBackend
from lwm_fast.data import BucketSampler, ChannelStore, MCMCollator, MCMLoader
from lwm_fast.packed import PackedBatch
from lwm_fast.tokens import num_tokens

_TOKENS = 1 << 16
_CHECKED = 4  # channels whose gradients are compared with float64's, without dropout
_LIMIT = {"float32": 1e-4, "bfloat16": 5e-2}
# (name, version, antennas, subcarriers)
CASES = (
    ("train-129", "1.1", 32, 64),
    ("train-v1.0", "1.0", 32, 32),
    ("train-513", "1.1", 128, 64),
)
_MODES = (
    ("torch.compile max-autotune + SDPA", "max-autotune-no-cudagraphs"),
    ("torch.compile reduce-overhead + SDPA", "reduce-overhead"),
    ("SDPA, eager", None),
)


def cases(settings: GpuSettings) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    for case in CASES:
        yield case[0], functools.partial(_step, settings, *case[1:])
    yield "train-mixed", functools.partial(_mixed, settings)


def _step(settings: GpuSettings, version: str, num_antennas: int, num_subcarriers: int) -> list[Row]:
    device = settings.device.torch_device
    fast, weights = subject(settings, version)
    seq_len = num_tokens(num_antennas, num_subcarriers, version)
    csi, label = csi_of_size(num_antennas, num_subcarriers, max(2, settings.pick(_TOKENS, 300) // seq_len))
    batch, small = Batch.of_csi(csi, version, device), Batch.of_csi(csi[:_CHECKED], version, device)
    exact = as_released(released.twin(fast, torch.float64).to(device)).gradients(small.double())

    def arm(
        name: str, make: Callable[[Batch], Trainee], precision: str = "bfloat16", **options: Any
    ) -> GpuArm:
        def build() -> Callable[[int], Any]:
            trainee = make(batch)
            return lambda i: trainee.step(batch)

        def error(_: Any) -> float:
            return gradient_error(make(small).gradients(small), exact)

        mine = options.get("ours", False)
        return GpuArm(
            name,
            build,
            error,
            _LIMIT[precision] * (1 if mine else 4),
            precision=precision,
            graph=False,
            **options,
        )

    def peer(mode: str | None, given: Batch) -> Trainee:
        return _peer(released.twin(fast).to(device), mode, settings, given)

    def our_data() -> Callable[[int], Any]:
        trainee = ours(copy.deepcopy(fast), "bfloat16", TritonBackend())
        batches = _endless(ChannelStore(csi, version=version), len(csi))
        return lambda i: trainee.step(Batch.of(next(batches), device))

    arms = [
        arm(
            "lwm_fast",
            lambda _: ours(copy.deepcopy(fast), "bfloat16", TritonBackend()),
            ours=True,
            note="csi copied to the device",
        ),
        GpuArm("lwm_fast with its loader", our_data, ours=True, graph=False, note="csi in host memory"),
        arm(
            "lwm_fast", lambda _: ours(copy.deepcopy(fast), "float32", TritonBackend()), "float32", ours=True
        ),
        *(arm(name, functools.partial(peer, mode)) for name, mode in _MODES),
        arm("released, eager, autocast", lambda _: as_released(released.twin(fast).to(device), "bfloat16")),
        arm("released, eager", lambda _: as_released(released.twin(fast).to(device)), "float32"),
    ]
    return compare(
        "gpu training step",
        "channel",
        arms,
        settings,
        items=len(csi),
        copies=1,
        tokens=len(csi) * seq_len,
        ceiling=_useful_rate(version, [seq_len]),
        version=version,
        num_antennas=num_antennas,
        num_subcarriers=num_subcarriers,
        seq_len=seq_len,
        batch=len(csi),
        note=f"forward, backward, optimizer; share: useful FLOPs of 800 TFLOP/s; {label}, {weights}",
    )


def _mixed(settings: GpuSettings) -> list[Row]:
    """Passes over a store of the 20 pairs, every arm through the same loader: data included."""
    device, each = settings.device.torch_device, settings.pick(256, 2)
    sizes = pairs(settings)
    fast, weights = subject(settings, "1.1")
    store = ChannelStore([csi_of_size(*size, each)[0] for size in sizes])
    size = settings.pick(128, 2)

    def epoch(step: Callable[[PackedBatch], Any]) -> Callable[[int], Any]:
        sampler = BucketSampler(store, batch_size=size, split="all", seed=0)
        return lambda i: [step(batch) for batch in MCMLoader(store, sampler, MCMCollator("1.1"))]

    def our_arm() -> Callable[[int], Any]:
        trainee = ours(copy.deepcopy(fast), "bfloat16", TritonBackend())
        return epoch(lambda packed: trainee.step(Batch.of(packed, device)))

    def peer_arm(mode: str | None) -> Callable[[int], Any]:
        twin = released.twin(fast).to(device)
        trainees: dict[tuple[int, int], Trainee] = {}  # one graph for each shape of a batch

        def step(packed: PackedBatch) -> Any:
            batch = Batch.of(packed, device)
            shape = (len(packed), packed.max_seqlen)
            if shape not in trainees:
                trainees[shape] = _peer(twin, mode, settings, batch)
            return trainees[shape].step(batch)

        return epoch(step)

    def released_arm() -> Callable[[int], Any]:
        trainee = as_released(released.twin(fast).to(device))
        return epoch(lambda packed: trainee.step(Batch.of(packed, device)))

    arms = [
        GpuArm("lwm_fast with its loader", our_arm, ours=True, graph=False),
        GpuArm("SDPA, eager", lambda: peer_arm(None), graph=False),
        GpuArm("torch.compile + SDPA", lambda: peer_arm("default"), graph=False),
        GpuArm("released, eager", released_arm, precision="float32", graph=False),
    ]
    lengths = [num_tokens(*pair, "1.1") for pair in sizes]
    return compare(
        "gpu training, 20-pair mix",
        "channel",
        arms,
        settings,
        items=len(store),
        copies=1,
        tokens=each * sum(lengths),
        ceiling=_useful_rate("1.1", lengths),
        version="1.1",
        batch=size,
        note=f"20-pair mix; equal-length buckets of {size} from the same loader; {weights}",
    )


def _peer(twin: reference.LWM, mode: str | None, settings: GpuSettings, batch: Batch) -> Trainee:
    layout = Layout.of([batch.packed.max_seqlen] * len(batch.packed), batch.tokens.device)
    encoder = PeerEncoder(twin, attention_peers.sdpa(layout, twin.sizes.head_dim, settings.device), layout)
    encoder.to(batch.tokens.device)
    predict = encoder.predict if mode is None else settings.device.compiled(encoder.predict, mode)
    return as_peer(encoder, predict, "bfloat16")


def _endless(store: ChannelStore, batch: int) -> Iterator[PackedBatch]:
    sampler = BucketSampler(store, batch_size=batch, split="all", seed=0)
    for _ in itertools.count():
        yield from MCMLoader(store, sampler, MCMCollator(store.version))


def _useful_rate(version: str, lengths: list[int]) -> float:
    """Channels a second of a step (three forwards) at full rate of the matrix units, unpadded FLOPs."""
    flops = sum(3 * ceilings.encoder_flops(version, n) for n in lengths) / len(lengths)
    return ceilings.TENSOR_FLOPS / flops
