"""Crater detector of learned templates and small classifiers; no deep learning.

Scale   Every tile is resampled to 12 sizes, so that a crater of any radius is 5 pixels in radius
        on one of them and fills one 17 x 17 patch (out to 1.6 radii).
Find    Four templates, learned from the training craters, are correlated with every size. A
        crater is dark on one side and bright on the other; several templates let several suns
        live together. The best peaks in (row, col, radius) are candidates.
Judge   Boosted trees and a small network, averaged, look at the patch of each candidate and say
        how likely it is a crater; another small network says how far off the circle is.
Merge   Candidates that end up on the same crater become one, by their weighted mean.

Scores  On test tiles, models of three folds bagged, by `ramp-test --submission starting_kit`:
        ap .50, ap50 .66  simulated, after `python download_data.py`
        ap .39, ap50 .76  178 THEMIS pictures held out of 712, after `python download_data.py
                          --tiles DIR --labels labels.csv --split split.csv`; trained once on
                          all others ap .38, ap50 .76, where the 2018 kit's image_processing
                          entry reaches ap50 .03
Cost    Training 6 s on 320 tiles, 80 tiles a second in prediction, two cores.
To try  Other templates and radii, mirrored examples, a wider view around a candidate, deeper
        trees, the kind of the crater, a convolutional network in place of the judges.
"""

import warnings

import numpy as np
from scipy import ndimage, signal
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline

SIZE, LOW, HIGH = 224, 28, 196  # of a tile; craters centred in [LOW, HIGH) are scored ...
RADII = np.geomspace(5, 28, 12)  # ... if they have these radii, in pixels
UNIT, HALF = 5, 8  # on the level of its size a crater's radius is UNIT pixels, a patch's side ...
SIDE = 2 * HALF + 1  # ... is SIDE pixels
TEMPLATES, CANDIDATES = 4, 60  # candidates per tile
CHUNK, MOST_TILES = 32, 2000  # tiles in memory at a time; tiles to learn from at most
NOISE = 2.0  # grey levels: keeps plain ground from being blown up
WEIGHT = 3  # of size and contrast among the 289 grey values of a patch


def resampling(radius):
    """Blur and resample a line of SIZE pixels, edges repeated: a matrix (level pixels, SIZE)."""
    step = radius / UNIT  # of a level's pixel, in tile pixels
    centres = (np.arange(int(np.ceil((SIZE - 1) / step)) + SIDE) - HALF) * step
    pixels = np.arange(-100, SIZE + 100)
    sigma = 0.5 * np.sqrt(max(step**2 - 1, 0.15))
    weights = np.exp(-0.5 * ((centres[:, None] - pixels) / sigma) ** 2)
    weights = weights @ np.eye(SIZE)[np.clip(pixels, 0, SIZE - 1)]
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


RESAMPLING = [resampling(radius) for radius in RADII]


def pyramids(X, index):
    """Yield, CHUNK tiles at a time, their positions in index and images of the 12 sizes."""
    for start in range(0, len(index), CHUNK):
        part = index[start : start + CHUNK]
        tiles = np.asarray(X[part])
        empty = ndimage.binary_opening(tiles == 0, np.ones((1, 5, 5)))  # areas of 0: no data
        mean = np.sum(tiles, (1, 2), where=~empty) / np.maximum(np.sum(~empty, (1, 2)), 1)
        tiles = np.where(empty, mean[:, None, None], tiles).astype(np.float32)
        yield slice(start, start + len(part)), [A @ tiles @ A.T for A in RESAMPLING]


def patches(levels, circles):
    """Describe circles (n, 4: tile, row, col, radius) by normalised patch, size and contrast."""
    seen = np.empty((len(circles), SIDE, SIDE), np.float32)
    level_of = np.abs(np.log(circles[:, 3:] / RADII)).argmin(1)
    offsets = np.arange(-HALF, HALF + 1) / UNIT  # in radii
    for k in np.unique(level_of):
        i = np.flatnonzero(level_of == k)
        tile, row, col, radius = circles[i].T[:, :, None]
        row, col = ((x + offsets * radius) * UNIT / RADII[k] + HALF for x in (row, col))
        where = np.broadcast_arrays(tile[:, :, None], row[:, :, None], col[:, None, :])
        seen[i] = ndimage.map_coordinates(levels[k], where, order=1, mode="nearest")
    seen = seen.reshape(-1, SIDE**2)
    contrast = seen.std(1, keepdims=True) + NOISE
    seen = (seen - seen.mean(1, keepdims=True)) / contrast
    size = np.log(circles[:, 3:] / 10)
    return np.hstack([seen, WEIGHT * size, WEIGHT * np.log(contrast / 20)], dtype=np.float32)


def overlap(a, b):
    """Intersection over union (n, m) of circles (n, 4) and (m, 4); 0 on different tiles."""
    d = np.hypot(a[:, None, 1] - b[:, 1], a[:, None, 2] - b[:, 2])
    p, q = np.broadcast_arrays(a[:, None, 3], b[:, 3])
    d = np.clip(d, np.abs(p - q) + 1e-9, p + q)  # nested or apart: the lens at its limits
    lens = 0
    for r, s in ((p, q), (q, p)):
        u = np.clip((d**2 + r**2 - s**2) / (2 * d * r), -1, 1)
        lens = lens + r**2 * (np.arccos(u) - u * np.sqrt(1 - u**2))
    return lens / (np.pi * (p**2 + q**2) - lens) * (a[:, None, 0] == b[:, 0])


def best_match(circles, known):
    """Per circle the known one that it overlaps most, and their overlap."""
    known = np.vstack([known, [-1, 0, 0, 1]])  # on no tile: for when none is known
    iou = overlap(circles, known)
    return known[iou.argmax(1)], iou.max(1)


def suppress(circles, score, threshold):
    """Indices of at most CANDIDATES circles of one tile, none overlapping a better one."""
    order = np.argsort(-score, kind="stable")[: 3 * CANDIDATES]
    close = overlap(circles[order], circles[order]) > threshold
    kept = np.ones(len(order), bool)
    for i in range(len(order)):
        if kept[i]:
            kept[i + 1 :] &= ~close[i, i + 1 :]
    return order[kept][:CANDIDATES]


def stack(circles):
    """Circles (row, col, radius) of several tiles as one array (n, 4), the tile's number first."""
    return np.array([(i, *c) for i, tile in enumerate(circles) for c in tile]).reshape(-1, 4)


class ObjectDetector:
    """Find craters with learned templates, judge and correct them with learned estimators."""

    def fit(self, X, y):
        """Learn from tiles X (n, 224, 224) and, per tile, its craters (row, col, radius)."""
        rng = np.random.default_rng(0)
        index = np.sort(rng.permutation(len(X))[:MOST_TILES])
        ignored = getattr(y, "ignored", None)  # neither craters to learn nor plain ground
        craters = [y[i] for i in index]
        unsure = [[] if ignored is None else ignored[i] for i in index]
        self.judges = []
        if sum(map(len, craters)) < 2 * TEMPLATES:
            return self  # too few craters to learn from: predict() finds none
        self._fit_templates(X, index, craters, unsure, rng)
        seen, iou, shift = [], [], []
        for part, levels in pyramids(X, index):
            found = self._candidates(levels)
            found = found[best_match(found, stack(unsure[part]))[1] < 0.3]
            true, quality = best_match(found, stack(craters[part]))
            seen.append(patches(levels, found))
            iou.append(quality)
            place = (true[:, 1:3] - found[:, 1:3]) / found[:, 3:]
            shift.append(np.c_[place, np.log(true[:, 3] / found[:, 3])])
        seen, iou, shift = map(np.concatenate, (seen, iou, shift))
        clear, near = (iou < 0.4) | (iou >= 0.5), iou > 0.35
        if not near.any() or len(np.unique(iou[clear] >= 0.5)) < 2:
            return self
        net = {"hidden_layer_sizes": (64,), "random_state": 0}
        trees = HistGradientBoostingClassifier(
            max_iter=200, learning_rate=0.06, l2_regularization=1, random_state=0
        )
        judges = [
            make_pipeline(PCA(min(40, *seen[clear].shape), random_state=0), trees),
            MLPClassifier(alpha=0.1, max_iter=20, **net),
        ]
        self.corrector = MLPRegressor(alpha=0.01, max_iter=30, **net)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # short training is intended
            self.corrector.fit(seen[near], shift[near] * 5)  # of order 1
            self.judges = [judge.fit(seen[clear], iou[clear] >= 0.5) for judge in judges]
        return self

    def _fit_templates(self, X, index, craters, unsure, rng):
        """Linear discriminants between clusters of craters and random pieces of ground."""
        seen, plain = [], []
        for part, levels in pyramids(X, index):
            known = stack(craters[part])
            n = 20 * len(levels[0])
            place = rng.uniform(LOW, HIGH, (n, 2))
            radius = np.exp(rng.uniform(*np.log(RADII[[0, -1]]), n))
            ground = np.c_[np.arange(n) // 20, place, radius]
            free = best_match(ground, np.vstack([known, stack(unsure[part])]))[1] < 0.25
            plain.append(patches(levels, ground[free])[:, : SIDE**2])
            seen.append(patches(levels, known)[:, : SIDE**2])
        seen, plain = np.concatenate(seen), np.concatenate(plain)
        means = KMeans(TEMPLATES, n_init=2, random_state=0).fit(seen).cluster_centers_
        spread = np.cov(plain.T) + 0.1 * np.eye(SIDE**2)
        templates = np.linalg.solve(spread, (means - plain.mean(0)).T).T
        self.bias = -0.5 * (templates * (means + plain.mean(0))).sum(1)
        templates -= templates.mean(1, keepdims=True)
        # turned by 180 degrees, because it is a convolution that applies them
        self.templates = templates[:, ::-1].reshape(-1, 1, SIDE, SIDE).astype(np.float32)

    def _candidates(self, levels):
        """Peaks of the best template's response to normalised patches: (n, 4)."""
        found, score = [], []
        for radius, level in zip(RADII, levels, strict=True):
            scale = UNIT / radius
            first = int((LOW - radius / 2) * scale)
            n = int((HIGH + radius / 2) * scale) + 2 - first
            level = level[:, first : first + n + SIDE - 1, first : first + n + SIDE - 1]
            level = level - level.mean((1, 2), keepdims=True)
            inner = (slice(None), slice(HALF, HALF + n), slice(HALF, HALF + n))
            mean, square = (
                ndimage.uniform_filter(a, (1, SIDE, SIDE))[inner] for a in (level, level**2)
            )
            contrast = np.sqrt(np.maximum(square - mean**2, 0)) + NOISE
            response = np.full(contrast.shape, -np.inf, np.float32)
            for template, bias in zip(self.templates, self.bias, strict=True):
                match = signal.fftconvolve(level, template, "valid", axes=(1, 2))
                np.maximum(response, match / contrast + bias, out=response)
            peak = response == ndimage.maximum_filter(response, (1, 3, 3))
            tile, row, col = np.nonzero(peak & (contrast > NOISE + 0.5))
            place = [tile, (first + row) / scale, (first + col) / scale]
            found.append(np.c_[*place, np.full(len(tile), radius)])
            score.append(response[tile, row, col])
        found, score = np.concatenate(found), np.concatenate(score)
        tiles = [np.flatnonzero(found[:, 0] == i) for i in range(len(levels[0]))]
        return found[np.concatenate([i[suppress(found[i], score[i], 0.75)] for i in tiles])]

    def predict(self, X):
        """Return per tile a list of (confidence, row, col, radius)."""
        if not self.judges:
            return [[] for _ in range(len(X))]
        detections = []
        for _, levels in pyramids(X, np.arange(len(X))):
            found = self._candidates(levels)
            seen = patches(levels, np.vstack([found, [0, 100, 100, 10]]))  # never empty
            trust = np.mean([judge.predict_proba(seen)[:-1, 1] for judge in self.judges], 0)
            shift = np.clip(self.corrector.predict(seen)[:-1] / 5, -0.4, 0.4)
            found[:, 1:3] += shift[:, :2] * found[:, 3:]
            found[:, 3] *= np.exp(shift[:, 2])
            for i in range(len(levels[0])):
                own, weight = found[found[:, 0] == i], trust[found[:, 0] == i]
                kept = suppress(own, weight, 0.3)
                share = (overlap(own[kept], own) > 0.5) * (weight + 1e-6)
                circles = share @ own[:, 1:] / share.sum(1, keepdims=True)
                detections.append([tuple(c) for c in np.c_[weight[kept], circles].tolist()])
        return detections
