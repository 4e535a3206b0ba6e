"""Pictures: figures come back with what was asked for drawn in them, nothing is shown, wrong inputs are named."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from lwm_fast import InputError, plots


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts]


def legend_of(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_a_figure_is_written_whole_and_no_window_is_made(tmp_path):
    pyplot_before = "matplotlib.pyplot" in sys.modules
    figure, axes = plots.make_figure(3)
    assert len(figure.axes) == len(axes) == 3
    plots.save(figure, tmp_path / "f.png")
    plots.save(figure, tmp_path / "f.svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.png", "f.svg"]
    assert (tmp_path / "f.png").read_bytes()[:4] == b"\x89PNG"
    assert ("matplotlib.pyplot" in sys.modules) == pyplot_before, "no window, no global figures"


def test_a_palette_makes_a_smaller_picture(tmp_path):
    figure, (axes,) = plots.make_figure(1)
    axes.imshow(np.random.default_rng(0).random((40, 40)))
    plots.save(figure, tmp_path / "full.png", dpi=60)
    plots.save(figure, tmp_path / "few.png", dpi=60, palette=64)
    full, few = Image.open(tmp_path / "full.png").convert("RGB"), Image.open(tmp_path / "few.png")
    assert full.size == few.size == (384, 312)
    assert len(few.getcolors()) <= 64
    assert (tmp_path / "few.png").stat().st_size < 0.5 * (tmp_path / "full.png").stat().st_size
    away = np.abs(np.asarray(full, int) - np.asarray(few.convert("RGB"), int))
    assert away.mean() < 2, "of 255"
    for name, palette in (("a.svg", 64), ("a.png", 1), ("a.png", 257)):
        with pytest.raises(InputError, match=f"{name}: palette={palette}: a .png"):
            plots.save(figure, tmp_path / name, palette=palette)


def test_matplotlib_is_named_where_it_is_missing():
    code = (
        "import sys\nsys.modules['matplotlib'] = None\n"
        "import lwm_fast\n"
        "try:\n    lwm_fast.plots.make_figure(1)\n"
        "except lwm_fast.InputError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "lwm_fast[plots]"' in done.stdout


# ------------------------------------------------------------------------------------------------ curves


def test_curves_show_mean_and_spread_at_the_measured_counts():
    curves = {
        "raw": {6: [0.4, 0.5, 0.6], 100: [0.8, 0.9, 1.0], 1083: [0.97, 0.97, 0.97]},
        "CLS": {6: [0.7], 100: [0.9], 1083: [0.98]},
    }
    figure = plots.score_curves(curves, ylabel="weighted F1", title="Denver")
    (axes,) = figure.axes
    assert axes.get_xlabel() == "training users"
    assert axes.get_ylabel() == "weighted F1"
    assert axes.get_xscale() == "log"
    raw, cls = axes.get_lines()
    np.testing.assert_allclose(raw.get_xdata(), [6, 100, 1083])
    np.testing.assert_allclose(raw.get_ydata(), [0.5, 0.9, 0.97])
    np.testing.assert_allclose(cls.get_ydata(), [0.7, 0.9, 0.98])
    (band,) = axes.collections  # single runs have no spread
    low = band.get_paths()[0].vertices[:, 1].min()
    assert low == pytest.approx(0.5 - np.std([0.4, 0.5, 0.6]))
    assert legend_of(axes) == ["raw", "CLS"]
    assert axes.get_legend().get_title().get_text() == "mean and 1 sd of 1 to 3 runs"
    assert [float(mark) for mark in axes.get_xticks()] == [6, 100, 1083]
    assert len({to_hex(line.get_color()) for line in (raw, cls)}) == 2
    assert raw.get_marker() != cls.get_marker(), "told apart without colour as well"


def test_curves_leave_out_failed_runs_and_close_marks():
    (axes,) = plots.score_curves({"a": {6: [0.5, np.nan], 7: [np.nan], 100: [0.9], 1000: [1.0]}}).axes
    np.testing.assert_allclose(axes.get_lines()[0].get_xdata(), [6, 100, 1000])
    many = {float(x): [0.5] for x in (100, 101, 1000)}
    (axes,) = plots.score_curves({"a": many}).axes
    assert [float(mark) for mark in axes.get_xticks()] == [100, 1000]


def test_nmse_over_snr():
    (axes,) = plots.nmse_vs_snr({"LS": {-5: [5.0, 5.2], 10: [-10.0, -10.1]}}).axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ("SNR [dB]", "NMSE [dB]", "linear")
    np.testing.assert_allclose(axes.get_lines()[0].get_ydata(), [5.1, -10.05])


@pytest.mark.parametrize(
    ("curves", "words"),
    [
        ({}, "0 curves"),
        ({"a": {}}, "curve 'a' has no finished run"),
        ({"a": {6: [np.nan]}}, "curve 'a' has no finished run"),
        ({"a": {0: [0.5]}}, "curve 'a' has a point at 0"),
        ({str(i): {6: [0.5]} for i in range(29)}, "29 curves: 1 to 28"),
    ],
)
def test_curves_that_cannot_be_drawn(curves, words):
    with pytest.raises(InputError, match=words):
        plots.score_curves(curves)


# --------------------------------------------------------------------------------------------- heat maps


def test_gain_over_raw():
    raw = np.array([[0.5, 0.8], [0.0, 0.6]])
    figure = plots.gain_heat_maps(
        raw, [[0.75, 0.8], [0.3, 0.45]], fractions=[0.1, 1], codebooks=[16, 64], title="three cities"
    )
    difference, gain = figure.axes[:2]
    assert len(figure.axes) == 4, "two maps, two colour bars"
    np.testing.assert_allclose(difference.images[0].get_array(), [[0.25, 0], [0.3, -0.15]])
    assert np.isnan(gain.images[0].get_array().filled(np.nan)[1, 0]), "no gain over nothing"
    np.testing.assert_allclose(gain.images[0].get_array()[0], [50, 0], atol=1e-9)
    assert texts(difference) == ["+0.250", "+0.000", "+0.300", "-0.150"]
    assert texts(gain) == ["+50%", "+0%", "-", "-25%"]
    assert [tick.get_text() for tick in difference.get_xticklabels()] == ["10%", "100%"]
    assert [tick.get_text() for tick in difference.get_yticklabels()] == ["16", "64"]
    low, high = difference.images[0].get_clim()
    assert low == -high, "no gain has the middle colour"
    with pytest.raises(InputError, match=r"\(2, 2\) and of the embedding \(2, 1\)"):
        plots.gain_heat_maps(raw, raw[:, :1], fractions=[0.1, 1], codebooks=[16, 64])
    with pytest.raises(InputError, match="1 rows and 2 columns"):
        plots.gain_heat_maps(raw, raw, fractions=[0.1, 1], codebooks=[16])


def test_confusion():
    counts = np.array([[8, 2, 0], [1, 3, 0], [0, 0, 0]])
    figure = plots.confusion_matrix(counts, ["a", "b", "c"])
    axes = figure.axes[0]
    assert texts(axes) == ["0.80", "0.20", "0.00", "0.25", "0.75", "0.00", "-", "-", "-"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert axes.images[0].get_clim() == (0, 1)
    assert texts(plots.confusion_matrix(counts, normalize=False).axes[0])[:2] == ["8", "2"]
    large = plots.confusion_matrix(np.eye(256, dtype=int)).axes[0]
    assert not large.texts
    assert len(large.get_xticklabels()) <= 16, "numbers that cannot be read are not written"
    with pytest.raises(InputError, match=r"counts are \(2, 3\)"):
        plots.confusion_matrix(np.zeros((2, 3)))


# -------------------------------------------------------------------------------------------------- maps


def test_positions_and_embeddings():
    rng = np.random.default_rng(1)
    figure = plots.positions_and_embeddings(
        rng.standard_normal((30, 3)), rng.standard_normal((30, 8)).astype(np.float32), rng.integers(-1, 2, 30),
        base_station=(0, 0, 6), buildings=[[0, 0, 0, 1, 1, 9]], title="synthetic",
    )  # fmt: skip
    left, right = figure.axes
    assert {t.split(" (")[0] for t in legend_of(left)} == {"LoS", "NLoS", "no path", "base station"}
    assert len(left.patches) == 1
    assert sum(len(c.get_offsets()) for c in right.collections) == 30
    with pytest.raises(InputError, match="do not match"):
        plots.positions_and_embeddings(np.zeros((2, 3)), np.zeros((3, 8), np.float32), [1, 0])


def test_coverage_of_a_score():
    pos = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    figure = plots.coverage_map(pos, [1.5, np.nan, -2.0], name="power", unit="dB", base_station=(0, 0, 9))
    axes, bar = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x [m]", "y [m]")
    assert bar.get_ylabel() == "power [dB]"
    missing, users, station = axes.collections
    np.testing.assert_allclose(missing.get_offsets(), [[3, 4]])
    np.testing.assert_allclose(users.get_offsets(), [[0, 1], [6, 7]])
    np.testing.assert_allclose(users.get_array(), [1.5, -2.0])
    np.testing.assert_allclose(station.get_offsets(), [[0, 0]])
    assert legend_of(axes) == ["no value (1)", "base station"]


def test_coverage_of_a_label():
    pos = np.zeros((4, 2))
    (axes,) = plots.coverage_map(pos, [0, 1, 1, -1], name="beam", classes=["left", "right"]).axes
    assert legend_of(axes) == ["no value (1)", "left (1)", "right (2)"]
    with pytest.raises(InputError, match="class 1 has no name; 1 are given"):
        plots.coverage_map(pos, [0, 1, 1, -1], name="beam", classes=["left"])
    with pytest.raises(InputError, match="4 positions, 3 values"):
        plots.coverage_map(pos, [1.0, 2.0, 3.0], name="power")
    (nobody,) = plots.coverage_map(np.zeros((0, 2)), [], name="beam", classes=["left"]).axes
    assert nobody.get_legend() is None
