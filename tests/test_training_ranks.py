"""Two processes train as one does at the same global batch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from support.training_cases import tiny_config, write_data, write_street

from lwm_fast import LWM
from lwm_fast.training import TrainConfig, pretrain
from lwm_fast.training.records import LINKS, METRICS, VALIDATION, read_table

_RANK = """
import sys
import torch
torch.set_num_threads(1)
from lwm_fast.training import TrainConfig, pretrain

folder = sys.argv[1]
data_of = lambda version: [f"{folder}/data-{version}/part{i}.npy" for i in (0, 1)]
for version in ("1.0", "1.1", "links"):
    config = TrainConfig.load(f"{folder}/{version}.yaml")
    data = f"{folder}/data-links.h5" if version == "links" else data_of(version)
    pretrain(config, data, f"{folder}/two-{version}", cpu=True)
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    # Adam divides gradients by their size: its eps keeps rounding noise in gradients that are zero by theory
    # (the keys' biases) from becoming steps.
    configs = {
        version: tiny_config(
            version,
            optimizer={"eps": 1e-3, "batch_size": 9, "accumulate": 2, "clip_norm": 0.5},
            run={"checkpoint_every": 100},
        )
        for version in ("1.0", "1.1")
    }
    heads = {"auxiliary": {**configs["1.1"].to_dict()["auxiliary"], "weight": 0.5}}
    configs["links"] = TrainConfig.from_dict({**configs["1.1"].to_dict(), **heads})
    script = tmp_path / "rank.py"
    script.write_text(_RANK)
    for version, config in configs.items():
        (tmp_path / f"{version}.yaml").write_text(config.to_yaml())
        if version != "links":
            write_data(tmp_path / f"data-{version}", version, count=23)
    write_street(tmp_path / "data-links.h5", users=46)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = subprocess.run(
        [*launch, str(script), str(tmp_path)], capture_output=True, text=True, timeout=500
    )
    assert result.returncode == 0, result.stderr[-4000:]

    for version, config in configs.items():
        parts = [tmp_path / f"data-{version}/part{i}.npy" for i in (0, 1)]
        pretrain(
            config, tmp_path / "data-links.h5" if version == "links" else parts, tmp_path / f"one-{version}"
        )
        runs = [tmp_path / f"{name}-{version}" for name in ("one", "two")]
        one, two = (read_table(run / "metrics.csv") for run in runs)
        assert len(one) == len(two) >= 8
        linked = LINKS if version == "links" else ()  # columns that are empty otherwise
        for name in (*METRICS[:8], *linked):
            values = [[float(row[name]) for row in rows] for rows in (one, two)]
            np.testing.assert_allclose(
                values[1], values[0], rtol=1e-6, atol=1e-9, err_msg=f"{version} {name}"
            )
        one, two = (read_table(run / "validation.csv") for run in runs)
        for name in (*VALIDATION[:7], *linked):
            values = [[float(row[name]) for row in rows] for rows in (one, two)]
            np.testing.assert_allclose(
                values[1], values[0], rtol=1e-6, atol=1e-6, err_msg=f"{version} {name}"
            )
        weights = [
            torch.cat([p.detach().flatten() for p in LWM.from_pretrained(run / "model").parameters()])
            for run in runs
        ]
        assert torch.linalg.norm(weights[1] - weights[0]) <= 1e-6 * torch.linalg.norm(weights[0]), version
