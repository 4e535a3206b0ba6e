"""Tables of downstream results for `bench.report`, made from bench/results/figures/ alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean, median, pstdev
from typing import TypeAlias

from bench.markdown import Found, markdown, rows

SCORE = "best_f1_weighted"
NETWORKS = ("mlp", "cnn")
SEEDS = ("0", "1", "2")  # of the figures; tables of few labels take every split there is

Method: TypeAlias = tuple[str, str, str, str]  # input, freeze, SNR, head

_NAMES = {
    "raw": "raw channels",
    "cls": "CLS",
    "patches": "channel embedding (patches)",
    "mean": "mean of patches",
    "random-cls": "random weights, CLS",
    "random-mean": "random weights, mean of patches",
    "random-patches": "random weights, patches",
    "raw-power": "raw, power-normalised",
    "cls-power": "CLS of power-normalised channels",
    "autoencoder": "autoencoder, fitted on training users",
    "physics": "physics: power, delays, 32 beam powers",
    "physics-power": "one number: log power",
    "physics-excess": "one number: free-space excess",
    "pca": "PCA of raw, fitted on training users",
}


def fig4() -> str:
    """LoS: networks, every input and count of the figure, the figure's seeds."""
    found = [row for row in rows("figures/fig4") if row["head"] in NETWORKS and row["seed"] in SEEDS]
    counts = _in_order(found, "count")
    lines = []
    for method in _methods(found):
        cells = [_where(found, method, count=count) for count in counts]
        lines.append([_name(method), *(_cell(cell, len(SEEDS)) for cell in cells)])
    return markdown(["input", *counts], lines)


def frozen_seconds() -> str:
    """Seconds of training a head on inputs that are there, median of the seeds, and their ratio to raw's."""
    found = rows("figures/frozen")
    counts = _in_order(found, "count")
    lines = []
    for method in _methods(found):
        cells = []
        for count in counts:
            own = median(_where(found, method, "train_seconds", count=count))
            raw = median(_where(found, ("raw", "all", "", "mlp"), "train_seconds", count=count))
            cells.append(f"{own:.1f} ({own / raw:.2f})")
        lines.append([_name(method), *cells])
    walls = [[row["runs"], row["workers"], row["wall_seconds"]] for row in rows("figures/frozen_wall")]
    total = sum(int(wall) for _, _, wall in walls)
    runs = sum(int(count) for count, _, _ in walls)
    lines.append(
        [f"all {runs} runs, {walls[0][1]} processes", f"{total} s of wall time", *[""] * (len(counts) - 1)]
    )
    return markdown(["input", *counts], lines)


def fig4_few() -> str:
    """LoS at few labels: a network and two simple read-outs, all splits."""
    found = [row for row in rows("figures/fig4") if row["freeze"] == "all" and row["snr_db"] == ""]
    most = 1 + max(int(row["seed"]) for row in found)
    counts = _in_order([row for row in found if int(row["seed"]) == most - 1], "count")
    lines = []
    for method in _methods([row for row in found if row["head"] in NETWORKS]):
        cells = [
            _where(found, (*method[:3], head), count=count)
            for count in counts
            for head in (method[3], *(("logistic", "nearest-mean") if method[3] == "mlp" else ("", "")))
        ]
        lines.append([_name(method), *(_cell(cell, most) for cell in cells)])
    header = [
        f"{count} labels, {head}" for count in counts for head in ("network", "logistic", "nearest mean")
    ]
    return markdown([f"input, {most} splits", *header], lines)


def fig3() -> str:
    """Beams: a line an input and head, a column a codebook and fraction."""
    found = rows("figures/fig3")
    columns = [
        (beams, share)
        for beams in sorted({row["num_beams"] for row in found}, key=int)
        for share in sorted({row["fraction"] for row in found}, key=float)
    ]
    lines = []
    for name, head in dict.fromkeys((row["input"], row["head"]) for row in found):
        mine = [row for row in found if (row["input"], row["head"]) == (name, head)]
        cells = [
            [float(row[SCORE]) for row in mine if (row["num_beams"], row["fraction"]) == column]
            for column in columns
        ]
        about = f"{_NAMES.get(name, name)}, {head}"
        lines.append([about, *(_cell(cell, len(SEEDS)) for cell in cells)])
    header = [f"{beams} beams, {float(share):.0%}" for beams, share in columns]
    return markdown(["input, head", *header], lines)


def fig5() -> str:
    """t-SNE: how many of a user's nearest neighbours in the plane have his label."""
    found = rows("figures/fig5")
    views = list(dict.fromkeys(row["view"] for row in found))
    lines = [
        [label, *(f"{float(row['agreement']):.3f}" for row in found if row["label"] == label)]
        for label in dict.fromkeys(row["label"] for row in found)
    ]
    return markdown(["label", *views], lines)


def fig6() -> str:
    """Attention: a line a layer whose heads do not all attend uniformly, and one for the rest."""
    found = rows("figures/fig6")
    lines, rest = [], []
    for layer in _in_order(found, "layer"):
        heads = [row for row in found if row["layer"] == layer]
        busy = [row for row in heads if row["uniform"] == "0"]
        if not busy:
            rest.append(layer)
            continue
        strongest = max(float(row["strongest_over_uniform"]) for row in busy)
        entropy = min(float(row["entropy_bits"]) for row in busy)
        lines.append(
            [layer, f"{len(heads) - len(busy)} of {len(heads)}", f"{strongest:.3g}", f"{entropy:.2f}"]
        )
    if rest:
        lines.append([", ".join(rest), "all", "1", f"{float(found[0]['entropy_of_uniform_bits']):.2f}"])
    return markdown(
        [
            "layer",
            "heads that attend uniformly",
            "strongest weight / uniform",
            "least entropy of a head [bits]",
        ],
        lines,
    )


def _methods(found: Sequence[Found]) -> list[Method]:
    return list(dict.fromkeys((row["input"], row["freeze"], row["snr_db"], row["head"]) for row in found))


def _where(found: Sequence[Found], method: Method, of: str = SCORE, **labels: str) -> list[float]:
    """Scores, or another column, of a method's runs whose columns hold `labels`."""
    wanted = dict(zip(("input", "freeze", "snr_db", "head"), method, strict=True)) | labels
    return [float(row[of]) for row in found if all(row[key] == value for key, value in wanted.items())]


def _in_order(found: Sequence[Found], column: str) -> list[str]:
    return sorted({row[column] for row in found}, key=int)


def _name(method: Method) -> str:
    name, freeze, snr_db, head = method
    text = _NAMES.get(name, name)
    text += ", residual CNN" if head == "cnn" else ""
    text += "" if freeze == "all" else f", {freeze.replace('-', ' ')} layers fine-tuned"
    return text + (f", {float(snr_db):g} dB SNR" if snr_db else "")


def _cell(scores: Sequence[float], most: int) -> str:
    """Mean and population sd in thousandths, and the number of runs where it is not `most`."""
    if not scores:
        return "-"
    text = f"{fmean(scores):.3f}"
    text += f" ± {pstdev(scores):.3f}" if len(scores) > 1 else ""
    return text if len(scores) == most else f"{text} ({len(scores)})"


TABLES: dict[str, Callable[[], str]] = {
    table.__name__: table for table in (fig4, frozen_seconds, fig4_few, fig3, fig5, fig6)
}
