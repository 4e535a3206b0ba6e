"""The weights that come with the package: whole, small, and as good as the demo says on a street they never saw."""

from __future__ import annotations

import numpy as np
import pytest

from lwm_fast import LWM, LWMConfig, link_state
from lwm_fast.data.synthetic import synthetic_streets
from lwm_fast.files import sha256_of
from lwm_fast.tasks.metrics import classification_scores
from lwm_fast.weights import DEFAULT, NAMES, folder_of, shipped_sums, training_of


def test_the_files_are_those_that_were_shipped():
    folder = folder_of(DEFAULT)
    assert folder is not None
    sums = shipped_sums(DEFAULT)
    assert set(sums) == {"model.safetensors", "config.json", "link_heads.safetensors", "training.json"}
    assert {name: sha256_of(folder / name) for name in sums} == sums
    assert sum((folder / name).stat().st_size for name in sums) < 12e6


def test_the_card_is_there_and_its_first_table_is_what_is_lost():
    card = (NAMES[DEFAULT] / "README.md").read_text(encoding="utf-8")
    sections = [line for line in card.splitlines() if line.startswith("## ")]
    assert sections[0] == "## Where a baseline still wins"
    assert "Apache-2.0" in card
    assert "Not yet measured" not in card


def test_it_is_the_base_variant():
    model = LWM.from_pretrained(DEFAULT)
    assert model.config == LWMConfig.base()
    assert model.link_heads is not None


@pytest.mark.parametrize("seed", [0, 11, 12])
def test_line_of_sight_on_streets_never_seen(seed):
    training = training_of(DEFAULT)
    assert training is not None
    assert seed not in training["streets"]["town_seeds"]
    channels = synthetic_streets(400, seed=seed)
    assert channels.los is not None
    found = link_state(DEFAULT, channels)
    guess = np.eye(2)[(found.los > 0.5).astype(np.int64)]
    assert classification_scores(channels.los.astype(np.int64), guess, 2)["f1_weighted"] > 0.8
