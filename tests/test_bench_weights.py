"""`bench.weights`: jobs run, go on and are summed up; the tables say what the summaries say."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from support.bench_modules import bench_modules
from support.evaluation_cases import write_town, write_weights

from lwm_fast import InputError
from lwm_fast.links import LinkHeads

weights, jobs, report, markdown, filled = bench_modules(
    "weights", "weights_jobs", "report_weights", "markdown", "report"
)


@pytest.fixture
def place(tmp_path) -> Path:
    for number, city in enumerate(jobs.CITIES):
        for band, carrier in (("3p5", 3.5e9), ("28", 28e9)):
            write_town(tmp_path / f"{city}_{band}", 60, number, carrier=carrier)
    for name, seed in (("ours", 1), ("released", 2)):
        (tmp_path / name).mkdir()
        write_weights(tmp_path / name, seed)
    LinkHeads.random(128, seed=1).save_pretrained(tmp_path / "ours")
    return tmp_path


@pytest.fixture
def small(monkeypatch) -> None:
    """Two jobs of seconds, in place of those of the documents."""
    part = jobs.Part(("mean",), ("logistic",), (6,), (0, 1))
    unlabelled = jobs.Part(("link-state",), counts=(0,))
    los = jobs.Job(
        "los", "los", cities=jobs.CITIES[:2], options={"test": "rest"},
        parts={jobs.OURS: (part, unlabelled), jobs.REPEAT: (part,), jobs.RELEASED: (part,)},
    )  # fmt: skip
    beams = jobs.Job(
        "beams16", "beams", settings={"num_beams": 8}, other_band=True,
        parts={jobs.OURS: (jobs.Part(("cls",), ("logistic",), (30,), (0,)),)},
    )  # fmt: skip
    monkeypatch.setattr(weights, "JOBS", {"los": los, "beams16": beams})


def run(place: Path, *more: str) -> int:
    arguments = ["--data", str(place), "--out", str(place / "run"), "--results", str(place / "results")]
    return int(weights.main([*arguments, *more]))


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_models_come_one_after_another_and_are_summed_up(place, small):
    assert run(place, "--released", str(place / "released"), "--only", "los") == 0
    before = read(place / "results" / "los.csv")
    assert {row["model"] for row in before} == {"v1.0"}
    own = str(place / "ours")
    assert run(place, "--weights", own, "--repeat", own, "--only", "los,beams16") == 0
    after = read(place / "results" / "los.csv")
    assert [row for row in after if row["model"] == "v1.0"] == before
    scores = {
        (row["model"], row["input"], row["head"], row["amount"]): row
        for row in after
        if row["score"] == "f1_weighted"
    }
    assert set(scores) == {
        ("v1.0", "mean", "logistic", "6"), ("base", "mean", "logistic", "6"), ("repeat-1", "mean", "logistic", "6"),
        ("base", "link-state", "link-heads", "0"),
    }  # fmt: skip
    row = scores["base", "mean", "logistic", "6"]
    assert (row["n"], row["n_train"], row["n_test"]) == ("2", "6", "114"), "two cities of 60"
    assert row["source"] == "city_18_denver_3p5 + city_12_fortworth_3p5"
    runs = read(place / "run" / "los" / "base" / "runs.csv")
    mean = sum(float(r["best_f1_weighted"]) for r in runs if r["input"] == "mean") / 2
    assert float(row["mean"]) == pytest.approx(mean, rel=1e-4)
    assert {row["model"] for row in read(place / "results" / "beams16.csv")} == {"base"}


def test_masked_patches_of_each_city_are_kept(place, small, monkeypatch):
    monkeypatch.setattr(weights, "SEEDS", (0, 1))
    models = ("--weights", str(place / "ours"), "--released", str(place / "released"), "--untrained")
    assert run(place, *models, "--only", "masked") == 0
    rows = read(place / "results" / "masked.csv")
    assert {(row["model"], row["head"]) for row in rows} == {
        ("base", "model"), ("v1.0", "model"), ("v1.0", "neighbour"), ("random-base", "neighbour"),
        ("random-base", "pursuit"),
    }  # fmt: skip
    assert {row["source"] for row in rows} == {f"{city}_3p5" for city in jobs.CITIES}
    assert {row["amount"] for row in rows} == {"40% masked"}
    kept = place / "run" / "masked" / "base" / f"{jobs.CITIES[0]}.csv"
    time = kept.stat().st_mtime_ns
    run(place, "--weights", str(place / "ours"), "--only", "masked")
    assert kept.stat().st_mtime_ns == time, "what is there is not run again"


def test_what_cannot_be_run_is_said(place, small, capsys):
    with pytest.raises(SystemExit):
        run(place, "--only", "lso")
    assert "no job is called lso; there are zero, " in capsys.readouterr().err
    with pytest.raises(InputError, match="no such"):
        run(place, "--weights", str(place / "absent"), "--only", "los")


def test_streets_are_asked_for_where_they_are_needed(place, monkeypatch, capsys):
    monkeypatch.setattr(weights, "JOBS", {"zero": jobs.JOBS["zero"]})
    assert run(place, "--weights", str(place / "ours"), "--only", "zero") == 0
    assert "zero: left out, it needs --streets" in capsys.readouterr().out


@pytest.mark.parametrize("job", list(jobs.JOBS.values()), ids=list(jobs.JOBS))
def test_every_job_is_a_sweep_that_makes_sense(job):
    for model, parts in job.parts.items():
        for part in parts:
            sweep = job.sweep(part, model, Path("cities"), "streets")
            assert sweep.plan()
            assert sweep.settings == job.settings
    assert jobs.OURS in job.parts
    assert jobs.RELEASED in job.parts


# --------------------------------------------------------------------------------------------------- the tables


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setattr(markdown, "RESULTS", tmp_path)
    return folder


def write(folder: Path, name: str, *rows: tuple[str, str, str, str, str, float, float, int]) -> None:
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, weights.COLUMNS)
        writer.writeheader()
        for model, given, head, amount, score, mean, sd, n in rows:
            row = {
                "model": model,
                "input": given,
                "head": head,
                "amount": amount,
                "score": score,
                "mean": mean,
            }
            writer.writerow({**row, "sd": sd, "n": n, "source": f"{jobs.CITIES[0]}_3p5"})


def test_who_wins_is_who_is_ahead_by_more_than_the_joint_spread(results):
    f1 = "f1_weighted"
    write(
        results, "los",
        ("base", "mean", "logistic", "6", f1, 0.95, 0.01, 10), ("base", "cls", "logistic", "6", f1, 0.90, 0.01, 10),
        ("v1.0", "mean", "mlp", "6", f1, 0.92, 0.02, 10), ("mcm-only", "mean", "logistic", "6", f1, 0.99, 0.0, 10),
        ("base", "mean", "logistic", "25", f1, 0.95, 0.01, 10),
        ("v1.0", "physics-excess", "mlp", "25", f1, 0.96, 0.01, 10),
        ("base", "mean", "logistic", "100", f1, 0.95, 0.001, 10),
        ("v1.0", "physics-excess", "mlp", "100", f1, 0.97, 0.001, 10),
    )  # fmt: skip
    write(
        results, "masked",
        ("base", "csi", "model", "40% masked", "nmse", 0.002, 0.0001, 10),
        ("random-base", "csi", "pursuit", "40% masked", "nmse", 0.001, 0.0, 1),
        ("v1.0", "csi", "model", "15% masked", "nmse", 0.08, 0.0, 1),
    )  # fmt: skip
    lines = report.weights_wins().splitlines()[2:]
    assert lines == [
        "| LoS, three cities 6 labels | 0.950 ± 0.010 | mean of patches, logistic | 0.920 ± 0.020 | "
        "LWM v1.0, mean of patches, network | ours |",
        "| LoS, three cities 25 labels | 0.950 ± 0.010 | mean of patches, logistic | 0.960 ± 0.010 | "
        "one number: free-space excess, network | level |",
        "| LoS, three cities 100 labels | 0.950 ± 0.001 | mean of patches, logistic | 0.970 ± 0.001 | "
        "one number: free-space excess, network | **the other** |",
        "| masked patches, Denver | 0.0020 ± 0.0001 | its masked head | 0.0010 | pursuit | **the other** |",
    ]


def test_a_table_has_a_line_a_method_and_says_how_many_splits(results):
    write(
        results, "localization",
        ("base", "cls", "mlp-regression", "135", "error_m", 20.0, 1.0, 10),
        ("base", "cls", "mlp-regression", "677", "error_m", 10.0, 0.5, 10),
        ("v1.0", "raw", "mlp-regression", "677", "error_m", 15.0, 0.5, 3),
        ("repeat-1", "cls", "mlp-regression", "677", "error_m", 11.0, 0.5, 10),
        ("v1.0", "random-mean", "mlp-regression", "677", "error_m", 30.0, 0.5, 3),
        ("random-base", "random-mean", "mlp-regression", "677", "error_m", 31.0, 0.5, 3),
    )  # fmt: skip
    assert report.weights_localization().splitlines() == [
        "| 10 splits | 135 users | 677 users |",
        "| --- | --- | --- |",
        "| lwm-fast-base, CLS, network | 20.0 ± 1.0 | 10.0 ± 0.5 |",
        "| lwm-fast-base, training seed 2, CLS, network | - | 11.0 ± 0.5 |",
        "| LWM v1.0, random weights, mean of patches, network | - | 30.0 ± 0.5 (3) |",
        "| raw channels, network | - | 15.0 ± 0.5 (3) |",
        "| our sizes, random weights, mean of patches, network | - | 31.0 ± 0.5 (3) |",
    ]


def test_tables_without_results_say_so(results):
    for name in report.TABLES:
        text = filled.filled(f"<!-- results: {name} -->\n<!-- end -->\n")
        assert "Not yet measured" in text, name
