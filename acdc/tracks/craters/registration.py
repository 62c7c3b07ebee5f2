"""Label audit: whether a catalogue sits on its image, and what brings it there.

Real catalogues are displaced against the image by a constant, different for every quadrangle, and
their radii are too large or small by a constant share. Both are estimated here from the image.

The rim is where the shading changes fastest along a radius. Slopes that face the sun are bright,
those that turn away dark, so the two ends of a diameter change in opposite directions; at night
steep rocky walls are warm all round, and both ends change alike. A candidate circle scores, per
diameter, the geometric mean of the two changes, counted where they are opposite ("shaded") or
where both are bright inwards ("walls"). The product is largest when both ends lie on the rim,
however different their contrast: the half in shade does not pull the circle to its side, as it
does with the plain strength of the gradient. Each crater is normalised by the gradients around
it, so that no bright one decides, and the scores of all craters are added for every candidate
(row, col, radius): what is not a rim averages out.

The steepest shade lies a little inside the topographic crest that catalogues give the radius of:
diffusion moves the crest outwards, but hardly the steepest shade. `CREST` is that ratio, measured
on simulated ground, whose crests are known; with it, 0 means that the catalogue is right, to 2 %
by day in the infrared and 3 % in visible light. (Robbins & Hynek 2012 on CTX and THEMIS pictures:
2 % off.) At night the warm walls end somewhere inside the rim, nobody knows where: then the radii
are left alone.

How to measure `CREST` again: ``python benchmarks/label_audit.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from acdc.errors import DataError
from acdc.tracks.craters import tiles

Image = NDArray[np.uint8]

RADII = (5.0, 40.0)
"""Radii in pixels of the craters that are used: smaller ones have no rim, larger no round one."""

CREST = 1.05
"""Radius of the rim crest in units of the steepest shade's, in daylight."""

RADIUS_SPREAD = 0.2
"""Standard deviation of the relative radius errors that a catalogue is expected to have."""

FEWEST = 20
"""Craters below which no estimate is called reliable."""

_REPLICATES = 100
_REACH = 10  # px: the coarse search goes so far in rows and columns


@dataclass(frozen=True)
class Displacement:
    """What has to be added to a catalogue to bring it onto the image.

    Attributes
    ----------
    row, col : float
        Displacement in pixels: the rims lie at the catalogue's place plus this.
    radius_ratio : float
        Relative correction dr / r: the rims have the catalogue's radius times 1 plus this. 0,
        with an error of NaN, where rims show as ``walls``.
    row_error, col_error, radius_ratio_error : float
        Standard errors, by bootstrap over craters. Besides, the radius has a systematic error of
        0.02 to 0.03, since a crest is no sharp thing, and the place one of 0.1 px in daylight, 0.4
        px at night.
    craters : int
        Number of craters used.
    contrast : str
        ``shaded`` (daylight) or ``walls`` (night): how the rims show.
    reliable : bool
        Whether to trust it: enough craters, one clear optimum inside the search range that the
        bootstrap confirms, small standard errors.
    """

    row: float
    col: float
    radius_ratio: float
    row_error: float
    col_error: float
    radius_ratio_error: float
    craters: int
    contrast: str
    reliable: bool

    def __str__(self) -> str:
        """One line for people."""
        radius = f"{100 * self.radius_ratio:+.1f} ± {100 * self.radius_ratio_error:.1f} %"
        return (
            f"row {self.row:+.2f} ± {self.row_error:.2f} px, col {self.col:+.2f} ± "
            f"{self.col_error:.2f} px, radius {radius if self.contrast == 'shaded' else 'unknown'} "
            f"({self.craters} craters, {self.contrast}{'' if self.reliable else ', NOT reliable'})"
        )


@dataclass(frozen=True)
class _Crater:
    """A crater's surroundings and where it should be in them."""

    patch: NDArray[np.float32]
    row: float
    col: float
    radius: float
    scale: float


@dataclass(frozen=True)
class _Grid:
    """Candidates: displacements along rows, columns, and ratios of the radius."""

    rows: NDArray[np.float64]
    cols: NDArray[np.float64]
    ratios: NDArray[np.float64]

    @classmethod
    def around(
        cls,
        centre: tuple[float, float, float],
        reach: float,
        step: float,
        share: float,
        part: float,
    ) -> _Grid:
        shift = np.arange(-reach, reach + step / 2, step)
        ratio = np.arange(-share, share + part / 2, part)
        return cls(centre[0] + shift, centre[1] + shift, centre[2] + ratio)

    @property
    def axes(self) -> tuple[NDArray[np.float64], ...]:
        return self.rows, self.cols, self.ratios


def estimate(
    image: Image | Sequence[Image],
    circles: ArrayLike | Sequence[ArrayLike],
    *,
    scales: Sequence[float] | None = None,
    most: int = 400,
    seed: int = 0,
) -> Displacement:
    """Estimate the displacement and radius error of a catalogue that an image shows.

    Parameters
    ----------
    image : uint8 array (H, W), or a sequence of them
        The image or the pictures of one group, that is, with one displacement in common. 0 is no
        data; craters beside it are left out.
    circles : float array (n, 3), or a sequence of them, one an image
        Row, col and radius by the catalogue, px, (0, 0) at the centre of the first pixel.
    scales : sequence of float, optional
        Size of a pixel of each image in the pixels that the displacement is counted in: 2**level
        for the levels of a pyramid. Absent: 1.
    most : int
        More craters than that are not looked at (a random choice by `seed`).
    seed : int
        Of the choice and of the bootstrap.

    Returns
    -------
    Displacement
        NaN where there are no craters to look at. Found are displacements up to 9 px and radius
        ratios from -0.2 to +0.25.

    Raises
    ------
    DataError
        Circles that are no (n, 3) array, or not as many lists of circles as images.

    Notes
    -----
    Coarse to fine: steps of 1 px and 7.5 %, then of 0.5 px and 2.5 %, both with at most 200
    craters, then of 0.25 px and 1 % with all; last a parabola through the best three of each
    axis. Gradients are those of a Gaussian of 1.5 px, then of 1 px.
    """
    rng = np.random.default_rng(seed)
    craters = list(_craters(image, circles, scales, most, rng))
    if not craters:
        nan = float("nan")
        return Displacement(nan, nan, nan, nan, nan, nan, 0, "shaded", False)
    shift = np.arange(-_REACH, _REACH + 0.5)
    grid = _Grid(shift, shift, np.arange(0.8, 1.26, 0.075))
    few = craters[:200]
    # The bright half of a crater is a ring too, a smaller one on one side: radii near the
    # catalogue's are likelier. The fine search goes without that.
    likely = np.exp(-0.5 * (np.log(grid.ratios) / RADIUS_SPREAD) ** 2).astype(np.float32)
    coarse = {
        kind: score * likely for kind, score in _scores(few, grid, sigma=1.5, diameters=8).items()
    }
    contrast = max(coarse, key=lambda kind: float(coarse[kind].mean(axis=0).max()))
    scores = coarse[contrast]
    best = _peak(scores.mean(axis=0), grid)
    # Where the coarse optimum lies when other craters had been looked at.
    draws = rng.multinomial(len(few), np.full(len(few), 1 / len(few)), _REPLICATES)
    flat = (draws / len(few)) @ scores.reshape(len(few), -1)
    rows, cols, _ = np.unravel_index(flat.argmax(axis=1), scores.shape[1:])
    agree = np.hypot(grid.rows[rows] - best[0], grid.cols[cols] - best[1]) < 2
    inside = max(abs(best[0]), abs(best[1])) < _REACH - 0.75

    grid = _Grid.around(best, 2.0, 0.5, 0.15, 0.025)
    best = _peak(_scores(few, grid, sigma=1.0, diameters=16)[contrast].mean(axis=0), grid)
    grid = _Grid.around(best, 0.75, 0.25, 0.04, 0.01)
    scores = _scores(craters, grid, sigma=1.0, diameters=16)[contrast]
    best = _peak(scores.mean(axis=0), grid)
    inside &= all(axis[0] < b < axis[-1] for axis, b in zip(grid.axes, best, strict=True))
    draws = rng.multinomial(len(craters), np.full(len(craters), 1 / len(craters)), _REPLICATES)
    spread = np.std(
        [_peak(np.tensordot(d / len(craters), scores, 1), grid) for d in draws], axis=0, ddof=1
    )
    row_error, col_error, ratio_error = (float(e) for e in spread)
    by_day = contrast == "shaded"
    return Displacement(
        row=float(best[0]),
        col=float(best[1]),
        radius_ratio=float(best[2] * CREST - 1) if by_day else 0.0,
        row_error=row_error,
        col_error=col_error,
        radius_ratio_error=ratio_error * CREST if by_day else float("nan"),
        craters=len(craters),
        contrast=contrast,
        reliable=bool(
            len(craters) >= FEWEST
            and inside
            and agree.mean() >= 0.9
            and max(row_error, col_error) <= 0.5
            and ratio_error <= 0.04
        ),
    )


def apply(
    circles: ArrayLike, displacement: Displacement, *, scale: float = 1
) -> NDArray[np.float64]:
    """Circles brought onto the image.

    Parameters
    ----------
    circles : array (n, 3)
        Row, col, radius, px.
    displacement : Displacement
        As estimated.
    scale : float
        Size of these circles' pixels in the pixels that the displacement counts in.

    Returns
    -------
    float64 array (n, 3)
        New circles.
    """
    moved = np.array(circles, dtype=float).reshape(-1, 3)
    moved[:, 0] += displacement.row / scale
    moved[:, 1] += displacement.col / scale
    moved[:, 2] *= 1 + displacement.radius_ratio
    return moved


def _pairs(
    image: Image | Sequence[Image],
    circles: ArrayLike | Sequence[ArrayLike],
) -> tuple[Sequence[Image], list[NDArray[np.float64]]]:
    """Images and as many arrays of circles."""
    single = isinstance(image, np.ndarray) and image.ndim == 2
    images = cast(Sequence[Image], [image] if single else image)
    lists = cast(Sequence[ArrayLike], [circles] if single else circles)
    groups = [np.asarray(group, dtype=float) for group in lists]
    if len(groups) != len(images):
        raise DataError(f"{len(images)} images, but {len(groups)} lists of circles")
    for i, group in enumerate(groups):
        if group.size and (group.ndim != 2 or group.shape[1] != 3):
            raise DataError(
                f"circles of image {i} have shape {group.shape}; expected (n, 3): row, col, radius"
            )
    return images, [group.reshape(-1, 3) for group in groups]


def _craters(
    image: Image | Sequence[Image],
    circles: ArrayLike | Sequence[ArrayLike],
    scales: Sequence[float] | None,
    most: int,
    rng: np.random.Generator,
) -> Iterator[_Crater]:
    """Craters of usable size with all candidates inside the image, in random order."""
    images, groups = _pairs(image, circles)
    index = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    every = np.concatenate([*groups, np.empty((0, 3))])
    usable = np.flatnonzero((every[:, 2] >= RADII[0]) & (every[:, 2] <= RADII[1]))
    found = 0
    for i in rng.permutation(usable):
        if found == most:
            return
        scale = 1.0 if scales is None else float(scales[index[i]])
        picture = images[index[i]]
        row, col, radius = every[i]
        reach = int(np.ceil(1.3 * radius + _REACH / scale + 3))
        row0, col0 = round(row) - reach, round(col) - reach
        if min(row0, col0) < 0:
            continue
        patch = picture[row0 : row0 + 2 * reach + 1, col0 : col0 + 2 * reach + 1]
        if patch.shape != (2 * reach + 1,) * 2 or (patch == 0).mean() > 0.01:
            continue
        found += 1
        yield _Crater(patch.astype(np.float32), row - row0, col - col0, radius, scale)


def _scores(
    craters: Sequence[_Crater], grid: _Grid, *, sigma: float, diameters: int
) -> dict[str, NDArray[np.float32]]:
    """Score of every candidate for every crater, (n, rows, cols, ratios), by kind of contrast."""
    angle = np.arange(2 * diameters) * np.pi / diameters
    down, right = np.sin(angle), np.cos(angle)
    shape = (len(craters), *(len(axis) for axis in grid.axes))
    shaded, walls = np.empty(shape, np.float32), np.empty(shape, np.float32)
    for i, crater in enumerate(craters):
        # Derivatives of the patch beyond its edge do not matter: no candidate reaches it.
        along = [
            ndimage.gaussian_filter(crater.patch, sigma, order=order) for order in ((1, 0), (0, 1))
        ]
        typical = np.sqrt(np.mean(along[0] ** 2 + along[1] ** 2)) + 0.3
        rows = crater.row + grid.rows[:, None, None] / crater.scale
        cols = crater.col + grid.cols[None, :, None] / crater.scale
        for k, ratio in enumerate(grid.ratios):
            radius = crater.radius * ratio
            points = np.broadcast_arrays(rows + radius * down, cols + radius * right)
            change = down * ndimage.map_coordinates(along[0], points, order=1, mode="nearest")
            change += right * ndimage.map_coordinates(along[1], points, order=1, mode="nearest")
            one, other = np.split(change / typical, 2, axis=-1)
            product = one * other
            shaded[i, :, :, k] = np.sqrt(np.maximum(-product, 0)).mean(axis=-1)
            walls[i, :, :, k] = (-np.sign(one) * np.sqrt(np.maximum(product, 0))).mean(axis=-1)
    return {"shaded": shaded, "walls": walls}


def _peak(score: NDArray, grid: _Grid) -> tuple[float, float, float]:
    """Best candidate, to a fraction of a step by parabolas along the axes."""
    best = np.unravel_index(int(score.argmax()), score.shape)
    found = []
    for axis, values in enumerate(grid.axes):
        line = np.moveaxis(score, axis, 0)[(slice(None), *np.delete(best, axis))]
        k = int(best[axis])
        place = float(values[k])
        if 0 < k < len(line) - 1:
            bend = line[k - 1] - 2 * line[k] + line[k + 1]
            if bend < 0:
                place += 0.5 * (line[k - 1] - line[k + 1]) / bend * float(values[1] - values[0])
        found.append(place)
    return found[0], found[1], found[2]


def audit_split(folder: Path, *, figures: Path | None = None) -> pd.DataFrame:
    """Audit the labels of a prepared split, quadrangle by quadrangle.

    Parameters
    ----------
    folder : Path
        A split as `tiles.write_split` writes it.
    figures : Path, optional
        Folder for one picture of mean craters a quadrangle, before and after.

    Returns
    -------
    pandas.DataFrame
        One row a quadrangle: ``quadrangle`` and the fields of `Displacement`; displacements in
        pixels of level 0. Pictures have too few craters each and are audited as one group, named
        ``pictures``.

    Raises
    ------
    DataError
        As `tiles.read_targets`.
    """
    targets = tiles.read_targets(folder)
    mapped = set(targets.quadrangles.loc[targets.quadrangles["crs"] != "", "name"])
    name = targets.tiles["quadrangle"].astype(object)
    group = name.where(name.isin(mapped), "pictures")
    lines = []
    for quadrangle, members in targets.tiles.groupby(group.to_numpy(), sort=True):
        index = members.index.to_numpy()
        pictures = cast(Sequence[Image], tiles.read_images(folder, index))
        scored = [np.array([tuple(c) for c in targets[int(i)]]).reshape(-1, 3) for i in index]
        scales = (2.0 ** members["level"].to_numpy()).tolist()
        found = estimate(pictures, scored, scales=scales)
        lines.append({"quadrangle": quadrangle, **vars(found)})
        if figures is not None and found.craters:
            safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in str(quadrangle))
            mean_crater_figure(
                pictures, scored, found, Path(figures) / f"{safe}.png", scales=scales
            )
    fields = ["quadrangle", *Displacement.__dataclass_fields__]
    return pd.DataFrame(lines, columns=fields)


CLASSES = ((5, 8), (8, 14), (14, 28))
"""Radii of the panels of the figure, px."""


def mean_craters(
    image: Image | Sequence[Image],
    circles: ArrayLike | Sequence[ArrayLike],
    *,
    low: float,
    high: float,
    size: int = 97,
) -> tuple[NDArray[np.float64], int]:
    """Mean picture of the craters of a class of radii, each scaled to its radius and contrast.

    Returns
    -------
    picture : float64 array (size, size)
        From -2 to 2 radii around the centre; NaN without craters.
    count : int
        Number of craters in it.
    """
    images, groups = _pairs(image, circles)
    offset = np.linspace(-2, 2, size)
    total, count = np.zeros((size, size)), 0
    for picture, group in zip(images, groups, strict=True):
        edge = np.array(picture.shape) - 1
        for row, col, radius in group:
            reach = 2 * radius
            fits = min(row, col) >= reach and row <= edge[0] - reach and col <= edge[1] - reach
            if not (low <= radius < high and fits):
                continue
            points = np.meshgrid(row + radius * offset, col + radius * offset, indexing="ij")
            patch = ndimage.map_coordinates(picture.astype(np.float32), points, order=1)
            if patch.std() > 0:
                total += (patch - patch.mean()) / patch.std()
                count += 1
    return (total / count if count else np.full((size, size), np.nan)), count


def mean_crater_figure(
    image: Image | Sequence[Image],
    circles: ArrayLike | Sequence[ArrayLike],
    displacement: Displacement,
    path: Path,
    *,
    scales: Sequence[float] | None = None,
) -> None:
    """Draw the mean crater by the catalogue and as the audit corrects it.

    Parameters
    ----------
    image, circles, scales
        As for `estimate`.
    displacement : Displacement
        What `estimate` found.
    path : Path
        The PNG file to write; its folder is made.
    """
    from matplotlib.figure import Figure

    images, groups = _pairs(image, circles)
    size = [1.0] * len(groups) if scales is None else list(scales)
    after = [apply(g, displacement, scale=s) for g, s in zip(groups, size, strict=True)]
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    panels = figure.subplots(2, len(CLASSES))
    turn = np.linspace(0, 2 * np.pi, 200)
    for row, (label, shown) in enumerate((("catalogue", groups), ("registered", after))):
        for panel, (low, high) in zip(panels[row], CLASSES, strict=True):
            mean, count = mean_craters(images, shown, low=low, high=high)
            panel.imshow(mean, cmap="gray", extent=(-2, 2, 2, -2))
            panel.plot(np.cos(turn), np.sin(turn), color="tab:red", linewidth=1)
            panel.set_title(f"{label}: r {low} to {high} px, n = {count}", fontsize=9)
            panel.set_xticks([-1, 0, 1])
            panel.set_yticks([-1, 0, 1])
    figure.supxlabel("radii")
    figure.suptitle(str(displacement), fontsize=10)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    figure.savefig(unfinished, format="png", dpi=110)
    unfinished.replace(path)
