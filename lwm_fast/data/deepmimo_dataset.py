"""DeepMIMO v4 `Dataset` and `MacroDataset` objects that are already loaded, recognised by what they offer."""

from __future__ import annotations

from typing import Any

import numpy as np

from lwm_fast.data.channels import Channels
from lwm_fast.data.deepmimo_v4 import channels_from_v4
from lwm_fast.data.meta import ChannelsMeta
from lwm_fast.data.scenarios import choose_base_station
from lwm_fast.data.source import Opened, ReadOptions
from lwm_fast.errors import InputError

_ARRAYS = ("power", "phase", "delay", "aod_az", "aod_el", "aoa_az", "aoa_el", "inter", "rx_pos", "tx_pos")


def is_dataset(source: object) -> bool:
    """True for objects with DeepMIMO's path arrays, and for collections of them."""
    children = _children(source)
    return bool(children) and all(
        _get(child, name) is not None for child in children for name in ("power", "phase", "delay", "aod_az")
    )


def open_dataset(dataset: Any, options: ReadOptions) -> Opened:
    """Channels of one transmitter of a loaded dataset.

    Base stations are numbered 1, 2, ... in order of transmitter set and point; receiver sets of one
    transmitter follow one another. The array and band come from `options`, not from the dataset's
    `ch_params`.

    Raises:
        InputError: a time-varying dataset; channel parameters that rays alone do not give.
    """
    options.check_for_rays("DeepMIMO dataset")
    if type(dataset).__name__ == "DynamicDataset":
        raise InputError(
            "DeepMIMO dataset: it holds several scenes; give one of them, for example dataset[0]"
        )
    stations: dict[tuple[int, int], list[Any]] = {}
    for position, child in enumerate(_children(dataset)):
        _refuse_unconfirmed(child)
        txrx = _get(child, "txrx")
        key = (0, position) if txrx is None else (int(txrx["tx_set_id"]), int(txrx["tx_idx"]))
        stations.setdefault(key, []).append(child)
    ordered = sorted(stations)
    described = {i: f"set {key[0]}, point {key[1]}" for i, key in enumerate(ordered, start=1)}
    name = str(_get(_children(dataset)[0], "name") or "dataset")
    number = choose_base_station(described, options.base_station, name, f"DeepMIMO dataset {name}")
    chosen = stations[ordered[number - 1]]
    parts = [
        {key: np.asarray(value) for key in _ARRAYS if (value := _get(child, key)) is not None}
        for child in chosen
    ]
    rt_params = _get(chosen[0], "rt_params")
    frequency = None if rt_params is None else _get(rt_params, "frequency")
    meta = ChannelsMeta(
        source=name,
        format="deepmimo_v4_dataset",
        carrier_frequency=None if frequency is None else float(frequency),
        base_station=number,
    )
    channels: Channels = channels_from_v4(parts, meta, options)
    return Opened(channels, empty="drop")


def _children(source: Any) -> list[Any]:
    children = _get(source, "datasets")
    return list(children) if isinstance(children, list) else [source]


def _get(source: Any, name: str) -> Any:
    """Item or attribute; DeepMIMO raises KeyError where Python expects AttributeError."""
    if isinstance(source, dict):
        return source.get(name)
    try:
        return getattr(source, name)
    except (AttributeError, KeyError):
        return None


def _refuse_unconfirmed(dataset: Any) -> None:
    """Channel parameters whose effect on csi is not reproduced from rays here are refused, not ignored."""
    params = _get(dataset, "ch_params")
    if params is None:
        return
    bs, ue, ofdm = (_get(params, name) or {} for name in ("bs_antenna", "ue_antenna", "ofdm"))
    found = {
        "bs_antenna.radiation_pattern": _get(bs, "radiation_pattern") not in (None, "isotropic"),
        "ue_antenna.radiation_pattern": _get(ue, "radiation_pattern") not in (None, "isotropic"),
        "ue_antenna.shape": int(np.prod(_get(ue, "shape") if _get(ue, "shape") is not None else 1)) != 1,
        "ofdm.rx_filter": bool(_get(ofdm, "rx_filter")),
        "doppler": bool(_get(params, "doppler")),
    }
    for name, is_set in found.items():
        if is_set:
            raise InputError(
                f"DeepMIMO dataset: ch_params.{name} is set, which is not built from rays here; pass the "
                "finished channels as an array: load_channels(dataset.channel[:, 0])"
            )
