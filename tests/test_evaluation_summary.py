"""Means and spreads over seeds, and the sentence about who wins."""

from __future__ import annotations

import csv
from typing import Any

import numpy as np
import pytest

from lwm_fast import InputError
from lwm_fast.evaluation import markdown, summarize
from lwm_fast.evaluation.summary import Summary, lower_is_better, winners, write_summary


def rows_of(values: dict[tuple[str, str], list[float]], metric: str = "f1_weighted") -> list[dict[str, Any]]:
    """Rows of (input, amount) -> one score a seed."""
    shared = {
        "task": "los", "source": "town", "weights": "w.pth", "split": "stratified", "test": "rest", "metric": metric,
        "head": "mlp", "freeze": "all", "snr_db": None, "learning_rate": 1e-3, "parameters": 1234, "n_validation": 0,
        "best_epoch": 7,
    }  # fmt: skip
    return [
        {
            **shared, "input": name, "amount": amount, "seed": seed,
            f"best_{metric}": score, f"last_{metric}": score / 2,
        }
        for (name, amount), scores in values.items()
        for seed, score in enumerate(scores)
    ]  # fmt: skip


def summary(name: str, mean: float, sd: float, n: int = 3) -> Summary:
    return Summary(name, "mlp", "all", None, "6", "best_f1_weighted", n, mean, sd, mean - sd, mean + sd)


def test_mean_population_sd_and_extremes_over_seeds():
    best, last = summarize(rows_of({("cls", "6"): [0.5, 0.7, 0.9]}))
    assert (best.score, best.n, best.min, best.max) == ("best_f1_weighted", 3, 0.5, 0.9)
    assert best.mean == pytest.approx(0.7)
    assert best.sd == pytest.approx(np.std([0.5, 0.7, 0.9]))
    assert (last.score, last.max) == ("last_f1_weighted", 0.45)


def test_groups_keep_their_order_and_scores_can_be_chosen():
    rows = rows_of({("raw", "6"): [0.1], ("cls", "6"): [0.2], ("raw", "25"): [0.3]})
    found = summarize(rows, ["best_f1_weighted"])
    assert [(item.input, item.amount) for item in found] == [("raw", "6"), ("cls", "6"), ("raw", "25")]
    with pytest.raises(InputError, match=r"no score 'f1'; there are: best_f1_weighted, last_f1_weighted"):
        summarize(rows, ["f1"])
    with pytest.raises(InputError, match="there are no runs"):
        summarize([])


def test_exact_reconstruction_has_no_spread_but_a_mean():
    (found, _) = summarize(rows_of({("csi", "6"): [-np.inf, -np.inf]}, "nmse_db"))
    assert found.mean == -np.inf
    assert np.isnan(found.sd)


def test_empty_cells_count_as_no_run():
    rows = rows_of({("cls", "6"): [0.5, 0.7]})
    rows[1]["best_f1_weighted"] = None
    assert summarize(rows)[0].n == 1


def test_the_table_has_a_line_a_method_and_a_column_an_amount():
    rows = rows_of({("cls", "6"): [0.5, 0.7], ("cls", "25"): [0.8, 0.8], ("raw", "6"): [0.4]})
    text = markdown(rows)
    assert "f1_weighted (higher is better), last epoch, mean ± population sd over 2 seeds" in text
    assert "| input | head | trained of LWM | SNR | learning rate | parameters | 6 | 25 |" in text
    assert "| cls | mlp | nothing | clean | 0.001 | 1,234 | 0.600 ± 0.100 | 0.800 ± 0.000 |" in text
    assert "| raw | mlp | nothing | clean | 0.001 | 1,234 | 0.400 (n=1) |  |" in text
    assert "- 6: cls (mlp) 0.600; then raw (mlp) 0.400" in text


def test_ties_are_differences_within_the_joint_spread():
    items = [summary("cls", 0.80, 0.03), summary("raw", 0.76, 0.03), summary("pca", 0.70, 0.01)]
    assert winners(items, lower=False) == "cls (mlp) 0.800; ties with raw (mlp) 0.760; then pca (mlp) 0.700"
    apart = [summary("cls", 0.80, 0.03), summary("raw", 0.75, 0.03)]
    assert winners(apart, lower=False) == "cls (mlp) 0.800; then raw (mlp) 0.750"


def test_errors_are_better_the_lower_they_are():
    assert winners([summary("cls", 3.0, 0.1), summary("raw", 2.0, 0.1)], lower=True).startswith("raw")
    assert lower_is_better("error_m")
    assert lower_is_better("nmse_db")
    assert lower_is_better("mae")
    assert not lower_is_better("f1_weighted")


def test_one_seed_is_said_to_have_no_spread():
    assert "one seed: no spread is known" in winners([summary("cls", 0.8, 0.0, n=1)], lower=False)


def test_files_are_written_beside_the_runs(tmp_path):
    write_summary(rows_of({("cls", "6"): [0.5, 0.7]}), tmp_path)
    with (tmp_path / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["score"] for row in rows] == ["best_f1_weighted", "last_f1_weighted"]
    assert (rows[0]["mean"], rows[0]["sd"], rows[0]["n"]) == ("0.6", "0.1", "2")
    assert (tmp_path / "table.md").read_text().startswith("los, town, weights w.pth")
