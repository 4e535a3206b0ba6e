"""The arms of `python -m bench.cpu`: what each runs, in which settings, and what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from bench.inputs import PLAIN_LIMIT, ceiling
from bench.peers import engines
from lwm_fast import _C

CLEAN, PUBLISHED = "released, clean", "released, as published"
OPENVINO, OPENVINO_BF16, OPENVINO_AVX2 = "OpenVINO f32", "OpenVINO bf16", "OpenVINO f32, AVX2"
ORT, SDPA, COMPILE = "ONNX Runtime", "torch SDPA", "torch.compile"
COLLAPSED = ", heads collapsed"
_ROUNDED_PEER_LIMIT = 5e-2  # OpenVINO's bfloat16 measured 3e-3 where it runs; more is a mistake
OWN_BUDGET = 4160  # tokens: the engine cuts them into groups of its own


@dataclass(frozen=True)
class Peer:
    """kind: of `jobs.make`. variants: options among which, like batch sizes, the fastest is taken.

    budgets: tokens of a batch, per thread, that are tried.
    graph: "" for none, "full" or "collapsed". absent: why it cannot run here. output: "tokens", or "cls".
    """

    name: str
    kind: str
    precision: str = "float32"
    baselines: tuple[str, ...] = ()
    limit: float = PLAIN_LIMIT
    variants: tuple[Mapping[str, str], ...] = ({},)
    budgets: tuple[int, ...] = (520, 1560)
    environment: Mapping[str, str] = field(default_factory=dict)
    graph: str = ""
    output: str = "tokens"
    absent: str = ""
    one_thread_only: bool = False
    builds_for_minutes: bool = False  # left out of --quick


def peers(version: str, has_denormals: bool, threads: int) -> list[Peer]:
    """All arms for a model; those that cannot run here say why."""
    wanted = [
        peer for peer in _all(version, has_denormals, threads) if threads == 1 or not peer.one_thread_only
    ]
    running = {peer.name for peer in wanted if not peer.absent}
    return [
        replace(peer, baselines=tuple(name for name in peer.baselines if name in running)) for peer in wanted
    ]


def _all(version: str, has_denormals: bool, threads: int) -> list[Peer]:
    found = [Peer(CLEAN, "clean")]
    if has_denormals:
        found = [Peer(PUBLISHED, "published", one_thread_only=True), Peer(CLEAN, "clean")]
    old = tuple(peer.name for peer in found)
    found += [
        Peer(SDPA, "sdpa", baselines=(CLEAN,), one_thread_only=True),
        Peer(
            COMPILE,
            "sdpa",
            baselines=(CLEAN,),
            variants=({"mode": "max-autotune"},),  # 5.67 ms against 5.80 of "default" at 65 tokens
            budgets=(1040,),
            one_thread_only=True,
            builds_for_minutes=True,
        ),
        Peer("lwm_fast torch", "torch_backend", baselines=(CLEAN,), one_thread_only=True),
    ]
    graphs = ("full", "collapsed") if version == "1.0" else ("full",)
    for which in graphs:
        found += _engines(which, threads)
    return found + _native(version, old, graphs[-1])


def _engines(which: str, threads: int) -> list[Peer]:
    suffix = COLLAPSED if which == "collapsed" else ""
    no_bfloat16 = "" if engines.openvino_has_bfloat16() else "this processor has no bfloat16 instructions"
    return [
        Peer(ORT + suffix, "onnxruntime", baselines=(CLEAN,), graph=which),
        _openvino(OPENVINO + suffix, "f32", which, threads),
        _openvino(OPENVINO_BF16 + suffix, "bf16", which, threads, no_bfloat16),
    ]


def _openvino(
    name: str,
    precision: str,
    which: str,
    threads: int,
    absent: str = "",
    environment: Mapping[str, str] | None = None,
) -> Peer:
    hints = ("LATENCY",) if threads == 1 else ("THROUGHPUT", "LATENCY")  # one thread: one and the same
    return Peer(
        name,
        "openvino",
        "bfloat16" if precision == "bf16" else "float32",
        baselines=(CLEAN,),
        limit=_ROUNDED_PEER_LIMIT if precision == "bf16" else PLAIN_LIMIT,
        variants=tuple({"precision": precision, "hint": hint} for hint in hints),
        environment=environment or {},
        graph=which,
        absent=absent,
        one_thread_only=bool(environment),
    )


def _native(version: str, old: tuple[str, ...], which: str) -> list[Peer]:
    suffix = COLLAPSED if which == "collapsed" else ""
    rivals = {
        "float32": (OPENVINO + suffix, ORT + suffix),
        "bf16x3": (OPENVINO + suffix,),
        "bfloat16": (OPENVINO_BF16 + suffix, OPENVINO + suffix),
    }
    found = []
    for precision, against in rivals.items():
        found.append(
            Peer(
                f"native {precision}",
                "native",
                precision,
                baselines=(*old, *against),
                limit=ceiling(version, precision),
                budgets=(OWN_BUDGET,),
                variants=({"precision": precision},),
                absent="" if _C.encoder_isas(precision) else "no code for it here: it runs as float32",
            )
        )
    held = {"LWM_FAST_ISA": "avx2"}
    has_avx2 = "avx2" in _C.encoder_isas("float32")
    absent = "" if has_avx2 else "this processor has no AVX2"
    return [
        *found,
        Peer(
            "native float32, csi to CLS",
            "native_cls",
            baselines=(CLEAN, OPENVINO + suffix),
            limit=ceiling(version, "float32"),
            budgets=(OWN_BUDGET,),
            variants=({"precision": "float32"},),
            output="cls",
        ),
        _openvino(OPENVINO_AVX2, "f32", which, 1, absent, {"ONEDNN_MAX_CPU_ISA": "AVX2"}),
        Peer(
            "native float32, AVX2",
            "native",
            baselines=(OPENVINO_AVX2,),
            limit=ceiling(version, "float32"),
            budgets=(OWN_BUDGET,),
            variants=({"precision": "float32"},),
            environment=held,
            absent=absent,
            one_thread_only=True,
        ),
    ]
