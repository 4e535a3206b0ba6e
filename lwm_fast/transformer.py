"""`LWMEncoder`: LWM embeddings as a scikit-learn transformer, for Pipeline, GridSearchCV and cross-validation."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lwm_fast.encode_work import check_size
from lwm_fast.errors import InputError
from lwm_fast.model import LWM
from lwm_fast.pooling import get_pool
from lwm_fast.tokens import num_tokens
from lwm_fast.weights import DEFAULT, load_model

try:
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise InputError('LWMEncoder needs scikit-learn: pip install "lwm_fast[tasks]"') from error

_KEPT = 4  # models a process keeps
_models: dict[tuple[Any, ...], LWM] = {}


class LWMEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Channels in, embeddings out: ``make_pipeline(LWMEncoder("lwm.pth"), LogisticRegression())``.

    X is complex [n, num_antennas, num_subcarriers], or flattened, complex [n, num_antennas * num_subcarriers] with
    `num_antennas` given, which is what the parts of scikit-learn that want two axes take. Embeddings come out as
    float32 [n, embed_dim], and as [n, rows * embed_dim] for the pools "patches" and "tokens".

    Args:
        weights: as for `lwm_fast.weights.load_model` (random ones have seed 0), or a model. From files the
            weights are read when they are first needed, once a process for as long as the file stays the same.
        pool: "cls", "mean", "mean_with_cls", "patches" or "tokens".
        precision: as for `LWM.encode`.
        scale: multiplies the channels; LWM's 1e6 by default.
        batch_size: as for `LWM.encode`.
        num_antennas: rows of a flattened channel; None: X has three axes.
        device: where the model runs, such as "cuda"; None: the CPU (a model that was given: where it is).

    Attributes:
        shape_in_: (num_antennas, num_subcarriers) seen by `fit`.
        n_features_in_: their product.
        n_features_out_: numbers an embedding holds.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] | LWM = DEFAULT,
        pool: str = "cls",
        precision: str = "float32",
        scale: float = 1e6,
        batch_size: int | str = "auto",
        num_antennas: int | None = None,
        device: str | None = None,
    ) -> None:
        self.weights = weights
        self.pool = pool
        self.precision = precision
        self.scale = scale
        self.batch_size = batch_size
        self.num_antennas = num_antennas
        self.device = device

    def fit(self, X: npt.ArrayLike, y: Any = None) -> LWMEncoder:
        """Checks the channels' size against the model; nothing is learned.

        Raises:
            InputError: X that is no complex array of a size that the model takes; an unknown pool.
        """
        shape = self._channels(X).shape[1:]
        config = self._model().config
        check_size(shape, config)
        rows = get_pool(self.pool).rows(num_tokens(shape[0], shape[1], config.lwm_version))
        self.shape_in_ = (int(shape[0]), int(shape[1]))
        self.n_features_in_ = int(shape[0] * shape[1])
        self.n_features_out_ = int(max(1, rows) * config.embed_dim)
        return self

    def transform(self, X: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Embeddings float32 [n, n_features_out_] of channels of the size that `fit` saw.

        Raises:
            InputError: another size, values that are not finite.
        """
        check_is_fitted(self)
        csi = self._channels(X)
        if csi.shape[1:] != self.shape_in_:
            raise InputError(
                f"LWMEncoder: channels are {csi.shape[1]} x {csi.shape[2]}, and fit saw {self.shape_in_[0]} x "
                f"{self.shape_in_[1]}; fit again for another size"
            )
        values = self._model().encode(
            csi, self.pool, batch_size=self.batch_size, precision=self.precision, scale=self.scale,
            show_progress_bar=False,
        )  # fmt: skip
        return np.asarray(values, np.float32).reshape(len(csi), self.n_features_out_)

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:
        """ "lwm_cls0", "lwm_cls1", ... by the name of the pool."""
        check_is_fitted(self)
        return np.array([f"lwm_{self.pool}{i}" for i in range(self.n_features_out_)], dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = True
        tags.input_tags.three_d_array = True
        return tags

    def _channels(self, values: npt.ArrayLike) -> npt.NDArray[np.complex64]:
        """complex64 [n, num_antennas, num_subcarriers]."""
        array = np.asarray(values)
        if array.dtype.kind != "c":
            raise InputError(
                f"LWMEncoder: X is {array.dtype} {array.shape}; channels are complex (a pandas DataFrame or a real "
                "array has lost the imaginary parts): give real + 1j * imag"
            )
        if array.ndim == 2 and self.num_antennas:
            if array.shape[1] % self.num_antennas:
                raise InputError(
                    f"LWMEncoder: {array.shape[1]} values a channel do not divide into num_antennas="
                    f"{self.num_antennas} rows"
                )
            array = array.reshape(len(array), self.num_antennas, -1)
        if array.ndim != 3:
            raise InputError(
                f"LWMEncoder: X is {array.shape}; give [n, num_antennas, num_subcarriers], or flattened channels "
                "[n, num_antennas * num_subcarriers] and num_antennas="
            )
        return np.ascontiguousarray(array, np.complex64)

    def _model(self) -> LWM:
        if isinstance(self.weights, LWM):
            return self.weights if self.device is None else self.weights.to(self.device)
        key = (*_fingerprint(self.weights), self.device)
        if key not in _models:
            while len(_models) >= _KEPT:
                del _models[next(iter(_models))]
            _models[key] = load_model(self.weights).to(torch.device(self.device or "cpu"))
        return _models[key]


def _fingerprint(weights: str | os.PathLike[str]) -> tuple[Any, ...]:
    """Tells files apart without reading them: path, size and time of change of all under it."""
    path = os.fspath(weights)
    if not os.path.exists(path):
        return (path,)
    files = [path] if os.path.isfile(path) else [
        os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names
    ]  # fmt: skip
    stats = [(name, os.stat(name)) for name in sorted(files)]
    return (os.path.abspath(path), *((name, s.st_size, s.st_mtime_ns) for name, s in stats))
