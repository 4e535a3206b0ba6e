"""`python -m bench.cpu_picture`: docs/images/cpu.png, time a token against length, from cpu.csv."""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure

from bench.inputs import ROOT
from bench.markdown import rows
from bench.peers.arms import CLEAN, COMPILE, OPENVINO, OPENVINO_BF16, ORT, SDPA
from lwm_fast.files import atomic_path

PICTURE = ROOT / "docs" / "images" / "cpu.png"
_NATIVE = ("native float32", "native bf16x3", "native bfloat16")
_ARMS = (CLEAN, SDPA, COMPILE, ORT, OPENVINO, OPENVINO_BF16, *_NATIVE)
_COLOURS = ("#000000", "#999999", "#56B4E9", "#E69F00", "#0072B2", "#CC79A7", "#D55E00", "#F0E442", "#009E73")
_MARKERS = "os^vDP*X<"


def draw() -> Figure:
    """Microseconds a token of v1.1 on one thread; whiskers from the fastest to the slowest round."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for name, colour, marker in zip(_ARMS, _COLOURS, _MARKERS, strict=True):
        found = {}
        for row in rows("cpu", case="cpu", version="1.1", threads="1", arm=name):
            if row["median_s_per_item"]:
                found[int(row["seq_len"])] = [
                    1e6 * float(row[key]) / int(row["seq_len"])
                    for key in ("median_s_per_item", "low_s", "high_s")
                ]
        if found:
            median, low, high = zip(*(found[length] for length in sorted(found)), strict=True)
            spread = [
                [a - b for a, b in zip(median, low, strict=True)],
                [a - b for a, b in zip(high, median, strict=True)],
            ]
            width = 2.5 if name in _NATIVE else 1.2
            axes.errorbar(
                sorted(found), median, spread, label=name, color=colour, marker=marker, lw=width, capsize=2
            )
    lengths = sorted({int(row["seq_len"]) for row in rows("cpu", case="cpu", version="1.1")})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.yaxis.set_major_formatter("{x:.0f}")
    axes.yaxis.set_minor_formatter("{x:.0f}")
    axes.set_xlabel("tokens of a channel")
    axes.set_ylabel("time a token (µs), one thread")
    axes.set_title("LWM v1.1, tokens to the outputs of all tokens")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    return figure


def main(path: Path = PICTURE) -> int:
    with atomic_path(path) as temporary:
        draw().savefig(temporary, dpi=110, format="png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
