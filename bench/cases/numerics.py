"""Errors of every path against float64 on the released weights (random ones where those are absent)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench import released
from bench.inputs import (
    CITIES,
    PLAIN_LIMIT,
    Settings,
    ceiling,
    channels,
    csi_of_size,
    different,
    golden,
    model,
    relative_error,
    shared_data,
    worst_user_error,
)
from bench.rows import Row
from bench.timing import DisagreementError
from lwm_fast import LWM, reference, tokenize
from lwm_fast.pooling import POOLS

_PRECISIONS = ("float32", "bfloat16", "float16")
_WORST_USER_LIMIT = 1e-5  # of one user's CLS; plain torch reaches 5.3e-6 on v1.0
_WORST_LOGITS_LIMIT = 5e-5  # weak users' logits are 250 times smaller than others'; plain torch: 2.4e-5
_RELEASE_LIMIT = 5e-6  # against the release's own float32 outputs
_CSI_LIMIT = 1e-5  # against the released generator, eight users together
_GOLDEN = {"1.0": ("v10_city_18_denver",), "1.1": ("v11_8x32", "v11_32x32", "v11_30x50")}

Error = tuple[str, float, float, str, str]  # arm, error, limit, precision, note


def run(settings: Settings) -> list[Row]:
    rows = []
    for version, names in _GOLDEN.items():
        for name in names[:1] if settings.quick else names:
            rows += _rows(version, name if shared_data() is not None else None, settings)
    return rows + ([] if shared_data() is None else _csi_rows())


def _rows(version: str, name: str | None, settings: Settings) -> list[Row]:
    fast, _, label = model(version)
    if name is None:
        csi, users = csi_of_size(32, 32, settings.pick(64, 4))
        z: dict[str, NDArray[Any]] = {}
    else:
        z = golden(f"golden_{name}")
        csi, users = z["raw"], f"golden {name}"
    num = settings.pick(len(csi), 4)
    csi = csi[:num]
    z = {key: value[:num] if len(value) == len(z["raw"]) else value for key, value in z.items()}
    tokens = reference.tokenize(torch.from_numpy(csi), version)
    exact = released.forward(released.twin(fast, torch.float64), tokens.double())
    found = [
        (
            "tokens",
            different(tokenize(csi, version), z.get("tokens", tokens)),
            0.0,
            "float32",
            "0 = bit-equal",
        )
    ]
    found += _forward_errors(fast, tokens, exact)
    found += _encode_errors(fast, csi, exact)
    found += _logit_errors(fast, tokens, z)
    output = next((z[key] for key in ("output", "output_pert") if key in z), None)
    if output is not None:
        with torch.no_grad():
            own = _output(fast, tokens)
        found.append(
            (
                "forward, output, to the release",
                relative_error(own, output),
                _RELEASE_LIMIT,
                "float32",
                "against its own float32",
            )
        )
    return [
        _row(error, f"{users}, {label}", version, csi.shape, threads=torch.get_num_threads())
        for error in found
    ]


def _output(model: LWM, tokens: torch.Tensor) -> torch.Tensor:
    result = model(tokens)
    output = result[1] if model.version == "1.0" else result[0]
    assert isinstance(output, torch.Tensor)
    return output


def _forward_errors(fast: LWM, tokens: torch.Tensor, exact: torch.Tensor) -> Iterator[Error]:
    with torch.no_grad():
        paths = {
            "plain torch": (released.forward(released.twin(fast), tokens), PLAIN_LIMIT),
            "forward": (_output(fast, tokens), ceiling(fast.version, "float32")),
        }
    for path, (output, limit) in paths.items():
        for part, value, right in (("output", output, exact), ("cls", output[:, 0], exact[:, 0])):
            yield f"{path}, {part}", relative_error(value, right), limit, "float32", ""
            yield (
                f"{path}, {part}, worst user",
                worst_user_error(value, right),
                _WORST_USER_LIMIT,
                "float32",
                "",
            )


def _encode_errors(fast: LWM, csi: NDArray[np.complex64], exact: torch.Tensor) -> Iterator[Error]:
    for precision in _PRECISIONS:
        limit = ceiling(fast.version, precision)
        for name, pool in POOLS.items():
            value, right = fast.encode(csi, pool=name, precision=precision), pool(exact)
            arm = f"encode, {name}"
            yield arm, relative_error(value, right), limit, precision, ""
            worst = _WORST_USER_LIMIT if precision == "float32" else 2 * limit
            yield f"{arm}, worst user", worst_user_error(value, right), worst, precision, ""


def _logit_errors(fast: LWM, tokens: torch.Tensor, z: dict[str, NDArray[Any]]) -> Iterator[Error]:
    """Masked inputs of the release where there are any, else the clean tokens at a few positions."""
    masked, positions, theirs = tokens, np.tile(np.arange(1, 6), (len(tokens), 1)), None
    if "rmask_pos" in z:
        masked, positions, theirs = torch.from_numpy(z["rmask_tokens"]), z["rmask_pos"], z["rmask_logits"]
    elif "mask_pos" in z:
        masked, positions, theirs = torch.from_numpy(z["mask_tokens"]), z["mask_pos"], z["mask_logits_pert"]
    where = torch.from_numpy(positions)
    note = "masked input"
    with torch.no_grad():
        exact = released.twin(fast, torch.float64)(masked.double(), where)[0]
        paths = {
            "plain torch": (released.twin(fast)(masked, where)[0], PLAIN_LIMIT),
            "forward": (fast(masked, where)[0], ceiling(fast.version, "float32")),
        }
    for path, (logits, limit) in paths.items():
        yield f"{path}, logits", relative_error(logits, exact), limit, "float32", note
        worst = worst_user_error(logits, exact)
        yield f"{path}, logits, worst user", worst, _WORST_LOGITS_LIMIT, "float32", note
    logits = paths["forward"][0]
    if theirs is not None:
        yield (
            "forward, logits, to the release",
            relative_error(logits, theirs),
            _RELEASE_LIMIT,
            "float32",
            "masked input, against the release's own float32",
        )


def _csi_rows() -> list[Row]:
    rows = []
    for city, name in CITIES.items():
        theirs = golden(f"labels_{name.removesuffix('_3p5')}")["channel_first8"]
        users, label = channels(city)
        error = (
            "load_channels, csi",
            relative_error(users[:8].csi, theirs),
            _CSI_LIMIT,
            "float32",
            "against the released generator",
        )
        rows.append(_row(error, label, "", theirs.shape))
    return rows


def _row(found: Error, label: str, version: str, shape: tuple[int, ...], threads: int | None = None) -> Row:
    arm, error, limit, precision, note = found
    if not error <= limit:
        raise DisagreementError(
            f"numerics: {arm} ({precision}, {label}) is off by {error:.3g}, allowed are {limit:.3g}"
        )
    return Row(
        case="numerics",
        arm=arm,
        unit="channel",
        version=version,
        num_antennas=shape[1],
        num_subcarriers=shape[2],
        batch=shape[0],
        threads=threads,
        precision=precision,
        error_vs_fp64=error,
        note="; ".join(text for text in (label, note, f"limit {limit:g}") if text),
    )
