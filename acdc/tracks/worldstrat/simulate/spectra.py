"""What the invented surfaces reflect, band by band.

Leaves and canopies: PROSPECT and 4SAIL in the package `prosail` (Jacquemoud et al. 2009, Remote
Sens. Environ. 113, S56), tabulated once and interpolated. Soils: the measured dry and wet spectrum
that come with it. Roofs, roads and water: curves drawn through a few points inside of the ranges
that spectral libraries show (Herold et al. 2004, Remote Sens. Environ. 91, 304; Ilehag et al. 2019,
Remote Sens. 11, 2149; water: Doxaran et al. 2002, Remote Sens. Environ. 81, 149). They are drawn by
hand, not taken from a library.

Sensors: Sentinel-2A's bands by centre and width, SPOT 6's by their limits (ESA Sentinel-2 User
Handbook; Airbus SPOT Imagery User Guide), each a box with soft flanks.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from acdc.errors import DataError

WAVELENGTH = np.arange(400, 2501)  # nm
_SENTINEL2 = {
    "B01": (442.7, 20),
    "B02": (492.4, 65),
    "B03": (559.8, 35),
    "B04": (664.6, 30),
    "B05": (704.1, 14),
    "B06": (740.5, 14),
    "B07": (782.8, 19),
    "B08": (832.8, 105),
    "B8A": (864.7, 21),
    "B09": (945.1, 19),
    "B11": (1613.7, 90),
    "B12": (2202.4, 174),
}
_SPOT = {
    "red": (625, 695),
    "green": (530, 590),
    "blue": (455, 525),
    "nir": (760, 890),
    "pan": (450, 745),
}
BANDS = (*_SENTINEL2, *_SPOT)
SENTINEL2, SPOT = slice(0, 12), slice(12, 16)
PAN = 16

# nm and reflectance
_CURVES = {
    "tile": (
        [400, 480, 550, 620, 700, 850, 1000, 1600, 2200, 2500],
        [0.05, 0.06, 0.10, 0.20, 0.25, 0.29, 0.33, 0.40, 0.36, 0.33],
    ),
    "slate": ([400, 700, 1000, 1600, 2200, 2500], [0.08, 0.09, 0.10, 0.11, 0.11, 0.11]),
    "metal": ([400, 700, 1000, 1600, 2200, 2500], [0.26, 0.32, 0.33, 0.38, 0.36, 0.36]),
    "concrete": (
        [400, 550, 700, 1000, 1600, 2200, 2500],
        [0.14, 0.21, 0.25, 0.28, 0.32, 0.28, 0.26],
    ),
    "asphalt": ([400, 700, 1000, 1600, 2200, 2500], [0.06, 0.09, 0.11, 0.14, 0.14, 0.14]),
    "gravel": ([400, 550, 700, 1000, 1600, 2200, 2500], [0.09, 0.15, 0.20, 0.25, 0.31, 0.28, 0.25]),
    "water": (
        [400, 490, 560, 620, 665, 720, 800, 900, 1000, 2500],
        [0.03, 0.04, 0.045, 0.03, 0.022, 0.012, 0.008, 0.005, 0.002, 0.001],
    ),
}
MATERIALS = tuple(_CURVES)

# axes of the table of canopies
_ANGLE = (35.0, 62.0)  # mean leaf inclination, degrees
_CHLOROPHYLL = (15.0, 30.0, 45.0, 65.0)  # ug cm-2
_WATER = (0.006, 0.02)  # cm
_BROWN = (0.0, 1.0)
_LAI = (0.0, 0.3, 0.7, 1.2, 1.8, 2.5, 3.5, 5.0, 8.0)
_DRY = (0.0, 1.0)  # share of the dry soil in the soil below
_SUN = (25.0, 65.0)  # zenith, degrees
AXES = (_ANGLE, _CHLOROPHYLL, _WATER, _BROWN, _LAI, _DRY, _SUN)


@lru_cache(maxsize=1)
def responses() -> np.ndarray:
    """Weights (17, 2101) of the wavelengths in each of `BANDS`; each sums to one."""
    limits = [(centre - width / 2, centre + width / 2) for centre, width in _SENTINEL2.values()]
    limits += [(float(low), float(high)) for low, high in _SPOT.values()]
    flank = 3.0  # nm
    weights = np.stack(
        [
            1
            / (1 + np.exp(-(WAVELENGTH - low) / flank))
            / (1 + np.exp((WAVELENGTH - high) / flank))
            for low, high in limits
        ]
    )
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def of_material(name: str) -> np.ndarray:
    """Reflectance (17,) of one of `MATERIALS`."""
    wavelength, reflectance = _CURVES[name]
    return np.asarray(responses() @ np.interp(WAVELENGTH, wavelength, reflectance))


@lru_cache(maxsize=1)
def soils() -> np.ndarray:
    """Reflectance (2, 17) of wet and of dry soil."""
    library = _prosail().spectral_library.get_spectra().soil
    return np.stack([library.rsoil2, library.rsoil1]) @ responses().T


@lru_cache(maxsize=1)
def canopies() -> np.ndarray:
    """Reflectance (2, 4, 2, 2, 9, 2, 2, 17) of canopies over `AXES`; some seconds, once."""
    prosail = _prosail()
    table = np.empty((*(len(axis) for axis in AXES), len(BANDS)), dtype=np.float32)
    for index in np.ndindex(*table.shape[:-1]):
        angle, green, water, brown, lai, dry, sun = (
            axis[i] for axis, i in zip(AXES, index, strict=True)
        )
        # a dead leaf has lost its chlorophyll, most of its water, and is brown
        spectrum = prosail.run_prosail(
            1.6,
            green * (1 - 0.9 * brown),
            green * (0.2 - 0.1 * brown),
            0.6 * brown,
            water * (1 - 0.8 * brown),
            0.007,
            lai,
            angle,
            0.1,
            sun,
            0.0,
            0.0,
            prospect_version="D",
            rsoil=1.0,
            psoil=dry,
        )
        table[index] = responses() @ spectrum
    return table


def of_canopies(parameters: np.ndarray) -> np.ndarray:
    """Reflectance of canopies.

    Parameters
    ----------
    parameters : ndarray (n, 7)
        In the order of `AXES`: leaf inclination (degrees), chlorophyll (ug cm-2), water (cm),
        brown (0..1), leaf area index, dryness of the soil (0..1), sun zenith (degrees); clipped to
        the table.

    Returns
    -------
    ndarray of float64 (n, 17)
    """
    from scipy.interpolate import RegularGridInterpolator

    inside = np.clip(parameters, [axis[0] for axis in AXES], [axis[-1] for axis in AXES])
    return np.asarray(RegularGridInterpolator(AXES, canopies())(inside))


def _prosail() -> Any:
    try:
        import prosail  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise DataError(
            "simulating landscapes needs the package prosail (leaves and canopies); install it: "
            "pip install prosail"
        ) from error
    return prosail
