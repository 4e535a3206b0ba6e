"""Linear minimum-mean-square-error estimation of csi, with covariances from training users."""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt

from lwm_fast.errors import InputError
from lwm_fast.tasks.base import Examples, Rows
from lwm_fast.tasks.classical.covariance import Covariance, FullCovariance, KroneckerCovariance
from lwm_fast.tasks.classical.linear import comb_axes
from lwm_fast.tasks.noise import user_snr_db
from lwm_fast.tasks.reconstruction import finish, observed_rms

Float64Array = npt.NDArray[np.float64]

LARGEST_FULL = 2048  # entries of a channel whose full covariance is still made
_WHITE = (1e-9, 1e-7, 1e-5, 1e-3, 1e-2, 0.1, 0.3)  # shares of the covariance
_FOLDS = 5
_FEW = 100  # training users
_USERS_AT_ONCE = 1024


def lmmse(examples: Examples, train: Rows) -> npt.NDArray[np.complex64]:
    """LMMSE estimates of all users: R_xy (R_yy + noise)^-1 y, at each user's own level and known ratio.

    The covariance R is that of the training users' csi at unit power. It is either the Kronecker product of
    antenna and subcarrier covariance, or the full sample covariance with a tenth of that product mixed in. Which
    of them, and how much of R is taken to be white against its errors, is chosen on held-out training users: each
    in turn where there are fewer than 100, and the product alone is tried; a fifth of them otherwise. The chosen
    form is then fitted on all. Above 2,048 entries it is the product; below 5 training users 0.1 is white.

    Args:
        examples: of interpolation or estimation.
        train: int64 [m], users whose targets make the covariance, at least 1.

    Returns:
        complex64 [n, num_antennas, num_subcarriers].

    Raises:
        InputError: users of whom nothing is observed; pilots that are no comb.
    """
    csi, targets = examples.channels.csi, examples.targets
    axes = _axes(examples)
    level = observed_rms(examples).astype(np.float64)
    if not level.all():
        silent = examples.channels.user_index[int(np.argmin(level))]
        raise InputError(f"lmmse: nothing is observed of user {silent}; leave out users without a path")
    noise = _noise_share(examples)  # [n], of what is observed
    pilots = csi[:, axes[0][:, None], axes[1]]
    pilots = np.asarray(pilots / level[:, None, None], np.complex64)
    shapes = _unit_power(targets[train])
    kind, white = _choose(shapes, pilots[train], level[train], noise[train], targets[train], axes)
    covariance = kind(shapes, *axes)
    estimates = np.empty(csi.shape, np.complex64)
    for start in range(0, len(csi), _USERS_AT_ONCE):
        rows = slice(start, start + _USERS_AT_ONCE)
        shape = covariance.estimate(pilots[rows], 1 - noise[rows], noise[rows], white)
        estimates[rows] = shape * level[rows, None, None]
    return finish(examples, estimates)


def _choose(
    shapes: npt.NDArray[np.complex64],
    pilots: npt.NDArray[np.complex64],
    level: Float64Array,
    noise: Float64Array,
    targets: npt.NDArray[np.complex64],
    axes: tuple[Rows, Rows],
) -> tuple[type[Covariance], float]:
    """The form of covariance and its white share with the least mean NMSE on held-out training users."""
    users = len(shapes)
    if users < _FOLDS:
        return KroneckerCovariance, 0.1
    few = users < _FEW
    kinds: list[type[Covariance]] = [KroneckerCovariance]
    if not few and shapes[0].size <= LARGEST_FULL:
        kinds.append(FullCovariance)
    truth = targets / level[:, None, None]
    energy = np.square(np.abs(truth)).sum((1, 2))
    errors: dict[tuple[type[Covariance], float], float] = dict.fromkeys(product(kinds, _WHITE), 0.0)
    for fold in range(_FOLDS if few else 1):
        held = np.arange(users) % _FOLDS == fold
        for kind in kinds:
            covariance = kind(shapes[~held], *axes)
            for white in _WHITE:
                estimate = covariance.estimate(pilots[held], 1 - noise[held], noise[held], white)
                off = np.square(np.abs(estimate - truth[held])).sum((1, 2))
                errors[kind, white] += float((off / energy[held]).sum())
    return min(errors, key=lambda choice: errors[choice])


def _axes(examples: Examples) -> tuple[Rows, Rows]:
    if examples.observed is not None:
        return comb_axes(examples.observed)
    _, num_antennas, num_subcarriers = examples.channels.shape
    return np.arange(num_antennas), np.arange(num_subcarriers)


def _noise_share(examples: Examples) -> Float64Array:
    """Noise power over the power that is observed (signal and noise), float64 [n]; 0 for clean pilots."""
    users = examples.channels.user_index
    if examples.task == "estimation":
        low, high = _fact(examples, "snr_db_low"), _fact(examples, "snr_db_high")
        ratio = user_snr_db(low, high, users, int(_fact(examples, "noise_seed"))).astype(np.float64)
    elif examples.facts.get("snr_db") is None:
        return np.zeros(len(users))
    else:
        ratio = np.full(len(users), _fact(examples, "snr_db"), np.float64)
    return np.asarray(1.0 / (1.0 + 10.0 ** (ratio / 10.0)))


def _fact(examples: Examples, name: str) -> float:
    value = examples.facts.get(name)
    if not isinstance(value, int | float):
        raise InputError(f"lmmse: {examples.task} examples without the fact {name!r}; let the task make them")
    return value


def _unit_power(csi: npt.NDArray[np.complex64]) -> npt.NDArray[np.complex64]:
    power = np.square(np.abs(csi.astype(np.complex128))).mean((1, 2))
    return np.asarray(csi / np.sqrt(power)[:, None, None], np.complex64)
