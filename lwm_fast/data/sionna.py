"""Channels from Sionna's arrays, brought to the scale of DeepMIMO and LWM.

DeepMIMO's csi holds `sqrt(P / num_subcarriers)` per path where Sionna's frequency response holds `sqrt(P)`;
both functions divide by `sqrt(num_subcarriers)`, which makes the scale 1e6 right for LWM.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lwm_fast.data.channels import Channels
from lwm_fast.data.checks import validate, warn_about_scale
from lwm_fast.data.meta import LWM_SCALE, ChannelsMeta
from lwm_fast.data.rays import SUBCARRIER_SPACING
from lwm_fast.data.store import ArrayStore
from lwm_fast.errors import InputError


def from_sionna_cfr(
    h: npt.ArrayLike,
    *,
    tx: int | None = None,
    rx_antenna: int | None = None,
    symbol: int = 0,
    los: npt.ArrayLike | None = None,
    pos: npt.ArrayLike | None = None,
    carrier_frequency: float | None = None,
    empty: str = "drop",
) -> Channels:
    """Channels from a channel frequency response as `sionna.rt.Paths.cfr` or `cir_to_ofdm_channel` return it.

    Sionna's subcarriers are centred on the carrier while DeepMIMO's start at it. A frequency response cannot
    be moved without its delays, so the result is what DeepMIMO gives for a carrier half a bandwidth lower;
    `from_sionna_paths` has no such difference.

    Args:
        h: complex [num_rx, num_rx_ant, num_tx, num_tx_ant, num_symbols, num_subcarriers], or with a batch
            axis in front; batch and num_rx together are the users.
        tx: transmitter to take; needed when there are several.
        rx_antenna: receive antenna to take; needed when there are several.
        symbol: OFDM symbol (time step) to take.
        los, pos: as in `Channels`, one row per user.
        carrier_frequency: Hz, for the record.
        empty: what to do with users without a path: "drop", "keep" or "error".

    Raises:
        InputError: wrong rank or dtype; an index out of range or missing; NaN or Inf.
    """
    array = _complex_array("from_sionna_cfr: h", h)
    if array.ndim not in (6, 7):
        raise InputError(
            f"from_sionna_cfr: h has shape {array.shape}; it must be [num_rx, num_rx_ant, num_tx, "
            "num_tx_ant, num_symbols, num_subcarriers], with or without a batch axis in front"
        )
    array = array.reshape(-1, *array.shape[-5:])  # [users, rx_ant, tx, tx_ant, symbols, subcarriers]
    rx_antenna = _pick("rx_antenna", rx_antenna, array.shape[1])
    tx = _pick("tx", tx, array.shape[2])
    symbol = _pick("symbol", symbol, array.shape[4])
    csi = array[:, rx_antenna, tx, :, symbol, :]  # [users, tx_ant, subcarriers]
    return _finish(csi, los, pos, carrier_frequency, empty)


def from_sionna_paths(
    a: npt.ArrayLike,
    tau: npt.ArrayLike,
    *,
    num_subcarriers: int = 32,
    bandwidth: float | None = None,
    tx: int | None = None,
    rx_antenna: int | None = None,
    symbol: int = 0,
    los: npt.ArrayLike | None = None,
    pos: npt.ArrayLike | None = None,
    carrier_frequency: float | None = None,
    empty: str = "drop",
) -> Channels:
    """Channels from path gains and delays as `sionna.rt.Paths.cir(normalize_delays=False)` returns them.

    `H[m,k] = sum_p a_mp exp(-j 2 pi k tau_p B / SC) / sqrt(SC)` with k = 0 .. SC-1 as in DeepMIMO; paths with
    `tau B >= SC` and paths that Sionna marks as absent (tau < 0) are left out.

    Args:
        a: complex [num_rx, num_rx_ant, num_tx, num_tx_ant, num_paths, num_time_steps].
        tau: seconds, [num_rx, num_tx, num_paths] or [num_rx, num_rx_ant, num_tx, num_tx_ant, num_paths].
        num_subcarriers: subcarriers of the band.
        bandwidth: Hz; None means 30 kHz per subcarrier.
        tx, rx_antenna, symbol, los, pos, carrier_frequency, empty: as in `from_sionna_cfr`.

    Raises:
        InputError: shapes that do not match; an index out of range or missing; NaN or Inf.
    """
    gains = _complex_array("from_sionna_paths: a", a)
    delays = np.asarray(tau, dtype=np.float64)
    if gains.ndim != 6 or delays.ndim not in (3, 5):
        raise InputError(
            f"from_sionna_paths: a has shape {gains.shape} and tau {delays.shape}; they must be [num_rx, "
            "num_rx_ant, num_tx, num_tx_ant, num_paths, num_time_steps] and [num_rx, num_tx, num_paths] or "
            "[num_rx, num_rx_ant, num_tx, num_tx_ant, num_paths]"
        )
    rx_antenna = _pick("rx_antenna", rx_antenna, gains.shape[1])
    tx = _pick("tx", tx, gains.shape[2])
    symbol = _pick("symbol", symbol, gains.shape[5])
    gains = gains[:, rx_antenna, tx, :, :, symbol]  # [users, tx_ant, paths]
    delays = (
        delays[:, tx][:, None] if delays.ndim == 3 else delays[:, rx_antenna, tx]
    )  # [users, 1 or tx_ant, paths]
    if delays.shape[0] != gains.shape[0] or delays.shape[2] != gains.shape[2]:
        raise InputError(
            f"from_sionna_paths: a gives {gains.shape[0]} users with {gains.shape[2]} paths, tau "
            f"{delays.shape[0]} with {delays.shape[2]}; take both from one call of Paths.cir"
        )
    band = SUBCARRIER_SPACING * num_subcarriers if bandwidth is None else bandwidth
    samples = delays * band  # [users, 1 or tx_ant, paths]
    gains = np.where((delays >= 0) & (samples < num_subcarriers), gains, 0)
    phase = (-2j * np.pi / num_subcarriers) * samples[..., None] * np.arange(num_subcarriers)
    csi = np.einsum("uap,uapk->uak", gains, np.broadcast_to(np.exp(phase), (*gains.shape, num_subcarriers)))
    return _finish(csi, los, pos, carrier_frequency, empty)


def _finish(
    csi: npt.NDArray[Any],
    los: npt.ArrayLike | None,
    pos: npt.ArrayLike | None,
    carrier_frequency: float | None,
    empty: str,
) -> Channels:
    scaled = np.ascontiguousarray(csi / np.sqrt(csi.shape[-1]), dtype=np.complex64)
    meta = ChannelsMeta(
        source="Sionna arrays",
        format="sionna",
        carrier_frequency=carrier_frequency,
        scale=LWM_SCALE,
        num_users_total=len(scaled),
    )
    channels = validate(Channels(ArrayStore(scaled), los=los, pos=pos, meta=meta), empty)
    warn_about_scale(channels)
    return channels


def _complex_array(name: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    array = np.asarray(values)
    if array.dtype.kind != "c":
        raise InputError(f"{name} is {array.dtype}; it must be complex (Sionna's out_type='numpy')")
    return array


def _pick(name: str, index: int | None, size: int) -> int:
    if index is None and size == 1:
        return 0
    if index is None or not 0 <= index < size:
        raise InputError(f"{name}={index}: there are {size}; choose one with {name}=0..{size - 1}")
    return index
