"""The exceptions of lwm_fast. Every message names the value, the place and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LWMFastError(Exception):
    """Base class of all errors raised on purpose by lwm_fast."""


class InputError(LWMFastError, ValueError):
    """Data, weights, paths or arguments that cannot be used as they are (command line: exit code 2)."""


class BackendUnavailableError(LWMFastError, RuntimeError):
    """A backend was asked for by name and cannot run here; the message holds the reason."""


def nearest(name: str, known: Iterable[str], what: str = "there are") -> str:
    """The hint of an error on an unknown name: the one that is meant if one is near, else all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"{what}: {', '.join(names)}"
