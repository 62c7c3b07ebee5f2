"""From a mosaic of Mars and a crater catalogue to the tiles of the challenge.

Quadrangle by quadrangle: a stereographic plane around its middle, blocks laid into it, the blocks
read from the mosaic, a pyramid, tiles, and on them the circles of the catalogue. Quadrangles are
independent pieces of work for dask; each finished one is kept until all are, so that an interrupted
preparation goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from acdc import store
from acdc.errors import DataError
from acdc.tracks.craters import blocks as layout
from acdc.tracks.craters import leaks
from acdc.tracks.craters.blocks import PARTS, Quadrangle
from acdc.tracks.craters.catalogue import read_catalogue
from acdc.tracks.craters.pieces import Block, Task, prepare_piece, read_crops, read_piece
from acdc.tracks.craters.projection import MARS_RADIUS, Plane
from acdc.tracks.craters.raster import Raster
from acdc.tracks.craters.tiles import CIRCLE_COLUMNS, TILE, TILE_COLUMNS, write_split
from acdc.tracks.craters.units import Units, read_units

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

# quadrangles are at most this wide: wider ones distort more, and cost memory
_LARGEST_DEGREES, _LARGEST_PIXELS = 10.0, 6144
_DEFAULT_TEST = 0.25
# bytes at either end of a large file by which it is known again
_SAMPLE = 4_194_304

# how long to wait for a dask scheduler to answer
_DASK_PATIENCE = "20s"

Squares = list[tuple[int, int, int]]


def prepare(
    mosaic: Path,
    catalogue: Path,
    out: Path,
    *,
    quadrangles: Path | None = None,
    units: Path | None = None,
    quadrangle_size: float | None = None,
    block_size: int | None = None,
    levels: int = 3,
    test: Sequence[str] | float | None = None,
    nodata: int | None = None,
    register: bool = False,
    shuffle_seed: int | None = None,
    workers: int = 2,
    dask: str | None = None,
    attributes: Mapping[str, store.Attribute] | None = None,
    records: Path | None = None,
    progress: bool = True,
) -> None:
    """Prepare a mosaic and a catalogue as `out/train` and `out/test`.

    Parameters
    ----------
    mosaic : Path
        8-bit raster in any projection of Mars; read in pieces, never as a whole.
    catalogue : Path
        See `catalogue.read_catalogue`.
    out : Path
        Folder of the data.
    quadrangles : Path or None
        CSV name, lon_min, lat_min, lon_max, lat_max and perhaps part. None: a grid over the mosaic.
    units : Path or None
        GeoJSON of sensor, light, terrain and region; a tile takes those at its centre. Where no
        region is stated at all, each quadrangle is one.
    quadrangle_size : float or None
        Largest side of the quadrangles of the grid, degrees. None: 10 degrees or 6,144 pixels,
        whichever is less.
    block_size : int or None
        Divide the mosaic, from its upper left corner, into squares of so many of its pixels with
        one block in each; for mosaics stitched from frames, the side of a frame, so that none is
        cut. None: blocks of 3 x 3 tiles, or larger ones where 16 fit into a quadrangle.
    levels : int
        Levels of the pyramid; pixels double from one to the next.
    test : sequence of str, float or None
        Names of the quadrangles of the test split; or its share of the quadrangles or, where there
        is only one, of the blocks. None: what the CSV says, or else a quarter.
    nodata : int or None
        Value of pixels without data; None: what the mosaic says, or else 0.
    register : bool
        Displace the circles of each quadrangle by what the label audit finds there.
    shuffle_seed : int or None
        Shuffle the tiles of each split.
    workers : int
        Processes on this machine; with 1 everything happens in this one.
    dask : str or None
        Address of a dask scheduler to use instead (tcp://...). Its workers must see the mosaic and
        `out` under the same paths.
    attributes : mapping or None
        What participants may know about the data: simulated, source, licence ...
    records : Path or None
        Folder for `label_audit.json` (how the catalogue sits on the image, per quadrangle) and
        `footprints.json` (where on the planet the blocks are, checksums of the sources). Where the
        data is private they must not lie beside it. None: `out`.
    progress : bool
        Show progress bars.

    Raises
    ------
    DataError
        When an input is missing, damaged or impossible, ground is shared between splits, or the
        disk is full. Nothing half-written is left in `out/train` and `out/test`; what is finished
        stays in `out/.work`, and the same call goes on from there.
    """
    mosaic, catalogue, out = Path(mosaic), Path(catalogue), Path(out)
    for name, value in (("levels", levels), ("workers", workers)):
        if value < 1:
            raise DataError(f"{name} is {value}; expected at least 1")
    craters = read_catalogue(catalogue)
    known = read_units(units) if units is not None else Units()
    with Raster(mosaic, nodata) as raster:
        chosen = _quadrangles(raster, quadrangles, quadrangle_size)
        planes, squares = _lay_out(raster, chosen, block_size, levels, quadrangles is not None)
    sources = [path for path in (mosaic, catalogue, quadrangles, units) if path is not None]
    work = out / ".work"
    identity = repr([_identity(path) for path in sources])
    tasks = []
    for quadrangle, plane, found in zip(chosen, planes, squares, strict=True):
        blocks = tuple(
            Block(f"{quadrangle.name}/{number:04d}", *square) for number, square in enumerate(found)
        )
        if blocks:
            tasks.append(
                Task(
                    quadrangle.name,
                    plane,
                    blocks,
                    levels,
                    mosaic.resolve(),
                    nodata,
                    _near(craters, plane, blocks),
                    known,
                    register,
                    work.resolve(),
                    identity,
                )
            )
    if not any(len(task.craters) for task in tasks):
        raise DataError(
            f"{catalogue}: none of its {len(craters)} craters lies on {mosaic}. Do both count "
            "longitudes eastward, and do they show the same ground?"
        )
    parts = _parts(chosen, tasks, test)
    _check_space(out, tasks)
    _run(tasks, workers, dask, progress)
    result = work / "result"
    shutil.rmtree(result, ignore_errors=True)
    for part in PARTS:
        _write_part(result / part, part, parts, tasks, attributes or {}, shuffle_seed, progress)
    # half of the buffer, since scales of neighbouring planes differ a little
    leaks.audit(result, buffer=layout.BUFFER / 2, progress=progress)
    records = out if records is None else Path(records)
    records.mkdir(parents=True, exist_ok=True)
    audits = {"quadrangles": [read_piece(task)[2] for task in tasks]}
    _write_json(records / "label_audit.json", audits)
    checksums = {path.name: _checksum(path, progress) for path in sources}
    _write_json(
        records / "footprints.json",
        {
            "sources": checksums,
            "shuffle_seed": str(shuffle_seed),
            "blocks": _footprints(tasks, parts),
        },
    )
    for part in PARTS:
        shutil.rmtree(out / part, ignore_errors=True)
        (result / part).rename(out / part)
    shutil.rmtree(work)


def _quadrangles(raster: Raster, path: Path | None, size: float | None) -> list[Quadrangle]:
    if path is not None:
        return layout.read_quadrangles(path)
    if size is None:
        degrees = np.rad2deg(_LARGEST_PIXELS * raster.pixel_size / MARS_RADIUS)
        size = min(_LARGEST_DEGREES, float(degrees))
    elif not 0 < size <= 90:
        raise DataError(f"quadrangle_size is {size}; expected degrees above 0 and at most 90")
    return layout.grid(raster.footprint(), size)


def _lay_out(
    raster: Raster,
    quadrangles: Sequence[Quadrangle],
    block_size: int | None,
    levels: int,
    explicit: bool,
) -> tuple[list[Plane], list[Squares]]:
    """The plane of each quadrangle and its blocks as (row, col, tiles across)."""
    planes, areas = [], []
    for quadrangle in quadrangles:
        plane = Plane.centred(*quadrangle.centre, raster.pixel_size, raster.ellipsoid)
        area = _area(raster, quadrangle, plane)
        if not area.is_empty:
            col, row = (int(np.floor(bound)) for bound in area.bounds[:2])
            area, plane = _shifted(area, row, col), plane.moved(row, col)
        planes.append(plane)
        areas.append(area)
    if block_size is not None:
        squares = [
            _one_per_frame(raster, plane, area, block_size, levels)
            for plane, area in zip(planes, areas, strict=True)
        ]
    else:
        across = layout.choose_block_tiles([a for a in areas if not a.is_empty], levels)
        squares = [_fitting(area, across, levels) for area in areas]
    empty = [q.name for q, found in zip(quadrangles, squares, strict=True) if not found]
    if len(empty) == len(quadrangles) or (explicit and empty):
        least = layout.side(1) + layout.BUFFER
        raise DataError(
            f"{raster.path}: no block of tiles fits into {', '.join(empty[:5])}; a quadrangle "
            f"needs {least} x {least} pixels ({least * raster.pixel_size / 1000:.1f} km) or more "
            "on the mosaic."
        )
    return planes, squares


def _fitting(area: BaseGeometry, most: int, levels: int) -> Squares:
    """Blocks of at most so many tiles across: smaller ones only where none else fits."""
    for across in range(most, 0, -1):
        found = layout.lay_blocks(area, across, levels)
        if found:
            return [(row, col, across) for row, col in found]
    return []


def _shifted(area: BaseGeometry, row: int, col: int) -> BaseGeometry:
    from shapely.affinity import translate

    return translate(area, -col, -row)


def _area(raster: Raster, quadrangle: Quadrangle, plane: Plane) -> BaseGeometry:
    """What of a quadrangle lies on the mosaic, in pixels from the first corner (x = col)."""
    from shapely.geometry import Polygon, box

    lon_min, lat_min, lon_max, lat_max = raster.footprint()
    ground = box(lon_min, lat_min, lon_max, lat_max)
    west, east = quadrangle.lon_min, quadrangle.lon_max
    if not any(
        box(west + turn, quadrangle.lat_min, east + turn, quadrangle.lat_max).intersects(ground)
        for turn in (-360, 0, 360)
    ):
        return Polygon()
    area = _polygon(*plane.point_to_pixel(*quadrangle.outline()))
    if lon_max - lon_min < 120 and lat_max - lat_min < 120:
        # small enough that all of the mosaic can be drawn in this plane
        row, col = plane.point_to_pixel(*raster.pixel_to_point(*raster.outline()))
        if np.isfinite(row).all() and np.isfinite(col).all():
            area = area.intersection(_polygon(row, col))
    return area


def _polygon(row: np.ndarray, col: np.ndarray) -> BaseGeometry:
    from shapely.geometry import Polygon

    return Polygon(np.column_stack([col + 0.5, row + 0.5])).buffer(0)


def _one_per_frame(
    raster: Raster, plane: Plane, area: BaseGeometry, size: int, levels: int
) -> Squares:
    """One block, as large as fits, in every square frame of the mosaic within an area."""
    if area.is_empty:
        return []
    border = np.array(area.segmentize(64).exterior.coords) if hasattr(area, "exterior") else None
    if border is None:
        border = np.concatenate([np.array(p.segmentize(64).exterior.coords) for p in area.geoms])
    row, col = raster.point_to_pixel(*plane.pixel_to_point(border[:, 1] - 0.5, border[:, 0] - 0.5))
    row, col = row[np.isfinite(row)], col[np.isfinite(col)]
    rows = range(
        max(0, int(row.min() // size)), int(min(row.max(), raster.shape[0] - 1) // size) + 1
    )
    cols = range(
        max(0, int(col.min() // size)), int(min(col.max(), raster.shape[1] - 1) // size) + 1
    )
    edge = np.linspace(0, 1, 17)
    zero, one = np.zeros(17), np.ones(17)
    down = size * np.concatenate([zero, edge, one, 1 - edge])
    right = size * np.concatenate([edge, one, 1 - edge, zero])
    most = layout.tiles_across(size - layout.BUFFER)
    squares: Squares = []
    for i in rows:
        for j in cols:
            points = raster.pixel_to_point(i * size + down, j * size + right)
            frame = _polygon(*plane.point_to_pixel(*points)).intersection(area)
            squares.extend(_fitting(frame, most, levels)[:1])
    return squares


def _near(craters: pd.DataFrame, plane: Plane, blocks: Sequence[Block]) -> pd.DataFrame:
    """Craters that may touch any of the blocks."""
    top = min(block.row for block in blocks)
    left = min(block.col for block in blocks)
    height = max(block.row + block.side for block in blocks) - top
    width = max(block.col + block.side for block in blocks) - left
    row, col = top + height / 2, left + width / 2
    (lon,), (lat,), (reach,) = plane.to_ground(row, col, np.hypot(height, width) / 2)
    one, other = np.deg2rad(craters["lat"].to_numpy()), np.deg2rad(lat)
    across = np.deg2rad(craters["lon"].to_numpy() - lon)
    half = np.sin((one - other) / 2) ** 2 + np.cos(one) * np.cos(other) * np.sin(across / 2) ** 2
    distance = 2 * MARS_RADIUS * np.arcsin(np.sqrt(np.clip(half, 0, 1)))
    near = distance < 1.02 * reach + craters["radius"].to_numpy()
    return craters[near].reset_index(drop=True)


def _parts(
    quadrangles: Sequence[Quadrangle], tasks: Sequence[Task], test: Sequence[str] | float | None
) -> dict[str, str]:
    """The part of each block, by its name."""
    names = [task.name for task in tasks]
    stated = {quadrangle.name: quadrangle.part for quadrangle in quadrangles}
    if test is None and any(stated[name] for name in names):
        undecided = [name for name in names if not stated[name]]
        if undecided:
            raise DataError(
                f"the part of {', '.join(undecided[:5])} is not stated, that of others is; state "
                "train or test for every quadrangle, or for none"
            )
        parts = {name: stated[name] for name in names}
    elif test is None or isinstance(test, float | int):
        share = _DEFAULT_TEST if test is None else float(test)
        if not 0 < share < 1:
            raise DataError(f"test is {share}; expected a share between 0 and 1, or names")
        if len(tasks) == 1:
            return _drawn([block.name for block in tasks[0].blocks], share)
        parts = _drawn(names, share)
    else:
        wanted = {test} if isinstance(test, str) else set(test)
        unknown = sorted(wanted - set(names))
        if unknown:
            raise DataError(
                f"there is no quadrangle {', '.join(unknown)} with tiles; there are "
                f"{', '.join(names[:20])}{' ...' if len(names) > 20 else ''}"
            )
        parts = {name: "test" if name in wanted else "train" for name in names}
    return {block.name: parts[task.name] for task in tasks for block in task.blocks}


def _drawn(names: Sequence[str], share: float) -> dict[str, str]:
    if len(names) < 2:
        raise DataError(
            "there is only one block of tiles, which cannot be both for training and for testing; "
            "a larger mosaic or a smaller block_size gives more"
        )
    count = min(max(round(share * len(names)), 1), len(names) - 1)
    test = set(np.random.default_rng(0).permutation(len(names))[:count].tolist())
    return {name: "test" if i in test else "train" for i, name in enumerate(names)}


def _identity(path: Path) -> tuple[str, int, int, str]:
    """What a file is known by: name, size, time of change, and a checksum of its two ends."""
    status = path.stat()
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(_SAMPLE))
        file.seek(max(0, status.st_size - _SAMPLE))
        digest.update(file.read(_SAMPLE))
    return path.name, status.st_size, status.st_mtime_ns, digest.hexdigest()


def _checksum(path: Path, progress: bool) -> str:
    digest = hashlib.sha256()
    total = path.stat().st_size
    with (
        path.open("rb") as file,
        tqdm(
            desc=f"checksum of {path.name}",
            total=total,
            unit="B",
            unit_scale=True,
            disable=not progress or total < 2**28,
        ) as bar,
    ):
        while chunk := file.read(_SAMPLE):
            digest.update(chunk)
            bar.update(len(chunk))
    return f"sha256:{digest.hexdigest()}"


def _check_space(out: Path, tasks: Sequence[Task]) -> None:
    """Refuse to begin what cannot be finished."""
    out.mkdir(parents=True, exist_ok=True)
    tiles = [
        sum(len(layout.tiles_of_block(b.row, b.col, b.across, task.levels)) for b in task.blocks)
        for task in tasks
    ]
    done = [task.piece.is_file() for task in tasks]
    # every tile lies in a piece and in a split before the pieces are removed
    need = TILE**2 * sum(n * (1 if there else 2) for n, there in zip(tiles, done, strict=True))
    free = shutil.disk_usage(out).free
    if need > free:
        raise DataError(
            f"{out}: {sum(tiles):,} tiles need up to {need / 1e6:,.0f} MB while they are prepared, "
            f"the disk has {free / 1e6:,.0f} MB left. Free some space, choose another folder, or "
            "name fewer quadrangles."
        )


def _run(tasks: Sequence[Task], workers: int, address: str | None, progress: bool) -> None:
    """Prepare all pieces that are not there yet."""
    todo = [task for task in tasks if not task.piece.is_file()]
    bar = tqdm(
        desc="quadrangles",
        unit="quadrangle",
        total=len(tasks),
        initial=len(tasks) - len(todo),
        disable=not progress,
    )
    with bar:
        if address is None and min(workers, len(todo)) <= 1:
            for task in todo:
                prepare_piece(task)
                bar.update()
        elif todo:
            with _client(min(workers, len(todo)), address) as client:
                _run_on(client, todo, bar)
    missing = [task for task in tasks if not task.piece.is_file()]
    if missing:
        raise DataError(
            f"{missing[0].piece} was written by a dask worker but is not seen here; {address} and "
            "this machine must share the folder under the same path."
        )


@contextmanager
def _client(workers: int, address: str | None) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    if address is None:
        with (
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                dashboard_address="127.0.0.1:0",
                host="127.0.0.1",
                memory_limit=0,
                silence_logs=50,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = Client(address, timeout=_DASK_PATIENCE)
    except (OSError, ValueError) as error:
        raise DataError(
            f"no dask scheduler answers at {address} ({error}); expected an address such as "
            "tcp://host:8786"
        ) from error
    with client:
        yield client


def _run_on(client: Any, tasks: Sequence[Task], bar: tqdm) -> None:
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    futures = client.map(prepare_piece, tasks, pure=False)
    try:
        for future in as_completed(futures):
            future.result()
            bar.update()
    except KilledWorker as error:
        raise DataError(
            f"a dask worker died while it prepared a quadrangle ({error}); perhaps it had too "
            "little memory. Finished quadrangles are kept: the same command goes on from there."
        ) from error
    finally:
        client.cancel(futures)


def _write_part(
    folder: Path,
    part: str,
    parts: Mapping[str, str],
    tasks: Sequence[Task],
    attributes: Mapping[str, store.Attribute],
    shuffle_seed: int | None,
    progress: bool,
) -> None:
    """Gather the tiles of one part from the pieces, in the order of the quadrangles."""
    rows, circles, chosen = [], [], []
    count = 0
    for task in tasks:
        tiles, on_tiles, _ = read_piece(task)
        mine = tiles["block"].astype(str).map(parts).to_numpy() == part
        number = np.cumsum(mine) - 1 + count
        kept = on_tiles[mine[on_tiles["tile"].to_numpy()]]
        rows.append(_plain(tiles[mine]))
        circles.append(_plain(kept.assign(tile=number[kept["tile"].to_numpy()])))
        chosen.append(np.flatnonzero(mine))
        count += int(mine.sum())
    if not count:
        raise DataError(
            f"no tile is left for {part}: all of its blocks have no data. Choose other quadrangles "
            "for it, or check the nodata value of the mosaic."
        )
    used = [task for task, mine in zip(tasks, chosen, strict=True) if len(mine)]
    quadrangles = pd.DataFrame(
        [
            {"name": t.name, "crs": t.plane.crs, **dict(zip("abcdef", t.plane.affine, strict=True))}
            for t in used
        ]
    )
    bar = tqdm(desc=part, unit="tile", total=count, disable=not progress)

    def crops() -> Iterator[np.ndarray]:
        for task, mine in zip(tasks, chosen, strict=True):
            for batch in read_crops(task, mine):
                yield batch
                bar.update(len(batch))

    with bar:
        write_split(
            folder,
            crops(),
            pd.concat(rows, ignore_index=True)[list(TILE_COLUMNS)],
            pd.concat(circles, ignore_index=True)[list(CIRCLE_COLUMNS)],
            quadrangles,
            attributes=attributes,
            shuffle_seed=shuffle_seed,
        )


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """Categories as texts: those of several pieces differ."""
    return table.astype(
        {c: object for c, kind in table.dtypes.items() if isinstance(kind, pd.CategoricalDtype)}
    )


def _footprints(tasks: Sequence[Task], parts: Mapping[str, str]) -> list[dict[str, Any]]:
    """Corners of all blocks in degrees, clockwise from the upper left one."""
    found = []
    for task in tasks:
        for block in task.blocks:
            ends = np.array([0, block.side]) - 0.5
            row, col = block.row + ends[[0, 0, 1, 1]], block.col + ends[[0, 1, 1, 0]]
            lon, lat = task.plane.pixel_to_point(row, col)
            corners = np.column_stack([lon, lat]).round(6).tolist()
            found.append({"name": block.name, "part": parts[block.name], "corners": corners})
    return found


def _write_json(path: Path, content: Any) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    temporary.replace(path)
