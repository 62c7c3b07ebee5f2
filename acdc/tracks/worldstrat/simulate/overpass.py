"""What Sentinel-2 and SPOT make of an invented landscape.

The ground is mixed to 2.5 m for Sentinel-2 (every material's share of a pixel, once for all bands
and dates) and drawn at 0.5 m for SPOT. Light: the sun stands in the south-south-east, slopes of
crowns and roofs are lit by their incidence, shadows are cast by the height map and keep the sky's
diffuse light. Between ground and sensor: an aerosol residual that falls with the wavelength, haze,
clouds and their shadows. Sensors: point spread and noise of `acdc.sensor`, a displacement by part
of a pixel for each overpass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, sparse

from acdc import sensor
from acdc.random_field import rough
from acdc.tracks.worldstrat.simulate import spectra
from acdc.tracks.worldstrat.simulate.landscape import CLASSES, STEP, Landscape

MIXED = 2.5  # m
_FINE = int(MIXED / STEP)
GROUND = 1440  # pixels of 0.5 m: 720 m, a multiple of the 60 m of the coarsest bands
PIXEL, MARGIN = 10.0, 2  # m; pixels of Sentinel-2 that are cut away on each side
SPOT_PIXELS = 448
_CENTRE = np.array(
    [443, 492, 560, 665, 704, 741, 783, 833, 865, 945, 1614, 2202, 660, 560, 490, 825, 600]
)
# the sky's share of the light: all of it is scattered, more so in the blue
_DIFFUSE = np.clip(0.32 * (_CENTRE / 450.0) ** -1.6, 0.03, None)
_WHITE = np.clip(1.0 - 0.25 * (_CENTRE > 1500) - 0.2 * (_CENTRE > 2000), 0, 1)
_RED, _PAN = 12, spectra.PAN
_SENTINEL2_BANDS = [sensor.SENTINEL2[name] for name in spectra.BANDS[spectra.SENTINEL2]]


@dataclass(frozen=True)
class Sun:
    """Where the sun stands.

    Attributes
    ----------
    zenith, azimuth : float
        Degrees; azimuth clockwise from north.
    """

    zenith: float
    azimuth: float

    @classmethod
    def at(cls, day: float, latitude: float, hour: float = 10.5) -> Sun:
        """The sun on a day of the year, at a solar hour, north of the tropics."""
        declination = np.radians(-23.44) * np.cos(2 * np.pi * (day + 10) / 365.25)
        turned, lat = np.radians(15 * (hour - 12)), np.radians(latitude)
        height = np.sin(lat) * np.sin(declination)
        height += np.cos(lat) * np.cos(declination) * np.cos(turned)
        zenith = np.arccos(np.clip(height, -1, 1))
        south = (np.sin(declination) - np.cos(zenith) * np.sin(lat)) / (
            np.sin(zenith) * np.cos(lat)
        )
        azimuth = np.degrees(np.arccos(np.clip(south, -1, 1)))
        return cls(float(np.degrees(zenith)), float(azimuth if hour <= 12 else 360 - azimuth))


@dataclass(frozen=True)
class Overpass:
    """One Sentinel-2 image as it is delivered.

    Attributes
    ----------
    day : float
        Of the year (beyond 365 in the next one).
    bands : ndarray of float32 (12, 68, 68)
        Reflectance at 10 m; coarser bands repeat their pixels.
    cloud, data : ndarray of float32 (68, 68)
        0 or 1.
    shift : tuple of float
        (row, col) in pixels of 10 m by which the picture is displaced.
    """

    day: float
    bands: np.ndarray
    cloud: np.ndarray
    data: np.ndarray
    shift: tuple[float, float]


@dataclass(frozen=True)
class Spot:
    """One SPOT image as it is delivered, counts.

    Attributes
    ----------
    pan : ndarray of uint16 (1, 448, 448)
        1.5 m.
    rgbn : ndarray of uint16 (4, 112, 112)
        6 m.
    ps : ndarray of uint16 (4, 448, 448)
        1.5 m, pan-sharpened.
    shift : tuple of float
        (row, col) in m by which the picture is displaced.
    gain, offset : ndarray (4,)
        counts / 10,000 = gain x reflectance + offset.
    """

    pan: np.ndarray
    rgbn: np.ndarray
    ps: np.ndarray
    shift: tuple[float, float]
    gain: np.ndarray
    offset: np.ndarray


@dataclass(frozen=True)
class Truth:
    """The ground itself on the day of SPOT, on a fourth of Sentinel-2's pixels.

    Attributes
    ----------
    reflectance : ndarray of float32 (4, 272, 272)
        Red, green, blue, near infrared of SPOT's bands, means over 2.5 m, in this light, without
        atmosphere.
    cover : ndarray of uint8 (272, 272)
        The most frequent of `landscape.CLASSES`.
    leaf_area : ndarray of float32 (272, 272)
        Leaf area index, mean.
    """

    reflectance: np.ndarray
    cover: np.ndarray
    leaf_area: np.ndarray


class Lit:
    """A landscape in the light of one sun.

    Parameters
    ----------
    ground : Landscape
    sun : Sun
    """

    def __init__(self, ground: Landscape, sun: Sun) -> None:
        self.ground, self.sun = ground, sun
        shadow = cast_shadow(ground.height, sun)
        n_materials = len(ground.materials)
        # the second half of the table is the same materials in shadow
        self.index = ground.material + n_materials * shadow.astype(np.int32)
        self.gain = ground.brightness * np.where(shadow, 1, _incidence(ground.height, sun))

    def table(self, day: float, wetness: float) -> np.ndarray:
        """Reflectance (2 x materials, 17): in the sun, and in shadow."""
        lit = self.ground.reflectance(day, wetness, self.sun.zenith)
        return np.concatenate([lit, lit * _DIFFUSE]).astype(np.float32)

    def mixing(self) -> sparse.csr_array:
        """Share of every table entry in each pixel of 2.5 m, weighted by brightness."""
        n = len(self.index)
        pixel = np.arange(n, dtype=np.int32) // _FINE
        coarse = n // _FINE
        row = (pixel[:, None] * coarse + pixel).ravel()
        entries = (self.gain.ravel() / _FINE**2, (row, self.index.ravel()))
        shape = (coarse * coarse, 2 * len(self.ground.materials))
        return sparse.coo_array(entries, shape=shape).tocsr()

    def draw(self, table: np.ndarray, band: int) -> np.ndarray:
        """One band at 0.5 m."""
        return np.asarray(table[:, band][self.index] * self.gain)


def cast_shadow(height: np.ndarray, sun: Sun) -> np.ndarray:
    """Where something higher stands between the ground and the sun.

    Parameters
    ----------
    height : ndarray (n, n)
        m, on pixels of 0.5 m.
    sun : Sun
    """
    azimuth = np.radians(sun.azimuth)
    north, east = np.cos(azimuth), np.sin(azimuth)
    rise = 1 / np.tan(np.radians(min(sun.zenith, 75.0)))
    highest = float(height.max())
    shadow = np.zeros(height.shape, bool)
    step = 1.0  # m
    for k in range(1, int(highest / rise / step) + 1):
        away = k * step
        dy, dx = round(-north * away / STEP), round(east * away / STEP)
        there = _overlap(dy, len(height)), _overlap(dx, len(height))  # nearer to the sun
        here = _overlap(-dy, len(height)), _overlap(-dx, len(height))
        shadow[here] |= height[there] - away * rise > height[here]
    return shadow


def _overlap(by: int, n: int) -> slice:
    return slice(max(by, 0), n + min(by, 0))


def _incidence(height: np.ndarray, sun: Sun) -> np.ndarray:
    """Light on the slopes of crowns and roofs relative to level ground."""
    # crowns are no solid domes: their slopes count for less, and walls do not count
    down, right = np.gradient(height, STEP)
    azimuth, zenith = np.radians(sun.azimuth), np.radians(sun.zenith)
    towards = down * np.cos(azimuth) - right * np.sin(azimuth)
    return np.clip(1 + 0.3 * np.tan(zenith) * np.clip(towards, -1.2, 1.2), 0.55, 1.4)


def observe(
    ground: Landscape,
    random: np.random.Generator,
    days: np.ndarray,
    spot_day: float,
    latitude: float,
) -> tuple[list[Overpass], Spot, Truth]:
    """Let both sensors look at a landscape of `GROUND` x `GROUND` pixels.

    Parameters
    ----------
    ground : Landscape
    random : numpy.random.Generator
    days : ndarray (T,)
        Of the year, of Sentinel-2's overpasses.
    spot_day : float
    latitude : float
        Degrees north; decides where the sun stands.

    Returns
    -------
    list of Overpass
    Spot
    Truth
    """
    wetness = random.uniform(0, 0.8, len(days) + 1)
    # the shadows of all revisits are those of the middle one: between them they hardly differ
    lit = Lit(ground, Sun.at(float(np.mean(days)), latitude, 10.5))
    mixing = lit.mixing()
    overpasses = [
        _sentinel2(mixing, lit.table(day, wet), float(day), random)
        for day, wet in zip(days, wetness, strict=False)
    ]
    lit = Lit(ground, Sun.at(spot_day, latitude, 10.9))
    table = lit.table(spot_day, wetness[-1])
    return overpasses, _spot(lit, table, random), _truth(lit, table, spot_day)


def _truth(lit: Lit, table: np.ndarray, day: float) -> Truth:
    side = GROUND // _FINE
    inner = slice(MARGIN * 4, side - MARGIN * 4)
    reflectance = (lit.mixing() @ table[:, spectra.SPOT]).T.reshape(4, side, side)
    ground = lit.ground
    area = sensor.aggregate(ground.leaf_area(day)[ground.material], _FINE)
    shares = np.stack([sensor.aggregate(ground.cover == k, _FINE) for k in range(len(CLASSES))])
    return Truth(
        reflectance[:, inner, inner].astype(np.float32),
        shares.argmax(axis=0)[inner, inner].astype(np.uint8),
        area[inner, inner].astype(np.float32),
    )


def _sentinel2(
    mixing: sparse.csr_array, table: np.ndarray, day: float, random: np.random.Generator
) -> Overpass:
    side = GROUND // _FINE
    surface = np.ascontiguousarray((mixing @ table[:, spectra.SENTINEL2]).T)
    cloud, shade = _clouds(random, side)
    scene = _through_air(surface.reshape(12, side, side), cloud, shade, random)
    shift = tuple(float(s) for s in np.clip(random.normal(0, 0.25, 2), -0.7, 0.7))
    scene = sensor.Shift(4 * shift[0], 4 * shift[1]).forward(scene.astype(np.float32))
    seen = np.empty((12, side // 4, side // 4), np.float32)
    for size in (10.0, 20.0, 60.0):
        chosen = [i for i, band in enumerate(_SENTINEL2_BANDS) if band.pixel_size == size]
        bands = [_SENTINEL2_BANDS[i] for i in chosen]
        image = sensor.Imager.of(bands, MIXED).forward(scene[chosen])
        image = sensor.Noise.of(bands).add(image, random)
        seen[chosen] = sensor.repeat(image, int(size / PIXEL))
    # calibration and the correction of the atmosphere leave a few percent per band and date
    seen *= 1 + random.normal(0, 0.015, (12, 1, 1)).astype(np.float32)
    detected = ndimage.maximum_filter(sensor.aggregate(cloud, 4) > 0.2, 5)
    data = np.ones(detected.shape, np.float32)
    if random.random() < 0.03:
        data[:, : random.integers(4, 40)] = 0  # the border of a swath
    inner = slice(MARGIN, side // 4 - MARGIN)
    seen = np.clip(seen, 1e-4, 1.9) * data
    return Overpass(
        day,
        seen[:, inner, inner].astype(np.float32),
        detected[inner, inner].astype(np.float32),
        data[inner, inner],
        (shift[0], shift[1]),
    )


def _clouds(random: np.random.Generator, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Opacity of clouds and of their shadows, 0..1, (side, side) each."""
    if random.random() < 0.55:
        return np.zeros((side, side)), np.zeros((side, side))
    away = random.integers(10, 60, 2)
    n = side + 64
    field = rough(random, n, 3.6, 300.0)
    # cover from wisps to overcast
    opacity = np.clip((field - np.quantile(field, 1 - random.beta(0.6, 1.0))) * 1.2, 0, 1)
    shadow = ndimage.gaussian_filter(opacity[away[0] :, away[1] :][:side, :side], 2)
    return opacity[:side, :side], shadow


def _through_air(
    surface: np.ndarray, cloud: np.ndarray, shade: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Surface reflectance (12, n, n) with what is left of the atmosphere, and clouds."""
    centre = _CENTRE[spectra.SENTINEL2][:, None, None]
    slope = (centre / 490.0) ** -random.uniform(0.8, 1.6)
    residual = random.normal(0, 0.004)
    haze = residual * slope
    if random.random() < 0.25:
        field = rough(random, surface.shape[-1], 3.5, 200.0)
        haze = haze + random.uniform(0.005, 0.04) * np.clip(0.6 + 0.4 * field, 0, 2) * slope
    ground = surface * (1 - np.clip(haze, 0, 1)) + haze
    ground = ground * (1 - 0.6 * shade * (1 - _DIFFUSE[spectra.SENTINEL2][:, None, None]))
    top = random.uniform(0.45, 0.85) * _WHITE[spectra.SENTINEL2][:, None, None]
    return np.asarray(ground * (1 - cloud) + top * cloud)


def _spot(lit: Lit, table: np.ndarray, random: np.random.Generator) -> Spot:
    names = spectra.BANDS[spectra.SPOT]
    gain, offset = random.uniform(0.85, 1.15, 5), random.uniform(0.0, 0.03, 5)
    # an ortho-image lies some metres off; whole pixels of the ground keep the truth exact
    shift = np.clip(np.round(random.normal(0, 3.0, 2) / STEP), -16, 16).astype(int)
    side = GROUND // 3

    def seen(band: int, eye: sensor.Band) -> np.ndarray:
        image = np.roll(lit.draw(table, band), tuple(shift), axis=(0, 1))[None]
        image = sensor.Imager.of([eye], STEP).forward(image.astype(np.float32))[0]
        which = band - _RED
        image = gain[which] * image + offset[which]
        # SPOT's noise is not published: an assumption
        return np.asarray(image + random.normal(0, 0.0012, image.shape))

    pan = seen(_PAN, sensor.SPOT["pan"])
    coarse = np.stack([seen(_RED + i, sensor.SPOT[name]) for i, name in enumerate(names)])
    like = sensor.Imager.of([sensor.Band(6, sensor.SPOT["red"].mtf)], 1.5)
    low = like.forward(pan[None])
    # high-pass modulation: every band, near infrared too, gets the detail of the panchromatic one
    up = np.stack(
        [
            ndimage.zoom(image, 4, order=3, grid_mode=True, mode="nearest")
            for image in (*coarse, *low)
        ]
    )
    sharp = up[:4] * np.clip(pan / np.maximum(up[4], 1e-3), 0.2, 4)
    cut = (side - SPOT_PIXELS) // 2
    fine, wide = slice(cut, cut + SPOT_PIXELS), slice(cut // 4, (cut + SPOT_PIXELS) // 4)
    return Spot(
        _counts(pan[None, fine, fine]),
        _counts(coarse[:, wide, wide]),
        _counts(sharp[:, fine, fine]),
        (float(shift[0] * STEP), float(shift[1] * STEP)),
        gain[:4],
        offset[:4],
    )


def _counts(reflectance: np.ndarray) -> np.ndarray:
    # 0 is no data
    return np.clip(np.round(reflectance * 10_000), 1, 65_535).astype(np.uint16)
