"""ONNX Runtime and OpenVINO: sessions that run an ONNX model with everything that makes it fast."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.float32]  # [batch, seq_len, patch_len]
Job = Callable[[], NDArray[np.float32]]


def onnxruntime(model: bytes, tokens: Tokens, threads: int) -> Job:
    """All graph optimisations, sequential nodes, ``threads`` in a node; its threads sleep between calls."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run() -> NDArray[np.float32]:
        output: NDArray[np.float32] = session.run(None, {"tokens": tokens})[0]
        return output

    return run


def openvino(model: bytes, tokens: Tokens, threads: int, *, precision: str, hint: str) -> Job:
    """Static shapes. ``THROUGHPUT`` cuts the batch among one stream a thread, ``LATENCY`` runs it in one piece."""
    import openvino as ov

    core = ov.Core()
    graph = core.read_model(model)
    streams = threads if hint == "THROUGHPUT" else 1
    parts = np.split(tokens, streams)
    graph.reshape(list(parts[0].shape))
    compiled = core.compile_model(
        graph,
        "CPU",
        {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
            "PERFORMANCE_HINT": hint,
            "INFERENCE_PRECISION_HINT": precision,
        },
    )
    out = np.empty((len(tokens), *compiled.output(0).shape[1:]), np.float32)
    requests = []
    for part, rows in zip(parts, np.split(out, streams), strict=True):
        request = compiled.create_infer_request()
        request.set_input_tensor(ov.Tensor(part, shared_memory=True))
        request.set_output_tensor(ov.Tensor(rows, shared_memory=True))
        requests.append(request)

    def run() -> NDArray[np.float32]:
        if streams == 1:
            requests[0].infer()
            return out
        for request in requests:
            request.start_async()
        for request in requests:
            request.wait()
        return out

    return run


def openvino_has_bfloat16() -> bool:
    """Whether the CPU plugin computes in bfloat16 natively on this processor."""
    import openvino as ov

    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
