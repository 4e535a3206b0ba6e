"""Gain and phase of traced paths at a carrier: spreading, Fresnel reflections, knife edges, scatterers."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from lwm_fast.data.rays import SPEED_OF_LIGHT
from lwm_fast.data.synthetic.streets import F64, FACADES, I64, Town

MOST_BOUNCES = 3  # wall reflections of a path

# Relative permittivity a * f^b and conductivity c * f^d [S/m], f in GHz (ITU-R P.2040-1, table 3).
_MATERIALS = {
    "concrete": (5.31, 0.0, 0.0326, 0.8095),
    "brick": (3.75, 0.0, 0.038, 0.0),
    "glass": (6.27, 0.0, 0.0043, 1.1925),
    "metal": (1.0, 0.0, 1e7, 0.0),  # also the coating of heat-insulating glass
    "ground": (15.0, -0.1, 0.035, 1.63),  # medium dry
}


@dataclass(frozen=True)
class Paths:
    """Geometry of paths, the same at every carrier; arrays [paths].

    Attributes:
        user: row of the user.
        length: metres.
        spread_db: -20 log10(length), or for a scatterer its two legs and its cross section, dB re 1/m.
        buildings: [paths, MOST_BOUNCES], building of each wall reflection in order, -1 after the last.
        cosines: [paths, MOST_BOUNCES], cosine of the angle of incidence there, 0 after the last.
        sin_ground: sine of the grazing angle at the ground, or 0 without a ground reflection.
        edge: knife-edge parameter v times sqrt(wavelength), sqrt(m), or 0 without an edge.
        phase: constant phase of the path besides its length and reflections, degrees.
        departure_azimuth, departure_zenith: at the base station, degrees.
        arrival_azimuth, arrival_zenith: at the user, towards where the path comes from, degrees.
    """

    user: I64
    length: F64
    spread_db: F64
    buildings: I64
    cosines: F64
    sin_ground: F64
    edge: F64
    phase: F64
    departure_azimuth: F64
    departure_zenith: F64
    arrival_azimuth: F64
    arrival_zenith: F64

    def __len__(self) -> int:
        return len(self.user)

    def select(self, index: npt.NDArray[np.bool_] | I64) -> Paths:
        return Paths(*(getattr(self, field.name)[index] for field in fields(self)))

    @staticmethod
    def concatenate(parts: list[Paths]) -> Paths:
        return Paths(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Paths)))


def permittivity(material: str, carrier_frequency: float) -> complex:
    """Complex relative permittivity of a material (ITU-R P.2040-1, section 3)."""
    a, b, c, d = _MATERIALS[material]
    gigahertz = carrier_frequency / 1e9
    return complex(a * gigahertz**b, -17.98 * c * gigahertz ** (d - 1))


def fresnel_wall(cos_incidence: F64, epsilon: npt.NDArray[np.complex128]) -> npt.NDArray[np.complex128]:
    """Fresnel coefficient of a wall for vertical polarisation: E parallel to the wall (TE)."""
    root = np.sqrt(epsilon - (1 - cos_incidence * cos_incidence))
    return np.asarray((cos_incidence - root) / (cos_incidence + root))


def fresnel_ground(sin_grazing: F64, epsilon: complex) -> npt.NDArray[np.complex128]:
    """Fresnel coefficient of the ground for vertical polarisation: E in the plane of incidence (TM)."""
    root = np.sqrt(epsilon - (1 - sin_grazing * sin_grazing))
    return np.asarray((epsilon * sin_grazing - root) / (epsilon * sin_grazing + root))


def knife_edge_db(v: F64) -> F64:
    """Loss behind a knife edge, dB (ITU-R P.526, section 4.1, approximation for v > -0.78)."""
    return np.asarray(6.9 + 20 * np.log10(np.sqrt((v - 0.1) * (v - 0.1) + 1) + v - 0.1))


def gains(paths: Paths, town: Town, carrier_frequency: float) -> tuple[F64, F64]:
    """Gain in dB and phase in degrees, [paths] each, between isotropic antennas at a carrier in Hz.

    The phase is -360 length / wavelength plus that of the reflections, edge or scatterer, in [-180, 180).
    An edge adds the -45 degrees of the Fresnel integral's leading term in the deep shadow.
    """
    wavelength = SPEED_OF_LIGHT / carrier_frequency
    gain = paths.spread_db + 20 * np.log10(wavelength / (4 * np.pi))
    turns = paths.length / wavelength
    phase = paths.phase - 360 * (turns - np.floor(turns))

    def reflect(rows: I64, coefficient: npt.NDArray[np.complex128]) -> None:
        gain[rows] += 10 * np.log10(coefficient.real**2 + coefficient.imag**2)
        phase[rows] += np.degrees(np.arctan2(coefficient.imag, coefficient.real))

    facades = np.array([permittivity(name, carrier_frequency) for name in FACADES])
    for bounce in range(MOST_BOUNCES):
        rows = np.flatnonzero(paths.buildings[:, bounce] >= 0)
        building, cosine = paths.buildings[rows, bounce], paths.cosines[rows, bounce]
        reflect(rows, fresnel_wall(cosine, facades[town.facade[building]]))
        gain[rows] -= town.facade_loss_db[building]
    rows = np.flatnonzero(paths.sin_ground > 0)
    reflect(rows, fresnel_ground(paths.sin_ground[rows], permittivity("ground", carrier_frequency)))
    rows = np.flatnonzero(paths.edge > 0)
    gain[rows] -= knife_edge_db(paths.edge[rows] / np.sqrt(wavelength))
    phase[rows] -= 45.0
    return gain, phase - 360 * np.floor((phase + 180) / 360)
