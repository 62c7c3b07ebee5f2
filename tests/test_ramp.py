"""The kit as ramp-workflow sees it."""

import copy
import importlib.util
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rampwf.utils.combine import get_score_cv_bags
from rampwf.utils.scoring import score_matrix

from acdc import tracks
from acdc.errors import KitError
from acdc.ramp import predictions
from acdc.ramp.kit import Kit
from acdc.tracks.craters import tiles
from acdc.tracks.craters import track as crater_track
from acdc.tracks.craters.detections import check

ROOT = Path(__file__).resolve().parents[1]
PERFECT = """
import numpy as np
from acdc.tracks.craters import tiles

class ObjectDetector:
    def fit(self, X, y):
        assert len(X) == len(y)

    def predict(self, X):
        y = tiles.read_targets(X.path.parent)
        rows = np.arange(len(y)) if X.rows is None else X.rows
        kinds = np.eye(4)
        return [
            [(1.0, *c, *kinds[tiles.KINDS.index(c.kind)]) for c in y[int(row)]] for row in rows
        ]
"""


# what entries of 2018 rely on: iteration over X and y, lists that are true or false, circles that
# unpack into three, object arrays or plain lists as result
OF_2018 = """
import numpy as np

class ObjectDetector(object):
    def fit(self, X, y):
        self.radii = []
        for image, craters in zip(X, y):
            assert image.shape == X.shape[1:] and image.dtype == np.uint8
            if not craters:
                continue
            self.radii += [max(map(lambda circle: circle[2], craters))]
            for row, col, radius in craters:
                assert image[int(row), int(col)] >= 0
        return self

    def predict(self, X):
        output = [[] for _ in range(len(X))]
        for i, image in enumerate(X):
            output[i].append((0.5, 112.0, float(image.argmax() % 224), np.median(self.radii)))
        RESULT
"""


@pytest.fixture
def kit(tmp_path, write_tiles):
    """A kit folder with a little made-up data and a submission that knows the answers."""
    write_tiles(tmp_path / "data" / "craters" / "train", n=36, blocks=9)
    write_tiles(tmp_path / "data" / "craters" / "test", n=12, blocks=4, seed=1)
    shutil.copy(ROOT / "problem.py", tmp_path)
    submit(tmp_path, "perfect", PERFECT)
    return tmp_path


def submit(kit, name, code):
    folder = kit / "submissions" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "object_detector.py").write_text(code)


def load_problem(kit):
    spec = importlib.util.spec_from_file_location("problem", kit / "problem.py")
    problem = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(problem)
    return problem


def ramp(kit, command, *options, **environment):
    return subprocess.run(
        [Path(sys.executable).with_name(command), *options],
        cwd=kit,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def noisy(y, seed):
    """Detections near the truth, some missing, some invented."""
    random = np.random.default_rng(seed)
    found = []
    for craters in y:
        kept = [
            (random.uniform(0.3, 1), *(np.array(c) + random.normal(0, 0.8, 3)).clip(1))
            for c in craters
            if random.random() < 0.8
        ]
        invented = [(random.uniform(0, 0.7), *random.uniform(28, 196, 2), random.uniform(5, 28))]
        found.append(kept + invented)
    return found


def test_problem_is_short_and_light(kit):
    assert len((ROOT / "problem.py").read_text().splitlines()) < 60
    heavy = "torch", "rasterio", "matplotlib", "pyproj", "dask", "sklearn", "skimage", "rampwf"
    code = f"import sys, problem; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_bags_of_perfect_predictions_are_perfect(kit):
    problem = load_problem(kit)
    X, y = problem.get_train_data(str(kit))
    cv = problem.get_cv(X, y)
    perfect = check([[(1.0, *c) for c in craters] for craters in y], len(y))
    truth = problem.Predictions(y_true=y)
    valid = [problem.Predictions(y_pred=perfect, fold_is=rows) for _, rows in cv]
    ap = problem.score_types[0]
    assert ap.name == "ap"
    _, scores = get_score_cv_bags(ap, valid, truth, [rows for _, rows in cv])
    assert scores == [1.0] * len(cv)
    # as on the test set, where every model predicts every sample
    everywhere = [problem.Predictions(y_pred=perfect) for _ in cv]
    _, scores = get_score_cv_bags(ap, everywhere, truth)
    assert scores == [1.0] * len(cv)


def test_every_sample_is_evaluated_once_for_all_scores_and_bags(kit, monkeypatch):
    problem = load_problem(kit)
    X, y = problem.get_train_data(str(kit))
    _, y_test = problem.get_test_data(str(kit))
    evaluated = []
    track = problem._kit.track

    def counted(targets, found):
        evaluated.append(len(targets))
        return track.evaluate(targets, found)

    kit_track = crater_track.TRACK.__class__(**{**track.__dict__, "evaluate": counted})
    score_types = [type(s)(kit_track, s._score) for s in problem.score_types]
    monkeypatch.setattr(predictions, "RECORDS", predictions.Records())
    monkeypatch.setattr("acdc.ramp.scores.RECORDS", predictions.RECORDS)
    cv = problem.get_cv(X, y)
    folds = []
    for number, (train, valid) in enumerate(cv):
        found = check(noisy(y, number), len(y))
        steps = {
            "train": (found, y, train),
            "valid": (found, y, valid),
            "test": (check(noisy(y_test, number), len(y_test)), y_test, None),
        }
        predicted, truth = {}, {}
        for step, (found, targets, rows) in steps.items():
            predicted[step] = problem.Predictions(y_pred=found, fold_is=rows)
            truth[step] = problem.Predictions(y_true=targets, fold_is=rows)
        score_matrix(score_types, truth, predicted)
        folds.append(predicted)
    assert sum(evaluated) == len(cv) * (len(y) + len(y_test))
    for score_type in score_types:
        rows = [valid for _, valid in cv]
        get_score_cv_bags(
            score_type, [f["valid"] for f in folds], problem.Predictions(y_true=y), rows
        )
    assert sum(evaluated) == len(cv) * (len(y) + len(y_test))
    truth = problem.Predictions(y_true=y_test)
    for score_type in score_types:
        get_score_cv_bags(score_type, [f["test"] for f in folds], copy.deepcopy(truth))
    # one more for each longer bag of the test set
    assert sum(evaluated) == len(cv) * (len(y) + len(y_test)) + (len(cv) - 1) * len(y_test)


def test_scores_do_not_depend_on_how_samples_are_grouped(kit):
    """The bag of the validation folds equals scoring all of it at once."""
    problem = load_problem(kit)
    X, y = problem.get_train_data(str(kit))
    cv = problem.get_cv(X, y)
    found = check(noisy(y, 3), len(y))
    at_once = problem.Predictions(y_pred=found), problem.Predictions(y_true=y)
    valid = [problem.Predictions(y_pred=found, fold_is=rows) for _, rows in cv]
    for score_type in problem.score_types:
        _, scores = get_score_cv_bags(score_type, valid, at_once[1], [rows for _, rows in cv])
        np.testing.assert_allclose(scores[-1], score_type.score_function(*at_once[::-1]))


def test_folds_are_blocks(kit):
    problem = load_problem(kit)
    X, y = problem.get_train_data(str(kit))
    cv = problem.get_cv(X, y)
    assert len(cv) == 3
    seen = np.concatenate([valid for _, valid in cv])
    np.testing.assert_array_equal(np.sort(seen), np.arange(len(y)))
    block = y.tiles.block.astype(str).to_numpy()
    for train, valid in cv:
        assert not set(block[train]) & set(block[valid])
        np.testing.assert_array_equal(np.sort(np.r_[train, valid]), np.arange(len(y)))


def test_quick_tests_read_a_small_subset(kit, monkeypatch):
    problem = load_problem(kit)
    everything = problem.get_train_data(str(kit))
    monkeypatch.setenv("RAMP_TEST_MODE", "1")
    X, y = problem.get_train_data(str(kit))
    assert len(X) == len(y) < len(everything[0])
    assert len(problem.get_cv(X, y)) == 3


def test_the_track_file_binds_a_folder(tmp_path):
    assert tracks.choose_name(tmp_path, {}) == "craters"
    with pytest.raises(KitError, match=r"RAMP_TRACK: there is no track 'moon'.*craters"):
        tracks.choose_name(tmp_path, {"RAMP_TRACK": "moon"})
    (tmp_path / "TRACK").write_text("craters\n")
    assert tracks.choose_name(tmp_path, {"RAMP_TRACK": "craters"}) == "craters"
    with pytest.raises(KitError, match=r"serves the track craters.*but RAMP_TRACK says lst"):
        tracks.choose_name(tmp_path, {"RAMP_TRACK": "lst"})
    assert not (ROOT / "TRACK").exists()


def test_two_kit_folders_in_one_process(kit, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(kit, other, dirs_exist_ok=True)
    (other / "acdc").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = load_problem(kit)
    with pytest.warns(UserWarning, match="not by its own"):
        two = load_problem(other)
    for folder, problem in ((kit, one), (other, two)):
        X, _ = problem.get_train_data(str(folder))
        assert X.path.is_relative_to(folder)


def test_a_submission_without_its_class_is_told(kit):
    submit(kit, "empty", "")
    workflow = Kit(kit).workflow
    with pytest.raises(KitError, match="defines no class ObjectDetector"):
        workflow.train_submission(str(kit / "submissions" / "empty"), None, None)
    with pytest.raises(KitError, match=r"object_detector.py is missing"):
        workflow.train_submission(str(kit / "submissions"), None, None)


def test_dataclasses_work_in_submissions(kit):
    submit(
        kit,
        "modern",
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n\n"
        "@dataclass\n"
        "class ObjectDetector:\n"
        "    steps: int = 3\n"
        "    def fit(self, X, y): pass\n",
    )
    Kit(kit).workflow.train_submission(
        str(kit / "submissions" / "modern"), tiles.read_images(kit / "data/craters/train"), []
    )


def test_the_first_submission_of_the_readme_runs(kit):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = next(part for part in text.split("```") if part.startswith("python\n"))
    submit(kit, "first", code.removeprefix("python\n"))
    workflow, (X, y) = Kit(kit).workflow, Kit(kit).get_train_data(str(kit))
    model = workflow.train_submission(str(kit / "submissions" / "first"), X, y)
    assert len(workflow.test_submission(model, X).values) == len(X)


@pytest.mark.parametrize("result", ["return output", "return np.array(output, dtype=object)"])
def test_entries_in_the_manner_of_2018_run(kit, result):
    submit(kit, "old", OF_2018.replace("RESULT", result))
    problem = load_problem(kit)
    X, y = problem.get_train_data(str(kit))
    train, _ = problem.get_cv(X, y)[0]
    model = problem.workflow.train_submission(str(kit / "submissions" / "old"), X, y, train)
    predicted = problem.workflow.test_submission(model, X)
    assert len(predicted.values) == len(X)


@pytest.mark.slow
def test_ramp_test_from_another_folder_with_all_its_options(kit, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    done = ramp(
        elsewhere,
        "ramp-test",
        f"--ramp-kit-dir={kit}",
        f"--ramp-data-dir={kit}",
        f"--ramp-submission-dir={kit / 'submissions'}",
        "--submission=perfect",
        "--save-output",
        "--pickle",
        "--retrain",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    output = kit / "submissions" / "perfect" / "training_output"
    scores = pd.read_csv(output / "bagged_scores.csv")
    assert (scores["ap"] == 1).all()
    assert (output / "fold_2" / "trained_model.pkl").is_file()


@pytest.mark.slow
def test_ramp_blend_and_quick_test(kit):
    for name in ("perfect", "another"):
        submit(kit, name, PERFECT)
        done = ramp(kit, "ramp-test", f"--submission={name}", "--save-output", "--quick-test")
        assert done.returncode == 0, done.stdout + done.stderr
    done = ramp(kit, "ramp-blend", "--submissions=['perfect','another']", RAMP_TEST_MODE="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Combined bagged scores" in done.stdout


@pytest.mark.slow
def test_wrong_predictions_end_with_a_clear_message(kit):
    submit(kit, "wrong", PERFECT.replace("1.0, *c", "100.0, *c"))
    done = ramp(kit, "ramp-test", "--submission=wrong")
    assert done.returncode != 0
    assert "confidence in [0, 1]" in done.stdout + done.stderr
