"""Labelled pictures into tiles: the way in for data that comes without a map.

A folder of pictures (JPEG, PNG, TIFF; 8 bits a channel; from 224 x 224 pixels up) and labels in
one of three forms:

- CSV: ``image,row,col,radius`` and, if you like, ``ignore`` (0 or 1) and ``kind`` (a name or index
  of ``KINDS``); pixels, (0, 0) at the *centre* of the upper left one;
- COCO JSON: the circle inscribed in the mean of a box's sides; boxes count from the pixel's
  *corner*, half a pixel away. A category named like a kind becomes it. ``iscrowd`` and ``ignore``
  are ignored regions;
- YOLO: a folder with one text file a picture, ``class col row width height`` as shares of the
  picture, from the corner.

Pictures are cut into overlapping 224 x 224 crops. Pictures that show common ground (copies encoded
again, mirrored, turned or displaced: they stand in public sets, with differing labels) form one
group, which is the block of all their crops, so no fold and no split parts them.
"""

from __future__ import annotations

import json
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from acdc.errors import DataError
from acdc.tracks.craters import duplicates
from acdc.tracks.craters.tiles import KINDS, OVERLAP, TILE, write_split

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
PARTS = {
    "train": ("train", "training", "dev", "val", "valid", "validation"),
    "test": ("test", "testing", "eval", "evaluation"),
}
LABEL_COLUMNS = ("image", "row", "col", "radius", "ignore", "kind")
# a box longer than this is no circle: it is cut off or something else, and ignored
MOST_ELONGATED = 1.5


def prepare(
    pictures: Path,
    labels: Path,
    out: Path,
    *,
    attributes: Mapping[str, str | int | float | bool],
    split: Path | None = None,
    test_share: float = 0.25,
    seed: int = 0,
    register: bool = False,
    shuffle_seed: int | None = None,
    progress: bool = True,
) -> None:
    """Cut labelled pictures into the tiles of ``out/train`` and ``out/test``.

    Parameters
    ----------
    pictures : Path
        Folder of pictures; folders inside it are read too.
    labels : Path
        CSV or JSON file, or folder of YOLO text files (see the module).
    out : Path
        Where the two splits are written.
    attributes : mapping
        Kept with the inputs: source, licence, units ... Nothing that gives the ground away.
    split : Path, optional
        CSV ``image,part`` with a part for every picture: train, dev, val ... or test, eval ... A
        group of pictures with common ground that stands on both sides goes to train as a whole,
        with a warning.
    test_share : float
        Without `split`: the share of pictures that the test split gets at least, whole groups
        drawn with `seed`.
    register : bool
        Displace all circles by what the label audit finds, if that is reliable.
    shuffle_seed : int, optional
        Shuffles the order of the test tiles (secret for private data).
    progress : bool
        Show progress bars.

    Raises
    ------
    DataError
        Pictures that are missing, unreadable, too small or deeper than 8 bits; labels for pictures
        that are not there, unknown columns, impossible values; an empty side of the split. The
        message names file and row.
    """
    collection = Pictures(pictures)
    truth = read_labels(labels, collection)
    blocks = duplicates.group(collection, progress=progress)
    twice = np.bincount(blocks) > 1
    if twice.any():
        warnings.warn(
            f"{int(twice[blocks].sum())} pictures in {pictures} share ground with others: "
            f"{int(twice.sum())} groups, "
            "each kept on one side of every split",
            stacklevel=2,
        )
    if split is not None:
        part = _given_split(split, collection, blocks)
    else:
        part = _drawn_split(blocks, test_share, seed)
    for side in PARTS:
        if not (part == side).any():
            raise DataError(
                f"{split or pictures}: no picture is left for {side}; {len(twice)} groups of "
                f"pictures with common "
                "ground, at least 2 are needed: one a side"
            )
    if register:
        truth = _registered(truth, collection)
    # both sides are worked out before the first is written: bad input leaves nothing behind
    tables = {
        side: _tables(collection, np.flatnonzero(part == side), blocks, truth) for side in PARTS
    }
    for side, (tile, circle, quadrangle) in tables.items():
        crops = _crops(collection, tile)
        write_split(
            out / side,
            tqdm(crops, side, total=len(quadrangle), disable=not progress),
            tile,
            circle,
            quadrangle,
            attributes=attributes,
            shuffle_seed=shuffle_seed if side == "test" else None,
        )


class Pictures(Sequence[NDArray[np.uint8]]):
    """The pictures of a folder as grey arrays, read when asked for; the last few are kept.

    Parameters
    ----------
    folder : Path
        Where they are; folders inside it count.

    Attributes
    ----------
    names : list of str
        Path of each picture below the folder, sorted.
    sizes : int array (n, 2)
        Height and width, px.

    Raises
    ------
    DataError
        No pictures, or one that cannot be read, is smaller than a tile or has more than 8 bits.
    """

    def __init__(self, folder: Path) -> None:
        from PIL import Image

        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise DataError(f"{folder}: no such folder; expected a folder of labelled pictures")
        self.names = sorted(
            path.relative_to(self.folder).as_posix()
            for path in self.folder.rglob("*")
            if path.suffix.lower() in SUFFIXES and path.is_file()
        )
        if not self.names:
            raise DataError(f"{folder}: no pictures there; expected {', '.join(SUFFIXES)}")
        sizes = []
        for name in self.names:
            try:
                with Image.open(self.folder / name) as picture:
                    (width, height), mode = picture.size, picture.mode
            except OSError as error:
                raise DataError(
                    f"{self.folder / name}: not a readable picture ({error})"
                ) from error
            if mode.startswith(("I", "F")):
                raise DataError(
                    f"{self.folder / name}: more than 8 bits a pixel (mode {mode}); "
                    "stretch it to 0..255 first, as you want it seen"
                )
            if min(height, width) < TILE:
                raise DataError(
                    f"{self.folder / name}: {height} x {width} pixels; "
                    f"expected at least {TILE} x {TILE}"
                )
            sizes.append((height, width))
        self.sizes = np.array(sizes)
        self._kept: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        from PIL import Image

        if index not in self._kept:
            path = self.folder / self.names[index]
            try:
                with Image.open(path) as picture:
                    self._kept[index] = np.asarray(picture.convert("L"))
            except OSError as error:
                raise DataError(f"{path}: damaged picture ({error}); fetch it again") from error
            while len(self._kept) > 16:
                self._kept.popitem(last=False)
        return self._kept[index]


def read_labels(path: Path, pictures: Pictures) -> pd.DataFrame:
    """Labels of all pictures, in whichever of the three forms.

    Parameters
    ----------
    path : Path
        ``.csv`` or ``.json`` file, or a folder of ``.txt``.
    pictures : Pictures
        What they are labels of.

    Returns
    -------
    pandas.DataFrame
        ``picture`` (index into `pictures`), ``row``, ``col``, ``radius`` (px, centre convention),
        ``ignore`` (bool), ``kind`` (index into ``KINDS``), ``name`` (picture and number of the
        label).

    Raises
    ------
    DataError
        As `prepare`.
    """
    path = Path(path)
    if path.is_dir():
        table = _read_yolo(path, pictures)
    elif not path.is_file():
        raise DataError(
            f"{path}: no such file; expected labels as .csv, COCO .json or a folder of YOLO .txt"
        )
    elif path.suffix.lower() == ".json":
        table = _read_coco(path, pictures)
    elif path.suffix.lower() == ".csv":
        table = _read_csv(path, pictures)
    else:
        raise DataError(f"{path}: expected .csv, .json or a folder of .txt files")
    _check(table, pictures)
    bare = np.setdiff1d(np.arange(len(pictures)), table["picture"])
    if len(bare):
        warnings.warn(
            f"{path}: {len(bare)} of {len(pictures)} pictures have no label, for instance "
            f"{pictures.names[bare[0]]}: they count as ground without craters",
            stacklevel=2,
        )
    number = table.groupby("picture").cumcount()
    names = np.array(pictures.names, dtype=object)[table["picture"]]
    return table.assign(name=[f"{n}#{i}" for n, i in zip(names, number, strict=True)])


def _find(names: Sequence[str], pictures: Pictures, where: Sequence[str]) -> NDArray[np.int64]:
    """Index of the picture each name means: a path below the folder or a bare file name."""
    place = {name: i for i, name in enumerate(pictures.names)}
    bare: dict[str, int] = {}
    for i, name in enumerate(pictures.names):
        file = name.rsplit("/", 1)[-1]
        bare[file] = -1 if file in bare else i
    found = np.array([place.get(name, bare.get(name, -1)) for name in names], dtype=np.int64)
    if (found < 0).any():
        first = int(np.argmax(found < 0))
        twice = bare.get(names[first]) == -1
        raise DataError(
            f"{where[first]}: picture {names[first]!r} "
            + ("is there twice, in different folders" if twice else "is not there")
            + f"; expected a file in {pictures.folder} ({len(pictures)} pictures, "
            f"{(found < 0).sum()} labels without one)"
        )
    return found


def _read_csv(path: Path, pictures: Pictures) -> pd.DataFrame:
    table = _csv(path)
    missing = [name for name in ("image", "row", "col", "radius") if name not in table]
    unknown = [name for name in table if name not in LABEL_COLUMNS]
    if missing or unknown:
        raise DataError(
            f"{path}: columns {', '.join(map(str, table))}; expected image,row,col,radius and "
            f"perhaps ignore,kind"
            + (f"; missing: {', '.join(missing)}" if missing else "")
            + (f"; unknown: {', '.join(map(str, unknown))}" if unknown else "")
        )
    where = [f"{path}, line {line}" for line in range(2, len(table) + 2)]
    number = {name: _numbers(table[name], where, name) for name in ("row", "col", "radius")}
    ignore = (
        _numbers(table["ignore"], where, "ignore") if "ignore" in table else np.zeros(len(table))
    )
    if not np.isin(ignore, (0, 1)).all():
        raise DataError(f"{where[int(np.argmin(np.isin(ignore, (0, 1))))]}: ignore is 0 or 1")
    kinds = table["kind"] if "kind" in table else pd.Series("valid", index=table.index)
    codes = {name: i for i, name in enumerate(KINDS)} | {str(i): i for i in range(len(KINDS))}
    kind = kinds.fillna("valid").astype(str).str.strip().str.lower().map(codes)
    if kind.isna().any():
        first = int(np.argmax(kind.isna()))
        raise DataError(
            f"{where[first]}: kind {kinds.iloc[first]!r}; expected {', '.join(KINDS)} or 0..3"
        )
    return pd.DataFrame(
        {
            "picture": _find(table["image"].astype(str).tolist(), pictures, where),
            **number,
            "ignore": ignore.astype(bool),
            "kind": kind.astype(int),
            "where": where,
        }
    )


def _csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype=str, skipinitialspace=True, keep_default_na=False).replace(
            "", None
        )
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{path}: not a readable CSV file ({error})") from error


def _numbers(column: pd.Series, where: Sequence[str], name: str) -> NDArray[np.float64]:
    number = pd.to_numeric(column, errors="coerce").to_numpy(float)
    if not np.isfinite(number).all():
        first = int(np.argmin(np.isfinite(number)))
        given = column.fillna("").iloc[first]
        raise DataError(f"{where[first]}: {name} is {given!r}; expected a number")
    return number


def _read_coco(path: Path, pictures: Pictures) -> pd.DataFrame:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        files = {image["id"]: image["file_name"] for image in data["images"]}
        kinds = {
            category["id"]: category.get("name", "").strip().lower()
            for category in data.get("categories", [])
        }
        marks = data["annotations"]
        ids = [mark["image_id"] for mark in marks]
        boxes = np.array([mark["bbox"] for mark in marks], dtype=float).reshape(len(marks), 4)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not a COCO file ({type(error).__name__}: {error}); expected images with id "
            f"and "
            "file_name, annotations with image_id and bbox [x, y, width, height]"
        ) from error
    where = [f"{path}, annotation {mark.get('id', i)}" for i, mark in enumerate(marks)]
    for name, place in zip(ids, where, strict=True):
        if name not in files:
            raise DataError(f"{place}: image_id {name!r} is not among the file's images")
    listed = set(_find(list(files.values()), pictures, [str(path)] * len(files)).tolist())
    if len(listed) < len(pictures):
        first = next(name for i, name in enumerate(pictures.names) if i not in listed)
        raise DataError(
            f"{path}: {len(pictures) - len(listed)} pictures of {pictures.folder} are not among "
            f"its "
            f"images, for instance {first}; list them (without annotations, if they show no "
            f"crater) "
            "or move them away"
        )
    kind = [
        KINDS.index(name) if (name := kinds.get(mark.get("category_id"), "")) in KINDS else 0
        for mark in marks
    ]
    ignore = [bool(mark.get("ignore")) or bool(mark.get("iscrowd")) for mark in marks]
    picture = _find([files[name] for name in ids], pictures, where)
    return _from_boxes(
        picture,
        boxes[:, 1] + boxes[:, 3] / 2,
        boxes[:, 0] + boxes[:, 2] / 2,
        boxes[:, 3],
        boxes[:, 2],
        ignore=np.array(ignore, dtype=bool),
        kind=np.array(kind, dtype=int),
        where=where,
    )


def _read_yolo(folder: Path, pictures: Pictures) -> pd.DataFrame:
    stems: dict[str, int] = {}
    for i, name in enumerate(pictures.names):
        stem = Path(name).stem
        if stem in stems:
            raise DataError(
                f"{pictures.folder}: {pictures.names[stems[stem]]} and {name} would share the "
                f"YOLO labels "
                f"{stem}.txt; give them different names"
            )
        stems[stem] = i
    files = sorted(path for path in folder.rglob("*.txt") if path.name != "classes.txt")
    if not files:
        raise DataError(f"{folder}: no .txt files; expected YOLO labels, one file a picture")
    picture, values, where = [], [], []
    for path in files:
        if path.stem not in stems:
            raise DataError(f"{path}: no picture {path.stem}.* in {pictures.folder}")
        for line, text in enumerate(path.read_text().splitlines(), start=1):
            if not text.strip():
                continue
            try:
                _, *box = map(float, text.split())
            except ValueError:
                box = []
            if len(box) != 4 or not all(-0.5 <= value <= 1.5 for value in box):
                raise DataError(
                    f"{path}, line {line}: {text!r}; expected: class x y width height, all but the "
                    "class as shares 0..1 of the picture"
                )
            picture.append(stems[path.stem])
            values.append(box)
            where.append(f"{path}, line {line}")
    index = np.array(picture, dtype=np.int64)
    box_array = np.array(values, dtype=float).reshape(-1, 4)
    height, width = pictures.sizes[index].T
    return _from_boxes(
        index,
        box_array[:, 1] * height,
        box_array[:, 0] * width,
        box_array[:, 3] * height,
        box_array[:, 2] * width,
        ignore=np.zeros(len(index), dtype=bool),
        kind=np.zeros(len(index), dtype=int),
        where=where,
    )


def _from_boxes(
    picture: NDArray[np.int64],
    row: NDArray[np.float64],
    col: NDArray[np.float64],
    height: NDArray[np.float64],
    width: NDArray[np.float64],
    *,
    ignore: NDArray[np.bool_],
    kind: NDArray[np.int64],
    where: list[str],
) -> pd.DataFrame:
    """Circles of boxes that count from the pixel's corner."""
    longer, shorter = np.maximum(height, width), np.minimum(height, width)
    impossible = ~(shorter > 0)
    if impossible.any():
        first = int(np.argmax(impossible))
        raise DataError(
            f"{where[first]}: box of {width[first]:g} x {height[first]:g} pixels; expected a "
            f"width and "
            "a height above 0"
        )
    return pd.DataFrame(
        {
            "picture": picture,
            "row": row - 0.5,
            "col": col - 0.5,
            "radius": (height + width) / 4,
            "ignore": ignore | (longer > MOST_ELONGATED * shorter),
            "kind": kind,
            "where": where,
        }
    )


def _check(table: pd.DataFrame, pictures: Pictures) -> None:
    height, width = pictures.sizes[table["picture"].to_numpy(int)].T
    radius = table["radius"].to_numpy(float)
    bad = ~(radius > 0)
    if bad.any():
        first = table.iloc[int(np.argmax(bad))]
        raise DataError(f"{first['where']}: radius {first['radius']:g}; expected more than 0 px")
    away = _distance(table, 0, 0, height, width) > radius
    if away.any():
        first = table.iloc[int(np.argmax(away))]
        name = pictures.names[int(first["picture"])]
        raise DataError(
            f"{first['where']}: circle at row {first['row']:g}, col {first['col']:g} with radius "
            f"{first['radius']:g} lies outside {name} ({height[np.argmax(away)]} x "
            f"{width[np.argmax(away)]} pixels)"
        )


def _distance(
    table: pd.DataFrame, row0: int, col0: int, height: int | NDArray, width: int | NDArray
) -> NDArray[np.float64]:
    """Distance of circle centres from a rectangle of pixels, px; 0 inside."""
    row, col = table["row"].to_numpy(float) - row0, table["col"].to_numpy(float) - col0
    down = np.maximum(np.maximum(-0.5 - row, row - height + 0.5), 0)
    right = np.maximum(np.maximum(-0.5 - col, col - width + 0.5), 0)
    return np.hypot(down, right)


def _given_split(path: Path, pictures: Pictures, blocks: NDArray[np.int64]) -> NDArray[np.str_]:
    """Side of each picture by the file; groups on both sides go to train."""
    table = _csv(path)
    if not {"image", "part"} <= set(table):
        raise DataError(f"{path}: columns {', '.join(map(str, table))}; expected image,part")
    where = [f"{path}, line {line}" for line in range(2, len(table) + 2)]
    side_of = {word: side for side, words in PARTS.items() for word in words}
    side = table["part"].fillna("").str.strip().str.lower().map(side_of)
    if side.isna().any():
        first = int(np.argmax(side.isna()))
        raise DataError(
            f"{where[first]}: part {table['part'].iloc[first]!r}; "
            f"expected one of {', '.join(side_of)}"
        )
    index = _find(table["image"].fillna("").tolist(), pictures, where)
    if len(np.unique(index)) < len(index):
        first = int(np.argmax(pd.Series(index).duplicated()))
        raise DataError(f"{where[first]}: {pictures.names[index[first]]} has a part already")
    absent = np.setdiff1d(np.arange(len(pictures)), index)
    if len(absent):
        raise DataError(
            f"{path}: no part for {len(absent)} pictures, for instance {pictures.names[absent[0]]}"
        )
    part = np.empty(len(pictures), dtype="U5")
    part[index] = side.to_numpy(str)
    torn = np.intersect1d(blocks[part == "train"], blocks[part == "test"])
    moved = np.isin(blocks, torn) & (part == "test")
    if moved.any():
        warnings.warn(
            f"{path}: {int(moved.sum())} test pictures share ground with training pictures and "
            f"go to "
            f"train, the first is {pictures.names[int(np.argmax(moved))]}",
            stacklevel=3,
        )
        part[moved] = "train"
    return part


def _drawn_split(blocks: NDArray[np.int64], share: float, seed: int) -> NDArray[np.str_]:
    """Whole groups to test, in random order, until it has its share of the pictures."""
    if not 0 < share < 1:
        raise DataError(f"test_share is {share}; expected a share between 0 and 1")
    order = np.random.default_rng(seed).permutation(blocks.max() + 1)
    size = np.bincount(blocks)[order]
    before = np.cumsum(size) - size
    return np.where(np.isin(blocks, order[before < share * len(blocks)]), "test", "train")


def _registered(truth: pd.DataFrame, pictures: Pictures) -> pd.DataFrame:
    """Labels displaced onto the rims, where the audit is sure of the displacement."""
    from acdc.tracks.craters import registration

    columns = ["row", "col", "radius"]
    sure = truth[~truth["ignore"]]
    by_picture = dict(list(sure.groupby("picture")))
    circles = [
        by_picture[i][columns].to_numpy(float) if i in by_picture else np.empty((0, 3))
        for i in range(len(pictures))
    ]
    found = registration.estimate(pictures, circles)
    if not found.reliable:
        warnings.warn(f"labels are left as they are: {found}", stacklevel=3)
        return truth
    moved = registration.apply(truth[columns].to_numpy(float), found)
    return truth.assign(**dict(zip(columns, moved.T, strict=True)))


def _starts(length: int) -> NDArray[np.int64]:
    """First pixels of the evenly spaced crops along an axis."""
    count = max(1, round((length - OVERLAP) / (TILE - OVERLAP)))
    if count == 1:
        return np.array([(length - TILE) // 2])
    return np.round(np.linspace(0, length - TILE, count)).astype(np.int64)


def _tables(
    pictures: Pictures, members: NDArray[np.int64], blocks: NDArray[np.int64], truth: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Tables of tiles, circles and quadrangles of one side of the split."""
    by_picture = dict(list(truth.groupby("picture")))
    first_of = pd.Series(np.arange(len(blocks))).groupby(blocks).first()
    rows: list[tuple[str, str, int, int, float]] = []
    circles: list[pd.DataFrame] = []
    for picture in members:
        name = pictures.names[picture]
        for row0 in _starts(pictures.sizes[picture, 0]):
            for col0 in _starts(pictures.sizes[picture, 1]):
                if picture in by_picture:
                    here = by_picture[picture]
                    near = here[_distance(here, row0, col0, TILE, TILE) < here["radius"]]
                    circles.append(
                        near.assign(tile=len(rows), row=near["row"] - row0, col=near["col"] - col0)
                    )
                crop = pictures[picture][row0 : row0 + TILE, col0 : col0 + TILE]
                block = pictures.names[first_of[blocks[picture]]]
                rows.append((block, name, row0, col0, (crop > 0).mean()))
    tile = pd.DataFrame(rows, columns=["block", "quadrangle", "row0", "col0", "valid"])
    tile = tile.assign(level=0, pixel_size=np.nan, window_area=np.nan)
    tile = tile.assign(region="", sensor="", light="", terrain="")
    circle = pd.concat(circles or [truth.iloc[:0].assign(tile=0)], ignore_index=True)
    circle = circle.rename(columns={"name": "crater_id"})
    circle = circle.assign(flag=circle["ignore"].astype(int), degradation=np.nan, ejecta="")
    quadrangle = pd.DataFrame({"name": [pictures.names[i] for i in members], "crs": ""})
    quadrangle = quadrangle.assign(**dict.fromkeys("abcdef", np.nan))
    return tile, circle.drop(columns=["picture", "ignore", "where"]), quadrangle


def _crops(pictures: Pictures, tile: pd.DataFrame) -> Iterator[NDArray[np.uint8]]:
    """Crops of one picture after the other, uint8 (k, 224, 224)."""
    place = {name: i for i, name in enumerate(pictures.names)}
    for name, here in tile.groupby("quadrangle", sort=False):
        picture = pictures[place[str(name)]]
        yield np.stack(
            [
                picture[row0 : row0 + TILE, col0 : col0 + TILE]
                for row0, col0 in zip(here["row0"], here["col0"], strict=True)
            ]
        )
