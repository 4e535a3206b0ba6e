"""Propagation rays of many users, and the antenna array and band that turn them into csi."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from lwm_fast.errors import InputError

Float32Array = npt.NDArray[np.float32]
Vector = tuple[float, float, float]
Complex64Array = npt.NDArray[np.complex64]
Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]

SPEED_OF_LIGHT = 299_792_458.0  # m/s
SUBCARRIER_SPACING = 30e3  # Hz; the LWM releases use bandwidth = 30 kHz * num_subcarriers
LWM_ROTATION = -135.0  # degrees about z, the base-station rotation of the LWM releases
LWM_MAX_PATHS = 20


@dataclass(frozen=True)
class ArrayGeometry:
    """Base-station array and OFDM band in which rays are turned into csi.

    The defaults are the settings of the LWM releases.

    Args:
        num_antennas: elements of a uniform line, or `(horizontal, vertical)` of a panel. In a panel the
            horizontal index runs fastest: element `v * horizontal + h`, DeepMIMO's order.
        num_subcarriers: subcarriers of the band; subcarrier k lies at `k * bandwidth / num_subcarriers`.
        bandwidth: Hz; None means 30 kHz per subcarrier, also after `dataclasses.replace`.
        rotation: degrees about z, or `(x, y, z)` in degrees: the array's axes are `Rz Ry Rx` applied to the
            unrotated y axis (horizontal) and z axis (vertical), DeepMIMO's convention.
        max_paths: rays per user that enter the sum, the first in the file's order (strongest first).
        spacing: element spacing in wavelengths.

    Raises:
        InputError: a size below 1, a non-finite or non-positive bandwidth or spacing, a rotation that is
            neither a number nor three numbers.
    """

    num_antennas: int | tuple[int, int] = 32
    num_subcarriers: int = 32
    bandwidth: float | None = None
    rotation: float | tuple[float, float, float] = LWM_ROTATION
    max_paths: int = LWM_MAX_PATHS
    spacing: float = 0.5

    def __post_init__(self) -> None:
        if isinstance(self.num_antennas, Sequence):
            if len(self.num_antennas) != 2:
                raise InputError(
                    f"num_antennas={self.num_antennas!r}: give one number for a line of antennas or "
                    "(horizontal, vertical) for a panel"
                )
            object.__setattr__(self, "num_antennas", tuple(int(n) for n in self.num_antennas))
        for name in ("num_subcarriers", "max_paths"):
            _require_positive(name, getattr(self, name))
        for count in self.panel:
            _require_positive("num_antennas", count)
        for name in ("bandwidth_hz", "spacing"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise InputError(
                    f"{name.removesuffix('_hz')}={value!r}: must be finite and positive; LWM uses 30e3 Hz "
                    "per subcarrier and a spacing of 0.5 wavelengths"
                )
        angles = np.atleast_1d(np.asarray(self.rotation, dtype=np.float64))
        if angles.shape not in ((1,), (3,)) or not np.isfinite(angles).all():
            raise InputError(
                f"rotation={self.rotation!r}: give degrees about z (LWM: -135) or (x, y, z) in degrees"
            )
        rotation = float(angles[0]) if angles.size == 1 else tuple(float(a) for a in angles)
        object.__setattr__(self, "rotation", rotation)

    @property
    def panel(self) -> tuple[int, int]:
        """(horizontal, vertical) number of elements."""
        if isinstance(self.num_antennas, tuple):
            return self.num_antennas
        return self.num_antennas, 1

    @property
    def size(self) -> int:
        """Number of antennas, horizontal * vertical."""
        horizontal, vertical = self.panel
        return horizontal * vertical

    @property
    def bandwidth_hz(self) -> float:
        """Bandwidth in Hz, with the default filled in."""
        return SUBCARRIER_SPACING * self.num_subcarriers if self.bandwidth is None else float(self.bandwidth)

    def axes(self) -> tuple[Vector, Vector]:
        """Unit vectors of the array's horizontal and vertical axis.

        Along direction d the element (h, v) has the phase `2 pi spacing (h axis_h.d + v axis_v.d)`.
        """
        angles = (0.0, 0.0, self.rotation) if isinstance(self.rotation, float) else self.rotation
        (cx, cy, cz), (sx, sy, sz) = np.cos(np.deg2rad(angles)).tolist(), np.sin(np.deg2rad(angles)).tolist()
        axis_h = (cz * sy * sx - sz * cx, sz * sy * sx + cz * cx, cy * sx)
        axis_v = (cz * sy * cx + sz * sx, sz * sy * cx - cz * sx, cy * cx)
        return axis_h, axis_v


@dataclass(frozen=True)
class Rays:
    """Rays of `num_users` users in CSR form: user u owns rays `offsets[u]:offsets[u + 1]`.

    Args:
        offsets: int64 [num_users + 1], from 0 to num_rays.
        power_db: float32 [num_rays], channel gain in dB (received over transmitted power).
        phase_deg: float32 [num_rays], degrees.
        delay_s: float32 [num_rays], seconds.
        aod_az_deg, aod_zen_deg: float32 [num_rays], departure azimuth and zenith at the base station,
            degrees.
        aoa_az_deg, aoa_zen_deg: float32 [num_rays], arrival azimuth and zenith at the user, degrees.

    Raises:
        InputError: offsets that do not run from 0 to num_rays without decreasing; columns of other lengths.
    """

    offsets: Int64Array
    power_db: Float32Array
    phase_deg: Float32Array
    delay_s: Float32Array
    aod_az_deg: Float32Array
    aod_zen_deg: Float32Array
    aoa_az_deg: Float32Array
    aoa_zen_deg: Float32Array

    def __post_init__(self) -> None:
        offsets = np.ascontiguousarray(self.offsets, dtype=np.int64)
        object.__setattr__(self, "offsets", offsets)
        if offsets.ndim != 1 or offsets.size == 0 or offsets[0] != 0 or (np.diff(offsets) < 0).any():
            raise InputError("Rays: offsets must be [num_users + 1], start at 0 and never decrease")
        for name in RAY_COLUMNS:
            column = np.ascontiguousarray(getattr(self, name), dtype=np.float32)
            if column.shape != (offsets[-1],):
                raise InputError(
                    f"Rays: {name} has shape {column.shape}; offsets end at {offsets[-1]}, so it must be "
                    f"({offsets[-1]},)"
                )
            object.__setattr__(self, name, column)

    @classmethod
    def from_padded(cls, power_db: npt.ArrayLike, **columns: npt.ArrayLike) -> Rays:
        """Rays from arrays [num_users, max_rays] padded where `power_db` is NaN or -inf (no ray).

        `columns` are all other columns of `Rays`, of the same shape. Order within a user is kept.
        """
        power = np.asarray(power_db)  # [num_users, max_rays]
        present = np.isfinite(power) | np.isposinf(power)
        offsets = np.zeros(power.shape[0] + 1, dtype=np.int64)
        np.cumsum(present.sum(axis=1), out=offsets[1:])
        return cls(
            offsets=offsets,
            power_db=power[present],
            **{name: np.asarray(values)[present] for name, values in columns.items()},
        )

    def __len__(self) -> int:
        return self.offsets.size - 1

    @property
    def num_rays(self) -> int:
        """Rays of all users together."""
        return int(self.offsets[-1])

    @property
    def num_paths(self) -> Int32Array:
        """Rays of each user, int32 [num_users]."""
        return np.diff(self.offsets).astype(np.int32)

    def select(self, index: slice | npt.ArrayLike) -> Rays:
        """Rays of the chosen users, in the order asked for.

        Args:
            index: slice, int array or bool mask [num_users].
        """
        users = np.arange(len(self))[index if isinstance(index, slice) else np.asarray(index)]
        counts = self.offsets[users + 1] - self.offsets[users]
        offsets = np.zeros(users.size + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        # Ray r of the result belongs to user u and lies (r - offsets[u]) after the user's old first ray.
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[users] - offsets[:-1], counts)
        return Rays(offsets, *(getattr(self, name)[rows] for name in RAY_COLUMNS))

    @classmethod
    def concatenate(cls, parts: Sequence[Rays]) -> Rays:
        """Users of all parts one after another."""
        if not parts:
            raise InputError("Rays.concatenate: the list is empty; give at least one Rays")
        starts = np.cumsum([0] + [part.num_rays for part in parts])
        offsets = [part.offsets[1:] + start for part, start in zip(parts, starts, strict=False)]
        return cls(
            np.concatenate([np.zeros(1, dtype=np.int64), *offsets]),
            *(np.concatenate([getattr(part, name) for part in parts]) for name in RAY_COLUMNS),
        )

    def to_csi(
        self,
        geometry: ArrayGeometry,
        out: Complex64Array | None = None,
        start: int | None = None,
        stop: int | None = None,
        num_threads: int = 0,
    ) -> Complex64Array:
        """Frequency response of users `start:stop`, complex64 [users, num_antennas, num_subcarriers].

        `H[m,k] = sum_p sqrt(P_p / SC) exp(j phase_p) exp(-j 2 pi k tau_p B / SC) a_m(direction_p)` over the
        first `max_paths` rays of a user; rays with `tau B >= SC` are left out (DeepMIMO's generator with the
        LWM settings). Linear gain; LWM multiplies it by 1e6 before the tokens. A user without rays gets
        zeros.

        Args:
            geometry: array and band.
            out: complex64, C-contiguous, of the result's shape; written and returned.
            start, stop: users, as in a slice.
            num_threads: 0 means as many as the process may use.

        Raises:
            InputError: `out` of another shape, dtype or layout.
        """
        from lwm_fast import _C

        first, last, _ = slice(start, stop).indices(len(self))
        last = max(first, last)
        shape = (last - first, geometry.size, geometry.num_subcarriers)
        if out is None:
            out = np.empty(shape, dtype=np.complex64)
        elif out.shape != shape or out.dtype != np.complex64 or not out.flags.c_contiguous:
            raise InputError(
                f"to_csi: out is {out.dtype} {out.shape}; it must be C-contiguous complex64 {shape}"
            )
        rays = slice(int(self.offsets[first]), int(self.offsets[last]))
        axis_h, axis_v = geometry.axes()
        _C.rays_to_csi(
            self.offsets[first : last + 1] - self.offsets[first],
            self.power_db[rays],
            self.phase_deg[rays],
            self.delay_s[rays],
            self.aod_zen_deg[rays],
            self.aod_az_deg[rays],
            axis_h,
            axis_v,
            out,
            geometry.panel[1],
            geometry.bandwidth_hz,
            geometry.spacing,
            geometry.max_paths,
            num_threads,
        )
        return out


RAY_COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(Rays) if field.name != "offsets")


def _require_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or int(value) != value or value < 1:
        raise InputError(f"{name}={value!r}: must be a whole number of at least 1")
