"""The challenge's files: built from scenarios, read back, faults named; the submission."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lwm_fast import InputError
from lwm_fast.challenge import (
    TASK_NAMES,
    MakeConfig,
    make_challenge,
    read_submission,
    read_task,
    score_submission,
    write_submission,
)
from lwm_fast.cli import main
from lwm_fast.data.synthetic import synthetic_streets
from lwm_fast.tasks.beams import best_beams

SMALL = MakeConfig(num_antennas=8, num_subcarriers=8, num_beams=8)


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two streets at 3.5 GHz and the same two at 28 GHz, as files of rays."""
    folder = tmp_path_factory.mktemp("streets")
    return [
        synthetic_streets(60, seed=seed, carrier_frequency=carrier).save(
            folder / f"street{seed}_{carrier:g}.h5"
        )
        for carrier in (3.5e9, 28e9)
        for seed in (1, 2)
    ]


@pytest.fixture(scope="module")
def data(streets: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("challenge") / "data"
    return make_challenge(streets[:2], out, label_sources=streets[2:], config=SMALL)


def write_task(folder: Path, number: int, **labels: Any) -> None:
    """task_k with 4 training, 2 validation and 3 test users; `labels` of each part, None leaves them out."""
    place = folder / f"task_{number}"
    place.mkdir(parents=True)
    start = 0
    for part, count in (("train", 4), ("val", 2), ("test", 3)):
        content: dict[str, Any] = {"channels": channel_numbers(start, count)}
        if labels.get(part) is not None:
            content["labels"] = labels[part]
        torch.save(content, place / f"{part}_data.pt")
        start += count


def channel_numbers(start: int, count: int) -> torch.Tensor:
    """csi [count, 8, 8] that tells the users apart and is as strong as a real city's."""
    users = torch.arange(start + 1, start + count + 1, dtype=torch.float32)
    return (2e-5 * users[:, None, None] * torch.ones(1, 8, 8)).to(torch.complex64)


class TestMake:
    def test_five_tasks_of_the_same_users(self, data: Path) -> None:
        for number, name in enumerate(TASK_NAMES, 1):
            task = read_task(data, name)
            assert task.number == number
            assert task.split.sizes == (84, 12, 24)
            assert task.examples.channels.shape == (120, 8, 8)
            assert len(task.test) == 24
        config = json.loads((data / "config.json").read_text())
        assert config["tasks"] == {f"task_{k}": name for k, name in enumerate(TASK_NAMES, 1)}
        assert (config["codebook"], config["num_beams"], config["scale"]) == ("lwm", 8, 1e6)
        assert config["users"] == {"train": 84, "val": 12, "test": 24}

    def test_files_are_plain_dicts_of_tensors(self, data: Path) -> None:
        wanted = {1: torch.int64, 2: torch.int64, 3: torch.complex64, 4: torch.complex64, 5: torch.float32}
        for number, dtype in wanted.items():
            content = torch.load(data / f"task_{number}" / "val_data.pt", weights_only=True)
            assert sorted(content) == ["channels", "labels"]
            assert content["channels"].dtype == torch.complex64
            assert content["channels"].shape == (12, 8, 8)
            assert content["labels"].dtype == dtype

    def test_labels(self, data: Path, streets: list[Path]) -> None:
        from lwm_fast import Channels, load_channels

        size = {"num_antennas": 8, "num_subcarriers": 8}
        inputs = Channels.concatenate([load_channels(path, **size) for path in streets[:2]])  # type: ignore[arg-type]
        labels = Channels.concatenate([load_channels(path, **size) for path in streets[2:]])  # type: ignore[arg-type]
        los, beams, place = (read_task(data, name).examples for name in ("los", "beams", "localization"))
        rows = [int(np.abs(inputs.csi - one).max(axis=(1, 2)).argmin()) for one in los.channels.csi]
        assert sorted(rows) == list(range(120))
        np.testing.assert_array_equal(inputs.csi[rows], los.channels.csi)
        assert inputs.los is not None
        assert inputs.pos is not None
        np.testing.assert_array_equal(los.targets, inputs.los[rows])
        np.testing.assert_array_equal(beams.targets, best_beams(labels, 8)[rows])
        np.testing.assert_array_equal(place.targets, inputs.pos[rows, :2])
        full = read_task(data, "interpolation").examples
        np.testing.assert_array_equal(full.targets, los.channels.csi)
        assert full.observed is not None
        assert full.observed.sum() == full.facts["pilots"] == 4 * 2
        np.testing.assert_array_equal(full.channels.csi[:, full.observed], full.targets[:, full.observed])
        assert (full.channels.csi[:, ~full.observed] == 0).all()
        clean = read_task(data, "estimation").examples
        np.testing.assert_array_equal(clean.targets, los.channels.csi)
        noise = np.abs(clean.channels.csi - clean.targets) ** 2
        snr = 10 * np.log10((np.abs(clean.targets) ** 2).mean(axis=(1, 2)) / noise.mean(axis=(1, 2)))
        assert -9 < snr.min() < 0
        assert 20 < snr.max() < 29
        assert (
            len({one.tobytes() for one in clean.channels.csi - clean.targets}) == 120
        )  # no noise occurs twice

    def test_the_same_call_gives_the_same_data(self, data: Path, streets: list[Path], tmp_path: Path) -> None:
        again = make_challenge(streets[:2], tmp_path / "again", label_sources=streets[2:], config=SMALL)
        for name in TASK_NAMES:
            one, two = read_task(data, name).examples, read_task(again, name).examples
            np.testing.assert_array_equal(one.channels.csi, two.channels.csi)
            np.testing.assert_array_equal(one.targets, two.targets)

    def test_hidden_labels(self, streets: list[Path], tmp_path: Path) -> None:
        out = make_challenge(streets[:1], tmp_path / "data", config=replace(SMALL, hide_test=True))
        assert sorted(torch.load(out / "task_1" / "test_data.pt", weights_only=True)) == ["channels"]
        assert sorted(torch.load(out / "hidden" / "task_1" / "test_data.pt", weights_only=True)) == ["labels"]
        task = read_task(out, "los")
        assert task.test_labels is None
        assert task.split.sizes == (42, 6, 0)
        assert len(task.test) == 12

    def test_one_band_labels_itself(self, streets: list[Path], tmp_path: Path) -> None:
        out = make_challenge(streets[:1], tmp_path / "data", config=SMALL)
        task = read_task(out, "beams")
        np.testing.assert_array_equal(task.examples.targets, best_beams(task.examples.channels, 8))
        assert json.loads((out / "config.json").read_text())["label_source"] is None

    def test_split_by_position(self, streets: list[Path], tmp_path: Path) -> None:
        out = make_challenge(streets[:1], tmp_path / "data", config=replace(SMALL, split="position"))
        assert read_task(out, "los").examples.facts["split"].startswith("position, ")  # type: ignore[union-attr]

    def test_faults_leave_nothing(self, streets: list[Path], tmp_path: Path) -> None:
        full = tmp_path / "full"
        full.mkdir()
        (full / "x").touch()
        cases: list[tuple[Any, Path, Any, str]] = [
            (streets[:1], full, {}, "is there already and not empty"),
            (streets[:2], tmp_path / "out", {"label_sources": streets[2:3]}, "1 label sources for 2 sources"),
            (streets[:1], tmp_path / "out", {"label_sources": streets[3:4]}, "does not match"),
            ([], tmp_path / "out", {}, "give at least one scenario"),
            (streets[:1], tmp_path / "out", {"config": replace(SMALL, num_beams=1)}, "num_beams=1"),
        ]
        for sources, out, more, message in cases:
            with pytest.raises(InputError, match=message):
                make_challenge(sources, out, **more)
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["full"]


class TestRead:
    def test_official_layout_without_a_config(self, tmp_path: Path) -> None:
        write_task(tmp_path, 1, train=torch.tensor([0, 1, 1, 0]), val=torch.tensor([1, 0]))
        write_task(tmp_path, 2, train=torch.tensor([[3.0], [9], [0], [9]]), val=torch.tensor([[1.0], [2]]))
        los, beams = read_task(tmp_path, "los"), read_task(tmp_path, "beams")
        assert los.examples.targets.tolist() == [0, 1, 1, 0, 1, 0]
        assert los.examples.classes == ("NLoS", "LoS")
        assert (los.split.sizes, len(los.test), los.test_labels) == ((4, 2, 0), 3, None)
        np.testing.assert_allclose(los.test.csi[:, 0, 0].real, [14e-5, 16e-5, 18e-5])
        assert beams.examples.targets.tolist() == [3, 9, 0, 9, 1, 2]
        assert len(beams.examples.classes) == 10
        assert set(los.sha256) == {"train", "val", "test"}

    def test_channels_with_an_antenna_axis_or_a_pair_axis(self, tmp_path: Path) -> None:
        write_task(tmp_path, 1, train=torch.tensor([0, 1, 1, 0]), val=torch.tensor([1, 0]))
        plain = read_task(tmp_path, "los").examples.channels.csi.copy()
        for part in ("train", "val", "test"):
            path = tmp_path / "task_1" / f"{part}_data.pt"
            content = torch.load(path, weights_only=True)
            changed = (
                content["channels"][:, None] if part == "val" else torch.view_as_real(content["channels"])
            )
            torch.save(content | {"channels": changed}, path)
        np.testing.assert_array_equal(read_task(tmp_path, "los").examples.channels.csi, plain)

    def test_config_says_which_task_is_which(self, tmp_path: Path) -> None:
        write_task(tmp_path, 4, train=torch.tensor([0, 1, 1, 0]), val=torch.tensor([1, 0]))
        (tmp_path / "config.json").write_text('{"tasks": {"task_4": "los"}}')
        assert read_task(tmp_path, "los").number == 4

    def test_noisy_pilots_are_known_as_such(self, tmp_path: Path) -> None:
        full = [channel_numbers(0, 4), channel_numbers(4, 2)]
        write_task(tmp_path, 3, train=full[0] * 1.5, val=full[1])
        examples = read_task(tmp_path, "interpolation").examples
        assert examples.observed is None
        assert examples.facts["snr_db"] == "unknown"

    @pytest.mark.parametrize(
        ("number", "name", "labels", "message"),
        [
            (1, "los", torch.tensor([0, 1, 2, 0]), r"los: label 2 of row 2 is none of the classes"),
            (
                1,
                "los",
                torch.tensor([0.5, 1, 0, 0]),
                r"classes \[n\] as whole numbers were expected; .*config.json",
            ),
            (1, "los", torch.zeros(4, 2), r"float32 \[4, 2\] do not fit los"),
            (1, "los", torch.zeros(3, dtype=torch.int64), "3 labels for 4 channels"),
            (1, "los", None, "no 'labels'; only the test set may come without"),
            (
                3,
                "interpolation",
                torch.zeros(4, 8, 4, dtype=torch.complex64),
                r"labels \(4, 8, 4\) for channels",
            ),
            (3, "interpolation", torch.zeros(4), "real data"),
            (
                5,
                "localization",
                torch.zeros(4, dtype=torch.int64),
                r"metres \[n, 2\] or \[n, 3\] were expected",
            ),
            (5, "localization", torch.full((4, 2), torch.nan), "NaN or Inf among the positions"),
            (1, "beams", torch.tensor([0, 1, 1, 0]), "has no data for 'beams'; it has los"),
        ],
    )
    def test_faults(self, tmp_path: Path, number: int, name: str, labels: Any, message: str) -> None:
        write_task(tmp_path, number, train=labels, val=None if labels is None else labels[:2])
        with pytest.raises(InputError, match=message):
            read_task(tmp_path, name)

    def test_faults_of_the_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no such folder"):
            read_task(tmp_path / "none", "los")
        with pytest.raises(InputError, match="holds no folder task_1"):
            read_task(tmp_path, "los")
        write_task(tmp_path, 6, train=torch.tensor([0, 1, 1, 0]), val=torch.tensor([1, 0]))
        with pytest.raises(InputError, match=r"task_6 is None; write which task it is into .*config.json"):
            read_task(tmp_path, "los")
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(InputError, match="cannot be read as JSON"):
            read_task(tmp_path, "los")

    def test_faults_of_a_file(self, tmp_path: Path) -> None:
        write_task(tmp_path, 1, train=torch.tensor([0, 1, 1, 0]), val=torch.tensor([1, 0]))
        path = tmp_path / "task_1" / "val_data.pt"
        torch.save({"labels": torch.tensor([0, 1])}, path)
        with pytest.raises(InputError, match="no 'channels'; it holds labels"):
            read_task(tmp_path, "los")
        torch.save(
            {"channels": torch.ones(2, 4, 8, dtype=torch.complex64), "labels": torch.tensor([0, 1])}, path
        )
        with pytest.raises(InputError, match="channels differ in size"):
            read_task(tmp_path, "los")
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(InputError, match="cannot be read safely as a torch file"):
            read_task(tmp_path, "los")
        path.unlink()
        with pytest.raises(InputError, match=r"val_data\.pt: no such file"):
            read_task(tmp_path, "los")

    def test_code_in_a_file_is_not_run(self, tmp_path: Path) -> None:
        write_task(tmp_path, 1, train=torch.tensor([0, 1, 1, 0]), val=torch.tensor([1, 0]))
        target = tmp_path / "touched"

        class Attack:
            def __reduce__(self) -> Any:
                return Path.touch, (target,)

        torch.save({"channels": Attack()}, tmp_path / "task_1" / "train_data.pt")
        with pytest.raises(InputError, match="never executed here"):
            read_task(tmp_path, "los")
        assert not target.exists()


class TestSubmission:
    def predictions(self, data: Path) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for name in TASK_NAMES:
            labels = read_task(data, name).test_labels
            assert labels is not None
            found[name] = np.eye(8, dtype=np.float32)[labels] if labels.dtype == np.int64 else labels
        return found

    def test_perfect_predictions_score_one(self, data: Path, tmp_path: Path) -> None:
        predictions = self.predictions(data)
        write_submission(tmp_path, predictions, {"los": {"head": "challenge-los"}})
        for name, values in read_submission(tmp_path).items():
            np.testing.assert_array_equal(values, predictions[name])
        manifest = json.loads((tmp_path / "submission.json").read_text())
        assert manifest["missing"] == []
        assert manifest["tasks"]["los"] == {"shape": [24, 8], "dtype": "float32", "head": "challenge-los"}
        scores = score_submission(tmp_path, data)
        assert scores["composite"] == 1.0
        assert scores["missing"] == []

    def test_some_tasks(self, data: Path, tmp_path: Path) -> None:
        write_submission(tmp_path, {"los": self.predictions(data)["los"]})
        scores = score_submission(tmp_path, data)
        assert list(scores["tasks"]) == ["los"]
        assert scores["missing"] == ["beams", "interpolation", "estimation", "localization"]
        assert "composite" not in scores

    @pytest.mark.parametrize(
        ("predictions", "message"),
        [
            ({}, "there are no predictions"),
            ({"lso": np.zeros((2, 2))}, "did you mean 'los'"),
            ({"los": np.zeros(2)}, "with one row a user were expected"),
            ({"los": np.zeros((2, 2), dtype=np.complex64)}, "arrays of kind 'f'"),
            ({"estimation": np.zeros((2, 2, 2))}, "arrays of kind 'c'"),
            ({"los": np.full((2, 2), np.inf)}, "hold NaN or Inf"),
        ],
    )
    def test_faults(self, tmp_path: Path, predictions: dict[str, np.ndarray], message: str) -> None:
        with pytest.raises(InputError, match=message):
            write_submission(tmp_path, predictions)
        assert list(tmp_path.iterdir()) == []

    def test_a_pair_that_does_not_belong_together(self, data: Path, tmp_path: Path) -> None:
        write_submission(tmp_path, self.predictions(data))
        np.savez(tmp_path / "submission.npz", los=np.zeros((24, 2)))
        with pytest.raises(InputError, match=r"is not the file that submission\.json describes"):
            read_submission(tmp_path)
        (tmp_path / "submission.json").write_text("[]")
        with pytest.raises(InputError, match="is no manifest of a submission"):
            read_submission(tmp_path)

    def test_answers_of_other_users(self, data: Path, tmp_path: Path) -> None:
        write_submission(tmp_path, {"los": self.predictions(data)["los"][:5]})
        with pytest.raises(InputError, match=r"5 predictions of 'los'; the test set of .* has 24 users"):
            score_submission(tmp_path, data)

    def test_hidden_answers(self, streets: list[Path], tmp_path: Path) -> None:
        out = make_challenge(streets[:1], tmp_path / "data", config=replace(SMALL, hide_test=True))
        write_submission(tmp_path / "run", {"los": np.eye(2, dtype=np.float32)[[0] * 12]})
        assert 0 <= score_submission(tmp_path / "run", out / "hidden")["tasks"]["los"]["score"] <= 1
        with pytest.raises(InputError, match="holds no labels; scores need"):
            score_submission(tmp_path / "run", out)


class TestCommandLine:
    def test_make_and_score(self, streets, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = str(tmp_path / "data")
        made = main(
            ["challenge", "make", "--from", str(streets[0]), "--from", str(streets[1]), "-o", out]
            + ["--label-data", str(streets[2]), "--label-data", str(streets[3]), "--num-antennas", "8"]
            + ["--num-subcarriers", "8", "--num-beams", "16", "--codebook", "half-open", "--comb", "1x2"]
            + ["--snr", "0:10", "--seed", "3"]
        )
        assert made == 0
        assert "run them with: lwm-fast challenge --data" in capsys.readouterr().out
        config = json.loads((tmp_path / "data" / "config.json").read_text())
        names = (
            "num_beams",
            "codebook",
            "antenna_step",
            "subcarrier_step",
            "snr_db_low",
            "snr_db_high",
            "seed",
        )
        assert [config[name] for name in names] == [16, "half-open", 1, 2, 0, 10, 3]
        write_submission(tmp_path / "run", {"localization": read_task(out, "localization").test_labels})  # type: ignore[dict-item]
        assert main(["challenge", "score", str(tmp_path / "run"), "--data", out]) == 0
        printed = capsys.readouterr().out
        assert "localization   1.0000  error_m 0" in printed
        assert "composite: no score of los, beams" in printed

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "Missing option '--data'"),
            (["--data", "x"], "Missing option '--out'"),
            (["--data", "nowhere", "--weights", "random-1.0", "--out", "y"], "nowhere: no such folder"),
            (["make", "--from", "x"], "Missing option"),
            (["make", "--from", "x", "--out", "y", "--comb", "4"], "'4': expected two numbers and 'x'"),
            (["make", "--from", "x", "--out", "y", "--snr", "a:b"], "'a:b': expected two numbers and ':'"),
            (["make", "--from", "nowhere", "--out", "y"], "nowhere"),
        ],
    )
    def test_bad_usage(self, arguments, message, capsys, tmp_path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert main(["challenge", *arguments]) == 2
        assert message in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []
