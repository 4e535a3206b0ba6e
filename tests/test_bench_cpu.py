"""`python -m bench.cpu`: peers compute the same encoder, the fastest setting is kept, absent arms say why."""

from __future__ import annotations

import csv
import os
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from support.bench_modules import bench_modules
from support.released import output_of, plain, relative_error

from lwm_fast import LWM, LWMConfig, encoder, reference

# Looked for, not imported: a process that holds these engines' threads can no longer fork, as other tests do.
for peer_package in ("openvino", "onnx", "onnxruntime"):
    if find_spec(peer_package) is None:
        pytest.skip(f"{peer_package} is not installed", allow_module_level=True)

cpu, arms, engines, graph, process, markdown, report, rows = bench_modules(
    "cpu", "peers.arms", "peers.engines", "peers.graph", "peers.process", "markdown", "report_cpu", "rows"
)


def uniform(version: str) -> LWM:
    """Two layers whose first three heads attend uniformly."""
    model = LWM.random({"1.0": LWMConfig.v1_0, "1.1": LWMConfig.v1_1}[version](num_layers=2), seed=4)
    with torch.no_grad():
        for layer in model.layers:
            assert isinstance(layer, (reference.LayerV10, reference.LayerV11))
            layer.enc_self_attn.W_K.weight[: 3 * model.sizes.head_dim] = 0
    return model


def tokens_of(model: LWM, batch: int, seq_len: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, seq_len, model.config.patch_len, generator=generator)


@pytest.mark.parametrize("collapse", [False, True])
@pytest.mark.parametrize("sdpa", [False, True])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_graph_is_the_encoder(version, sdpa, collapse):
    model = uniform(version)
    tokens = tokens_of(model, 3, 9)
    made = graph.Encoder(encoder.prepare(model, collapse=collapse), 9, sdpa=sdpa)
    assert relative_error(made(tokens), output_of(plain(model), tokens.double())) < 1e-6
    assert made.layers[0].num_live == model.sizes.num_heads - 3 * collapse


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_engines_run_the_graph(version):
    model = uniform(version)
    tokens = tokens_of(model, 4, 9)
    onnx = graph.onnx_bytes(encoder.prepare(model), 9)
    exact = output_of(plain(model), tokens.double())
    wanted = [(engines.onnxruntime, 1)]
    for threads, hint in ((1, "LATENCY"), (2, "LATENCY"), (2, "THROUGHPUT")):
        wanted.append((partial(engines.openvino, precision="f32", hint=hint), threads))
    for engine, threads in wanted:
        subject = process.Subject(engine, {})
        try:
            subject.prepare(onnx, tokens.numpy(), threads)
            subject.run()
            assert relative_error(subject.run(), exact) < 1e-6
        finally:
            subject.close()


def doubled(value: float) -> Any:
    return lambda: 2 * value


def failing() -> Any:
    raise RuntimeError("no such engine")


def test_a_subject_lives_in_a_process_with_its_environment(monkeypatch):
    monkeypatch.delenv("LWM_FAST_ISA", raising=False)
    subject = process.Subject(doubled, {"LWM_FAST_ISA": "portable"})
    try:
        subject.prepare(3.0)
        assert subject.run() == 6.0
        subject.prepare(4.0)
        assert subject.run() == 8.0
        assert subject.seconds(2) > 0
        assert len(subject.each(3)) == 3
        assert subject.peak_mib() is None or subject.peak_mib() > 5
    finally:
        subject.close()
    assert "LWM_FAST_ISA" not in os.environ


def test_a_fault_in_a_subject_is_shown():
    subject = process.Subject(failing, {})
    try:
        with pytest.raises(RuntimeError, match="no such engine"):
            subject.prepare()
    finally:
        subject.close()


class Clocked:
    """A subject whose calls last as long as a table of (channels, hint) says."""

    def __init__(self, seconds: dict[tuple[int, str], float]) -> None:
        self._seconds, self.prepared = seconds, (0, "")

    def prepare(self, kind: str, inputs: int, threads: int, options: dict[str, str]) -> None:
        self.prepared = (inputs, options["hint"])

    def run(self) -> None:
        assert self.prepared in self._seconds

    def seconds(self, calls: int) -> float:
        return calls * self._seconds[self.prepared]


class Sized:
    seq_len = 130
    settings = cpu.Settings(7, False)

    def inputs(self, peer: Any, count: int) -> int:
        return count


def test_the_fastest_setting_is_kept():
    hints = ({"precision": "f32", "hint": "THROUGHPUT"}, {"precision": "f32", "hint": "LATENCY"})
    peer = arms.Peer("x", "openvino", variants=hints)
    table = {(8, "THROUGHPUT"): 8.0, (8, "LATENCY"): 4.0, (24, "THROUGHPUT"): 11.0, (24, "LATENCY"): 13.0}
    subject = Clocked(table)
    assert cpu.settle(Sized(), peer, subject, 2) == (24, "batch 24, THROUGHPUT")
    assert subject.prepared == (24, "THROUGHPUT")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_every_arm_is_held_against_arms_that_run(version):
    for threads in (1, 2):
        found = arms.peers(version, version == "1.0", threads)
        running = {peer.name for peer in found if not peer.absent}
        assert len({peer.name for peer in found}) == len(found)
        assert all(set(peer.baselines) <= running for peer in found)
        assert all(peer.absent or peer.baselines or peer.name.startswith("released") for peer in found)
        rival = arms.OPENVINO + (arms.COLLAPSED if version == "1.0" else "")
        own = next(peer for peer in found if peer.name == "native float32")
        assert {arms.CLEAN, rival} <= set(own.baselines)
        assert (arms.PUBLISHED in own.baselines) == (version == "1.0" and threads == 1)


def test_arms_that_cannot_run_say_why(monkeypatch):
    monkeypatch.setattr(engines, "openvino_has_bfloat16", lambda: False)
    found = {peer.name: peer for peer in arms.peers("1.1", False, 1)}
    assert found[arms.OPENVINO_BF16].absent == "this processor has no bfloat16 instructions"
    own = found["native bfloat16"]
    assert arms.OPENVINO_BF16 not in own.baselines
    assert arms.OPENVINO in own.baselines


def row(arm: str, seconds: float | None = None, case: str = "cpu", **labels: Any) -> Any:
    ratio = {"ratio_median": 2.0, "ratio_low": 1.5, "ratio_high": 2.5} if labels.get("baseline") else {}
    timed = {"rounds": 7, "low_s": seconds, "high_s": seconds, "error_vs_fp64": 1e-6} if seconds else {}
    known = {"version": "1.1", "seq_len": 17, "threads": 1, "precision": "float32", "note": "x; no AMX"}
    return rows.Row(case, arm, "channel", median_s_per_item=seconds, **{**known, **timed, **ratio, **labels})


def test_tables_come_from_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(markdown, "RESULTS", tmp_path)
    rows.write_csv(
        tmp_path / "cpu.csv",
        [
            row(arms.CLEAN, 4e-3, peak_memory_mib=300.0),
            row("native float32", 1e-3, baseline=arms.CLEAN, peak_memory_mib=200.0),
            row("native float32", 1e-3, baseline=arms.OPENVINO, peak_memory_mib=200.0),
            row("native float32, AVX2", 1e-3, baseline=arms.OPENVINO_AVX2, peak_memory_mib=200.0),
            row("native bfloat16", precision="bfloat16"),
            row("native float32", 2e-3, "cpu latency"),
            row(
                "native float32, 2 threads", 2e-3, "cpu time", baseline="native float32, 1 threads", threads=2
            ),
        ],
    )
    two = "**2.0x** (1.5-2.5)"
    assert f"| v1.1 S=17 | 1 | float32 | 1 ms | - | {two} | {two} | 1.0e-06 |" in report.cpu_ratios()
    assert "bfloat16" not in report.cpu_ratios()
    assert "| native float32 | 1 | 1e-06 | 200 |" in report.cpu_arms()
    assert "| float32 | v1.1 S=17 | **2.00x** (1.50-2.50) | 1.5 | 1.2 | met |" in report.cpu_goals()
    assert "| bfloat16 | v1.1 S=17 | - | 3.0 | 2.5 | not measured |" in report.cpu_goals()
    assert "| native bfloat16 | no AMX |" in report.cpu_absent()
    assert f"| v1.1 S=17 | 1 ms | {two} |" in report.cpu_avx2()
    assert "| 2.00 | 2.00 | 2.00 |" in report.cpu_latency()
    assert "| 2 ms | -50.0% |" in report.cpu_time()


def test_the_picture_shows_every_timed_arm(tmp_path, monkeypatch):
    picture: Any = bench_modules("cpu_picture")[0]
    monkeypatch.setattr(markdown, "RESULTS", tmp_path)
    both = [row(name, 1e-3 * length, seq_len=length) for name in picture._ARMS[:2] for length in (17, 33)]
    rows.write_csv(tmp_path / "cpu.csv", both)
    axes = picture.draw().axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(picture._ARMS[:2])
    assert [float(y) for y in axes.lines[0].get_ydata()] == pytest.approx([1e3, 1e3])
    assert picture.main(tmp_path / "cpu.png") == 0
    assert (tmp_path / "cpu.png").stat().st_size < 200_000


@pytest.mark.slow
def test_a_quick_run_writes_every_arm(tmp_path):
    assert cpu.main(["--quick", "--out", str(tmp_path)]) == 0
    with open(tmp_path / "cpu.csv", newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert {line["case"] for line in found} == {"cpu", "cpu latency", "cpu time"}
    assert {line["command"] for line in found} == {"python -m bench.cpu --quick"}
    assert {"1.0", "1.1"} == {line["version"] for line in found}
    for line in found:
        if line["median_s_per_item"]:
            assert float(line["low_s"]) <= float(line["median_s_per_item"]) <= float(line["high_s"])
            assert not line["baseline"] or float(line["ratio_median"]) > 0
        else:
            assert line["note"].split("; ")[-1]


def test_rows_of_other_thread_counts_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "write_environment", lambda folder: None)
    monkeypatch.setattr(
        cpu, "run", lambda settings, threads: [row("a", float(n), threads=n) for n in threads]
    )
    assert cpu.main(["--threads", "1", "2", "--out", str(tmp_path)]) == 0
    monkeypatch.setattr(
        cpu, "run", lambda settings, threads: [row("b", float(n), threads=n) for n in threads]
    )
    assert cpu.main(["--threads", "2", "--out", str(tmp_path)]) == 0
    assert [(line.arm, line.threads) for line in rows.read_csv(tmp_path / "cpu.csv")] == [("a", 1), ("b", 2)]
