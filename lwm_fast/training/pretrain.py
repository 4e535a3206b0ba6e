"""`pretrain`: one command's worth of masked channel modelling, from a recipe and data to a run folder."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from lwm_fast.checkpoint import WeightsInfo
from lwm_fast.data import MCMLoader
from lwm_fast.packed import PackedBatch
from lwm_fast.progress import Progress
from lwm_fast.training.checkpoints import Checkpoints, writing
from lwm_fast.training.config import TrainConfig
from lwm_fast.training.cost import CostMeter
from lwm_fast.training.feed import Feed, Source
from lwm_fast.training.folder import RunFolder
from lwm_fast.training.init import initial_model
from lwm_fast.training.los_balance import LosBalance
from lwm_fast.training.records import LINKS, Records, decibel, links_row
from lwm_fast.training.schedule import Schedule
from lwm_fast.training.stopping import StopRequest
from lwm_fast.training.trainer import BucketScore, StepResult, Trainer, make_accelerator

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger("lwm_fast")

_DRAW_SECONDS = 60.0  # a picture takes about a second


class NonFiniteLossError(RuntimeError):
    """The loss or the gradient stopped being a number; the message names the saved batch."""


@dataclass(frozen=True)
class RunSummary:
    """What a call of `pretrain` did.

    step, total_steps: where the run stands; scores: the last validation, by bucket; stopped_by: the signal that
    ended it early, "max_steps", or None when the run is complete; samples_per_s: of this call's steps.
    """

    out: Path
    step: int
    total_steps: int
    scores: tuple[BucketScore, ...]
    stopped_by: str | None
    samples_per_s: float


def pretrain(
    config: TrainConfig,
    data: Source | Sequence[Source],
    out: str | Path,
    *,
    resume: bool = False,
    max_steps: int | None = None,
    cpu: bool = False,
    show_progress_bar: bool | None = None,
) -> RunSummary:
    """Pre-train an LWM by masked channel modelling and write everything about it into the folder `out`.

    Args:
        config: a recipe: ``TrainConfig.load("lwm-v1.1")``.
        data: stores of channels, as `ChannelStore` takes them.
        out: the run folder; ``out/model`` is what `LWM.from_pretrained` reads.
        resume: go on from the last checkpoint (or start, where there is none yet). The result equals an
            uninterrupted run's bit for bit on the CPU with equally many threads.
        max_steps: stop, saved, after this step; the schedule stays that of the whole run.
        cpu: train on the CPU even where there is a GPU.
        show_progress_bar: as for `Progress`.

    Launched by torchrun or ``accelerate launch`` every process calls this; together they do what one would.

    Raises:
        InputError: bad data or settings; a folder that holds a run already; a changed config, data or number
            of processes on resume; a checkpoint that cannot be written.
        NonFiniteLossError: after saving the offending batch.
    """
    accelerator = make_accelerator(config.run.precision, cpu)
    rank, world_size = accelerator.process_index, accelerator.num_processes
    folder = RunFolder(Path(out))
    if accelerator.is_main_process:
        folder.check(resume)
    feed = Feed(config, data, rank=rank, world_size=world_size, on_gpu=accelerator.device.type == "cuda")
    try:
        # What is wrong with the weights or the truth shows before a folder is begun: the next try may have its name.
        model = initial_model(config.model, config.auxiliary)
        balances = config.auxiliary.balance_los
        balance = LosBalance.of_store(feed.store, feed.sampler) if balances else None
        if accelerator.is_main_process:
            folder.begin(config, feed.store.fingerprint, world_size, torch.get_num_threads())
        accelerator.wait_for_everyone()
        trainer = Trainer(config, model, accelerator, balance)
        return _Run(config, feed, folder, accelerator, trainer).go(max_steps, show_progress_bar)
    finally:
        feed.close()


class _Run:
    """The loop: what happens after which step."""

    def __init__(
        self, config: TrainConfig, feed: Feed, folder: RunFolder, accelerator: Accelerator, trainer: Trainer
    ) -> None:
        self._config, self._feed, self._folder = config, feed, folder
        self._rank, self._main = accelerator.process_index, accelerator.is_main_process
        self._checkpoints = Checkpoints(folder.path / "checkpoints", writes=self._main)
        self._trainer, self._model = trainer, trainer.model
        self._schedule = Schedule(config.schedule, config.optimizer.lr, feed.sampler.steps(0))
        self._step, self._seconds = 0, 0.0
        self._best: dict[str, Any] | None = None
        self._scores: list[BucketScore] = []
        before = None
        if (state := self._checkpoints.load(self._model)) is not None:
            self._trainer.load_state_dict(state["trainer"])
            feed.loader.load_state_dict(state["data"])
            self._step, self._seconds, self._best = state["step"], state["seconds"], state["best"]
            before = state.get("cost")  # runs begun by an earlier version have none
            logger.info("resuming after step %d of %d", self._step, self._schedule.total)
        self._cost = CostMeter(before)
        with writing(folder.path):
            self._records = Records(
                folder.path, after=self._step, tensorboard=config.run.tensorboard
            ) if self._main else None  # fmt: skip

    def go(self, max_steps: int | None, show: bool | None) -> RunSummary:
        """Steps until the schedule's end, max_steps or a signal."""
        total, first, before = self._schedule.total, self._step, self._seconds
        last = min(total, max_steps or total)
        stopped_by, samples = None, 0
        window = _Window(self._feed.loader)
        show = show if self._main else False
        started = time.perf_counter()
        try:
            with (
                StopRequest() as stop,
                Progress(total, "pre-training", unit="steps", show=show, done=first) as bar,
            ):
                for batch in self._batches() if first < last else ():
                    lr = self._schedule.rate(self._step, _epoch(batch))
                    result = self._trainer.step(batch, _epoch(batch), lr, stop=stop.asked is not None)
                    if not result.finite:
                        self._stop_on(batch, result)
                    self._step += 1
                    samples += result.samples
                    self._seconds = before + time.perf_counter() - started
                    window.add(batch, result)
                    if self._step % self._config.run.log_every == 0 or self._step == last:
                        self._record(window.row(self._step, lr, self._seconds))
                    with window.paused():
                        self._after_step(_epoch(batch))
                    bar.update(1)
                    if result.stop:
                        stopped_by = stop.asked or "a signal to another process"
                    if self._step >= last or stopped_by:
                        break
            if self._step > first:
                self._save(best=False)  # nothing to do where the last step was saved
        finally:
            if self._records is not None:
                self._records.close()
        if self._main:
            self._folder.draw_curves()
        if stopped_by is None and self._step < total:
            stopped_by = "max_steps"
        seconds = self._seconds - before
        rate = samples / seconds if seconds else 0.0
        return RunSummary(self._folder.path, self._step, total, tuple(self._scores), stopped_by, rate)

    def _batches(self) -> Iterator[PackedBatch]:
        while True:
            yield from self._feed.loader  # the rest of an epoch

    def _after_step(self, epoch: int) -> None:
        run, ended = self._config.run, self._feed.sampler.step == 0  # the next batch opens an epoch
        due = ended if run.validate_every is None else self._step % run.validate_every == 0
        if due or self._step == self._schedule.total:
            self._save(best=self._validate(epoch))
        elif self._step % run.checkpoint_every == 0:
            self._save(best=False)

    def _validate(self, epoch: int) -> bool:
        """Score every bucket; whether their mean NMSE [dB] is the best so far, or only heads learn."""
        self._scores = self._trainer.validate(self._feed.validation_batches())
        if not self._scores:
            return False
        mean = sum(decibel(score.nmse) for score in self._scores) / len(self._scores)
        if self._records is not None:
            with writing(self._folder.path):
                self._records.validation(self._step, epoch, self._scores)
            self._folder.draw_curves(at_most_every=_DRAW_SECONDS)
        logger.info(
            "step %d of %d: validation NMSE %s", self._step, self._schedule.total,
            ", ".join(f"{decibel(s.nmse):.2f} dB ({s.seq_len} tokens)" for s in self._scores),
        )  # fmt: skip
        only_heads = self._config.auxiliary.heads_only  # NMSE stays, and the last heads are the best
        better = self._best is None or mean < self._best["nmse_db"] or only_heads
        if better:
            self._best = {"step": self._step, "nmse_db": mean}
        return better

    def _save(self, *, best: bool) -> None:
        if not self._main:
            return
        self._model.weights_info = WeightsInfo(f"lwm_fast pre-training, step {self._step}", "", "none")
        cost = self._cost.read()
        state = {
            "step": self._step,
            "seconds": self._seconds,
            "best": self._best,
            "cost": cost,
            "trainer": self._trainer.state_dict(),
            "data": self._feed.loader.state_dict(),
        }
        last = self._checkpoints.save(self._model, state, best=best)
        self._folder.export(self._checkpoints.path("best") or last)
        self._folder.summarise(self._step, self._schedule.total, self._seconds, cost)

    def _record(self, row: dict[str, Any]) -> None:
        if self._records is not None:
            with writing(self._folder.path):
                self._records.metrics(row)

    def _stop_on(self, batch: PackedBatch, result: StepResult) -> NoReturn:
        bad_loss, saved = not math.isfinite(result.loss), ""
        what = f"the loss is {result.loss}" if bad_loss else "the gradient is not finite"
        if not (result.own_finite and bad_loss):
            saved = f"; the batch is in {self._folder.save_batch(batch, self._step, self._rank)}"
        raise NonFiniteLossError(
            f"step {self._step} (epoch {_epoch(batch)}): {what}{saved}; the step was not taken and the last "
            "checkpoint is sound: look at the batch, lower optimizer.lr or set optimizer.clip_norm"
        )


def _epoch(batch: PackedBatch) -> int:
    assert batch.mask is not None  # the collator draws one
    return batch.mask.epoch


class _Window:
    """Means over the steps that a row of metrics.csv covers."""

    def __init__(self, loader: MCMLoader) -> None:
        self._loader = loader
        self._clear()

    def _clear(self) -> None:
        self._results: list[StepResult] = []
        self._epoch = 0
        self._started, self._waited = time.perf_counter(), self._loader.wait_s

    def add(self, batch: PackedBatch, result: StepResult) -> None:
        self._results.append(result)
        self._epoch = _epoch(batch)

    def _links(self) -> dict[str, float | None]:
        """Means of the steps' link losses and scores; None without link heads."""
        scored = [r for r in self._results if r.links is not None and r.link_loss is not None]
        names = ("link_loss", *LINKS)
        if not scored:
            return dict.fromkeys(names)
        rows = [{"link_loss": r.link_loss, **links_row(r.links)} for r in scored]
        return {name: sum(row[name] or 0.0 for row in rows) / len(rows) for name in names}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Rates are those of training: validation and checkpoints do not count."""
        begun = time.perf_counter()
        yield
        self._started += time.perf_counter() - begun

    def row(self, step: int, lr: float, seconds: float) -> dict[str, Any]:
        """The row, and a new window."""
        took, count = time.perf_counter() - self._started, len(self._results)
        channels, tokens = (sum(getattr(r, name) for r in self._results) for name in ("samples", "tokens"))
        row = {
            "step": step,
            "epoch": self._epoch,
            "loss": sum(r.loss for r in self._results) / count,
            "nmse_db": decibel(sum(r.nmse for r in self._results) / count),
            "grad_norm": sum(r.grad_norm for r in self._results) / count,
            "lr": lr,
            "channels": channels,
            "tokens": tokens,
            "channels_per_s": channels / took,
            "tokens_per_s": tokens / took,
            "data_wait": (self._loader.wait_s - self._waited) / took,
            "seconds": seconds,
            **self._links(),
        }
        self._clear()
        return row
