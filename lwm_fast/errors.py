"""The exceptions of lwm_fast. Every message names the value, the place and the remedy."""

from __future__ import annotations


class LWMFastError(Exception):
    """Base class of all errors raised on purpose by lwm_fast."""


class InputError(LWMFastError, ValueError):
    """Data, weights, paths or arguments that cannot be used as they are (command line: exit code 2)."""


class BackendUnavailableError(LWMFastError, RuntimeError):
    """A backend was asked for by name and cannot run here; the message holds the reason."""
