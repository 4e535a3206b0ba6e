"""`bench.streets` and its tables: rows of every source, figures that are 3GPP's, tables from the file alone."""

from __future__ import annotations

import csv

import pytest
from support.bench_modules import bench_modules

markdown, report, report_streets, streets, umi = bench_modules(
    "markdown", "report", "report_streets", "streets", "umi"
)


def test_umi_formulas_at_known_points() -> None:
    # TR 38.901, table 7.5-6 at f = 9 GHz, where log10(1 + f) = 1
    assert umi.spread("LoS", "delay_spread_s", 9e9)[1] == pytest.approx(10**-7.38)
    low, middle, high = umi.spread("NLoS", "delay_spread_s", 9e9)
    assert middle == pytest.approx(10**-7.07)
    assert high / middle == pytest.approx(10 ** (1.2816 * 0.44))
    assert middle / low == pytest.approx(high / middle)
    assert umi.spread("LoS", "arrival_spread_deg", 9e9)[1] == pytest.approx(10**1.65)
    assert umi.spread("NLoS", "departure_spread_deg", 9e9)[1] == pytest.approx(10**1.30)
    # below 2 GHz as at 2 GHz
    assert umi.spread("LoS", "delay_spread_s", 1e9) == umi.spread("LoS", "delay_spread_s", 2e9)
    # 9 dB: 7.94 to 1
    assert umi.strongest_share()[1] == pytest.approx(7.943 / 8.943, rel=1e-3)
    # 100 m at 1 GHz: 74.4 and 92.85 dB against 72.45 of free space
    assert umi.excess_loss_db("LoS", 1e9, 100.0)[1] == pytest.approx(1.95, abs=0.01)
    assert umi.excess_loss_db("NLoS", 1e9, 100.0)[1] == pytest.approx(20.4, abs=0.01)
    # near the base station the hidden are no better than the seen
    assert umi.excess_loss_db("NLoS", 3.5e9, 3.0)[1] >= umi.excess_loss_db("LoS", 3.5e9, 3.0)[1]


def test_file_and_tables(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(streets, "shared_data", lambda: None)
    assert streets.main(["--streets", "2", "--seed", "5", "--out", str(tmp_path)]) == 0
    with open(tmp_path / "streets.csv", newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert {row["source"] for row in found} == {"generated streets", streets.UMI}
    assert {row["command"] for row in found} == {"python -m bench.streets --streets 2 --seed 5"}
    mine = [row for row in found if row["source"] == "generated streets"]
    assert sum(int(row["users"]) for row in mine if row["quantity"] == "mean_paths") == 2000
    for row in mine:
        if row["low"]:
            assert float(row["low"]) <= float(row["middle"]) <= float(row["high"])

    monkeypatch.setattr(markdown, "RESULTS", tmp_path)
    for table in (report_streets.streets_los(), report_streets.streets_nlos()):
        lines = table.splitlines()
        assert len(lines) == 2 + 2
        assert len({line.count("|") for line in lines}) == 1
        assert "12 clusters" in table or "19 clusters" in table
    text = "<!-- results: streets_los -->\nold\n<!-- end -->"
    assert report.filled(text) == text.replace("old\n", report_streets.streets_los())


def test_cities_are_measured_where_they_are(shared_data) -> None:
    rows = list(streets.city("Denver BS3"))
    assert {row[1] for row in rows} == {"LoS", "NLoS"}
    assert sum(int(row[2]) for row in rows if row[3] == "mean_paths") == 1354
