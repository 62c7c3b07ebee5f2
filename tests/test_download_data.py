"""The command line `download_data.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from acdc.tracks.craters import tiles

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, ROOT / "download_data.py", *map(str, arguments)],
        cwd=cwd or ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture
def pictures(tmp_path):
    """A folder of labelled pictures of noise, as little as a preparation accepts."""
    random = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    rows = []
    for number in range(8):
        picture = random.integers(0, 255, (230, 300), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "row": 100, "col": 120, "radius": 10})
    pd.DataFrame(rows).to_csv(tmp_path / "labels.csv", index=False)
    return "--tiles", folder, "--labels", tmp_path / "labels.csv"


def test_help_shows_examples():
    done = run("--help")
    assert done.returncode == 0
    assert "--mosaic THEMIS.tif --catalogue" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mosaic", "m.tif"], "--mosaic and --catalogue go together"),
        (["--tiles", "dir"], "--tiles and --labels go together"),
        (["--tiles", "d", "--labels", "l", "--source", "ramp2018"], "exclude each other"),
        (["--private", ROOT / "hidden"], "lies inside the kit folder"),
        (["--track", "moon"], "there is no track 'moon'"),
    ],
)
def test_contradictions_are_one_clear_line(tmp_path, arguments, message):
    done = run(*arguments, "--out", tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, pictures):
    (tmp_path / "file").write_text("no folder")
    done = run(*pictures, "--out", tmp_path / "file", "--quiet")
    assert done.returncode == 1
    assert "Not a directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_prepared_data_is_not_replaced_by_accident(tmp_path, pictures):
    out = tmp_path / "data"
    done = run(*pictures, "--out", out, "--quiet")
    assert done.returncode == 0, done.stderr
    assert "tiles in" in done.stdout
    written = (out / "craters" / "train" / "targets.h5").stat().st_mtime_ns
    done = run(*pictures, "--out", out, "--quiet")
    assert done.returncode == 1
    assert "holds data already" in done.stderr
    assert run("--reuse", "--out", out).returncode == 0
    assert (out / "craters" / "train" / "targets.h5").stat().st_mtime_ns == written
    assert run(*pictures, "--out", out, "--quiet", "--force").returncode == 0
    assert (out / "craters" / "train" / "targets.h5").stat().st_mtime_ns > written
    said = json.loads((out / "craters" / "provenance.json").read_text())
    assert "--tiles" in said["command"]


def test_hidden_data_tells_nothing_beside_its_inputs(tmp_path, pictures):
    hidden = tmp_path / "hidden"
    done = run(*pictures, "--private", hidden, "--quiet")
    assert done.returncode == 0, done.stderr
    inside = sorted(str(path.relative_to(hidden)) for path in hidden.rglob("*") if path.is_file())
    figures = {f"label_audit/{split}/pictures.png" for split in ("train", "test")}
    beside = {"provenance.json", *figures}
    assert set(inside) - beside == {
        f"data/craters/{split}/{file}.h5"
        for split in ("train", "test")
        for file in ("inputs", "targets")
    }


def test_missing_files_are_named(tmp_path):
    done = run("--mosaic", "none.tif", "--catalogue", "none.csv", "--out", tmp_path)
    assert done.returncode == 1
    assert "none." in done.stderr
    done = run("--audit-labels", "--out", tmp_path)
    assert done.returncode == 1
    assert "is missing" in done.stderr


@pytest.mark.slow
def test_a_simulated_mars_is_prepared_and_the_same_seed_gives_the_same(tmp_path):
    """From the command to tiles with ages and lights; hidden data has a seed of its own."""
    for name in ("one", "two"):
        done = run("--size", "tiny", "--out", tmp_path / name, "--quiet")
        assert done.returncode == 0, done.stderr
        assert "Simulating" in done.stdout
    folders = [tmp_path / name / "craters" / "test" for name in ("one", "two")]
    one, two = (tiles.read_targets(folder) for folder in folders)
    pd.testing.assert_frame_equal(one.circles, two.circles)
    with h5py.File(folders[0] / "inputs.h5") as file:
        assert file.attrs["simulated"]
        assert "simulated" in file.attrs["source"]
    images = [tiles.read_images(folder)[:] for folder in folders]
    np.testing.assert_array_equal(*images)
    assert one.tiles.light.nunique() > 1
    assert (one.tiles.region != "").all()
    assert np.isfinite(one.tiles.window_area).all()
    done = run("--size", "tiny", "--private", tmp_path / "hidden", "--quiet")
    assert done.returncode == 0, done.stderr
    hidden = tiles.read_targets(tmp_path / "hidden" / "data" / "craters" / "test")
    assert len(hidden.circles) != len(one.circles)
    left = {path.name for path in (tmp_path / "hidden" / "data").rglob("*") if path.is_file()}
    assert left == {"inputs.h5", "targets.h5"}


@pytest.mark.slow
def test_the_real_mosaic_is_prepared(tmp_path, real):
    mosaic = real / "craters" / "mosaic"
    done = run(
        *("--mosaic", mosaic / "mosaic.tif", "--catalogue", mosaic / "catalogue.csv"),
        *("--block-size", 1248, "--out", tmp_path, "--quiet"),
    )
    assert done.returncode == 0, done.stderr
    y = tiles.read_targets(tmp_path / "craters" / "train")
    assert y.tiles.block.nunique() == 7
    assert (y.reason == 0).sum() > 200
    assert set(y.tiles.region) == set(y.tiles.quadrangle)  # so that ages can be told


@pytest.mark.slow
def test_real_labelled_pictures_are_prepared(tmp_path, real):
    folder = real / "craters" / "themis_tiles"
    done = run(
        *("--tiles", folder / "images", "--labels", folder / "labels.csv"),
        *("--split", folder / "split.csv", "--out", tmp_path, "--quiet"),
    )
    assert done.returncode == 0, done.stderr
    assert len(tiles.read_targets(tmp_path / "craters" / "test")) == 178 * 4
