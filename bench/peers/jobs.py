"""What runs in a subject's process: a job of one arm on given tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench import released
from bench.inputs import model
from bench.peers import engines, graph
from lwm_fast import LWM, backends, encoder
from lwm_fast.native_weights import engine
from lwm_fast.packed import PackedBatch
from lwm_fast.pooling import get_pool

Output = NDArray[np.float32]
Job = Callable[[], Output]


@dataclass(frozen=True)
class Inputs:
    """What one job works on. graph: the ONNX model, where the arm takes one."""

    version: str
    csi: NDArray[np.complex64]  # [batch, num_antennas, num_subcarriers]
    tokens: Output  # [batch, seq_len, patch_len]
    graph: bytes = b""


def make(kind: str, inputs: Inputs, threads: int, options: dict[str, str]) -> Job:
    """The job of an arm: ``kind`` names a function of this module or an engine."""
    torch.set_num_threads(threads)
    if kind in ("onnxruntime", "openvino"):
        job: Job = getattr(engines, kind)(inputs.graph, inputs.tokens, threads, **options)
        return job
    fast, weights, _ = model(inputs.version)
    run = _KINDS[kind](fast, weights, inputs, **options)

    def without_gradients() -> Output:
        with torch.inference_mode():
            return np.asarray(run())

    return without_gradients


def _published(fast: LWM, weights: Any, inputs: Inputs) -> Callable[[], Tensor]:
    return _eager(released.as_published(weights, fast), inputs)


def _clean(fast: LWM, weights: Any, inputs: Inputs) -> Callable[[], Tensor]:
    return _eager(released.twin(fast), inputs)


def _eager(plain: Any, inputs: Inputs) -> Callable[[], Tensor]:
    tokens = torch.from_numpy(inputs.tokens)
    return lambda: released.forward(plain, tokens)


def _sdpa(fast: LWM, weights: Any, inputs: Inputs, mode: str = "") -> Callable[[], Tensor]:
    """torch's fused attention; compiled for exactly these sizes where ``mode`` names one of torch.compile's."""
    tokens = torch.from_numpy(inputs.tokens)
    full = encoder.prepare(fast, collapse=False)
    run: Any = graph.Encoder(full, tokens.shape[1], sdpa=True)
    if mode:
        torch.compiler.reset()  # what other sizes left counts as recompiling
        run = torch.compile(run, mode=mode, dynamic=False, fullgraph=True)
    return lambda: run(tokens)


def _torch_backend(fast: LWM, weights: Any, inputs: Inputs) -> Callable[[], Tensor]:
    tokens = torch.from_numpy(inputs.tokens)
    return lambda: backends.BACKENDS["torch"].forward(fast, tokens)


def _native(fast: LWM, weights: Any, inputs: Inputs, precision: str) -> Callable[[], Tensor]:
    batch, seq_len, patch_len = inputs.tokens.shape
    native = engine(fast, precision)
    tokens = inputs.tokens.reshape(-1, patch_len)
    cu_seqlens = np.arange(0, (batch + 1) * seq_len, seq_len, dtype=np.int32)
    out = torch.empty(batch, seq_len, fast.config.embed_dim)
    rows, threads = out.flatten(0, 1).numpy(), torch.get_num_threads()

    def run() -> Tensor:
        native.encode_tokens(tokens, cu_seqlens, rows, "tokens", threads)
        return out

    return run


def _native_cls(fast: LWM, weights: Any, inputs: Inputs, precision: str) -> Callable[[], Tensor]:
    """From complex channels, tokenising included, to CLS embeddings."""
    batch = PackedBatch.from_samples(inputs.csi, inputs.version)
    pool = get_pool("cls")
    return lambda: backends.BACKENDS["native"].encode(fast, batch, pool, precision)


_KINDS: dict[str, Callable[..., Callable[[], Tensor]]] = {
    "published": _published,
    "clean": _clean,
    "sdpa": _sdpa,
    "torch_backend": _torch_backend,
    "native": _native,
    "native_cls": _native_cls,
}
