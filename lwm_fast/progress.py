"""Progress of long work: a bar on a terminal, plain log lines elsewhere, nothing for short work."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

logger = logging.getLogger("lwm_fast")

_SILENT_SECONDS = 2.0  # work shorter than this shows nothing
_LINE_SECONDS = 20.0  # between two log lines


class Progress:
    """``with Progress(total, "embedding") as p: p.update(n)``.

    show: True or False; None shows a bar when standard error is a terminal and log lines (level INFO of the
    logger "lwm_fast") otherwise.
    """

    def __init__(
        self, total: int, what: str, *, unit: str = "channels", show: bool | None = None, done: int = 0
    ) -> None:
        self._total, self._what, self._unit = total, what, unit
        self._show = show
        self._done = self._before = done
        self._started = self._last_line = time.monotonic()
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Progress:
        terminal = sys.stderr is not None and sys.stderr.isatty()
        if self._show or (self._show is None and terminal):
            delay = 0.0 if self._show else _SILENT_SECONDS
            unit = f" {self._unit}"
            self._bar = tqdm(
                total=self._total,
                desc=self._what,
                unit=unit,
                initial=self._done,
                delay=delay,
                dynamic_ncols=True,
            )
        return self

    def update(self, count: int) -> None:
        """``count`` more items are done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._show is None and time.monotonic() - self._last_line > _LINE_SECONDS:
            self._last_line = time.monotonic()
            rate = (self._done - self._before) / (self._last_line - self._started)
            left = (self._total - self._done) / rate if rate else float("inf")
            logger.info(
                "%s: %d of %d %s (%.0f%%), %.1f/s, %.0f s left",
                self._what, self._done, self._total, self._unit, 100 * self._done / self._total, rate, left,
            )  # fmt: skip

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
