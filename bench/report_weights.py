"""Tables of our own weights for `bench.report`, made from bench/results/weights/ alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.markdown import Found, markdown, rows
from bench.weights_jobs import ABLATION, CITIES, OURS, RANDOM, RELEASED, REPEAT

_PLACES = {city: city.split("_")[2] for city in CITIES}
_NAMES = {"denver": "Denver", "fortworth": "Fort Worth", "santaclara": "Santa Clara"}
_MODELS = {
    OURS: "lwm-fast-base",
    ABLATION: "ours, MCM only",
    RELEASED: "LWM v1.0",
    RANDOM: "our sizes, random weights",
}
_POOLS = {
    "cls": "CLS",
    "mean": "mean of patches",
    "patches": "patches",
    "link-state": "its six link numbers",
    "link-los": "its LoS number",
}
_PLAIN = {
    "raw": "raw channels",
    "raw-power": "raw, power-normalised",
    "physics": "power, delays, 32 beam powers",
    "physics-power": "one number: power",
    "physics-excess": "one number: free-space excess",
    "physics-beams": "32 beam powers",
    "pca": "PCA of raw",
    "autoencoder": "autoencoder",
    "csi": "the channel itself",
}
_HEADS = {
    "link-heads": "its own link heads",
    "streets": "logistic, fitted on generated streets",
    "mlp": "network",
    "mlp-regression": "network",
    "cnn": "residual CNN",
    "patches": "a linear map a patch",
    "vector": "one hidden layer",
    "copy-beam": "its best beam at 3.5 GHz copied",
    "linear": "linear interpolation",
    "lmmse": "LMMSE",
    "ls": "LS",
    "zero": "zero where nothing is known",
}


@dataclass(frozen=True)
class Column:
    """One measure: a result file, the amount of labels, the score and its direction."""

    name: str
    file: str
    amount: str
    score: str
    lower: bool = False


_F1, _ERROR, _NMSE = "f1_weighted", "error_m", "nmse_db"
LOS = [
    Column("no label", "zero", "0", _F1),
    *(Column(f"{n} labels", "los", f"{n}", _F1) for n in (6, 25, 100)),
]
LOS_DENVER = [
    Column("no label", "zero-denver", "0", _F1),
    *(Column(f"{n} labels", "los-denver", f"{n}", _F1) for n in (6, 25, 100)),
]
ZERO = [
    Column("pooled", "zero", "0", _F1),
    *(Column(_NAMES[place], f"zero-{place}", "0", _F1) for place in _PLACES.values()),
]
BEAMS = [
    Column(f"{beams} beams, {n} labels" if n else f"{beams} beams, no label", f"beams{beams}", f"{n}", _F1)
    for beams in (16, 64)
    for n in (0, 135, 677)
]
LOCALIZATION = [Column(f"{n} users", "localization", f"{n}", _ERROR, lower=True) for n in (135, 677)]
REBUILT = [
    Column(f"{name} NMSE [dB]", name, "all", _NMSE, lower=True) for name in ("interpolation", "estimation")
]
MASKED_SHARES = ("40% masked", "15% masked")


def weights_los() -> str:
    """LoS of the three cities together."""
    return _table(LOS)


def weights_los_denver() -> str:
    """LoS of Denver."""
    return _table(LOS_DENVER)


def weights_zero() -> str:
    """LoS without labels, city by city."""
    return _table(ZERO)


def weights_beams() -> str:
    """Beams at 28 GHz from the 3.5 GHz channel."""
    return _table(BEAMS)


def weights_localization() -> str:
    """Mean error in metres."""
    return _table(LOCALIZATION, digits=1)


def weights_rebuilt() -> str:
    """Interpolation and estimation."""
    return _table(REBUILT, digits=2)


def weights_headline() -> str:
    """The README's few lines: ours, v1.0's mean of patches, and the best of all others."""
    lines = []
    titled = (("LoS, three cities", LOS[:3]), ("beams at 28 GHz", [BEAMS[2]]))
    for title, columns in titled:
        for column in columns:
            best, other = _best(column, True), _best(column, False)
            mean = [r for r in _found(column) if (r["model"], r["input"]) == (RELEASED, "mean")]
            mean.sort(key=lambda row: -float(row["mean"]))
            if best is not None and other is not None:
                lines.append(
                    [f"{title}, {column.name}, F1", _cell(best, 3), _cell(mean[0] if mean else None, 3),
                     f"{_cell(other, 3)} ({_named(other)})"]
                )  # fmt: skip
    _refuse_nothing(lines)
    return markdown(["", "lwm-fast-base", "LWM v1.0, mean of patches", "best of all others"], lines)


def weights_masked() -> str:
    """Masked reconstruction: mean over users of error / energy of the masked patches, city by city."""
    lines: list[list[str]] = []
    for share in MASKED_SHARES:
        found = [row for row in rows("weights/masked", score="nmse") if row["amount"] == share]
        for model, method in dict.fromkeys((row["model"], row["head"]) for row in found):
            name = _model(model) if method == "model" else method
            if method != "model" and any(name == line[0] and share == line[1] for line in lines):
                continue  # baselines know no weights
            mine = {row["source"]: row for row in found if (row["model"], row["head"]) == (model, method)}
            cells = [mine.get(f"{city}_3p5") for city in CITIES]
            lines.append([name, share, *("-" if cell is None else _nmse(cell) for cell in cells)])
    return markdown(["by", "patches", *(_NAMES[place] for place in _PLACES.values())], lines)


def weights_trials() -> str:
    """Short runs at 32x32 by which the recipe's weight of the link heads, learning rate and batch were chosen."""
    lines = [
        [
            f"{float(row['link_weight']):g}", f"{float(row['lr']):g}",
            f"{int(row['steps']):,} x {int(row['token_budget']):,}",
            f"{float(row['nmse_db']):.1f}", *(f"{float(row[k]):.3f}" if row[k] else "-" for k in _READ),
        ]
        for row in rows("weights/trials")
    ]  # fmt: skip
    header = ["link weight", "learning rate", "steps x tokens", "NMSE [dB]", "LoS right", "direction right"]
    return markdown(header, lines)


_READ = ("los_accuracy", "direction_accuracy")


def weights_wins() -> str:
    """Of each measure our best read-out, the best of everything else, and which of the two wins."""
    lines = []
    groups = (("LoS, three cities", LOS, 3), ("Beams, Denver", BEAMS, 3))
    for title, columns, digits in (
        *groups,
        ("Position, Denver [m]", LOCALIZATION, 1),
        ("Denver,", REBUILT, 2),
    ):
        for column in columns:
            best = [_best(column, ours) for ours in (True, False)]
            if best[0] is not None and best[1] is not None:
                lines.append(_verdict(f"{title} {column.name}", best[0], best[1], column, digits))
    lines += _masked_verdicts()
    _refuse_nothing(lines)
    header = ["measure", "lwm-fast-base", "by", "best other", "by", "ahead"]
    return markdown(header, lines)


def _masked_verdicts() -> Iterable[list[str]]:
    for city in CITIES:
        found = _found(Column("", "masked", MASKED_SHARES[0], "nmse"))
        found = [row for row in found if row["source"] == f"{city}_3p5"]
        ours = [row for row in found if row["model"] == OURS and row["head"] == "model"]
        other = sorted((row for row in found if row["head"] != "model"), key=lambda row: float(row["mean"]))
        if ours and other:
            column = Column(f"masked patches, {_NAMES[_PLACES[city]]}", "masked", "", "nmse", lower=True)
            text = _verdict(column.name, ours[0], other[0], column, 4)
            text[4] = other[0]["head"]
            yield text


def _verdict(name: str, ours: Found, other: Found, column: Column, digits: int) -> list[str]:
    gap = float(ours["mean"]) - float(other["mean"])
    joint = math.hypot(float(ours["sd"]), float(other["sd"]))
    better = (gap < 0) == column.lower
    ahead = "level" if abs(gap) <= joint else "ours" if better else "**the other**"
    return [name, _cell(ours, digits), _by(ours), _cell(other, digits), _named(other), ahead]


def _found(column: Column) -> list[Found]:
    try:
        return rows(f"weights/{column.file}", amount=column.amount, score=column.score)
    except FileNotFoundError:
        return []


def _best(column: Column, ours: bool) -> Found | None:
    found = [
        row
        for row in _found(column)
        if (row["model"] == OURS) == ours and not row["model"].startswith(REPEAT)
    ]
    found = [row for row in found if ours or row["model"] != ABLATION]
    return min(found, key=lambda row: float(row["mean"]) * (1 if column.lower else -1), default=None)


def _table(columns: Sequence[Column], digits: int = 3) -> str:
    cells: dict[str, dict[str, Found]] = {}
    columns = [column for column in columns if _found(column)]
    for column in columns:
        for row in sorted(_found(column), key=_order):
            cells.setdefault(_named(row), {})[column.name] = row
    _refuse_nothing(cells)
    most = max(int(row["n"]) for line in cells.values() for row in line.values())
    lines = [
        [name, *(_cell(line.get(column.name), digits, most) for column in columns)]
        for name, line in cells.items()
    ]
    return markdown([f"{most} splits", *(column.name for column in columns)], lines)


def _refuse_nothing(lines: Sequence[object] | Mapping[str, object]) -> None:
    if not lines:
        raise FileNotFoundError(2, "no results yet", "bench/results/weights")


def _order(row: Found) -> int:
    models = (OURS, ABLATION, RELEASED)
    plain = row["input"] in _PLAIN
    place = models.index(row["model"]) if row["model"] in models and not plain else 5
    return 1 if row["model"].startswith(REPEAT) else 2 * place + row["input"].startswith("random-")


def _named(row: Found) -> str:
    """What a head was given, and which head."""
    return f"{_given(row['model'], row['input'])}, {_head(row)}"


def _given(model: str, name: str) -> str:
    if name in _PLAIN:
        return _PLAIN[name]
    text = _model(model)
    if name.startswith("random-") and model == RELEASED:
        text += ", random weights"
    pool = _POOLS[name.removeprefix("random-").removesuffix("-power")]
    return f"{text}, {pool}" + (" of normalised channels" if name.endswith("-power") else "")


def _by(row: Found) -> str:
    return f"{_POOLS[row['input']]}, {_head(row)}" if row["input"] in _POOLS else "its masked head"


def _head(row: Found) -> str:
    return _HEADS.get(row["head"], row["head"])


def _model(model: str) -> str:
    if model.startswith(REPEAT):
        return f"lwm-fast-base, training seed {int(model.rpartition('-')[2]) + 1}"
    return _MODELS[model]


def _cell(row: Found | None, digits: int, most: int | None = None) -> str:
    if row is None:
        return "-"
    text = f"{float(row['mean']):.{digits}f}"
    text += f" ± {float(row['sd']):.{digits}f}" if int(row["n"]) > 1 else ""
    return text if most is None or int(row["n"]) in (1, most) else f"{text} ({row['n']})"


def _nmse(row: Found) -> str:
    spread = f" ± {float(row['sd']):.1g}" if int(row["n"]) > 1 else ""
    return f"{float(row['mean']):.2g}{spread} ({10 * math.log10(float(row['mean'])):.1f} dB)"


TABLES: dict[str, Callable[[], str]] = {
    table.__name__: table
    for table in (
        weights_wins,
        weights_headline,
        weights_los,
        weights_los_denver,
        weights_zero,
        weights_beams,
        weights_localization,
        weights_rebuilt,
        weights_masked,
        weights_trials,
    )
}
