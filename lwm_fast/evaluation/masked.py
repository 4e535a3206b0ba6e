"""Masked reconstruction: how well a model fills in hidden patches of channels, beside what needs no learning."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from lwm_fast import backends
from lwm_fast.data.mask import ACTION_KEPT, ACTION_NONE, check_ratio, draw_mask
from lwm_fast.errors import InputError
from lwm_fast.evaluation.pursuit import pursue
from lwm_fast.files import atomic_path
from lwm_fast.packed import PackedBatch
from lwm_fast.progress import Progress
from lwm_fast.scaling import scaled
from lwm_fast.tokens import detokenize, tokenize

if TYPE_CHECKING:
    from lwm_fast.data import Channels
    from lwm_fast.model import LWM

Float32Array: TypeAlias = npt.NDArray[np.float32]
Method: TypeAlias = Callable[["LWM", "Masked"], Float32Array]

_CHUNK = 256  # users whose tokens are held at once


@dataclass(frozen=True)
class MaskedScore:
    """What one method reached under one draw of masks.

    Attributes:
        method: "model", "neighbour" (the nearest visible patch, of the same antennas
            if there is one, is copied) or "pursuit" (see `pursuit.pursue`).
        seed: of the masks.
        users: scored.
        mask_ratio: share of the patches that are predicted.
        nmse: mean over users of error energy / energy of the predicted patches.
        nmse_db: 10 log10 of it.
        nmse_median: median over users.
        nmse_hidden: as `nmse`, over the patches that the model does not see: without those left as they are.
    """

    method: str
    seed: int
    users: int
    mask_ratio: float
    nmse: float
    nmse_db: float
    nmse_median: float
    nmse_hidden: float


@dataclass(frozen=True)
class Masked:
    """Some users with a mask.

    batch: as the model takes it, mask included; tokens: float32 [n, num_patches, patch_len], its patches before the
    mask; action: uint8 [n, num_patches]; size: (num_antennas, num_subcarriers).
    """

    batch: PackedBatch
    tokens: Float32Array
    action: npt.NDArray[np.uint8]
    size: tuple[int, int]


def masked_scores(
    model: LWM,
    channels: Channels,
    *,
    seeds: Sequence[int] = tuple(range(10)),
    mask_ratio: float | None = None,
    methods: Sequence[str] = ("model", "neighbour", "pursuit"),
    show_progress: bool | None = None,
) -> list[MaskedScore]:
    """Scores of every method under every draw of masks, in that order.

    Masks are those of pre-training: of the masked patches 80% are MASK, 10% random numbers and 10% stay as they
    are, and all of them are predicted. Baselines are told which patches are masked and see the others only; the
    model sees what training shows it (with `input_scale` "power" also the power of the whole channel).

    Args:
        model: its masked-patch head is used; weights as they are.
        channels: csi [n, num_antennas, num_subcarriers] of a size that the model takes.
        seeds: of the draws.
        mask_ratio: share of the patches; None is the version's own (v1.0 15%, v1.1 40%).
        methods: of `METHODS`. "pursuit" takes some 5 ms a user and is run for the first seed only.
        show_progress: as in `lwm_fast.progress.Progress`.

    Raises:
        InputError: no user, no seed, an unknown method, a ratio that masks no patch or all of them.
    """
    ratio = check_ratio(model.config.lwm_version, mask_ratio)
    for name in methods:
        if name not in METHODS:
            raise InputError(f"masked_scores: method {name!r} is unknown; there are: {', '.join(METHODS)}")
    if not len(channels) or not len(seeds):
        raise InputError(
            f"masked_scores: {len(channels)} users, {len(seeds)} seeds; give at least one of each"
        )
    rounds = [(name, seed) for name in methods for seed in (seeds[:1] if name == "pursuit" else seeds)]
    scores = []
    with Progress(len(rounds), "masked reconstruction", unit="rounds", show=show_progress) as bar:
        for name, seed in rounds:
            scores.append(_score(model, channels, name, seed, ratio))
            bar.update(1)
    return scores


def write_scores(scores: Sequence[MaskedScore], path: str | os.PathLike[str]) -> None:
    """A CSV with a row a score."""
    with atomic_path(Path(path)) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [part.name for part in fields(MaskedScore)])
        writer.writeheader()
        writer.writerows(asdict(score) for score in scores)


def masked_table(scores: Sequence[MaskedScore]) -> str:
    """Markdown: a line a method, mean and population sd over the seeds."""
    lines = [
        "| method | NMSE a user | in dB | median | hidden patches only | seeds | users |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in dict.fromkeys(score.method for score in scores):
        own = [score for score in scores if score.method == name]
        nmse = np.array([score.nmse for score in own])
        median, hidden = (
            float(np.mean([getattr(s, key) for s in own])) for key in ("nmse_median", "nmse_hidden")
        )
        spread = f" ± {nmse.std():.2g}" if len(own) > 1 else ""
        lines.append(
            f"| {name} | {nmse.mean():.4g}{spread} | {10 * np.log10(nmse.mean()):.1f} | {median:.4g} | {hidden:.4g} | "
            f"{len(own)} | {own[0].users} |"
        )
    return "\n".join(lines) + "\n"


def _score(model: LWM, channels: Channels, name: str, seed: int, ratio: float) -> MaskedScore:
    every: list[npt.NDArray[np.float64]] = []
    hidden: list[npt.NDArray[np.float64]] = []
    for start in range(0, len(channels), _CHUNK):
        part = _masked(model, channels[start : start + _CHUNK], start, seed, ratio)
        off = np.square(METHODS[name](model, part) - part.tokens, dtype=np.float64).sum(2)  # [n, num_patches]
        energy = np.square(part.tokens, dtype=np.float64).sum(2)
        chosen = part.action != ACTION_NONE
        for rows, kept in ((every, chosen), (hidden, chosen & (part.action != ACTION_KEPT))):
            rows.append(_ratios((off * kept).sum(1), (energy * kept).sum(1)))
    ratios, unseen = np.concatenate(every), np.concatenate(hidden)
    nmse = float(np.nanmean(ratios))
    decibel = float(10 * np.log10(nmse)) if nmse > 0 else float("-inf")
    return MaskedScore(
        name,
        seed,
        len(channels),
        ratio,
        nmse,
        decibel,
        float(np.nanmedian(ratios)),
        float(np.nanmean(unseen)),
    )


def _ratios(error: npt.NDArray[np.float64], energy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """error / energy, NaN where there is no energy: such users are left out of means."""
    ratios = np.full(len(error), np.nan)
    np.divide(error, energy, out=ratios, where=energy > 0)
    return ratios


def _masked(model: LWM, channels: Channels, first: int, seed: int, ratio: float) -> Masked:
    config, csi = model.config, channels.csi
    users = np.arange(first, first + len(csi), dtype=np.int64)
    batch = PackedBatch.from_samples(csi, config.lwm_version, scale=channels.meta.scale, sample_id=users)
    batch = scaled(batch, config.input_scale)
    plan = draw_mask(batch, seed=seed, epoch=0, mask_ratio=ratio)
    action = plan.action.reshape(len(csi), -1)[:, 1:]
    if not len(plan.masked_index) or not (action == ACTION_NONE).any():
        raise InputError(
            f"mask_ratio={ratio:g} masks {(action[0] != ACTION_NONE).sum()} of {action.shape[1]} patches; choose one "
            "that masks some and leaves some"
        )
    tokens = batch.tokens().numpy()[:, 1:]
    return Masked(replace(batch, mask=plan), tokens, action, (csi.shape[1], csi.shape[2]))


def _by_model(model: LWM, part: Masked) -> Float32Array:
    backend = backends.select(model.device, training=True, config=model.config)
    was = model.training
    model.eval()
    try:
        with torch.no_grad():
            predicted = backend.mcm(model, part.batch, None)[0].float().cpu().numpy()
    finally:
        model.train(was)
    assert part.batch.mask is not None
    filled = np.concatenate([np.zeros_like(part.tokens[:, :1]), part.tokens], 1)  # CLS in front
    filled.reshape(-1, filled.shape[2])[part.batch.mask.masked_index] = predicted
    return filled[:, 1:]


def _by_neighbour(model: LWM, part: Masked) -> Float32Array:
    order = _nearest(part.size, model.config.lwm_version)  # [P, P]
    visible = part.action == ACTION_NONE
    filled = part.tokens.copy()
    for user, seen in enumerate(visible):
        masked = np.flatnonzero(~seen)
        filled[user, masked] = part.tokens[user, order[masked, seen[order[masked]].argmax(1)]]
    return filled


def _nearest(size: tuple[int, int], version: str) -> npt.NDArray[np.int64]:
    """All patches in the order in which they stand in for each, int64 [P, P].

    Those of the same antennas first, since the phase turns less from subcarrier to subcarrier, then those of near
    antennas; among them the nearest in subcarriers. v1.0: real patches for real ones.
    """
    if version == "1.0":
        row, column = np.divmod(np.arange(size[0] * size[1] // 16) * 16, size[1])
        places = np.concatenate(
            [np.stack([row + 2 * half * size[0], column // 16]) for half in (0, 1)], axis=1
        )
    else:
        rows, columns = -(-size[0] // 4), -(-size[1] // 4)
        places = np.stack(np.divmod(np.arange(rows * columns), columns))
    antennas, subcarriers = np.abs(places[:, :, None] - places[:, None, :])
    return np.argsort(antennas * sum(size) + subcarriers, axis=1, kind="stable")


def _by_pursuit(model: LWM, part: Masked) -> Float32Array:
    version, size = model.config.lwm_version, part.size
    with_cls = np.zeros((len(part.tokens), part.tokens.shape[1] + 1, part.tokens.shape[2]), np.float32)
    with_cls[:, 1:] = part.tokens
    csi = detokenize(with_cls, *size, version, scale=1.0)
    with_cls[:, 1:] = (part.action == ACTION_NONE)[:, :, None]
    visible = detokenize(with_cls, *size, version, scale=1.0).real > 0
    guess = np.stack([pursue(one, seen) for one, seen in zip(csi, visible, strict=True)])
    return np.asarray(tokenize(guess, version, 1.0)[:, 1:])


METHODS: dict[str, Method] = {"model": _by_model, "neighbour": _by_neighbour, "pursuit": _by_pursuit}
