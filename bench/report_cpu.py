"""Tables of `python -m bench.cpu`, for `bench.report`."""

from __future__ import annotations

from bench.markdown import Found, markdown, ratio, rows, seconds
from bench.peers.arms import CLEAN, COLLAPSED, OPENVINO, OPENVINO_AVX2, OPENVINO_BF16, PUBLISHED

PRECISIONS = ("float32", "bf16x3", "bfloat16")
# What each precision is held against: the pairs.
_RIVALS = {"float32": (OPENVINO,), "bf16x3": (OPENVINO,), "bfloat16": (OPENVINO_BF16, OPENVINO)}


def _sizes(threads: str) -> list[list[Found]]:
    """The rows of each model and size, shortest first, v1.0 last."""
    groups: dict[tuple[str, int], list[Found]] = {}
    for row in rows("cpu", case="cpu", threads=threads):
        groups.setdefault((row["version"], int(row["seq_len"])), []).append(row)
    return [groups[key] for key in sorted(groups, key=lambda key: (key[0] == "1.0", key[1]))]


def _threads() -> list[str]:
    return sorted({row["threads"] for row in rows("cpu", case="cpu")}, key=int)


def _name(group: list[Found]) -> str:
    return f"v{group[0]['version']} S={group[0]['seq_len']}"


def _against(group: list[Found], arm: str, baseline: str) -> Found | None:
    """The row of an arm against a baseline, on the collapsed graph where there is one."""
    for name in (baseline + COLLAPSED, baseline):
        for row in group:
            if row["arm"] == arm and row["baseline"] == name:
                return row
    return None


def _to(group: list[Found], arm: str, baseline: str) -> str:
    return "-" if (row := _against(group, arm, baseline)) is None else ratio(row)


def cpu_ratios() -> str:
    """Native in each precision to the release and to OpenVINO."""
    lines = []
    for threads in _threads():
        for group in _sizes(threads):
            for precision in PRECISIONS:
                arm = f"native {precision}"
                mine = [row for row in group if row["arm"] == arm and row["median_s_per_item"]]
                if mine:
                    rivals = [_to(group, arm, name) for name in _RIVALS[precision]]
                    lines.append(
                        [
                            _name(group),
                            threads,
                            precision,
                            seconds(mine[0]),
                            _to(group, arm, PUBLISHED),
                            _to(group, arm, CLEAN),
                            next((found for found in rivals if found != "-"), "-"),
                            f"{float(mine[0]['error_vs_fp64']):.1e}",
                        ]
                    )
    header = ["model", "threads", "precision", "time a channel", "to released as published"]
    return markdown([*header, "to released clean", "to OpenVINO", "error"], lines)


_V1_0 = 0  # stands for v1.0 among the lengths
# precision, lengths of v1.1, goal and floor of the ratio to OpenVINO
_GOALS: tuple[tuple[str, tuple[int, ...], float, float | None], ...] = (
    ("float32", (17, 65, 129, 257, 513, _V1_0), 1.5, 1.2),
    ("bf16x3", (17, 65, 129, 257, _V1_0), 2.0, None),
    ("bf16x3", (513,), 1.8, None),
    ("bfloat16", (17, 65, 129, 257), 3.0, 2.5),
    ("bfloat16", (513,), 2.8, 2.2),
    ("bfloat16", (_V1_0,), 2.5, 1.8),
)


def cpu_goals() -> str:
    """One thread against OpenVINO in the same precision (bf16x3: in float32), beside what was aimed at."""
    groups = {int(g[0]["seq_len"]) if g[0]["version"] == "1.1" else _V1_0: g for g in _sizes("1")}
    lines = []
    for precision, lengths, goal, floor in _GOALS:
        for group in (groups[length] for length in lengths if length in groups):
            row = _against(group, f"native {precision}", _RIVALS[precision][0])
            shown, verdict = "-", "not measured"
            if row is not None:
                low, median, high = (float(row[f"ratio_{name}"]) for name in ("low", "median", "high"))
                shown = f"**{median:.2f}x** ({low:.2f}-{high:.2f})"
                above = floor is not None and median >= floor
                verdict = "met" if median >= goal else "missed, above the floor" if above else "missed"
            lines.append([precision, _name(group), shown, f"{goal}", f"{floor or '-'}", verdict])
    return markdown(["precision", "model", "to OpenVINO", "goal", "floor", ""], lines)


def cpu_arms() -> str:
    """Every arm on one thread: time a channel, error, peak of memory at the longest size."""
    groups = _sizes("1")
    names = list(dict.fromkeys(row["arm"] for group in groups for row in group))
    lines = []
    for name in names:
        found = [next((row for row in group if row["arm"] == name), None) for group in groups]
        times = [_time(row) for row in found]
        timed = [row for row in found if row is not None and row["median_s_per_item"]]
        if not timed:
            continue
        error = max(float(row["error_vs_fp64"]) for row in timed)
        peak = max(float(row["peak_memory_mib"] or 0) for row in timed)
        lines.append([name, *times, f"{error:.0e}", f"{peak:.0f}"])
    header = ["ms a channel, one thread", *(_name(group) for group in groups)]
    return markdown([*header, "worst error", "peak MiB"], lines)


def _time(row: Found | None) -> str:
    if row is None or not row["median_s_per_item"]:
        return "-"
    return f"{1e3 * float(row['median_s_per_item']):.3g}"


def cpu_absent() -> str:
    """Arms that could not run, and why."""
    reasons = {
        row["arm"]: row["note"].split("; ")[-1] for row in rows("cpu", case="cpu") if not row["rounds"]
    }
    return markdown(["arm that did not run", "why"], [[arm, why] for arm, why in sorted(reasons.items())])


def cpu_avx2() -> str:
    lines = []
    for group in _sizes("1"):
        for row in group:
            if row["baseline"] == OPENVINO_AVX2:
                lines.append([_name(group), seconds(row), ratio(row)])
    return markdown(["both held to AVX2", "native float32", "to OpenVINO f32"], lines)


def cpu_latency() -> str:
    lines = [
        [
            f"v{row['version']} S={row['seq_len']}",
            row["arm"],
            *(f"{1e3 * float(row[name]):.2f}" for name in ("low_s", "median_s_per_item", "high_s")),
        ]
        for row in rows("cpu", case="cpu latency")
    ]
    return markdown(
        ["model", "one channel a call, one thread", "fastest, ms", "median", "95th percentile"], lines
    )


def cpu_time() -> str:
    """Processor time a channel, and by what more threads raise it."""
    lines = []
    for row in rows("cpu", case="cpu time"):
        growth = f"{100 * (1 / float(row['ratio_median']) - 1):+.1f}%" if row["ratio_median"] else "-"
        lines.append([f"v{row['version']} S={row['seq_len']}", row["arm"], seconds(row), growth])
    return markdown(["model", "arm", "processor time a channel", "against one thread"], lines)


TABLES = {
    table.__name__: table
    for table in (cpu_ratios, cpu_goals, cpu_arms, cpu_absent, cpu_avx2, cpu_latency, cpu_time)
}
