"""What `download_data.py --track craters` does: make, fetch or prepare the data of the track."""

from __future__ import annotations

import argparse
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from acdc import store
from acdc.errors import DataError, KitError
from acdc.preparation import SPLITS, folders, is_kept, write_provenance

SIZES = ("tiny", "default", "large")
FAR = 3  # px; labels farther off deserve a look
SIMULATED: dict[str, store.Attribute] = {
    "simulated": True,
    "source": "invented Mars of RAMP-ACDC (simulated)",
    "licence": "BSD-3-Clause",
}
EXAMPLES = """\
examples:
  python download_data.py
      simulate a Mars and prepare it: offline, a minute, the default
  python download_data.py --mosaic THEMIS.tif --catalogue lagain_db.json.zip --workers 8
      prepare a real mosaic and a real catalogue
  python download_data.py --tiles PICTURES --labels labels.csv
      prepare pictures that somebody labelled (CSV, COCO json or a folder of YOLO txt)
  python download_data.py --source ramp2018
      fetch the arrays of the 2018 challenge and prepare them
  python download_data.py --audit-labels
      how well do the labels of the prepared data sit on the image?
  python download_data.py --private /srv/private
      the organiser's hidden data, from a secret seed
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the crater track understands to the command line."""
    simulated = parser.add_argument_group("simulated data (the default)")
    simulated.add_argument("--size", choices=SIZES, default="default", help="how much of it")
    simulated.add_argument("--seed", type=int, default=None, help="another invented Mars")
    mosaic = parser.add_argument_group("a mosaic and a catalogue")
    mosaic.add_argument("--mosaic", type=Path, metavar="FILE.tif")
    mosaic.add_argument("--catalogue", type=Path, metavar="FILE", help="Lagain 2021, Robbins 2012")
    mosaic.add_argument(
        "--quadrangles", type=Path, metavar="FILE.csv", help="name,lon_min,lat_min,lon_max,lat_max"
    )
    mosaic.add_argument(
        "--units", type=Path, metavar="FILE.geojson", help="sensor, light, terrain, region of areas"
    )
    mosaic.add_argument(
        "--block-size", type=int, metavar="PX", help="side of a block, for instance of one frame"
    )
    mosaic.add_argument(
        "--levels", type=int, default=3, metavar="N", help="levels of the pyramid (3)"
    )
    mosaic.add_argument("--workers", type=int, default=2, help="processes on this machine")
    mosaic.add_argument("--dask", metavar="tcp://...", help="a dask scheduler to use instead")
    pictures = parser.add_argument_group("labelled pictures")
    pictures.add_argument("--tiles", type=Path, metavar="DIR", help="pictures from 224 px up")
    pictures.add_argument("--labels", type=Path, metavar="FILE")
    pictures.add_argument("--split", type=Path, metavar="FILE.csv", help="image,part")
    public = parser.add_argument_group("public sources")
    public.add_argument("--source", choices=("ramp2018", "themis-lagain"))
    every = parser.add_argument_group("all of them")
    every.add_argument(
        "--test", nargs="+", metavar="NAME", help="quadrangles of the test split, or its share"
    )
    every.add_argument(
        "--register", action="store_true", help="displace the labels by what the label audit finds"
    )
    every.add_argument("--audit-labels", action="store_true", help="only audit what is there")


def run(options: argparse.Namespace) -> None:
    """Do what the command line says.

    Raises
    ------
    KitError
        When options contradict each other or data can't be made; nothing half-written is left.
    """
    _refuse_contradictions(options)
    out, options.records = folders(options, "craters")
    if options.audit_labels:
        _audit_labels(out, options.records)
        return
    if is_kept(out, options):
        return
    if options.source:
        _from_public_source(options, out)
    elif options.mosaic:
        _from_mosaic(options, out, options.mosaic, options.catalogue)
    elif options.tiles:
        _from_pictures(options, out)
    else:
        _simulated(options, out)
    write_provenance(options.records / "provenance.json", options)
    _tell(out)
    _audit_labels(out, options.records)


def _refuse_contradictions(options: argparse.Namespace) -> None:
    ways = [
        name for name in ("mosaic", "tiles", "source") if getattr(options, name.replace("-", "_"))
    ]
    if len(ways) > 1:
        raise KitError(f"--{' and --'.join(ways)} exclude each other; choose one way")
    for one, other in (("mosaic", "catalogue"), ("tiles", "labels")):
        if bool(getattr(options, one)) != bool(getattr(options, other)):
            raise KitError(f"--{one} and --{other} go together; give both")


def _simulated(options: argparse.Namespace, out: Path) -> None:
    from acdc.tracks.craters.simulate import simulate

    if options.private:
        options.seed = secrets.randbits(128) if options.seed is None else options.seed
    elif options.seed is None:
        options.seed = 0
    raw = options.records / "raw"
    shutil.rmtree(raw, ignore_errors=True)
    print(f"Simulating an invented Mars (size {options.size}) in {raw}")
    simulate(raw, seed=options.seed, size=options.size, progress=options.progress)
    options.quadrangles, options.units = raw / "quadrangles.csv", raw / "units.geojson"
    _from_mosaic(options, out, raw / "mosaic.tif", raw / "catalogue.csv", SIMULATED)


def _from_mosaic(
    options: argparse.Namespace,
    out: Path,
    mosaic: Path,
    catalogue: Path,
    attributes: dict[str, store.Attribute] | None = None,
) -> None:
    from acdc.tracks.craters import mosaic as mosaics

    mosaics.prepare(
        mosaic,
        catalogue,
        out,
        quadrangles=options.quadrangles,
        units=options.units,
        block_size=options.block_size,
        levels=options.levels,
        test=_test_part(options.test),
        register=options.register,
        workers=options.workers,
        dask=options.dask,
        shuffle_seed=_shuffle_seed(options),
        attributes=attributes or {"simulated": False, "source": mosaic.name},
        records=options.records,
        progress=options.progress,
    )


def _test_part(wish: list[str] | None) -> list[str] | float | None:
    """A share such as 0.25, or names of quadrangles."""
    if wish and len(wish) == 1:
        with suppress(ValueError):
            return float(wish[0])
    return wish


def _from_pictures(options: argparse.Namespace, out: Path) -> None:
    from acdc.tracks.craters import pictures

    with _audited(out, options) as new:
        pictures.prepare(
            options.tiles,
            options.labels,
            new,
            split=options.split,
            register=options.register,
            shuffle_seed=_shuffle_seed(options),
            attributes={"simulated": False, "source": Path(options.tiles).name},
            progress=options.progress,
        )


def _from_public_source(options: argparse.Namespace, out: Path) -> None:
    from acdc import download
    from acdc.tracks.craters import ramp2018

    source = download.load_manifest(Path(__file__).with_name("sources.toml"))[options.source]
    files = download.fetch(source, out / "raw" / options.source, progress=options.progress)
    if options.source == "ramp2018":
        with _audited(out, options) as new:
            ramp2018.prepare(out / "raw" / options.source, new, progress=options.progress)
        return
    by_suffix = {file.suffix: file for file in files.values()}
    _from_mosaic(
        options,
        out,
        by_suffix[".tif"],
        by_suffix[".zip"],
        {"simulated": False, "source": source.title, "licence": source.licence},
    )


def _shuffle_seed(options: argparse.Namespace) -> int | None:
    return secrets.randbits(128) if options.private else None


@contextmanager
def _audited(out: Path, options: argparse.Namespace) -> Iterator[Path]:
    """A folder to prepare splits in; they replace those of `out` when they leak no ground."""
    from acdc.tracks.craters import leaks

    new = out / ".new"
    shutil.rmtree(new, ignore_errors=True)
    try:
        yield new
        print(leaks.audit(new, progress=options.progress))
        for split in sorted(new.iterdir()):
            shutil.rmtree(out / split.name, ignore_errors=True)
            split.rename(out / split.name)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _audit_labels(out: Path, records: Path) -> None:
    """Print how the labels of each quadrangle sit on the image, and draw mean craters."""
    from acdc.tracks.craters import registration

    if not any((out / split).is_dir() for split in SPLITS):
        raise DataError(f"{out} is missing; prepare data first (python download_data.py --help)")
    figures = records / "label_audit"
    for split in SPLITS:
        if not (out / split).is_dir():
            continue
        table = registration.audit_split(out / split, figures=figures / split)
        print(f"{split}: what would bring the labels onto the image (px, share of the radius)")
        print(table.to_string(index=False, float_format="{:.2f}".format))
        far = table[(table[["row", "col"]].abs() > FAR).any(axis=1) | ~table["reliable"]]
        if len(far):
            print(
                f"WARNING: in {', '.join(far['quadrangle'].astype(str))} the labels do not sit on "
                f"craters, or lie more than {FAR} px beside them. Look at the pictures; are X and "
                "Y, degrees east and west, radius and diameter right? --register corrects what is "
                "reliable."
            )
    print(f"Mean craters before and after: {figures}")


def _tell(out: Path) -> None:
    from acdc.tracks.craters import tiles

    for split in SPLITS:
        if not (out / split).is_dir():
            continue
        y = tiles.read_targets(out / split)
        scored = int((y.reason == 0).sum())
        print(
            f"{out / split}: {len(y)} tiles in {y.tiles.block.nunique()} blocks, "
            f"{scored} scored circles of {len(y.reason)}, "
            f"{y.circles['crater_id'].nunique()} different craters"
        )
