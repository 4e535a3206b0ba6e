"""The paper's figures: cities are found, sweeps are the paper's, pictures show the table beside them."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.released import random_csi

from lwm_fast import Channels, InputError
from lwm_fast.data.synthetic import synthetic_streets
from lwm_fast.figures import FIGURES, City, FigureSettings, Job, fig3, fig4, fig6, find_cities, make_figures
from lwm_fast.figures.fig5 import agreeing
from lwm_fast.figures.job import scores


@pytest.fixture(scope="module")
def streets(tmp_path_factory) -> Path:
    """Two synthetic cities at both bands, as files named like scenario folders."""
    folder = tmp_path_factory.mktemp("cities")
    for seed, name in ((1, "town_a"), (2, "town_denver")):
        for band, carrier in (("3p5", 3.5e9), ("28", 28e9)):
            channels = synthetic_streets(60, seed=seed, carrier_frequency=carrier)
            channels.save(folder / f"{name}_{band}.h5")
    return folder


def job(folder: Path, out: Path, **settings: Any) -> Job:
    return Job(find_cities([folder]), "random-1.0", out, FigureSettings.quick(), workers=1, **settings)


# ------------------------------------------------------------------------------------------------ cities


def test_cities_are_found_by_name(tmp_path):
    for name in ("b_3p5", "b_28", "a_3p5", "c_28", "notes", "3p5", "d_60"):
        (tmp_path / name).mkdir()
    found = find_cities([tmp_path])
    assert found == [City("a", tmp_path / "a_3p5"), City("b", tmp_path / "b_3p5", tmp_path / "b_28")]
    assert find_cities([tmp_path / "b_3p5", tmp_path / "b_28"]) == [found[1]]
    assert find_cities([tmp_path, tmp_path / "a_3p5"]) == found, "given twice is found once"


def test_cities_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such folder"):
        find_cities([tmp_path / "nowhere"])
    with pytest.raises(InputError, match=r"no scenario named \*_3p5"):
        find_cities([tmp_path])
    for parent in ("x", "y"):
        (tmp_path / parent / "a_3p5").mkdir(parents=True)
    with pytest.raises(InputError, match="are both its 3p5 band"):
        find_cities([tmp_path / "x", tmp_path / "y"])


def test_figures_of_one_city_take_denver(streets, tmp_path):
    assert job(streets, tmp_path).city.name == "town_denver"
    assert Job(find_cities([streets])[:1], "random-1.0", tmp_path).city.name == "town_a"


# ------------------------------------------------------------------------------------------------ sweeps


def test_sweeps_are_the_papers(tmp_path):
    cities = [City("denver", tmp_path / "denver_3p5", tmp_path / "denver_28")]
    full = Job(cities, "weights.pth", tmp_path)
    beams = fig3.sweeps(full, 64)[0]
    assert (beams.task, beams.settings, beams.fractions) == ("beams", {"num_beams": 64}, (0.1, 0.5, 1.0))
    assert (beams.inputs, beams.heads, beams.seeds) == (("raw", "patches"), ("cnn",), (0, 1, 2))
    assert beams.label_data == (str(tmp_path / "denver_28"),)
    assert beams.split_fractions == (0.7, 0.1, 0.2)
    assert len(beams.plan()) == 2 * 3 * 3
    paper, noisy, _, cnn, few, _, tuned = fig4.sweeps(full)
    assert {(run.input, run.head) for run in cnn.plan()} == {("raw", "cnn")}
    assert paper.counts == (6, 13, 25, 100, 271, 677, 1083)
    assert (paper.test, paper.inputs) == ("rest", ("raw", "cls", "patches"))
    assert noisy.snr_db == (5.0,)
    assert len(few.seeds) >= 10
    assert {"random-cls", "random-mean", "physics", "pca", "raw", "cls"} <= set(few.inputs)
    assert {run.freeze for run in tuned.plan()} == {"last-3"}
    folder = {
        tuple(sweep.to_dict()[name] for name in ("task", "test", "split", "epochs"))
        for sweep in (paper, tuned, few)
    }
    assert len(folder) == 1, "they share a table"


def test_beams_need_the_other_band(tmp_path):
    with pytest.raises(InputError, match=r"no city has both bands \(a\)"):
        fig3.sweeps(Job([City("a", tmp_path)], "w", tmp_path), 16)


def test_settings_and_names_are_checked(streets, tmp_path):
    with pytest.raises(InputError, match="counts is empty"):
        FigureSettings(counts=())
    with pytest.raises(InputError, match="figure '7' is not known; there are: 3, 4, 5, 6"):
        make_figures(find_cities([streets]), "random-1.0", tmp_path, only=["7"])
    with pytest.raises(InputError, match="there is no city"):
        make_figures([], "random-1.0", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file: cannot be made"):
        make_figures(find_cities([streets]), "random-1.0", tmp_path / "file")


# ---------------------------------------------------------------------------------------------- pictures


def row(**values: Any) -> dict[str, Any]:
    return {"freeze": "all", "snr_db": None, "seed": 0, "source": "denver", **values}


def test_fig3_shows_difference_and_gain():
    f1 = {
        ("raw", 16): (0.4, 0.8),
        ("patches", 16): (0.6, 0.8),
        ("raw", 64): (0.2, 0.5),
        ("patches", 64): (0.3, 0.45),
    }
    rows = [
        row(
            input=name, head="cnn", num_beams=beams, fraction=share, seed=seed,
            best_f1_weighted=value + 0.01 * (2 * seed - 1),
        )
        for (name, beams), values in f1.items()
        for share, value in zip((0.1, 1.0), values, strict=True)
        for seed in (0, 1)
    ]  # fmt: skip
    rows.append(row(input="raw", head="mlp", num_beams=16, fraction=0.1, best_f1_weighted=0.0))
    figure = fig3.draw(rows)
    raw, patches, difference, gain = figure.axes[:4]
    assert [axes.get_title()[:3] for axes in figure.axes[:4]] == ["(a)", "(b)", "(c)", "(d)"]
    np.testing.assert_allclose(raw.get_lines()[0].get_ydata(), [0.4, 0.8])
    np.testing.assert_allclose(patches.get_lines()[1].get_ydata(), [0.3, 0.45])
    assert raw.get_ylim() == patches.get_ylim(), "to be compared by eye"
    np.testing.assert_allclose(difference.images[0].get_array(), [[0.2, 0], [0.1, -0.05]], atol=1e-12)
    assert [text.get_text() for text in gain.texts] == ["+50%", "+0%", "+50%", "-10%"]
    assert [tick.get_text() for tick in gain.get_yticklabels()] == ["16", "64"]


def test_fig4_shows_the_curves_of_its_seeds():
    rows = [
        row(input=name, head="mlp", count=count, best_f1_weighted=value, freeze=freeze, snr_db=snr, seed=seed)
        for name, freeze, snr, value in (
            ("raw", "all", None, 0.4), ("cls", "all", None, 0.6), ("cls", "all", 5.0, 0.5),
            ("cls", "last-3", None, 0.9), ("mean", "all", None, 0.7),
        )
        for count in (6, 100)
        for seed in (0, 1, 9)
    ]  # fmt: skip
    rows.append(row(input="raw", head="logistic", count=6, best_f1_weighted=0.0))
    rows.append(row(input="raw", head="cnn", count=6, best_f1_weighted=0.8))
    figure = fig4.draw(rows, (0, 1))
    left, right = figure.axes
    shown = {line.get_label(): line.get_ydata().tolist() for line in left.get_lines()}
    assert shown == {
        "raw channels": [0.4, 0.4], "CLS": [0.6, 0.6], "CLS at 5 dB SNR": [0.5, 0.5],
        "CLS, last 3 layers fine-tuned": [0.9, 0.9],
    }  # fmt: skip
    beside = {line.get_label(): line.get_ydata().tolist() for line in right.get_lines()}
    assert beside == {"CLS": [0.6, 0.6], "raw channels, residual CNN": [0.8], "mean of patches": [0.7, 0.7]}
    assert left.get_xscale() == "log"
    assert left.get_title() == "(a) the paper's inputs, mean and 1 sd of 2 runs"
    assert right.get_title().endswith("1 to 2 runs"), "an unfinished point is not passed off as finished"
    points = scores([row for row in rows if row["seed"] in (0, 1)], "count", input="mean")
    assert points == {6.0: [0.7, 0.7], 100.0: [0.7, 0.7]}


def test_the_user_of_the_maps_is_typical():
    csi = random_csi(5, 8, 16) * np.array([1, 3, 2, 9, 5])[:, None, None]
    channels = Channels.from_arrays(csi, los=[1, 1, 0, 1, 0])
    assert fig6.typical_user(channels) == 1, "the median of rows 0, 1 and 3"
    assert fig6.typical_user(Channels.from_arrays(csi)) == 1 + 3 * (
        np.abs(csi[4]).mean() < np.abs(csi[1]).mean()
    )
    with pytest.raises(InputError, match="has no user"):
        fig6.typical_user(Channels.from_arrays(csi[:0]))


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_fig6_from_scratch(streets, tmp_path):
    files = make_figures(find_cities([streets]), "random-1.1", tmp_path / "out", only=["6"])
    assert [path.name for path in files] == ["fig6.csv", "fig6-maps.png", "fig6-cls.png"]
    rows = read(files[0])
    assert len(rows) == 12 * 8
    assert all(0 < float(row["entropy_bits"]) <= float(row["entropy_of_uniform_bits"]) + 1e-4 for row in rows)
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in files[1:])


@pytest.mark.slow
@pytest.mark.parametrize("number", ["3", "4"])
def test_sweeps_from_scratch_and_again(streets, tmp_path, monkeypatch, number):
    made = make_figures(
        find_cities([streets]), "random-1.0", tmp_path, only=[number], settings=FigureSettings.quick(), workers=1,
    )  # fmt: skip
    table, picture = made
    assert (table.name, picture.name) == (f"fig{number}.csv", f"fig{number}.png")
    assert picture.read_bytes()[:4] == b"\x89PNG"
    rows = read(table)
    assert len({(r["run"], r.get("num_beams")) for r in rows}) == len(rows) > 0
    assert {"raw", "patches"} <= {r["input"] for r in rows}
    assert not list(tmp_path.glob("runs/*/cache")), "embeddings are not left behind"
    monkeypatch.setattr("lwm_fast.evaluation.running.execute", lambda *_: pytest.fail("ran again"))
    before = table.read_bytes()
    make_figures(
        find_cities([streets]), "random-1.0", tmp_path, only=[number], settings=FigureSettings.quick(), workers=1,
    )  # fmt: skip
    assert table.read_bytes() == before


@pytest.mark.slow
def test_fig5_from_scratch(streets, tmp_path):
    files = make_figures(
        find_cities([streets]), "random-1.0", tmp_path, only=["5"], settings=FigureSettings.quick()
    )
    assert [path.name for path in files] == [
        "fig5-los.csv",
        "fig5-los.png",
        "fig5-beams.csv",
        "fig5-beams.png",
        "fig5.csv",
    ]
    shares = [float(row["agreement"]) for row in read(files[4])]
    assert len(shares) == 6
    assert all(0 < share <= 1 for share in shares)
    los = read(files[0])
    assert {r["view"] for r in los} == {"raw", "CLS", "CLS fine-tuned (last-3)"}
    users = [r["user"] for r in los if r["view"] == "raw"]
    assert len(set(users)) == len(users) == len(los) / 3
    assert {r["label"] for r in read(files[2])} <= {str(i) for i in range(8)}


def test_neighbours_that_agree():
    # Everyone but the farthest is a neighbour: the odd one out at 121 has none like him, and is one for 64, 81, 100.
    xy = np.stack([np.arange(12.0) ** 2, np.zeros(12)], axis=1)
    assert agreeing(xy, np.ones(12, np.int64)) == 1.0
    assert agreeing(xy, np.arange(12) // 11) == pytest.approx(1 - (10 + 3) / 120)


# ------------------------------------------------------------------------------------------------ tables


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_tables_of_the_documents(tmp_path, monkeypatch):
    """One line an input, mean and population sd over the figure's seeds; few labels over all splits."""
    report = importlib.import_module("bench.report_tasks")
    monkeypatch.setattr("bench.markdown.RESULTS", tmp_path)
    (tmp_path / "figures").mkdir()
    rows = [
        row(input=name, head=head, count=count, best_f1_weighted=0.5 + 0.1 * seed, snr_db=snr, seed=seed)
        for name, snr, heads in (
            ("raw", "", ("mlp", "logistic", "nearest-mean")), ("cls", "5", ("mlp",)),
        )
        for head in heads
        for count in (6, 100)
        for seed in range(4 if not snr else 3)
    ]  # fmt: skip
    rows += [
        row(input="raw", head="cnn", count=6, best_f1_weighted=0.5, snr_db="", seed=seed) for seed in (0, 1)
    ]
    write(tmp_path / "figures/fig4.csv", rows)
    header, _, *lines = report.fig4().splitlines()
    assert header == "| input | 6 | 100 |"
    assert lines == [
        "| raw channels | 0.600 ± 0.082 | 0.600 ± 0.082 |",
        "| CLS, 5 dB SNR | 0.600 ± 0.082 | 0.600 ± 0.082 |",
        "| raw channels, residual CNN | 0.500 ± 0.000 (2) | - |",
    ]
    header, _, *lines = report.fig4_few().splitlines()
    assert header.startswith("| input, 4 splits | 6 labels, network | 6 labels, logistic |")
    assert lines == [
        "| raw channels |" + " 0.650 ± 0.112 |" * 6,
        "| raw channels, residual CNN | 0.500 ± 0.000 (2) |" + " - |" * 5,
    ]
    write(
        tmp_path / "figures/fig3.csv",
        [
            row(input="patches", head="cnn", num_beams=beams, fraction=share, best_f1_weighted=share / beams)
            for beams in (16, 8)
            for share in (1.0, 0.5)
            for _ in range(3 if beams == 8 else 1)
        ],
    )
    assert report.fig3().splitlines()[::2] == [
        "| input, head | 8 beams, 50% | 8 beams, 100% | 16 beams, 50% | 16 beams, 100% |",
        "| channel embedding (patches), cnn | 0.062 ± 0.000 | 0.125 ± 0.000 | 0.031 (1) | 0.062 (1) |",
    ]
    shares = {"LoS": (1.0, 0.5), "beam": (0.25, 0.125)}
    write(
        tmp_path / "figures/fig5.csv",
        [
            {"label": label, "view": view, "neighbours": 10, "agreement": share}
            for label, values in shares.items()
            for view, share in zip(("raw", "CLS"), values, strict=True)
        ],
    )
    assert report.fig5().splitlines()[0] == "| label | raw | CLS |"
    assert report.fig5().splitlines()[2:] == ["| LoS | 1.000 | 0.500 |", "| beam | 0.250 | 0.125 |"]
    heads = [(0, 1), (0, 1), (1, 0), (1, 1)]
    write(
        tmp_path / "figures/fig6.csv",
        [
            {"layer": layer, "head": i % 2, "uniform": uniform, "strongest_over_uniform": 40.25 if not uniform else 1,
             "entropy_bits": 2.5, "entropy_of_uniform_bits": 7.01}
            for i, (layer, uniform) in enumerate(heads)
        ],
    )  # fmt: skip
    assert report.fig6().splitlines()[2:] == ["| 1 | 1 of 2 | 40.2 | 2.50 |", "| 0 | all | 1 | 7.01 |"]


def test_every_figure_has_a_module_and_a_line():
    assert list(FIGURES) == ["3", "4", "5", "6"]
    assert all(FIGURES.values())
