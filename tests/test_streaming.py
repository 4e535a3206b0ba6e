"""`encode` as a GPU runs it, on CPU twins: streamed batches, recorded graphs, mixed lengths, memory that runs out."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from support.op_path import mixed_samples, op_path, two_layers  # noqa: F401
from support.released import random_csi, relative_error

from lwm_fast import InputError, packed_model, use_backend
from lwm_fast.backends import BACKENDS
from lwm_fast.device_batch import DeviceBatch, Layout
from lwm_fast.graphs import Graphs, HostRecorder
from lwm_fast.lanes import HostLanes
from lwm_fast.packed import PackedBatch
from lwm_fast.pooling import POOLS, Ragged
from lwm_fast.streaming import Piece, Stream

CPU = torch.device("cpu")


def sums(batch: DeviceBatch) -> torch.Tensor:
    """A stand-in for the encoder: one row a sequence that depends on csi, scale and place."""
    parts = torch.view_as_real(batch.csi).double().sum(1)
    index = torch.arange(len(batch)).repeat_interleave(batch.offsets.diff())
    return torch.zeros(len(batch)).double().index_add(0, index, parts)[:, None].float() * batch.scale[:, None]


def pieces(counts: list[int], size: tuple[int, int] = (8, 32)) -> list[Piece]:
    found, first = [], 0
    for i, count in enumerate(counts):
        batch = PackedBatch.from_samples(random_csi(count, *size, seed=i), "1.1")
        found.append(Piece(np.arange(first, first + count), batch))
        first += count
    return found


def collect(stream: Stream, work: list[Piece]) -> np.ndarray:
    out = np.full((sum(len(p.batch) for p in work), 1), np.nan, np.float32)
    for piece, rows in stream.run(work, to_host=True):
        out[piece.index] = rows.numpy()
    return out


def expected(work: list[Piece]) -> np.ndarray:
    return np.concatenate([sums(DeviceBatch.of(p.batch, CPU)).numpy() for p in work])


@pytest.mark.parametrize("counts", [[], [1], [4, 4], [4, 4, 4, 4, 3], [2, 7, 1]])
def test_results_come_back_in_their_places(counts):
    work = pieces(counts)
    got = collect(Stream(HostLanes(CPU), Graphs(None), sums), work)
    assert np.array_equal(got, expected(work) if counts else np.empty((0, 1), np.float32))


def test_graphs_are_recorded_at_the_second_batch_of_a_layout_and_read_new_content():
    graphs, calls = Graphs(HostRecorder()), []

    def compute(batch: DeviceBatch) -> torch.Tensor:
        calls.append(batch.csi.data_ptr())
        return sums(batch)

    stream = Stream(HostLanes(CPU), graphs, compute)
    work = pieces([4, 4, 4, 4, 3])
    assert np.array_equal(collect(stream, work), expected(work))
    assert len(graphs) == 1
    assert len(set(calls[2:5])) == 1  # recorded once and replayed, always from the graph's own memory
    again = pieces([3, 4])
    assert np.array_equal(collect(stream, again), expected(again))
    assert len(graphs) == 2
    graphs.clear()
    assert len(graphs) == 0


def test_a_graph_s_result_is_the_caller_s_own():
    graphs, work = Graphs(HostRecorder()), pieces([4, 4, 4])
    layout = Layout.of(work[0].batch)
    results = []
    for piece in work:
        buffer = torch.empty(layout.num_bytes, dtype=torch.uint8)
        layout.write(piece.batch, buffer)
        results.append(graphs.run(layout, buffer, sums))
    assert np.array_equal(torch.cat(results).numpy(), expected(work))


def test_mixed_lengths_and_what_exceeds_the_cap_are_not_recorded():
    graphs = Graphs(HostRecorder())
    batch = PackedBatch.from_samples(mixed_samples("1.1"), "1.1")
    work = [Piece(np.arange(5) + 5 * i, batch) for i in range(3)]
    assert np.array_equal(collect(Stream(HostLanes(CPU), graphs, sums), work), expected(work))
    assert len(graphs) == 0
    capped, work = Graphs(HostRecorder(), max_bytes=1), pieces([4, 4, 4, 3, 3, 3])
    assert np.array_equal(collect(Stream(HostLanes(CPU), capped, sums), work), expected(work))
    assert len(capped) == 1


def test_a_graph_that_cannot_be_recorded_leaves_the_eager_path(caplog):
    class Failing:
        def record(self, compute):
            raise RuntimeError("operation failed due to a previous error during capture")

    work = pieces([4, 4, 4, 4])
    got = collect(Stream(HostLanes(CPU), Graphs(Failing()), sums), work)
    assert np.array_equal(got, expected(work))
    assert caplog.text.count("CUDA graphs are off") == 1


def test_the_switch_and_the_device_decide_on_graphs(monkeypatch):
    work = pieces([4, 4, 4])
    graphs = Graphs.on(CPU)
    collect(Stream(HostLanes(CPU), graphs, sums), work)
    assert len(graphs) == 0
    monkeypatch.setenv("LWM_FAST_CUDA_GRAPHS", "0")
    off = Graphs.on(torch.device("cuda"))
    collect(Stream(HostLanes(CPU), off, sums), work)
    assert len(off) == 0


def test_memory_that_runs_out_halves_the_batches_and_loses_nothing(caplog):
    sizes = []

    def small_device(batch: DeviceBatch) -> torch.Tensor:
        sizes.append(len(batch))
        if batch.total_tokens > 3 * 17:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sums(batch)

    work = pieces([2, 8, 8, 5])
    with caplog.at_level(logging.INFO, "lwm_fast"):
        got = collect(Stream(HostLanes(CPU), Graphs(HostRecorder()), small_device), work)
    assert np.array_equal(got, expected(work))
    assert "out of memory with 8 channels of 136 tokens" in caplog.text
    assert sizes.count(8) == 1  # the batches after it are halved before they fail
    assert max(sizes[sizes.index(4) + 1 :]) <= 3
    with pytest.raises(torch.OutOfMemoryError):  # one channel cannot be halved
        collect(Stream(HostLanes(CPU), Graphs(None), small_device), pieces([1], (64, 64)))


@pytest.mark.parametrize("name", ["triton", "torch"])
def test_encode_recovers_from_memory_that_runs_out(op_path, monkeypatch, name):  # noqa: F811
    model, csi = two_layers("1.1"), random_csi(13, 8, 32)
    samples = mixed_samples("1.1")
    with use_backend(name):
        exact, mixed = model.encode(csi, batch_size=6), model.encode(samples, pool="patches")
        owner, attribute = (
            (packed_model, "encode_on_device") if name == "triton" else (BACKENDS["torch"], "encode")
        )
        real = getattr(owner, attribute)

        def short_of_memory(first, batch, *rest):
            if len(batch) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(first, batch, *rest)

        monkeypatch.setattr(owner, attribute, short_of_memory)
        got = model.encode(csi, batch_size=6)
        assert relative_error(got, exact) < 1e-6
        ragged = model.encode(samples, pool="patches")
    assert isinstance(ragged, Ragged)
    assert isinstance(mixed, Ragged)
    assert relative_error(ragged.values, mixed.values) < 1e-6


@pytest.mark.parametrize("pool", list(POOLS))
@pytest.mark.parametrize("normalize", [False, True])
def test_encode_equals_the_torch_backend_s(op_path, pool, normalize):  # noqa: F811
    model, csi, samples = two_layers("1.1"), random_csi(7, 8, 32), mixed_samples("1.1")
    dense = model.encode(csi, pool=pool, batch_size=3, normalize=normalize)
    # One token, hence no patch: its mean of patches is NaN, so it is left out there.
    picked = [s for s in samples if pool != "mean" or s.size > 1]
    mixed = model.encode(picked, pool=pool, batch_size=2, normalize=normalize)
    tensor = model.encode(csi, pool=pool, batch_size=3, normalize=normalize, convert_to_tensor=True)
    with use_backend("torch"):
        expected_dense = model.encode(csi, pool=pool, normalize=normalize)
        expected_mixed = model.encode(picked, pool=pool, normalize=normalize)
    assert relative_error(dense, expected_dense) < 1e-6
    assert isinstance(tensor, torch.Tensor)
    assert np.array_equal(tensor.numpy(), dense)
    if isinstance(mixed, Ragged):
        assert isinstance(expected_mixed, Ragged)
        assert np.array_equal(mixed.cu_seqlens, expected_mixed.cu_seqlens)
        assert relative_error(mixed.values, expected_mixed.values) < 1e-6
    else:
        assert relative_error(mixed, expected_mixed) < 1e-6


def test_a_packed_batch_mixes_lengths_up_to_its_budget(op_path, monkeypatch):  # noqa: F811
    model, samples = (
        two_layers("1.1"),
        [random_csi(1, *s, seed=9)[0] for s in [(8, 32), (32, 32), (4, 4)] * 4],
    )
    real, seen = packed_model.encode_on_device, []

    def watch(w, batch, pool):
        seen.append((batch.total_tokens, batch.equal_length))
        return real(w, batch, pool)

    monkeypatch.setattr(packed_model, "encode_on_device", watch)
    model.encode(samples, batch_size=2)  # a budget of 2 x 65 tokens
    assert max(tokens for tokens, _ in seen) <= 130
    assert sum(tokens for tokens, _ in seen) == 4 * (17 + 65 + 2)  # no padding
    assert not all(equal for _, equal in seen)


def test_a_bad_channel_far_in_stops_the_stream_and_is_named(op_path):  # noqa: F811
    model, csi = two_layers("1.1"), random_csi(40, 8, 32)
    csi[31] = np.nan
    with pytest.raises(InputError, match="user 31"):
        model.encode(list(csi), batch_size=4)


def test_changed_weights_are_seen(op_path):  # noqa: F811
    model, csi = two_layers("1.1"), random_csi(3, 8, 32)
    before = model.encode(csi)
    with torch.no_grad():
        model.layers[0].pos_ffn.fc1.weight.mul_(1.5)
    after = model.encode(csi)
    assert not np.array_equal(after, before)
    with use_backend("torch"):
        assert relative_error(after, model.encode(csi)) < 1e-6


@pytest.mark.parametrize("listed", [False, True])
def test_complex_half_only_when_scaled(op_path, listed):  # noqa: F811
    model, csi = two_layers("1.1"), random_csi(3, 8, 32)
    half = torch.view_as_complex(torch.view_as_real(torch.from_numpy(csi * 1e6)).half())
    source = list(half) if listed else half
    assert relative_error(model.encode(source, scale=1.0), model.encode(csi)) < 2e-3
    with pytest.raises(InputError, match=r"complex32 with scale=None: .*underflow.*scale=1\.0"):
        model.encode(source)
