"""The challenge's limits on what is trained for a task."""

from __future__ import annotations

from lwm_fast.errors import InputError

HEAD_LIMIT = 100_000  # parameters of a task's head
TOTAL_LIMIT = 3_000_000  # parameters trained for a task, encoder and head


def check_limits(task: str, head: int, trainable: int) -> None:
    """Check parameter counts of one task.

    Args:
        task: its name, for the error.
        head: parameters of the head.
        trainable: parameters trained, those of the encoder and of the head together.

    Raises:
        InputError: a count beyond its limit; names it.
    """
    if head > HEAD_LIMIT:
        raise InputError(
            f"challenge, {task}: the head has {head:,} parameters, the limit is {HEAD_LIMIT:,}; use a smaller one"
        )
    if trainable > TOTAL_LIMIT:
        raise InputError(
            f"challenge, {task}: {trainable:,} parameters are trained, the limit is {TOTAL_LIMIT:,}; freeze more "
            "of the encoder"
        )
