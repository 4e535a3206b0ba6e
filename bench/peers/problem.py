"""One model and one size of channels: what every arm gets, and the answer to check them by."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench import released
from bench.inputs import Settings, csi_of_size, model, relative_error
from bench.peers import graph
from bench.peers.arms import OWN_BUDGET, Peer, peers
from bench.peers.jobs import Inputs
from lwm_fast import encoder, reference
from lwm_fast.tokens import num_tokens

_EXACT_TOKENS = 1040  # in one piece: the release's attention maps of more would fill the memory


class Problem:
    """One model and size: the job of all arms, and the answer to check them by."""

    def __init__(self, version: str, size: tuple[int, int], settings: Settings, threads: int) -> None:
        self.version, self.size, self.settings = version, size, settings
        self.seq_len = num_tokens(*size, version)
        largest = max(1, OWN_BUDGET // self.seq_len) * threads
        self.csi, users = csi_of_size(*size, settings.pick(largest, threads))
        fast, weights, label = model(version)
        self.note = f"{users}, {label}"
        info = fast.weights_info
        self.has_denormals = weights is not None and info is not None and info.denormals_flushed > 0
        self.tokens = reference.tokenize(torch.from_numpy(self.csi), version)
        wide, at_once = released.twin(fast, torch.float64), max(1, _EXACT_TOKENS // self.seq_len)
        parts = self.tokens.double().split(at_once)
        self.exact = torch.cat([released.forward(wide, part) for part in parts]).numpy()
        self._graph = cache(self._onnx)

    def _onnx(self, which: str) -> bytes:
        weights = encoder.prepare(model(self.version)[0], collapse=which == "collapsed")
        return graph.onnx_bytes(weights, self.seq_len)

    def inputs(self, peer: Peer, count: int) -> Inputs:
        onnx = self._graph(peer.graph) if peer.graph else b""
        return Inputs(self.version, self.csi[:count], self.tokens[:count].numpy(), onnx)

    def error(self, peer: Peer, output: NDArray[np.float32]) -> float:
        exact = self.exact[: len(output)]
        return relative_error(output, exact[:, 0] if peer.output == "cls" else exact)

    def labels(self) -> dict[str, Any]:
        num_antennas, num_subcarriers = self.size
        return {
            "version": self.version,
            "num_antennas": num_antennas,
            "num_subcarriers": num_subcarriers,
            "seq_len": self.seq_len,
            "note": self.note,
        }

    def arms(self, threads: int) -> list[Peer]:
        found = peers(self.version, self.has_denormals, threads)
        return [peer for peer in found if not (self.settings.quick and peer.builds_for_minutes)]
