"""What the shipped weights were trained with, for `bench.report`: read from the notes that lie beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from bench.markdown import markdown
from lwm_fast.weights import DEFAULT, NAMES, TRAINING_NAME


def weights_training() -> str:
    """Data, seeds, versions and cost of the shipped weights."""
    notes: dict[str, Any] = json.loads((NAMES[DEFAULT] / TRAINING_NAME).read_text(encoding="utf-8"))
    config, streets, cost = notes["config"], notes["streets"], notes["cost"]
    plan = streets["plan"]
    low, high = (hertz / 1e9 for hertz in plan["carrier"])
    users = plan["streets"] * plan["users_per_street"]
    lines = [
        [
            "streets",
            f"{plan['streets']} of {plan['users_per_street']:,} users ({users:,}), seed {plan['seed']}",
        ],
        ["carriers", f"{low:g} to {high:g} GHz"],
        ["seed", f"model {config['model']['seed']}"],
        ["steps", f"{cost['step']:,} of about {config['optimizer']['token_budget']:,} tokens"],
        ["wall time", f"{cost['wall_seconds'] / 60:.0f} min, {notes['processes']} process"],
        ["processor time", f"{cost['cpu_seconds'] / 60:.0f} min"],
        ["energy", f"{cost['energy_wh']:.0f} Wh ({cost['energy_from']})"],
        ["versions", f"lwm_fast {notes['lwm_fast']}, torch {notes['torch']}"],
    ]
    if "heads" in notes:
        own = notes["heads"]
        steps, minutes = own["cost"]["step"], own["cost"]["cpu_seconds"] / 60
        told = f"trained anew on the encoder as it is: {steps:,} steps, {minutes:.0f} min of processor time"
        lines.insert(-1, ["link heads", told])
    return markdown(["", ""], lines)


TABLES: dict[str, Callable[[], str]] = {"weights_training": weights_training}
