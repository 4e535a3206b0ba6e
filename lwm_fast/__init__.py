"""lwm_fast: the Large Wireless Model (LWM), fast and exact.

    import lwm_fast
    model = lwm_fast.LWM.from_pretrained("lwm-fast-base")      # comes with the package
    channels = lwm_fast.load_channels("city_18_denver", base_station=3)
    embeddings = model.encode(channels)                        # float32 [users, 128]

Importing it needs torch and numpy only; everything else is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lwm_fast._version import __version__

if TYPE_CHECKING:
    from lwm_fast import challenge, data, evaluation, ops, plots, reference, tasks, training
    from lwm_fast.backends import use_backend
    from lwm_fast.config import LWMConfig
    from lwm_fast.data import Channels, load_channels
    from lwm_fast.drop_in import accelerate
    from lwm_fast.errors import BackendUnavailableError, InputError, LWMFastError
    from lwm_fast.finetuning import finetune
    from lwm_fast.links import LinkState, link_state
    from lwm_fast.model import LWM
    from lwm_fast.tokens import detokenize, tokenize
    from lwm_fast.transformer import LWMEncoder

_WHERE = {
    "LWM": "lwm_fast.model",
    "LWMConfig": "lwm_fast.config",
    "Channels": "lwm_fast.data",
    "load_channels": "lwm_fast.data",
    "tokenize": "lwm_fast.tokens",
    "detokenize": "lwm_fast.tokens",
    "use_backend": "lwm_fast.backends",
    "accelerate": "lwm_fast.drop_in",
    "finetune": "lwm_fast.finetuning",
    "LinkState": "lwm_fast.links",
    "link_state": "lwm_fast.links",
    "LWMEncoder": "lwm_fast.transformer",
    "InputError": "lwm_fast.errors",
    "LWMFastError": "lwm_fast.errors",
    "BackendUnavailableError": "lwm_fast.errors",
}
_MODULES = ("challenge", "data", "evaluation", "ops", "plots", "reference", "tasks", "training")

__all__ = [
    "LWM",
    "BackendUnavailableError",
    "Channels",
    "InputError",
    "LWMConfig",
    "LWMEncoder",
    "LWMFastError",
    "LinkState",
    "__version__",
    "accelerate",
    "challenge",
    "data",
    "detokenize",
    "evaluation",
    "finetune",
    "link_state",
    "load_channels",
    "ops",
    "plots",
    "reference",
    "tasks",
    "tokenize",
    "training",
    "use_backend",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"lwm_fast.{name}")
    if name in _WHERE:
        value = getattr(importlib.import_module(_WHERE[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'lwm_fast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
