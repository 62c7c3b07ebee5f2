"""What `download_data.py --track lst` does: simulate scenes or read real ones, and prepare them."""

from __future__ import annotations

import argparse
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from acdc import preparation, store
from acdc.errors import DataError, KitError
from acdc.tracks.lst import registration, samples, scenes

SIZES = ("tiny", "default", "large")
SIMULATED: dict[str, store.Attribute] = {
    "simulated": True,
    "source": "invented landscapes of RAMP-ACDC (simulated)",
    "licence": "BSD-3-Clause",
}
EXAMPLES = """\
examples:
  python download_data.py --track lst
      simulate landscapes and two sensors: offline, a minute, the default
  python download_data.py --track lst --scenes modis_aster.npz
      prepare scenes (lst, ndvi, reference, group) from one file
  python download_data.py --track lst --scenes FOLDER
      prepare GeoTIFFs NAME_lst.tif, NAME_ndvi.tif, NAME_reference.tif
  python download_data.py --track lst --products FOLDER
      cut scenes out of MOD11A1, MOD13Q1 and AST_08 products
  python download_data.py --track lst --scenes FILE.npz --audit
      only say whether NDVI and temperature lie on the same grid
  python download_data.py --track lst --private /srv/private
      the organiser's hidden data, from a secret seed
"""
_MIN_TRAIN_GROUPS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this track understands to the command line."""
    simulated = parser.add_argument_group("simulated data (the default)")
    simulated.add_argument("--size", choices=SIZES, default="default", help="how much of it")
    simulated.add_argument("--seed", type=int, default=None, help="other invented landscapes")
    real = parser.add_argument_group("real scenes")
    real.add_argument("--scenes", type=Path, metavar="FILE.npz|DIR", help="scenes on nested grids")
    real.add_argument(
        "--products", type=Path, metavar="DIR", help="MOD11A1, MOD13Q1 and AST_08 files"
    )
    real.add_argument("--test", nargs="+", metavar="GROUP", help="groups of the test split")
    real.add_argument(
        "--register", action="store_true", help="move NDVI back where it is off the grid"
    )
    real.add_argument(
        "--audit", action="store_true", help="only say how NDVI lies on the temperatures"
    )


def run(options: argparse.Namespace) -> None:
    """Do what the command line says.

    Raises
    ------
    KitError
        When options contradict each other or data can't be made; nothing half-written is left.
    """
    if options.scenes and options.products:
        raise KitError("--scenes and --products exclude each other; choose one way")
    if options.audit and not (options.scenes or options.products):
        raise KitError("--audit looks at real scenes; say which by --scenes or --products")
    out, records = preparation.folders(options, "lst")
    if options.audit:
        print(registration.audit(_raw(options, out)[0]).to_string(index=False))
        return
    if preparation.is_kept(out, options):
        return
    raw, attributes = _raw(options, out)
    prepare(
        raw,
        out,
        attributes=attributes,
        test=options.test,
        register=options.register,
        shuffle_seed=secrets.randbits(128) if options.private else None,
    )
    preparation.write_provenance(records / "provenance.json", options)


def _raw(
    options: argparse.Namespace, out: Path
) -> tuple[list[scenes.Scene], dict[str, store.Attribute]]:
    """Raw scenes as the options say, and what may be told of them."""
    source = options.scenes or options.products
    if source:
        from acdc.tracks.lst import products

        read = scenes.read if options.scenes else products.read
        return read(source), {"simulated": False, "source": Path(source).name}
    from acdc.tracks.lst import simulate

    if options.seed is None:
        options.seed = secrets.randbits(128) if options.private else 0
    # hidden truth is written outside of the data folder, not only removed from it
    file = (Path(options.private) if options.private else out) / "raw" / "scenes.npz"
    print(f"Simulating invented landscapes (size {options.size}) in {file}")
    simulate.simulate(file, seed=options.seed, size=options.size, progress=options.progress)
    try:
        raw = scenes.read(file)
    finally:
        if options.private:
            file.unlink()  # whoever trains on the private inputs must not find the truth beside
            file.parent.rmdir()
    options.test = options.test or sorted({s.group for s in raw if s.group.startswith("test")})
    return raw, dict(SIMULATED)


def prepare(
    raw: Sequence[scenes.Scene],
    out: Path,
    *,
    attributes: Mapping[str, store.Attribute],
    test: Sequence[str] | None = None,
    register: bool = False,
    shuffle_seed: int | None = None,
) -> None:
    """Write both splits: training one scale up, test at the true scale on other ground.

    Parameters
    ----------
    raw : sequence of Scene
        Clean. Scenes without a reference can only train.
    out : Path
        Folder of the splits train and test.
    attributes : mapping
        What a participant may know.
    test : sequence of str or None
        Groups of the test split; None: `choose_test` decides.
    register : bool
        Move NDVI back where it is off the grid; otherwise that is refused.
    shuffle_seed : int or None
        Shuffle the order of the scenes.

    Raises
    ------
    DataError
        When NDVI is off the grid, a named group is unknown, or one split would be empty.
    """
    shifts = registration.audit(raw)
    if register:
        raw = registration.register(raw, shifts)
    else:
        registration.refuse_shifted(shifts)
    _tell_shifts(shifts)
    chosen = set(choose_test(raw) if test is None else test)
    unknown = sorted(chosen - {scene.group for scene in raw})
    if unknown:
        raise DataError(f"there is no group {', '.join(unknown)} among the scenes")
    parts = {
        "train": [scenes.coarsen(scene) for scene in raw if scene.group not in chosen],
        "test": [s for s in raw if s.group in chosen and s.reference is not None],
    }
    for split, part in parts.items():
        order = None
        if shuffle_seed is not None:
            order = np.random.default_rng([shuffle_seed, split == "test"]).permutation(len(part))
        samples.write_split(out / split, part, attributes=attributes, order=order)
        groups = len({scene.group for scene in part})
        size = part[0].lst.shape[0]
        print(
            f"{out / split}: {len(part)} scenes in {groups} groups, {size} x {size} pixels of "
            f"{part[0].pixel_size:.0f} m to sharpen"
        )


def choose_test(raw: Sequence[scenes.Scene]) -> list[str]:
    """Choose groups for the test: the largest ones train, up to half of the scenes.

    So the test has as many independent pieces of ground as possible; with fewer than ten nothing
    can be said about which entry is better.
    """
    size = Counter(scene.group for scene in raw)
    scored = {scene.group for scene in raw if scene.reference is not None}
    order = sorted(size, key=lambda group: (group in scored, -size[group], group))
    trained = 0
    train: set[str] = set()
    for group in order:
        enough = trained * 2 >= len(raw) and len(train) >= _MIN_TRAIN_GROUPS
        if group in scored and enough:
            break
        train.add(group)
        trained += size[group]
    test = sorted(set(size) - train)
    if not test:
        raise DataError(
            f"{len(size)} groups of scenes, {len(scored)} of them with a reference, can't be "
            f"divided: training needs {_MIN_TRAIN_GROUPS} and the test at least one with a "
            "reference"
        )
    return test


def _tell_shifts(shifts: pd.DataFrame) -> None:
    sure = shifts[shifts.distinct]
    if sure.empty:
        print("NDVI and temperature correlate too weakly to say whether their grids agree.")
        return
    row, col = sure[["row", "col"]].median()
    print(
        f"NDVI against temperature: shifted by ({row:.2f}, {col:.2f}) pixels in the median of "
        f"{len(sure)} scenes, correlation {sure.correlation.median():.2f}"
    )
