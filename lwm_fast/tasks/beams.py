"""Beam prediction: which beam of a codebook serves the user best, at the same band or at another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from lwm_fast.data import Channels
from lwm_fast.errors import InputError
from lwm_fast.tasks.bands import match_users
from lwm_fast.tasks.base import Examples, Fact
from lwm_fast.tasks.facts import channel_facts
from lwm_fast.tasks.kinds import Classification

CODEBOOKS = ("lwm", "half-open")
_MOST_BEAMS = 1800  # beyond, the release's grid of angles runs past +90 degrees
_DBM = 30.0  # dBW to dBm, as the release counts


@dataclass(frozen=True)
class BeamTask(Classification):
    """Best beam from csi (LWM paper, Fig. 3).

    Args:
        num_beams: 2 to 1800; the paper has 16, 32, 64, 128, 256.
        codebook: "lwm", the release's grid from -90 to +90 degrees with both ends, which are one and the same
            beam of a half-wavelength array, so that the last class stays empty; or "half-open" without +90.
        label_channels: channels of another band (28 GHz) for the labels, matched by `match_users`; None
            labels the input channels themselves.

    Raises:
        InputError: num_beams or codebook as above.
    """

    num_beams: int = 64
    codebook: str = "lwm"
    label_channels: Channels | None = field(default=None, repr=False)

    name: ClassVar[str] = "beams"

    def __post_init__(self) -> None:
        beam_angles(self.num_beams, self.codebook)

    def examples(self, channels: Channels) -> Examples:
        """Inputs and targets int64 [n] of the users with a path at the label band.

        Raises:
            InputError: users that do not match between the bands; panels; no user with a path.
        """
        labels = channels
        if self.label_channels is not None:
            labels = match_users(channels, self.label_channels)
        targets = best_beams(labels, self.num_beams, self.codebook)
        kept = targets >= 0
        if not kept.any():
            raise InputError(
                f"beams: no user of {labels.meta.source} has a path; choose another base station"
            )
        facts: dict[str, Fact] = {"codebook": self.codebook, "num_beams": self.num_beams}
        facts |= channel_facts(channels) | channel_facts(labels, "label_")
        return Examples(
            task=self.name,
            kind=self.kind,
            channels=channels if kept.all() else channels[kept],
            targets=targets[kept],
            classes=tuple(f"{angle:g}" for angle in beam_angles(self.num_beams, self.codebook)),
            facts=facts,
        )


def beam_angles(num_beams: int, codebook: str = "lwm") -> npt.NDArray[np.float64]:
    """Azimuths of the beams from the array's broadside, degrees, float64 [num_beams].

    Rounded to 0.01 degrees, as the release does.

    Raises:
        InputError: fewer than 2 or more than 1800 beams; an unknown codebook.
    """
    if codebook not in CODEBOOKS:
        raise InputError(f"codebook={codebook!r}: choose one of {', '.join(CODEBOOKS)}")
    if not 2 <= num_beams <= _MOST_BEAMS:
        raise InputError(f"num_beams={num_beams!r}: give 2 to {_MOST_BEAMS}; the paper has 16 to 256")
    if codebook == "lwm":
        return np.round(np.arange(-90, 90 + 0.1, 180 / (num_beams - 1)), 2)
    return np.round(-90 + np.arange(num_beams) * (180 / num_beams), 2)


def beam_codebook(
    num_antennas: int, num_beams: int, codebook: str = "lwm", *, spacing: float = 0.5
) -> npt.NDArray[np.complex128]:
    """Steering vectors `exp(2j pi spacing m sin(angle)) / sqrt(N)`, complex128 [num_beams, num_antennas]."""
    sines = np.sin(beam_angles(num_beams, codebook) * np.pi / 180)
    phase = 2 * np.pi * spacing * np.arange(num_antennas) * sines[:, None]
    return np.asarray(np.exp(1j * phase) / np.sqrt(num_antennas))


def beam_powers(
    channels: Channels, num_beams: int, codebook: str = "lwm", *, decimals: int | None = None
) -> npt.NDArray[np.float64]:
    """Response of every beam to every user in dBm for 1 W, float64 [n, num_beams]; -inf without a path.

    `20 log10 |mean over subcarriers of F @ H| + 30`, F without conjugate, as the release has it.

    Args:
        channels: a line of antennas; csi complex64 [n, num_antennas, num_subcarriers], before the scale.
        num_beams, codebook: as in `BeamTask`.
        decimals: round to so many; the release's labels round to 1.

    Raises:
        InputError: a panel of antennas, or what `beam_angles` refuses.
    """
    geometry = channels.geometry
    if geometry is not None and geometry.panel[1] > 1:
        raise InputError(
            f"beams: {channels.meta.source} is seen by a panel {geometry.panel}; the codebook is for a line of "
            "antennas: channels.with_geometry(num_antennas=N)"
        )
    spacing = 0.5 if geometry is None else geometry.spacing
    beams = beam_codebook(channels.shape[1], num_beams, codebook, spacing=spacing)
    powers = np.empty((len(channels), num_beams))
    start = 0
    for csi in channels.iter_csi():  # [chunk, N, SC]
        mean = csi.mean(axis=2, dtype=np.complex128)  # [chunk, N]; the mean of F @ H is F @ the mean of H
        part = powers[start : start + len(csi)]
        with np.errstate(divide="ignore"):  # users without a path: -inf
            part[:] = 20 * np.log10(np.abs(mean @ beams.T)) + _DBM
        if decimals is not None:
            np.round(part, decimals, out=part)
        start += len(csi)
    return powers


def best_beams(channels: Channels, num_beams: int, codebook: str = "lwm") -> npt.NDArray[np.int64]:
    """Number of the strongest beam of each user, int64 [n]; -1 for users without a path.

    Powers are rounded to 0.1 dB first and the first of equals wins. This is the release's rule, and it
    matters: the plain argmax agrees with it for 98% of Denver's users at 16 beams and for 71% at 256 (28 GHz).
    """
    powers = beam_powers(channels, num_beams, codebook, decimals=1)
    best: npt.NDArray[np.int64] = powers.argmax(axis=1).astype(np.int64)
    best[np.isneginf(powers.max(axis=1))] = -1
    if channels.los is not None:
        best[channels.los < 0] = -1
    return best
