"""Classical methods that learned ones stand beside in every table: LS, linear interpolation, LMMSE, PCA, DFT.

    predictions = classical.predict("lmmse", examples, split.train)   # complex64, all users

What a method fits (covariances, bases, quantisers) it fits on the targets of the training users alone.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lwm_fast.errors import InputError
from lwm_fast.tasks.base import Examples, Rows
from lwm_fast.tasks.classical.angle_delay import AngleDelayCodec
from lwm_fast.tasks.classical.linear import interpolate
from lwm_fast.tasks.classical.pca import PcaCodec
from lwm_fast.tasks.classical.wiener import lmmse

__all__ = ["BASELINES", "AngleDelayCodec", "PcaCodec", "interpolate", "lmmse", "predict"]

BASELINES: dict[str, tuple[str, ...]] = {
    "interpolation": ("zero", "linear", "lmmse"),
    "estimation": ("ls", "lmmse"),
    "compression": ("pca", "dft"),
}
"""Names of the methods by task."""


def predict(name: str, examples: Examples, train: Rows) -> npt.NDArray[np.complex64]:
    """csi of all users by a classical method.

    Args:
        name: "zero" (interpolation: what is not observed is 0), "linear" (see `interpolate`), "ls" (estimation:
            the noisy csi itself, the least-squares estimate with one known pilot an entry), "lmmse" (see `lmmse`),
            "pca" and "dft" (compression, within the task's bits: `PcaCodec`, `AngleDelayCodec`).
        examples: of a reconstruction task.
        train: int64 [m], the users whose targets may be looked at.

    Returns:
        complex64 [n, num_antennas, num_subcarriers].

    Raises:
        InputError: a name that is none of the task's, no training users, users of whom nothing is observed.
    """
    known = BASELINES.get(examples.task, ())
    if name not in known:
        raise InputError(
            f"baseline {name!r} is none of task {examples.task!r}; there are: {', '.join(known) or 'none'}"
        )
    if name in ("pca", "dft", "lmmse") and len(train) == 0:
        raise InputError(f"baseline {name!r} of {examples.task}: no training users; it is fitted on theirs")
    csi = examples.channels.csi
    if name in ("zero", "ls"):
        return csi
    if name == "lmmse":
        return lmmse(examples, train)
    if name == "linear":
        assert examples.observed is not None  # as the interpolation task made them
        return interpolate(csi, examples.observed)
    bits = examples.facts["bits"]
    assert isinstance(bits, int)  # as the compression task made them
    fitting = examples.targets[train]
    codec = PcaCodec.fit(fitting, bits) if name == "pca" else AngleDelayCodec.fit(fitting, bits)
    return codec.decode(codec.encode(csi))
