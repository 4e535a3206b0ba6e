"""Tables of training and of the GPU, for `bench.report`."""

from __future__ import annotations

import csv

from bench.markdown import RESULTS, markdown, one, ratio, rows, seconds, size, sizes


def mask_collate() -> str:
    lines = []
    for group in sizes(rows("mask_collate")):
        ours = [row for row in group if row["arm"] == "lwm_fast collator"]
        in_place = one(group, arm="lwm_fast mask, in place")
        arms = ("released loops + collate", "released loops")
        lines.append(
            [
                size(ours[0]),
                *(seconds(one(group, arm=arm)) for arm in arms),
                seconds(ours[0]),
                *(ratio(one(ours, baseline=name)) for name in arms),
                seconds(one(group, arm="released mask loop")),
                seconds(in_place),
                ratio(in_place),
            ]
        )
    header = ["channels", "released loops and collation", "loops alone", "collator", "to loops and collation"]
    return markdown([*header, "to loops", "released mask alone", "mask in place", "ratio"], lines)


def padding() -> str:
    lines = [[row["arm"], f"{float(row['ratio_median']):.2f}"] for row in rows("padding")]
    return markdown(["batches of 128 from the 20 pairs", "tokens computed / useful tokens"], lines)


def loader() -> str:
    lines = [
        [row["arm"], f"{float(row['items_per_s']):,.0f}", ratio(row) if row["baseline"] else "-"]
        for row in rows("loader")
    ]
    return markdown(["v1.1 32x64, 129 tokens, one core", "channels/s", "to the training step"], lines)


def train_step() -> str:
    lines = []
    for group in sizes(rows("train_step")):
        for row in group:
            if row["baseline"] in ("", "released step"):
                to = ratio(row) if row["baseline"] else "-"
                lines.append([size(row), row["arm"], seconds(row), to, f"{float(row['error_vs_fp64']):.0e}"])
    header = ["model, channels, batch 64", "step", "time a channel", "to the released step"]
    return markdown([*header, "gradients to float64"], lines)


def gpu(stage: str) -> str:
    """Ours beside the fastest peer of each job, and what could not run."""
    path = RESULTS / f"gpu_{stage}.csv"
    if not path.is_file():
        return f"Not yet measured: `bench/gpu.sh {stage}` on a machine with a GPU fills this table.\n"
    lines = [
        [
            row["case"].removeprefix("gpu "),
            f"v{row['version']}" if row["version"] else "",
            row["seq_len"] or "mixed",
            row["precision"],
            row["loop"],
            f"{float(row['items_per_s']):,.0f} {row['unit']}s/s",
            f"{float(row['share_of_ceiling']):.0%}" if row["share_of_ceiling"] else "-",
            ratio(row),
            row["baseline"],
        ]
        for row in rows(f"gpu_{stage}")
        if row["ratio_median"]
    ]
    header = [
        "job",
        "model",
        "tokens",
        "precision",
        "loop",
        "lwm_fast",
        "of the ceiling",
        "ratio",
        "fastest peer",
    ]
    return markdown(header, lines)


def gpu_ops() -> str:
    return gpu("ops")


def gpu_encoder() -> str:
    return gpu("encoder")


def gpu_train() -> str:
    return gpu("train")


def pretrain() -> str:
    """A measured pre-training run: the file's own columns."""
    with open(RESULTS / "pretrain.csv", newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    return markdown(header, lines)


TABLES = {
    table.__name__: table
    for table in (mask_collate, padding, loader, train_step, pretrain, gpu_ops, gpu_encoder, gpu_train)
}
