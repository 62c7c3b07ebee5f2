"""The starting kit's crater detector, on tiles with drawn craters: dark on one side."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FILE = Path(__file__).resolve().parents[1] / "submissions" / "starting_kit" / "object_detector.py"


@pytest.fixture(scope="module")
def kit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("starting_kit_object_detector", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Labels(list):
    """Lists of circles that also know the ignored ones, as the track hands them over."""

    ignored = None


def draw(n: int, seed: int, light: float = 1.0) -> tuple[np.ndarray, Labels]:
    """Smooth ground with four bowls a tile, one in each quarter, lit along the rows."""
    rng = np.random.default_rng(seed)
    grid = np.mgrid[:224, :224].astype(float)
    tiles = 110 + rng.normal(0, 6, (n, 224, 224))
    labels = Labels()
    for tile in tiles:
        circles = []
        for corner in ((30, 30), (30, 120), (120, 30), (120, 120)):
            row, col = corner + rng.uniform(25, 50, 2)
            radius = np.exp(rng.uniform(np.log(5.5), np.log(20)))
            u, v = (grid[0] - row) / radius, (grid[1] - col) / radius
            inside = np.clip((1.1 - np.hypot(u, v)) / 0.2, 0, 1)
            tile += light * 60 * v * inside
            circles.append((row, col, radius))
        labels.append(circles)
    labels.ignored = [[] for _ in range(n)]
    return np.clip(tiles, 1, 255).astype(np.uint8), labels


@pytest.fixture(scope="module")
def trained(kit):
    return kit.ObjectDetector().fit(*draw(30, seed=1))


def found_share(kit, detector, X, y) -> tuple[float, float]:
    """Shares of craters found and of confident detections that are right, at IoU .5."""
    truth = kit.stack([np.array(c) for c in y])
    confident = [[d[1:] for d in tile if d[0] >= 0.5] for tile in detector.predict(X)]
    found = kit.stack([np.array(c, float).reshape(-1, 3) for c in confident])
    return (
        float((kit.best_match(truth, found)[1] >= 0.5).mean()),
        float((kit.best_match(found, truth)[1] >= 0.5).mean()),
    )


def test_it_finds_new_craters_where_they_are(kit, trained):
    X, y = draw(12, seed=2)
    recall, precision = found_share(kit, trained, X, y)
    assert recall > 0.9
    assert precision > 0.9
    nearest = [
        min(tile, key=lambda d: np.hypot(d[1] - row, d[2] - col))[1:] - np.array([row, col, radius])
        for tile, circles in zip(trained.predict(X), y, strict=True)
        for row, col, radius in circles
    ]
    # Rows, columns and radii in their order, and counted from the centre of the first pixel.
    assert np.abs(np.median(nearest, axis=0)).max() < 0.5


def test_two_suns_are_learned_together(kit):
    X, y = draw(24, seed=3)
    other, more = draw(24, seed=4, light=-1)
    both = Labels([*y, *more])
    both.ignored = [*y.ignored, *more.ignored]
    detector = kit.ObjectDetector().fit(np.concatenate([X, other]), both)
    for seed, light in ((5, 1), (6, -1)):
        recall, precision = found_share(kit, detector, *draw(8, seed, light))
        assert recall > 0.85
        assert precision > 0.85


def test_predictions_are_finite_circles_with_confidences(trained):
    X, _ = draw(5, seed=7)
    detections = trained.predict(X)
    assert len(detections) == 5
    flat = np.array([d for tile in detections for d in tile])
    assert flat.shape[1] == 4
    assert np.isfinite(flat).all()
    assert flat[:, 0].min() >= 0
    assert flat[:, 0].max() <= 1
    assert flat[:, 3].min() > 0
    assert all(isinstance(value, float) for tile in detections for d in tile for value in d)


def test_a_tile_is_judged_the_same_in_any_company(kit, trained, monkeypatch):
    X, _ = draw(7, seed=8)
    together = trained.predict(X)
    monkeypatch.setattr(kit, "CHUNK", 3)
    for one, other in zip(together, trained.predict(X), strict=True):
        # only the last digit may depend on how many rows a matrix product has
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_training_is_reproducible(kit):
    X, y = draw(12, seed=9)
    one, other = (kit.ObjectDetector().fit(X, y).predict(X[:4]) for _ in range(2))
    assert one == other


def test_constant_and_empty_tiles_hold_nothing(trained):
    X = np.stack([np.full((224, 224), level, np.uint8) for level in (0, 1, 128, 255)])
    assert trained.predict(X) == [[], [], [], []]


def test_no_data_is_no_crater_and_hides_none(kit, trained):
    X, y = draw(8, seed=10)
    X[:, :, 112:] = 0
    visible = [[c for c in circles if c[1] + 1.6 * c[2] < 112] for circles in y]
    detections = trained.predict(X)
    confident = [[d for d in tile if d[0] >= 0.5] for tile in detections]
    assert all(d[2] < 112 for tile in confident for d in tile)
    truth = kit.stack([np.array(c).reshape(-1, 3) for c in visible])
    found = kit.stack([np.array([d[1:] for d in t]).reshape(-1, 3) for t in confident])
    assert len(truth) > 5
    assert (kit.best_match(truth, found)[1] >= 0.5).mean() > 0.8


@pytest.mark.parametrize("n_craters", [0, 1, 3, 9])
def test_few_or_no_craters_to_learn_from(kit, n_craters):
    X, y = draw(3, seed=11)
    left = iter(range(n_craters))
    few = [[c for c, _ in zip(circles, left, strict=False)] for circles in y]  # no .ignored
    detections = kit.ObjectDetector().fit(X, few).predict(X)
    assert len(detections) == 3
    assert n_craters or detections == [[], [], []]


def test_training_on_constant_tiles_finds_nothing(kit):
    _, y = draw(3, seed=12)
    X = np.full((3, 224, 224), 77, np.uint8)
    assert kit.ObjectDetector().fit(X, y).predict(X) == [[], [], []]


def test_ignored_craters_are_not_learned_as_ground(kit):
    X, y = draw(30, seed=13)
    scored = Labels([circles[:1] for circles in y])
    taught_wrong = kit.ObjectDetector().fit(X, scored)
    scored.ignored = [circles[1:] for circles in y]
    taught_well = kit.ObjectDetector().fit(X, scored)
    test = draw(8, seed=15)
    assert found_share(kit, taught_well, *test)[0] > found_share(kit, taught_wrong, *test)[0] + 0.2


def test_overlap_agrees_with_shapely(kit):
    shapely = pytest.importorskip("shapely")
    rng = np.random.default_rng(13)
    circles = np.c_[np.zeros(40), rng.uniform(0, 20, (40, 2)), rng.uniform(1, 9, 40)]
    circles[1] = circles[0]
    discs = [shapely.Point(row, col).buffer(radius, 512) for _, row, col, radius in circles]
    expected = [[a.intersection(b).area / a.union(b).area for b in discs] for a in discs]
    np.testing.assert_allclose(kit.overlap(circles, circles), expected, atol=1e-5)


def test_it_reads_only_slices_and_never_all_at_once(kit):
    X, y = draw(35, seed=14)

    class Lazy:
        largest = 0

        def __len__(self):
            return len(X)

        def __getitem__(self, key):
            part = X[key]
            self.largest = max(self.largest, len(part))
            return part

    lazy = Lazy()
    detector = kit.ObjectDetector().fit(lazy, y)
    assert len(detector.predict(lazy)) == 35
    assert lazy.largest <= kit.CHUNK
