"""`python -m bench.report`: put the tables of bench/results/ into the documents, between their markers.

A document holds `<!-- results: NAME -->` ... `<!-- end -->`; what stands between is replaced. `--check` writes
nothing and fails where a document does not say what the result files say.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import report_cpu, report_shipped, report_streets, report_tasks, report_training, report_weights
from bench.markdown import markdown, one, ratio, rows, seconds, size, sizes
from lwm_fast.files import atomic_path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (
    *("README.md", "docs/benchmarks.md", "docs/numerics.md", "docs/training.md", "docs/drop_in.md"),
    *(
        "docs/cpu-engine.md",
        "docs/results.md",
        "docs/synthetic.md",
        "docs/weights.md",
        "lwm_fast/weights/lwm-fast-base/README.md",
    ),
)
_MARKED = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def encode() -> str:
    lines = []
    for group in sizes(rows("encode")):
        for threads in ("1", "2"):
            mine = [row for row in group if row["threads"] == threads]
            ours = [row for row in mine if row["arm"] == "lwm_fast encode"]
            to = {row["baseline"]: ratio(row) for row in ours}
            lines.append(
                [
                    size(ours[0]),
                    threads,
                    seconds(one(mine, arm="released, clean")),
                    seconds(ours[0]),
                    to.get("released, as published", "no denormals"),
                    to["released, clean"],
                    to["released, clean, forward only"],
                ]
            )
    header = ["model, channels", "threads", "released, clean", "lwm_fast", "to released as published"]
    return markdown([*header, "to released clean", "to its forward alone"], lines)


def tokenize() -> str:
    lines = []
    for group in sizes(rows("tokenize")):
        ours = [row for row in group if row["arm"] == "lwm_fast, out="]
        arms = ("released loop", "released loop + collate", "numpy", "torch reference")
        lines.append(
            [
                size(ours[0]),
                *(seconds(one(group, arm=arm)) for arm in arms),
                seconds(ours[0]),
                *(ratio(one(ours, baseline=name)) for name in arms[:2]),
            ]
        )
    header = ["channels", "released loop", "and collation", "numpy", "torch", "lwm_fast", "to the loop"]
    return markdown([*header, "to loop and collation"], lines)


def rays_to_csi() -> str:
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows("rays_to_csi"):
        users = row["note"].split(";")[0]
        key = (f"{row['num_antennas']}x{row['num_subcarriers']}", users)
        groups.setdefault(key, {})[row["arm"]] = f"{float(row['items_per_s']):,.0f}"
    arms = ("numpy", "lwm_fast, portable", "lwm_fast, avx2", "lwm_fast, avx512")
    lines = [[*key, *(found.get(arm, "-") for arm in arms)] for key, found in groups.items()]
    return markdown(["channels", "rays", "numpy", "portable", "AVX2", "AVX-512"], lines)


def load() -> str:
    cities: dict[str, dict[str, str]] = {}
    for row in rows("load"):
        cities.setdefault(row["note"].split(";")[0], {})[row["arm"]] = seconds(row)
    arms = ("scipy.io.loadmat alone", "load_channels + csi, 1 thread", "load_channels + csi, 2 threads")
    return markdown(
        ["city", *arms], [[city, *(found[arm] for arm in arms)] for city, found in cities.items()]
    )


def other() -> str:
    memory, imports = rows("embed_memory")[0], rows("import_time")
    lines = [
        ["peak memory of `lwm-fast embed`", f"{float(memory['peak_memory_mib']):.0f} MiB", memory["note"]],
        *([row["arm"], seconds(row), row["note"]] for row in imports),
    ]
    return markdown(["what", "measured", "how"], lines)


def _worst(version: str, arm: str, precision: str = "float32") -> str:
    found = rows("numerics", version=version, arm=arm, precision=precision)
    return f"{max(float(row['error_vs_fp64']) for row in found):.1e}"


def numerics_float32() -> str:
    lines = []
    for part in ("output", "cls", "logits"):
        for path in ("plain torch", "forward"):
            arm = f"{path}, {part}"
            values = [_worst(v, arm + worst) for v in ("1.0", "1.1") for worst in ("", ", worst user")]
            lines.append([part, "plain torch" if path == "plain torch" else "lwm_fast", *values])
    return markdown(["what", "by", "v1.0", "worst user", "v1.1", "worst user"], lines)


def numerics_encode() -> str:
    lines = [
        [
            pool,
            precision,
            _worst("1.0", f"encode, {pool}", precision),
            _worst("1.1", f"encode, {pool}", precision),
        ]
        for precision in ("float32", "bfloat16", "float16")
        for pool in ("cls", "mean", "mean_with_cls", "patches", "tokens")
    ]
    return markdown(["pool", "precision", "v1.0", "v1.1"], lines)


def headline() -> str:
    """The README's few figures."""
    lines = []
    for group in sizes(rows("encode")):
        mine = [row for row in group if row["arm"] == "lwm_fast encode" and row["threads"] == "1"]
        if mine[0]["seq_len"] in ("65", "129", "513"):
            to = {row["baseline"]: ratio(row) for row in mine}
            published = to.get("released, as published", "no denormals")
            lines.append(["`encode`, " + size(mine[0]), published, to["released, clean"], seconds(mine[0])])
    for group in sizes(rows("tokenize")):
        ours = [row for row in group if row["arm"] == "lwm_fast, out="]
        if ours[0]["seq_len"] in ("65", "129", "513") and (ours[0]["version"], ours[0]["seq_len"]) != (
            "1.1",
            "129",
        ):
            by = ratio(one(ours, baseline="released loop + collate"))
            lines.append(["`tokenize`, " + size(ours[0]), by, "-", seconds(ours[0])])
    for group in sizes(rows("train_step")):
        step = one(group, arm="lwm_fast", baseline="released step")
        lines.append(["training step, " + size(step), "no denormals", ratio(step), seconds(step)])
    header = ["one core", "to the release as published", "to it without denormals", "time a channel"]
    return markdown(header, lines)


TABLES: dict[str, Callable[[], str]] = (
    report_training.TABLES
    | report_cpu.TABLES
    | report_tasks.TABLES
    | report_streets.TABLES
    | report_weights.TABLES
    | report_shipped.TABLES
    | {
        table.__name__: table
        for table in (headline, encode, tokenize, rays_to_csi, load, other, numerics_float32, numerics_encode)
    }
)


def filled(text: str) -> str:
    """A document's text with every marked table made anew; one whose case has no rows yet says so."""
    return _MARKED.sub(lambda m: m[1] + _table(m[2]) + m[3], text)


def _table(name: str) -> str:
    try:
        return TABLES[name]()
    except FileNotFoundError as missing:
        return f"Not yet measured: there is no {Path(missing.filename).name}.\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.report", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a document is stale")
    check = parser.parse_args(argv).check
    stale = []
    for name in DOCUMENTS:
        path = ROOT / name
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            stale.append(name)
            if not check:
                with atomic_path(path) as temporary:
                    temporary.write_text(new, encoding="utf-8")
    print(f"{'stale' if check else 'rewritten'}: {', '.join(stale) or 'none'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
