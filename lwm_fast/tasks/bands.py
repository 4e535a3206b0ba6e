"""The same users at two bands: inputs of one scenario folder, labels of another."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lwm_fast.data import Channels
from lwm_fast.data.checks import name_users
from lwm_fast.errors import InputError

_POSITION_TOLERANCE = 0.01  # metres


def match_users(inputs: Channels, labels: Channels) -> Channels:
    """The label band's channels of the inputs' users, in the inputs' order.

    Users are the same where `user_index` is; positions and base station are checked where both bands have them.
    Match cities one by one and concatenate afterwards: joined cities repeat their numbers. Channels that are
    in the same order already (equal `user_index`) are only checked.

    Raises:
        InputError: another base station; users without a channel at the label band; users whose positions
            differ; repeated numbers; sources of different size and nothing but the row to match by.
    """
    place = f"{labels.meta.source} does not match {inputs.meta.source}"
    _check_base_station(inputs, labels, place)
    ordered = np.array_equal(inputs.user_index, labels.user_index)
    matched = labels if ordered else labels[_rows(inputs, labels, place)]
    if inputs.pos is None or matched.pos is None:
        totals = inputs.meta.num_users_total, labels.meta.num_users_total
        if totals[0] != totals[1]:
            raise InputError(
                f"{place}: no positions to check by, and the sources have {totals[0]} and {totals[1]} users; "
                "give both bands of one scenario, or pos for both"
            )
        return matched
    distance = np.linalg.norm(inputs.pos.astype(np.float64) - matched.pos, axis=1)
    wrong = np.flatnonzero(~(distance <= _POSITION_TOLERANCE))
    if wrong.size:
        raise InputError(
            f"{place}: {wrong.size} of {len(inputs)} users stand elsewhere, {distance[wrong[0]]:.3g} m apart "
            f"for {name_users(inputs.user_index[wrong[:1]])}; give the two bands of one scenario"
        )
    return matched


def _check_base_station(inputs: Channels, labels: Channels, place: str) -> None:
    numbers = inputs.meta.base_station, labels.meta.base_station
    if None not in numbers and numbers[0] != numbers[1]:
        raise InputError(
            f"{place}: base station {numbers[0]} for the inputs and {numbers[1]} for the labels; load both "
            "with one base_station="
        )
    places = inputs.meta.base_station_pos, labels.meta.base_station_pos
    if None not in places:
        distance = float(np.linalg.norm(np.subtract(*places)))  # type: ignore[arg-type]
        if not distance <= _POSITION_TOLERANCE:
            raise InputError(
                f"{place}: the base stations stand {distance:.3g} m apart; give the two bands of one scenario"
            )


def _rows(inputs: Channels, labels: Channels, place: str) -> npt.NDArray[np.int64]:
    order = np.argsort(labels.user_index, kind="stable")
    known = labels.user_index[order]
    for name, index in (("inputs", np.sort(inputs.user_index)), ("labels", known)):
        repeated = index[1:][index[1:] == index[:-1]]
        if repeated.size:
            raise InputError(
                f"{place}: user {repeated[0]} occurs more than once in the {name}; match each city alone and "
                "concatenate afterwards"
            )
    spots = np.searchsorted(known, inputs.user_index)
    found = spots < known.size
    found[found] = known[spots[found]] == inputs.user_index[found]
    if not found.all():
        missing = inputs.user_index[~found]
        raise InputError(
            f"{place}: no channel at the label band for {missing.size} of {len(inputs)} users "
            f"({name_users(missing)}); give the two bands of one scenario, or leave these users out: "
            "inputs[np.isin(inputs.user_index, labels.user_index)]"
        )
    return np.asarray(order[spots])
